"""The answering decoder as a plain text model of the library: adapters merged, no vision tower.

Decoders of models with positions of three coordinates are written as the decoder of one coordinate that they were made
from: text and VoCo tokens stand at three equal numbers, which turn keys as one number does. Whether the two really
compute the same is not taken on trust: `text_model_of` runs both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from voco_video.errors import ModelError
from voco_video.files.settings import first_line
from voco_video.files.weights import add_to_digest
from voco_video.model.adapters import AnsweringLinear, adapted_layers, adapter_weights
from voco_video.model.computed_settings import changed_settings
from voco_video.model.inference import undisturbed
from voco_video.model.voco import VocoModel

ONE_COORDINATE = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "glm4v_text": "glm4",
    "glm4v_moe_text": "glm4_moe",
}
"""The plain text model that a decoder with positions of three coordinates is written as, by ``model_type``."""

# What those decoders always do, and the plain ones only where their configuration says so.
_ALWAYS: dict[str, dict[str, Any]] = {"glm4": {"attention_bias": True}, "qwen3_moe": {"norm_topk_prob": True}}
_ROPE_OF_THREE = ("mrope_section", "mrope_interleaved")
_NUM_CHECKED = 24  # tokens that the two decoders are compared on
_LARGEST_DIFFERENCE = {torch.float32: 1e-3}  # of the largest logit; a wrong layer differs by about 1
_LARGEST_IN_16_BITS = 0.1


@dataclass(frozen=True)
class TextModel:
    """A decoder with its head as one of the library's text models, over the same weights where nothing was merged.

    Attributes:
        model: the library's model.
        fingerprint: `answering_fingerprint`.
    """

    model: Any
    fingerprint: str


@undisturbed()
def text_model_of(model: VocoModel) -> TextModel:
    """Make the plain text model that answers as a model does from frames in form ``embeds``.

    Raises:
        ModelError: the decoder is no plain text model, or its weights are quantized.
    """
    backbone = model.backbone
    config = _text_config(model)
    weights = {f"model.{name}": tensor for name, tensor in _answering_weights(model)}
    head = backbone.hf_model.get_output_embeddings().weight
    is_tied = head is backbone.hf_model.get_input_embeddings().weight
    config.tie_word_embeddings = is_tied
    if not is_tied:
        weights["lm_head.weight"] = head.detach()
    text_model = _filled(config, weights, backbone.dtype, model)
    _check_equal(model, text_model)
    text_model.generation_config.eos_token_id = backbone.hf_model.generation_config.eos_token_id
    for name in ("bos_token_id", "pad_token_id"):
        setattr(text_model.generation_config, name, getattr(backbone.text_config, name, None))
    return TextModel(text_model, answering_fingerprint(model))


@undisturbed()
def answering_fingerprint(model: VocoModel) -> str:
    """Digest all that decides how a decoder answers from form ``embeds``, as 64 hex digits.

    Weights count as they are in bfloat16, so that it does not matter in which type they were loaded.

    Raises:
        ModelError: the weights are quantized.
    """
    backbone = model.backbone
    digest = blake3(json.dumps(changed_settings(backbone.text_config), sort_keys=True).encode())
    decoder = backbone.decoder
    is_adapted = _answers_adapted(model)
    left_out = {} if is_adapted else adapter_weights(decoder)
    for name, tensor in sorted(decoder.state_dict().items()):
        if name not in left_out:
            _check_plain(name, tensor)
            name = name if is_adapted else name.replace(".base_layer.", ".")
            add_to_digest(digest, name, tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor)
    add_to_digest(digest, "head", backbone.hf_model.get_output_embeddings().weight.to(torch.bfloat16))
    return digest.hexdigest()


def _text_config(model: VocoModel) -> Any:
    """Make the configuration of the text model."""
    config = model.backbone.text_config
    settings = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    kind = ONE_COORDINATE.get(config.model_type, config.model_type)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"the decoder of this {model.backbone.family.title} is a {config.model_type!r}, which is no text model of "
            "its own, so an engine for text models cannot run it; ask without one"
        )
    plain = AutoConfig.for_model(kind)
    if kind != config.model_type:
        known = plain.to_dict().keys()
        settings = {name: value for name, value in settings.items() if name in known}
        rope = settings.get("rope_parameters") or {}
        settings["rope_parameters"] = {n: value for n, value in rope.items() if n not in _ROPE_OF_THREE}
        # Some have a default of their own; vLLM asks others for it that do not declare it.
        settings["head_dim"] = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        settings |= _ALWAYS.get(kind, {})
    settings["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]]
    return type(plain)(**settings)


def _answers_adapted(model: VocoModel) -> bool:
    """Whether answers from form ``embeds`` are given with the adapters."""
    return bool(adapted_layers(model.backbone.decoder)) and model.answering_form in (None, "both", "embeds")


def _answering_weights(model: VocoModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the decoder's weights by the names that they have without adapters, these merged in."""
    decoder = model.backbone.decoder
    merged: dict[str, Tensor] = {}
    if _answers_adapted(model):
        layers = {id(layer) for layer in adapted_layers(decoder)}
        for name, module in decoder.named_modules():
            if id(module) in layers:
                merged |= {f"{name}.{part}": tensor for part, tensor in _merged(module).items()}
    adapters = adapter_weights(decoder)
    for name, tensor in decoder.state_dict().items():
        if name not in adapters:
            _check_plain(name, tensor)
            name = name.replace(".base_layer.", ".")
            yield name, merged.get(name, tensor)


def _merged(layer: Any) -> dict[str, Tensor]:
    """Return weight and bias of a layer with its adapter: added in float32, or the second set of weights."""
    base = layer.get_base_layer()
    if isinstance(layer, AnsweringLinear):
        weights = {name: p.detach() for name, p in layer.answer_layer.named_parameters()}
    else:
        delta = sum(layer.get_delta_weight(name).float() for name in layer.active_adapters)
        weights = {name: p.detach() for name, p in base.named_parameters()}
        weights["weight"] = weights["weight"].float() + delta
    return {name: tensor.to(base.weight.dtype) for name, tensor in weights.items()}


def _check_plain(name: str, tensor: Tensor) -> None:
    """Refuse weights that are packed.

    Raises:
        ModelError: they are.
    """
    if name.endswith("weight") and not tensor.is_floating_point():
        raise ModelError(f"{name} is {tensor.dtype}: an engine needs the weights as they are; leave out weight_bits")


def _filled(config: Any, weights: dict[str, Tensor], dtype: torch.dtype, model: VocoModel) -> Any:
    """Make the library's text model over given weights."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        text_model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    shapes = {name: tuple(tensor.shape) for name, tensor in text_model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if shapes != given:
        name = next(n for n in sorted({**shapes, **given}) if shapes.get(n) != given.get(n))
        raise ModelError(
            f"the decoder of this {model.backbone.family.title} cannot be written as a {config.model_type!r}, the text "
            f"model that engines know: {name} is {given.get(name, 'not there')} in one and "
            f"{shapes.get(name, 'not there')} in the other; ask without an engine"
        )
    text_model.load_state_dict(weights, strict=False, assign=True)
    text_model.tie_weights()
    return text_model.eval().requires_grad_(False)


def _check_equal(model: VocoModel, text_model: Any) -> None:
    """Run the decoder and the text model over the same input embeddings.

    Raises:
        ModelError: their logits differ.
    """
    backbone = model.backbone
    size = backbone.text_config.vocab_size
    ids = torch.arange(1, _NUM_CHECKED + 1) * (size // (_NUM_CHECKED + 1)) % size
    embeds = backbone.embed(ids)[None]  # [1, T, D]
    text_model.to(embeds.device)
    try:
        with model.answering("embeds"):
            ours = backbone.logits(backbone.decoder(inputs_embeds=embeds).last_hidden_state).float()
        theirs = text_model(inputs_embeds=embeds).logits.float()
    except Exception as error:  # the library raises anything
        raise ModelError(f"the text model that was made does not run: {first_line(error)}") from error
    difference = float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1e-30))
    if not difference <= _LARGEST_DIFFERENCE.get(backbone.dtype, _LARGEST_IN_16_BITS):
        raise ModelError(
            f"the decoder of this {backbone.family.title} computes something else than a "
            f"{text_model.config.model_type!r}, the text model that engines know (logits differ by {difference:.1%}); "
            "ask without an engine"
        )
