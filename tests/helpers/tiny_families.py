"""A tiny random model of every supported family, built from the library's own configuration class, and its tokenizer.

`library_logits` is what the library's own processor and model make of one picture and a text.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, processors
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3TextConfig,
    Glm4vConfig,
    Glm4vMoeConfig,
    Glm46VConfig,
    InternVLConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextVideoConfig,
    LlavaOnevisionConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen3_5Config,
    Qwen3_5MoeConfig,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    SiglipVisionConfig,
    SmolVLMConfig,
    VideoLlama3Config,
)

from voco_video.checkpoint.beside import prompt_template
from voco_video.model.backbone import Backbone
from voco_video.model.families import ImageSettings, PromptTemplate, Variant
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.video.scaling import Fit

SPECIAL = (
    *("<pad>", "<s>", "</s>", "<image>", "<video>", "<|vision_start|>", "<|vision_end|>", "<img>", "</img>"),
    *("<fake_token_around_image>", "<global-img>"),
)
VOCABULARY = (*SPECIAL, *string.printable)
IDS = {token: i for i, token in enumerate(VOCABULARY)}
GEMMA_TOKENS = ("<start_of_image>", "<end_of_image>", "<start_of_turn>", "<end_of_turn>")  # behind the others
GEMMA_MERGED = ("\n\n", "\n\n\n\n")  # behind those: what stands before a frame depends on the line before
GLM_TOKENS = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")  # behind the others

# Half of the families write conversations with contents in parts, and pass over plain strings in silence.
PLAIN_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '\\n' }}{% endfor %}assistant:"
PARTS_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% else %}<{{ part.type }}>{% endif %}{% endfor %}{{ '\\n' }}{% endfor %}assistant:"
)

# The default of 0.02 leaves attention nearly uniform, and would hide a wrong mask or position.
TEXT: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
    "bos_token_id": IDS["<s>"],
    "eos_token_id": IDS["</s>"],
    "pad_token_id": IDS["<pad>"],
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.2,
}


def _llava() -> Any:
    text = LlamaConfig(**TEXT)
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER), text_config=text, image_token_index=IDS["<image>"], image_seq_length=16
    )


def _interleave() -> Any:
    return LlavaConfig(
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=Qwen2Config(**TEXT),
        image_token_index=IDS["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )


def _onevision() -> Any:
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**TOWER | {"image_size": 40}, vision_use_head=False),
        text_config=Qwen2Config(**TEXT),
        image_token_index=IDS["<image>"],
        video_token_index=IDS["<video>"],
        image_grid_pinpoints=[[40, 40]],
    )


def _next_video() -> Any:
    return LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=LlamaConfig(**TEXT),
        image_token_index=IDS["<image>"],
        video_token_index=IDS["<video>"],
        image_grid_pinpoints=[[32, 32]],
    )


def _video_llama3() -> Any:
    tower = {name: value for name, value in TOWER.items() if name != "image_size"} | {"patch_size": 4}
    return VideoLlama3Config(
        vision_config=tower,
        text_config=Qwen2Config(**TEXT),
        image_token_id=IDS["<image>"],
        video_token_id=IDS["<video>"],
    )


def _smolvlm() -> Any:
    text = LlamaConfig(**TEXT).to_dict()
    return SmolVLMConfig(
        vision_config=TOWER, text_config=text, image_token_id=IDS["<image>"], scale_factor=2, pad_token_id=0
    )


def _internvl() -> Any:
    return InternVLConfig(
        vision_config=TOWER | {"image_size": [32, 32], "patch_size": [8, 8]},
        text_config=Qwen2Config(**TEXT),
        image_token_id=IDS["<image>"],
        image_seq_length=4,
        tie_word_embeddings=False,
    )


_VISION_IDS = {
    "image_token_id": IDS["<image>"],
    "video_token_id": IDS["<video>"],
    "vision_start_token_id": IDS["<|vision_start|>"],
    "vision_end_token_id": IDS["<|vision_end|>"],
}
_QWEN_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 64,
    "initializer_range": 0.2,
}


def _qwen2_5() -> Any:
    # A window of 16 pixels holds 2 x 2 vision tokens, so a frame of 4 x 7 has whole and cut ones.
    tower = _QWEN_TOWER | {"depth": 3, "window_size": 16, "fullatt_block_indexes": [2]}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    return Qwen2_5_VLConfig(vision_config=tower, text_config=TEXT | {"rope_parameters": rope}, **_VISION_IDS)


_GLM_IDS = {
    "image_token_id": IDS["<image>"],
    "video_token_id": IDS["<video>"],
    "image_start_token_id": len(IDS),
    "image_end_token_id": len(IDS) + 1,
    "video_start_token_id": len(IDS) + 2,
    "video_end_token_id": len(IDS) + 3,
}
_GLM_TEXT = TEXT | {"vocab_size": len(IDS) + len(GLM_TOKENS)}
_GLM_TOWER = _QWEN_TOWER | {"depth": 2, "image_size": 16}


def _glm4v() -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
    return Glm4vConfig(vision_config=_GLM_TOWER, text_config=_GLM_TEXT | {"rope_parameters": rope}, **_GLM_IDS)


def _glm_moe_text() -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 16}
    text = {"model_type": "glm4v_moe_text", "rope_parameters": rope, "first_k_dense_replace": 1}
    return _GLM_TEXT | experts | text


def _glm4v_moe() -> Any:
    return Glm4vMoeConfig(vision_config=_GLM_TOWER, text_config=_glm_moe_text(), **_GLM_IDS)


def _glm46v() -> Any:
    """With the decoder of many experts, so that both are tried."""
    tower = _GLM_TOWER | {"model_type": "glm4v_moe_vision"}
    return Glm46VConfig(vision_config=tower, text_config=_glm_moe_text(), **_GLM_IDS)


def _qwen2() -> Any:
    tower = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 64,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 4,
        "initializer_range": 0.2,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    return Qwen2VLConfig(vision_config=tower, text_config=TEXT | {"rope_parameters": rope}, **_VISION_IDS)


def _qwen3_moe() -> Any:
    tower = _QWEN_TOWER | {"depth": 3, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "decoder_sparse_step": 1}
    text = TEXT | experts | {"head_dim": 16, "rope_parameters": rope}
    return Qwen3VLMoeConfig(vision_config=tower, text_config=text, **_VISION_IDS)


def _qwen3() -> Any:
    tower = _QWEN_TOWER | {"depth": 3, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    return Qwen3VLConfig(
        vision_config=tower, text_config=TEXT | {"head_dim": 16, "rope_parameters": rope}, **_VISION_IDS
    )


def _gemma3() -> Any:
    """With a window that is smaller than a frame, so that it cuts off text, earlier frames and parts of one."""
    text = TEXT | {"vocab_size": len(IDS) + len(GEMMA_TOKENS) + len(GEMMA_MERGED)}
    return Gemma3Config(
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=Gemma3TextConfig(
            **text, head_dim=16, query_pre_attn_scalar=16, sliding_window=12, sliding_window_pattern=3
        ),
        mm_tokens_per_image=16,
        image_token_index=IDS["<image>"],
        boi_token_index=len(IDS),
        eoi_token_index=len(IDS) + 1,
        initializer_range=0.2,
        tie_word_embeddings=False,  # tied to random numbers, every answer would be one token again and again
    )


_HYBRID: dict[str, Any] = {  # two layers with a running state around one that keeps keys
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
    },
}
_HYBRID_TOWER = _QWEN_TOWER | {"depth": 3, "num_position_embeddings": 16}


def _qwen3_5() -> Any:
    return Qwen3_5Config(vision_config=_HYBRID_TOWER, text_config=TEXT | _HYBRID, **_VISION_IDS)


def _qwen3_5_moe() -> Any:
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 48,
    }
    return Qwen3_5MoeConfig(vision_config=_HYBRID_TOWER, text_config=TEXT | _HYBRID | experts, **_VISION_IDS)


@dataclass(frozen=True)
class TinyFamily:
    """How to build one, and how the library is given one picture: the placeholder token and the other inputs."""

    config: Callable[[], Any]
    fit: Fit
    num_vision_tokens: int
    placeholder: str = "<image>"
    num_placeholders: int | None = None
    chat_template: str = PARTS_TEMPLATE
    adds_bos: bool = False
    extra: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    library_inputs: Callable[[Any, Tensor], dict[str, Any]] = field(default=lambda processed, ids: dict(processed))


def _as_video(processed: Any, ids: Tensor) -> dict[str, Any]:
    return {"pixel_values_videos": processed["pixel_values"][:, :1]}  # the first tile is the whole picture


def _with_types(processed: Any, ids: Tensor) -> dict[str, Any]:
    return dict(processed) | {"mm_token_type_ids": (ids == IDS["<image>"]).int()}


def _as_video_of_pairs(processed: Any, ids: Tensor) -> dict[str, Any]:
    """Still images have a token for each patch there, and the patches of a video's token stand together."""
    _, rows, columns = processed["image_grid_thw"][0].tolist()
    patches = processed["pixel_values"].view(rows // 2, 2, columns // 2, 2, -1).transpose(1, 2).flatten(0, 3)
    return {
        "pixel_values_videos": patches,
        "video_grid_thw": processed["image_grid_thw"],
        "video_merge_sizes": torch.tensor([2]),
    }


def _only_pixels(processed: Any, ids: Tensor) -> dict[str, Any]:
    return {"pixel_values": processed["pixel_values"]}


_SQUARE, _WIDE = Fit(32, 32, "stretch"), Fit(32, 56, "pad")

FAMILIES = {
    "llava": TinyFamily(_llava, Fit(32, 32, "crop"), 16, chat_template=PLAIN_TEMPLATE, adds_bos=True),
    "llava-interleave": TinyFamily(_interleave, _SQUARE, 16),
    "llava_onevision": TinyFamily(
        _onevision, Fit(40, 40, "stretch"), 9, placeholder="<video>", num_placeholders=10, library_inputs=_as_video
    ),
    "smolvlm": TinyFamily(_smolvlm, _SQUARE, 4),
    "internvl": TinyFamily(_internvl, _SQUARE, 4, chat_template=PLAIN_TEMPLATE, library_inputs=_only_pixels),
    "qwen2_5_vl": TinyFamily(_qwen2_5, _WIDE, 28, chat_template=PLAIN_TEMPLATE, library_inputs=_with_types),
    "qwen3_vl": TinyFamily(_qwen3, _WIDE, 28, chat_template=PLAIN_TEMPLATE, library_inputs=_with_types),
    "qwen2_vl": TinyFamily(_qwen2, _WIDE, 28, chat_template=PLAIN_TEMPLATE, library_inputs=_with_types),
    "qwen3_vl_moe": TinyFamily(_qwen3_moe, _WIDE, 28, chat_template=PLAIN_TEMPLATE, library_inputs=_with_types),
    "glm4v": TinyFamily(_glm4v, _WIDE, 28, chat_template=PLAIN_TEMPLATE, extra=GLM_TOKENS, library_inputs=_with_types),
    "glm4v_moe": TinyFamily(
        _glm4v_moe, _WIDE, 28, chat_template=PLAIN_TEMPLATE, extra=GLM_TOKENS, library_inputs=_with_types
    ),
    "glm46v": TinyFamily(
        _glm46v, _WIDE, 28, chat_template=PLAIN_TEMPLATE, extra=GLM_TOKENS, library_inputs=_with_types
    ),
    "llava_next_video": TinyFamily(
        _next_video, _SQUARE, 4, placeholder="<video>", adds_bos=True, library_inputs=_as_video
    ),
    "video_llama_3": TinyFamily(_video_llama3, _WIDE, 28, placeholder="<video>", library_inputs=_as_video_of_pairs),
}

# Those whose frames have no keys and values that could be moved: they are tried in form embeds, as they were trained.
EMBEDS_ONLY = {
    "gemma3": TinyFamily(
        _gemma3,
        _SQUARE,
        16,
        chat_template=PARTS_TEMPLATE.replace("<{{ part.type }}>", "<start_of_image>"),
        adds_bos=True,
        extra=GEMMA_TOKENS,
        merged=GEMMA_MERGED,
    ),
    "qwen3_5": TinyFamily(_qwen3_5, _WIDE, 28, chat_template=PLAIN_TEMPLATE, library_inputs=_with_types),
    "qwen3_5_moe": TinyFamily(_qwen3_5_moe, _WIDE, 28, chat_template=PLAIN_TEMPLATE, library_inputs=_with_types),
}

# Those that share nearly all code with another family: their variants of a test are `exhaustive`.
TWINS = (
    *("llava-interleave", "llava_next_video", "video_llama_3", "qwen2_vl", "qwen3_vl_moe", "glm4v_moe", "glm46v"),
    "qwen3_5_moe",
)
EACH_FAMILY = [pytest.param(name, marks=pytest.mark.exhaustive) if name in TWINS else name for name in FAMILIES]
EACH_EMBEDS_ONLY = [pytest.param(name, marks=pytest.mark.exhaustive) if name in TWINS else name for name in EMBEDS_ONLY]
ALL_FAMILIES = FAMILIES | EMBEDS_ONLY
EACH_OF_ALL = [*EACH_FAMILY, *EACH_EMBEDS_ONLY]


def tiny_tokenizer(
    *,
    chat_template: str = PLAIN_TEMPLATE,
    adds_bos: bool = False,
    extra: tuple[str, ...] = (),
    merged: tuple[str, ...] = (),
) -> Any:
    """A token for every printable character, and special ones; and for texts that are twice another, in this order."""
    vocabulary = {token: i for i, token in enumerate((*VOCABULARY, *extra, *merged))}
    merges = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in merged]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.decoder = decoders.Fuse()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", IDS["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=[*SPECIAL[3:], *extra],
        chat_template=chat_template,
    )


def with_wide_heads(config: Any) -> Any:
    """Half as many heads of the decoder, each twice as wide."""
    text = config.get_text_config(decoder=True)
    if getattr(text, "head_dim", None) == 32:
        return config
    text.num_attention_heads, text.num_key_value_heads = 2, 1
    if getattr(text, "head_dim", None) is not None:
        text.head_dim = 32
    if "mrope_section" in text.rope_parameters:
        text.rope_parameters["mrope_section"] = [2 * size for size in text.rope_parameters["mrope_section"]]
    return config


# The ids around a frame where frames come first, as checkpoints of before have them recorded.
FRAMES_FIRST = {
    "llava": ("<s>", "\n"),
    "llava-interleave": ("", "\n"),
    "llava_onevision": ("", "\n"),
    "smolvlm": ("<fake_token_around_image><global-img>", "<fake_token_around_image>"),
    "internvl": ("<img>", "</img>\n"),
    "qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>"),
    "qwen3_vl": ("<|vision_start|>", "<|vision_end|>"),
    "qwen2_vl": ("<|vision_start|>", "<|vision_end|>"),
    "qwen3_vl_moe": ("<|vision_start|>", "<|vision_end|>"),
    "glm4v": ("<|begin_of_image|>", "<|end_of_image|>"),
    "glm4v_moe": ("<|begin_of_image|>", "<|end_of_image|>"),
    "glm46v": ("<|begin_of_image|>", "<|end_of_image|>"),
    "llava_next_video": ("<s>", "\n"),
    "video_llama_3": ("", "\n"),
    "gemma3": ("<s><start_of_image>", "<end_of_image>"),
    "qwen3_5": ("<|vision_start|>", "<|vision_end|>"),
    "qwen3_5_moe": ("<|vision_start|>", "<|vision_end|>"),
}


def frames_first(name: str, tokenizer: Any) -> PromptTemplate:
    """The layout that checkpoints of before have."""
    before, after = (tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in FRAMES_FIRST[name])
    return PromptTemplate(before, after)


def tiny_family(
    name: str,
    *,
    num_voco_tokens: int = 4,
    as_trained: bool = False,
    variant: Variant = "released",
    chat_template: str | None = None,
    seed: int = 0,
    wide_heads: bool = False,
) -> VocoModel:
    """A random `VocoModel` of a family, with frames first, or with the layout that its own files give.

    Args:
        wide_heads: heads of 32 numbers, the smallest that vLLM has kernels for.
    """
    torch.manual_seed(seed)
    tiny = ALL_FAMILIES[name]
    config = with_wide_heads(tiny.config()) if wide_heads else tiny.config()
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    for parameter in model.parameters():  # norms of 1 and biases of 0 would hide a part that is left out
        parameter.data += 0.02 * torch.randn_like(parameter)
    if name == "gemma3":  # begins with a projection to 0
        model.base_model.multi_modal_projector.mm_input_projection_weight.data.normal_(std=0.5)
    template = chat_template or tiny.chat_template
    tokenizer = tiny_tokenizer(chat_template=template, adds_bos=tiny.adds_bos, extra=tiny.extra, merged=tiny.merged)
    images = ImageSettings(tiny.fit, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    template = prompt_template(model.config, tokenizer, variant) if as_trained else frames_first(name, tokenizer)
    embeds = torch.randn(num_voco_tokens, 64) * 0.2
    return VocoModel(Backbone(model, tokenizer, images, template), embeds).eval()


def random_voco_tokens(model: VocoModel, *, num_frames: int = 3, seed: int = 3) -> VocoTokens:
    """Frames of random pixels, compressed to VoCo tokens in form embeds."""
    images, count = model.backbone.images, num_frames * model.backbone.template.pictures_per_frame
    generator = torch.Generator().manual_seed(seed)
    shape = (count, images.fit.height, images.fit.width, 3)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy()
    return model.compress(model.vision_tokens(pixels), form="embeds")


def prompt_of(model: VocoModel, question: str = "what is there?") -> list[int]:
    """The token ids of a question about frames."""
    return model.backbone.conversation_ids([{"role": "user", "content": question}])


@torch.inference_mode()
def library_logits(model: VocoModel, name: str, pixels: Any, text_ids: Tensor, folder: Path) -> Tensor:
    """One picture and a text through the library's own image processor and model.

    Args:
        pixels: uint8 ``[H, W, 3]``, of the size that frames have.
        folder: the saved model, for its image processor.

    Returns:
        Logits of the text, ``[T, vocabulary]``.
    """
    tiny, template = FAMILIES[name], model.backbone.template
    count = tiny.num_placeholders or tiny.num_vision_tokens
    picture = [*template.frame_before_ids, *[IDS[tiny.placeholder]] * count, *template.frame_after_ids]
    ids = torch.tensor([[*picture, *text_ids.tolist()]])
    processed = AutoImageProcessor.from_pretrained(folder)(images=Image.fromarray(pixels), return_tensors="pt")
    inputs = tiny.library_inputs({n: t for n, t in processed.items() if isinstance(t, Tensor)}, ids)
    logits: Tensor = model.backbone.hf_model(input_ids=ids, **inputs).logits
    return logits[0, len(picture) :]
