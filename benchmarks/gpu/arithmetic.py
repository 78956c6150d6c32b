"""What each figure is expected to be: FLOP and bytes counted from the model's own layers, and memory at the peak.

    python -m benchmarks.gpu.arithmetic    the table of docs/gpu.md

The rates are published ones: an H100 SXM reaches at most 989 TFLOP/s in bf16 and reads 3.35 TB/s.
"""

from __future__ import annotations

import argparse

from benchmarks.gpu.plan import FULL, Plan, model_without_weights
from benchmarks.report import table
from benchmarks.shapes import llm_flops, vision_flops
from voco_video.model.voco import VocoModel

FLOPS_PER_SECOND = 989.4e12
BYTES_PER_SECOND = 3.35e12
ITEM = 2  # bytes of a number in bf16


def weight_bytes(model: VocoModel) -> float:
    """Of all weights."""
    return float(sum(p.numel() * p.element_size() for p in model.parameters()))


def decoder_matrices(model: VocoModel) -> float:
    """Elements of the matrices that each token of text is multiplied with, the head's included."""
    layers = sum(p.numel() for p in model.backbone.decoder.layers.parameters() if p.ndim == 2)
    return float(layers + model.backbone.hf_model.get_output_embeddings().weight.numel())


def cached_bytes(model: VocoModel, num_tokens: int) -> float:
    """Of the keys and values of so many tokens."""
    config, head_dim = model.backbone.text_config, model.backbone.decoder.layers[0].self_attn.head_dim
    return float(2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * num_tokens * ITEM)


def frame_length(model: VocoModel, num_voco_tokens: int = 1) -> int:
    """Tokens of a frame's own sequence."""
    template = model.backbone.template
    around = len(template.frame_before_ids) + len(template.frame_after_ids)
    return around + model.backbone.num_vision_tokens + num_voco_tokens


def pass_bytes(model: VocoModel, num_tokens: int) -> float:
    """What a decoder's pass over so many tokens holds at once in its largest layer, beside the weights."""
    config = model.backbone.text_config
    return float(num_tokens * (8 * config.hidden_size + 3 * config.intermediate_size) * ITEM)


def compress_flops(model: VocoModel, num_voco_tokens: int = 1) -> float:
    """Of one frame, from pixels to keys and values."""
    return vision_flops(model) + llm_flops(model, num_voco_tokens)


def compress_bytes(model: VocoModel, num_frames: int, num_voco_tokens: int = 1) -> float:
    """Peak memory of compressing."""
    tokens = num_frames * frame_length(model, num_voco_tokens)
    kept = cached_bytes(model, num_frames * num_voco_tokens)
    return weight_bytes(model) + pass_bytes(model, tokens) + 2 * kept


def answer_bytes(model: VocoModel, num_tokens: int, num_questions: int, text: int) -> float:
    """Peak memory of answering over cached tokens: they are moved in float32, then each question gets its own copy."""
    kept = cached_bytes(model, num_tokens)
    moving = 5 * kept  # keys: bf16, float32, two halves turned, the result; values beside them
    copies = 2 * num_questions * (kept + cached_bytes(model, text))
    return weight_bytes(model) + kept + max(moving, copies)


def token_bytes(model: VocoModel, num_tokens: int, num_questions: int) -> float:
    """Bytes read for each step of generation: all matrices once, and the keys and values of every question."""
    return decoder_matrices(model) * ITEM + num_questions * cached_bytes(model, num_tokens)


def uncompressed_flops(model: VocoModel, num_frames: int) -> float:
    """Of reading all vision tokens of frames in one causal pass."""
    config, backbone = model.backbone.text_config, model.backbone
    tokens = num_frames * (backbone.num_vision_tokens + len(backbone.template.frame_after_ids))
    layers = sum(p.numel() for p in backbone.decoder.layers.parameters() if p.ndim == 2)
    queries = config.num_attention_heads * backbone.decoder.layers[0].self_attn.head_dim
    return float(2 * layers * tokens + 2 * tokens * tokens * queries * config.num_hidden_layers)


def uncompressed_bytes(model: VocoModel, num_frames: int) -> float:
    """Peak memory of reading all vision tokens of frames."""
    tokens = num_frames * frame_length(model, 0)
    return weight_bytes(model) + 2 * cached_bytes(model, tokens) + pass_bytes(model, tokens)


def training_flops(model: VocoModel, plan: Plan, *, has_checkpoints: bool) -> float:
    """Of a joint step with LoRA: forward, and backward by inputs alone, since the matrices stay; forward once more."""
    passes = 3 if has_checkpoints else 2
    tokens = plan.training_frames * frame_length(model) + plan.training_text
    layers = sum(p.numel() for p in model.backbone.decoder.layers.parameters() if p.ndim == 2)
    return float(plan.training_frames * vision_flops(model) + passes * 2 * layers * tokens)


def training_bytes(model: VocoModel, num_tokens: int, *, has_checkpoints: bool) -> float:
    """Peak memory of a step: weights, adapters with their optimizer, and what backward needs of each layer."""
    config = model.backbone.text_config
    layer = num_tokens * (16 * config.hidden_size + 6 * config.intermediate_size) * ITEM
    kept = num_tokens * config.hidden_size * ITEM
    layers = layer + config.num_hidden_layers * kept if has_checkpoints else config.num_hidden_layers * layer
    return 1.2 * weight_bytes(model) + layers


def rows(plan: Plan = FULL) -> list[tuple[str, str, str]]:
    """Step, what is measured, and what is expected at most."""
    model = model_without_weights(plan.shape)
    flops = compress_flops(model)
    found = [
        ("b", "compress, K = 1", f"{flops / 1e12:.2f} TFLOP a frame: at most {FLOPS_PER_SECOND / flops:.0f} frames/s"),
        (
            "b",
            "vision tower",
            f"{vision_flops(model) / 1e12:.2f} TFLOP a frame, {vision_flops(model) / flops:.0%} of it",
        ),
        ("b", "memory, 128 frames", f"{compress_bytes(model, 128) / 1e9:.0f} GB"),
        ("b", "bytes to the GPU a frame", f"{3 * model.backbone.images.fit.height**2 / 1e6:.2f} MB"),
    ]
    for count in sorted(plan.cached):
        for k in plan.num_voco_tokens:
            seconds = token_bytes(model, count * k, 1) / BYTES_PER_SECOND
            size = cached_bytes(model, count * k)
            found.append(
                ("c", f"{count} frames, K = {k}", f"{size / 1e6:.1f} MB cached; at most {1 / seconds:.0f} tokens/s")
            )
    tokens = plan.cached[0]
    seconds = token_bytes(model, tokens, plan.questions) / BYTES_PER_SECOND
    prefill = uncompressed_flops(model, plan.uncompressed)
    found += [
        (
            "c",
            f"{plan.questions} questions, {tokens} frames, K = 1",
            f"at most {plan.questions / seconds:.0f} tokens/s",
        ),
        (
            "c",
            f"{plan.uncompressed} frames uncompressed",
            f"{prefill / 1e12:.0f} TFLOP before the first token: at least {prefill / FLOPS_PER_SECOND:.2f} s; "
            f"{uncompressed_bytes(model, plan.uncompressed) / 1e9:.0f} GB",
        ),
        (
            "d",
            "600 frames of 720p",
            f"model at least {600 * flops / FLOPS_PER_SECOND:.1f} s; decoding decides above it",
        ),
    ]
    num_tokens = plan.training_frames * frame_length(model) + plan.training_text
    for state, is_on in (("on", True), ("off", False)):
        step = training_flops(model, plan, has_checkpoints=is_on)
        size = training_bytes(model, num_tokens, has_checkpoints=is_on)
        told = f"{step / 1e12:.0f} TFLOP: at least {step / FLOPS_PER_SECOND:.2f} s; {size / 1e9:.0f} GB"
        found.append(("e", f"joint, {plan.training_frames} frames, checkpointing {state}", told))
    weights = sum(p.numel() for p in model.backbone.decoder.layers.parameters() if p.ndim == 2)
    sizes = ", ".join(f"{weights * bits / 8e9:.1f} GB" for bits in (16, 8, 4))
    found.append(("f", "the decoder's matrices in 16, 8, 4 bits", sizes))
    return found


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(table(["step", "what", "expected", "measured"], [(*row, "not run yet") for row in rows()]))


if __name__ == "__main__":
    main()
