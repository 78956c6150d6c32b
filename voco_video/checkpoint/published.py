"""Checkpoints in the published layouts: original LLaVA-1.5, and VoCo-LLaMA, which adds a ``<voco>`` row to it.

Both declare ``llava_llama``: Llama's settings at the top of config.json, weights named ``model.layers.*`` and
``model.mm_projector.*``, and a CLIP tower that is named by its id (or lies in a folder beside) and may or may not be
among the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import AddedToken, LlamaConfig, LlavaConfig

from voco_video.checkpoint.configurations import check_config, check_frames, read_images
from voco_video.checkpoint.files import (
    CONFIG,
    StoredWeight,
    find_checkpoint,
    instead_of,
    read_config,
    read_tokenizer,
    stored_weights,
    weight_files,
)
from voco_video.errors import ModelError
from voco_video.files.checked_values import Checked, is_one_of, is_text, is_whole
from voco_video.files.settings import first_line, is_there
from voco_video.files.weights import read_weights
from voco_video.model.conversation import ConversationWriter
from voco_video.model.families import ImageSettings, PromptTemplate, family_of

Weight = TypeVar("Weight")

PUBLISHED_MODEL_TYPE = "llava_llama"
PUBLISHED_NUM_VOCO_TOKENS = 2

# Where there is no tokenizer: in Llama's a newline is the byte token 13.
_NEWLINE_ID = 13
_VOCO_TOKEN, _VOCO_TOKEN_ID = "<voco>", 32000
_IMAGE_TOKEN = "<image>"

# LLaVA's `conv_vicuna_v1`, with a line for each picture. The original code cuts a prompt at its pictures and tokenizes
# the pieces one by one.
_LLAVA_CHAT_TEMPLATE = (
    "{% macro text(m) %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content if part.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}{% endmacro %}"
    "{% if messages[0].role == 'system' %}{{ text(messages[0]) }}{% else %}"
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.{% endif %}{{ ' ' }}"
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ text(m) }} ASSISTANT:"
    "{% elif m.role == 'assistant' %} {{ text(m) }}</s>{% endif %}{% endfor %}"
)
# VoCo-LLaMA's `voco_conv_vicuna_v1`, which stands behind the VoCo tokens as a whole. Under the published mask the text
# sees nothing before the first VoCo token. Its training and its evaluation leave out all newlines of a question.
_VOCO_CHAT_TEMPLATE = (
    "{{ '\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}"
    "A chat between a curious user and an artificial intelligence assistant of the image. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.{% endif %}{{ ' ' }}"
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content | replace('\n', '') }} ASSISTANT:"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
_NAMES = {
    "model.vision_tower.vision_tower.vision_model.": "model.vision_tower.",
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.": "model.language_model.",
    "lm_head.": "lm_head.",
}
_LLAMA_SETTINGS = frozenset(
    {
        *("vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "hidden_act", "rms_norm_eps", "rope_theta", "rope_scaling"),
        *("attention_bias", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"),
    }
)
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_BUFFERS = (".rotary_emb.inv_freq", ".embeddings.position_ids")
"""What old files hold besides weights: tables that every model makes for itself."""


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One checkpoint of a published layout, in the terms of a Hugging Face ``LlavaForConditionalGeneration``.

    Attributes:
        folder: where it lies.
        settings: its config.json.
        tower: the folder of the vision tower that it names.
    """

    folder: Path
    settings: dict[str, Any]
    tower: Path

    @cached_property
    def config(self) -> LlavaConfig:
        """The same model's configuration in the library's layout.

        Raises:
            ModelError: settings that cannot be right, or a projector or a way of reading pictures that the library
                does not have.
        """
        settings, path = self.settings, self.folder / CONFIG
        vision: Any = read_config(self.tower)
        strategy: Any = {"patch": "default", "cls_patch": "full"}[settings.get("mm_vision_select_feature", "patch")]
        try:
            config = LlavaConfig(
                vision_config=getattr(vision, "vision_config", vision),
                text_config=LlamaConfig(**{k: v for k, v in settings.items() if k in _LLAMA_SETTINGS}),
                image_token_index=self._image_token_id,
                vision_feature_layer=settings["mm_vision_select_layer"],
                vision_feature_select_strategy=strategy,
                tie_word_embeddings=settings.get("tie_word_embeddings", False),
            )
        except Exception as error:  # the library raises anything
            raise ModelError(f"{path} cannot be read: {first_line(error)}") from error
        check_config(config, path)
        return config

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer, or None where there is none; it gets a token that stands for pictures where it has none."""
        tokenizer = read_tokenizer(self.folder, config=LlamaConfig())  # no library knows the model_type it declares
        if tokenizer is not None and _IMAGE_TOKEN not in tokenizer.get_vocab():
            tokenizer.add_tokens([AddedToken(_IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
        return tokenizer

    @property
    def _image_token_id(self) -> int:
        if self.tokenizer is None:
            return int(self.settings["vocab_size"])
        return int(self.tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN))

    @cached_property
    def voco_token_id(self) -> int | None:
        """The id of ``<voco>``: as the tokenizer has it, else the last row of a vocabulary of 32001; None for LLaVA."""
        if self.tokenizer is not None and _VOCO_TOKEN in self.tokenizer.get_vocab():
            return int(self.tokenizer.convert_tokens_to_ids(_VOCO_TOKEN))
        return _VOCO_TOKEN_ID if self.settings["vocab_size"] == _VOCO_TOKEN_ID + 1 else None

    @property
    def images(self) -> ImageSettings:
        """How frames are prepared: the tower's own settings, on a ground of its mean colour where LLaVA pads."""
        images = read_images(self.tower, self.config)
        check_frames(images, self.config, self.tower / "preprocessor_config.json")
        if self.settings.get("image_aspect_ratio") != "pad":
            return images
        red, green, blue = (round(255 * channel) for channel in images.mean)
        return replace(images, fit=replace(images.fit, mode="pad", pad_rgb=(red, green, blue)))

    @cached_property
    def template(self) -> PromptTemplate:
        """``[BOS] image newline`` and VoCo tokens, then the text; LLaVA's picture stands in the first question.

        A LLaVA checkpoint without a tokenizer cannot write a conversation, and is read as ``[BOS] image newline``.
        """
        bos = (self.settings["bos_token_id"],)
        if self.tokenizer is None:
            newline = (_NEWLINE_ID,)
            return PromptTemplate(bos, newline, newline if self.voco_token_id else ())
        writer = ConversationWriter(family_of(self.config), self.config, self.tokenizer, self.chat_template)
        if self.voco_token_id is None:
            return replace(writer.template(), text_joins=False)
        return PromptTemplate(bos, tuple(writer.token_ids("\n")), (), text_joins=True)

    @property
    def chat_template(self) -> str:
        """How its training wrote conversations."""
        return _LLAVA_CHAT_TEMPLATE if self.voco_token_id is None else _VOCO_CHAT_TEMPLATE

    def shards(self) -> Iterator[dict[str, Tensor]]:
        """Yield the weights under the library's names, file by file; those of a vision tower elsewhere come last.

        Raises:
            ModelError: there are no weights, or one of an unknown name.
        """
        return self._renamed(read_weights)

    def stored_weights(self, dtype: torch.dtype) -> dict[str, StoredWeight]:
        """List all weights under the library's names without reading them; errors as of `files.stored_weights`."""
        shards = self._renamed(lambda path: stored_weights([path], dtype=dtype))
        return {name: weight for shard in shards for name, weight in shard.items()}

    def _renamed(self, read: Callable[[Path], dict[str, Weight]]) -> Iterator[dict[str, Weight]]:
        has_tower = False
        for path in weight_files(self.folder):
            shard = {_library_name(n, path): weight for n, weight in read(path).items() if not n.endswith(_BUFFERS)}
            has_tower = has_tower or any(name.startswith("model.vision_tower.") for name in shard)
            yield shard
        if not has_tower:  # it stayed frozen
            for path in weight_files(self.tower):
                yield {
                    name.replace("vision_model.", "model.vision_tower.", 1): weight
                    for name, weight in read(path).items()
                    if name.startswith("vision_model.") and not name.endswith(_BUFFERS)
                }


def is_published(settings: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is of a published layout."""
    return settings.get("model_type") == PUBLISHED_MODEL_TYPE


def open_published(folder: Path, settings: dict[str, Any]) -> PublishedCheckpoint:
    """Open a checkpoint of a published layout with the vision tower that its config.json names.

    Args:
        settings: its config.json.

    Raises:
        ModelError: settings are missing or of another model than LLaVA-1.5, or there is no such tower here.
    """
    path = folder / CONFIG
    if (instead := instead_of(settings)) is not None:
        raise ModelError(
            f"{path} is of VILA or NVILA, a layout that needs its own code, which is never run; use {instead}"
        )
    checked = Checked(settings, path)
    for name in _SIZES:
        checked.get(name, "a whole number from 1 on", lambda value: is_whole(value, least=1))
    checked.get("bos_token_id", "a token id", lambda value: is_whole(value, most=settings["vocab_size"] - 1))
    checked.get("mm_vision_select_layer", "a layer of the vision tower", lambda value: is_whole(value, least=-1000))
    checked.get("mm_vision_select_feature", '"patch" or "cls_patch"', is_one_of("patch", "cls_patch"), "patch")
    if settings.get("mm_projector_type") != "mlp2x_gelu":
        projector = settings.get("mm_projector_type")
        raise ModelError(f"{path}: projector {projector!r} is not supported, only 'mlp2x_gelu'")
    aspect = settings.get("image_aspect_ratio")
    if aspect not in (None, "square", "pad"):
        raise ModelError(
            f"{path}: image_aspect_ratio {aspect!r}: pictures cut into tiles (LLaVA-1.6) are not supported, only 'pad' "
            "and 'square'; use a LLaVA-1.5 checkpoint"
        )
    name = checked.get("mm_vision_tower", "the name of a vision tower", lambda value: is_text(value) and value != "")
    beside = folder / name
    try:
        tower = find_checkpoint(beside if is_there(beside) else name)
    except ModelError as error:
        raise ModelError(f"{path}: mm_vision_tower {name!r}: {error}") from error
    return PublishedCheckpoint(folder, settings, tower)


def _library_name(name: str, path: Path) -> str:
    for old, new in _NAMES.items():
        if name.startswith(old):
            return new + name[len(old) :]
    raise ModelError(f"{path}: unknown weight {name!r} in a published checkpoint")
