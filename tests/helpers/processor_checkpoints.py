"""Tiny checkpoints with the files that published ones have, for the library's own processors to read as they are.

Weights and pixels come from names and numbers by a hash, so that they are the same everywhere and need not be kept.
Chat templates write what the published ones write; special tokens have their names.
"""

from __future__ import annotations

import hashlib
import json
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from tests.helpers.tiny_families import FAMILIES

# ---------------------------------------------------------------------- chat templates

_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_CHATML = (
    "{{% for m in messages %}}{first}{{{{ '<|im_start|>' + m.role + '\n' }}}}"
    "{{% if m.content is string %}}{{{{ m.content }}}}{{% else %}}{{% for part in m.content %}}"
    "{{% if part.type == 'video' %}}{{{{ '{video}' }}}}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
    "{{% endfor %}}{{% endif %}}{{{{ '<|im_end|>\n' }}}}"
    "{{% endfor %}}{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
)
_QWEN_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
QWEN2_VL = _CHATML.format(
    first="{% if loop.first and m.role != 'system' %}{{ '" + _SYSTEM + "' }}{% endif %}", video=_QWEN_VIDEO
)
QWEN3_VL = _CHATML.format(first="", video=_QWEN_VIDEO)
VIDEO_LLAMA3 = _CHATML.format(first="", video="<|video_pad|>\n")
VICUNA = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role | upper }}: {% endif %}"
    "{% for part in m.content if part.type == 'video' %}{{ '<video>\n' }}{% endfor %}"
    "{% for part in m.content if part.type == 'text' %}{{ part.text }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_GLM_QUESTION = (
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{% if part.type == 'video' %}"
    "{{ '<|begin_of_video|><|video|><|end_of_video|>' }}{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
)
GLM4_1V = (  # contents of all but questions have to be plain: they are written as they are
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'user' %}"
    + _GLM_QUESTION
    + "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GLM4_5V = (  # answers of before stand behind an empty thought; the next one begins with the thought itself
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}"
    "{{ '<think></think>\n' }}{% endif %}" + _GLM_QUESTION + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# ---------------------------------------------------------------------- settings

_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN_TOKENS = (*_CHATML_TOKENS, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_GLM_TOKENS = (
    *("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<think>", "</think>"),
    *("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
_CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_PATCHES = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
_LIMITS = {"shortest_edge": 64, "longest_edge": 64 * 252}
_QWEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_GLM_IDS = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}


@dataclass(frozen=True)
class ProcessorCheckpoint:
    """One family's checkpoint.

    Attributes:
        template: its chat template.
        tokens: special tokens, by their names in published checkpoints.
        ids: of the configuration, by the token that each is of.
        image, video, joint: preprocessor_config.json, video_preprocessor_config.json, processor_config.json.
        sizes: of frames that the processor leaves as they are, height and width.
        of_processor: what the processor is called with beside the conversation.
        plain_answers: contents of all but questions are no parts.
        is_llama: whether the tokenizer begins texts with a blank and ``<s>``.
    """

    template: str
    tokens: tuple[str, ...]
    ids: dict[str, str]
    image: dict[str, Any]
    video: dict[str, Any]
    joint: dict[str, Any]
    sizes: tuple[tuple[int, int], ...] = ((32, 56), (56, 32), (32, 32))
    of_processor: dict[str, Any] = field(default_factory=dict)
    plain_answers: bool = False
    is_llama: bool = False


def _glm(version: str, template: str, *, plain_answers: bool = False) -> ProcessorCheckpoint:
    limits = {"shortest_edge": 128, "longest_edge": 64 * 252 * 16}
    return ProcessorCheckpoint(
        template,
        _GLM_TOKENS,
        _GLM_IDS,
        _CLIP | _PATCHES | {"size": limits, "image_processor_type": f"{version}ImageProcessor"},
        _CLIP | _PATCHES | {"size": limits, "video_processor_type": f"{version}VideoProcessor"},
        {"processor_class": f"{version}Processor"},
        plain_answers=plain_answers,
    )


CHECKPOINTS = {
    "qwen2_vl": ProcessorCheckpoint(
        QWEN2_VL,
        _QWEN_TOKENS,
        _QWEN_IDS,
        # As published: limits under their old names, and none for videos by themselves.
        _CLIP | _PATCHES | {"min_pixels": 64, "max_pixels": 64 * 252, "image_processor_type": "Qwen2VLImageProcessor"},
        {},
        {"processor_class": "Qwen2VLProcessor"},
    ),
    "qwen3_vl_moe": ProcessorCheckpoint(
        QWEN3_VL,
        _QWEN_TOKENS,
        _QWEN_IDS,
        _HALF | _PATCHES | {"size": _LIMITS, "image_processor_type": "Qwen2VLImageProcessor"},
        _HALF
        | _PATCHES
        | {"size": {"shortest_edge": 128, "longest_edge": 64 * 4096}, "video_processor_type": "Qwen3VLVideoProcessor"},
        {"processor_class": "Qwen3VLProcessor"},
        of_processor={"cap_pixels_per_frame": False},
    ),
    "glm4v": _glm("Glm4v", GLM4_1V, plain_answers=True),
    "glm4v_moe": _glm("Glm4v", GLM4_5V),
    "glm46v": _glm("Glm46V", GLM4_5V),
    "llava_next_video": ProcessorCheckpoint(
        VICUNA,
        ("<unk>", "<s>", "</s>", "<image>", "<video>"),
        {"image_token_index": "<image>", "video_token_index": "<video>"},
        _CLIP
        | {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
        | {"image_grid_pinpoints": [[32, 32]], "image_processor_type": "LlavaNextImageProcessor"},
        _CLIP
        | {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
        | {"video_processor_type": "LlavaNextVideoVideoProcessor"},
        {"patch_size": 8, "vision_feature_select_strategy": "default", "processor_class": "LlavaNextVideoProcessor"},
        sizes=((32, 32),),
        is_llama=True,
    ),
    "video_llama_3": ProcessorCheckpoint(
        VIDEO_LLAMA3,
        (*_CHATML_TOKENS, "<|image_pad|>", "<|video_pad|>"),
        {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"},
        _HALF
        | _PATCHES
        | {"temporal_patch_size": 1, "merge_size": 1, "size": _LIMITS}
        | {"image_processor_type": "VideoLlama3ImageProcessor"},
        _HALF
        | _PATCHES
        | {"temporal_patch_size": 1, "size": {"shortest_edge": 64, "longest_edge": 64 * 252 * 8}}
        | {"video_processor_type": "VideoLlama3VideoProcessor"},
        {"processor_class": "VideoLlama3Processor"},
        of_processor={"use_token_compression": False},
    ),
}

# ---------------------------------------------------------------------- tokenizers

_WORDS = ("Ġseconds", "Time", "ĊĊ", "?Ċ", "Ġa", "seconds", ".Ċ", "s:", "ANT:")  # of several characters each
_SPLIT = Regex(
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # as Qwen's and GLM's: an end of a line goes with the sign before it


def tokenizer_of(checkpoint: ProcessorCheckpoint) -> Any:
    """Make a tokenizer that splits texts as the published ones do, with few words."""
    space, words = ("▁", ("▁a", "ANT:", ".▁")) if checkpoint.is_llama else ("Ġ", _WORDS)
    characters = sorted({c.translate({32: space, 10: "\n" if checkpoint.is_llama else "Ċ"}) for c in string.printable})
    merges = [(word[:i], word[i]) for word in words for i in range(1, len(word))]
    pieces = dict.fromkeys([*checkpoint.tokens, *characters, *("".join(pair) for pair in merges)])
    vocabulary = {token: i for i, token in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges))))
    tokenizer.add_special_tokens([t for t in checkpoint.tokens if t not in ("<think>", "</think>")])
    tokenizer.add_tokens([t for t in checkpoint.tokens if t in ("<think>", "</think>")])
    ends = {"pad_token": checkpoint.tokens[0], "eos_token": checkpoint.tokens[2]}
    if checkpoint.is_llama:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
        ends |= {"bos_token": "<s>", "unk_token": "<unk>"}
    else:
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(_SPLIT, "isolated"), by_bytes])
        tokenizer.decoder = decoders.ByteLevel()
    if "<|image|>" in checkpoint.tokens:
        ends |= {"eos_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends)


# ---------------------------------------------------------------------- weights and pixels


def hashed(name: str, count: int) -> np.ndarray:
    """Numbers from -1 to 1 that hang on a name alone, float32 ``[count]``."""
    data = np.frombuffer(hashlib.shake_128(name.encode()).digest(2 * count), "<u2")
    return data.astype(np.float32) / 32767.5 - 1


def cells_of(seed: int, num_pictures: int, size: tuple[int, int]) -> np.ndarray:
    """Pictures of cells of 4 x 4 pixels, uint8 ``[F, H, W, 3]``."""
    shape = num_pictures, size[0] // 4, size[1] // 4, 3
    data = hashlib.shake_128(f"pictures {seed}".encode()).digest(int(np.prod(shape)))
    return np.frombuffer(data, np.uint8).reshape(shape).repeat(4, 1).repeat(4, 2)


def weight_names(model: Any) -> str:
    """A digest of the names and shapes of all weights: another release of the library may have others."""
    told = sorted(f"{name} {tuple(p.shape)}" for name, p in model.named_parameters())
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


@torch.no_grad()
def _fill(model: Any) -> None:
    for name, parameter in model.named_parameters():
        values = torch.from_numpy(hashed(name, parameter.numel())).view(parameter.shape)
        if "norm" in name and parameter.ndim == 1 and name.endswith("weight"):
            parameter.copy_(1 + 0.2 * values)
        elif parameter.ndim < 2:
            parameter.copy_(0.1 * values)
        elif "embed_tokens" in name:
            parameter.copy_(values)
        else:
            fan = parameter.shape[-1] if parameter.ndim == 3 else parameter[0].numel()
            parameter.copy_(values * 2.5 * fan**-0.5)
    model.tie_weights()


def make_checkpoint(name: str, folder: Path) -> str:
    """Write one family's checkpoint and return `weight_names` of it."""
    checkpoint, tokenizer = CHECKPOINTS[name], tokenizer_of(CHECKPOINTS[name])
    config = FAMILIES[name].config()
    vocabulary = tokenizer.get_vocab()
    for key, token in checkpoint.ids.items():
        setattr(config, key, vocabulary[token])
    text = config.get_text_config(decoder=True)
    text.vocab_size = len(vocabulary)
    text.pad_token_id, text.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    text.bos_token_id = tokenizer.bos_token_id
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    _fill(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(checkpoint.template)
    files = {
        "preprocessor_config.json": checkpoint.image | {"processor_class": checkpoint.joint["processor_class"]},
        "video_preprocessor_config.json": checkpoint.video,
        "processor_config.json": checkpoint.joint,
    }
    for file, settings in files.items():
        if settings:
            (folder / file).write_text(json.dumps(settings, indent=1))
    return weight_names(model)


# ---------------------------------------------------------------------- cases


@dataclass(frozen=True)
class ProcessorCase:
    """A video and a conversation about it.

    Attributes:
        indices: which pictures of the recording the processor is given.
        fps: of the recording.
        size: index into `ProcessorCheckpoint.sizes`.
        turns: the conversation, (role, text) each.
        samples: the processor is given all pictures of a recording and picks some by itself.
    """

    indices: tuple[int, ...]
    fps: float
    size: int
    turns: tuple[tuple[str, str], ...]
    samples: int = 0


_ASK = (("user", "What moves?"),)
_SYSTEM_FIRST = (("system", "Be brief."), ("user", "Where to?\nAnd when?"))
_TURNS = (("user", "What moves?"), ("assistant", "A dog.\n\nIt runs."), ("user", "  And then? "))
_LONG = (*_SYSTEM_FIRST, ("assistant", "Left: at 3.5 seconds"), ("user", "Why?"), ("assistant", "?"), ("user", "Tell."))


def _first(count: int) -> tuple[int, ...]:
    return tuple(range(count))


CASES = (
    ProcessorCase((0,), 1.0, 0, _ASK),
    ProcessorCase((7, 7), 2.0, 1, _SYSTEM_FIRST),  # one picture, as the processors repeat it that refuse one alone
    ProcessorCase(_first(2), 0.1, 1, _ASK),
    ProcessorCase(_first(3), 0.5, 2, _TURNS),
    ProcessorCase(_first(4), 8.0, 0, _SYSTEM_FIRST),
    ProcessorCase(_first(5), 3.0, 1, _LONG),
    ProcessorCase(_first(6), 2.0, 0, _TURNS),
    ProcessorCase(_first(7), 0.01, 2, _ASK),
    ProcessorCase(_first(8), 24.0, 1, _SYSTEM_FIRST),
    ProcessorCase((0, 1, 10, 31, 32, 60, 61, 90), 29.97, 2, _ASK),  # apart by turns
    ProcessorCase((3, 6, 9, 12, 15, 18), 0.3, 1, _ASK),
    ProcessorCase((), 10.0, 2, _ASK, samples=40),
)
