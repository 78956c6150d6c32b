"""Checkpoints in the published layouts: original LLaVA-1.5, VoCo-LLaMA, original LLaVA-OneVision.

VoCo-LLaMA adds a ``<voco>`` row to LLaVA-1.5. The first two declare ``llava_llama``, the third ``llava_qwen``: the
decoder's settings at the top of config.json, weights named ``model.layers.*`` and ``model.mm_projector.*``, and a CLIP
or SigLIP tower that is named by its id (or lies in a folder beside) and may or may not be among the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from transformers import AddedToken, LlamaConfig, LlavaConfig, LlavaOnevisionConfig, Qwen2Config

from voco_video.checkpoint.configurations import check_config, check_frames, read_images
from voco_video.checkpoint.files import (
    StoredWeight,
    instead_of,
    read_config,
    read_tokenizer,
    stored_weights,
    weight_files,
)
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.needed import CONFIG, PUBLISHED_TYPES
from voco_video.errors import ModelError
from voco_video.files.checked_values import Checked, is_one_of, is_text, is_whole
from voco_video.files.settings import first_line, is_there
from voco_video.files.weights import read_weights
from voco_video.model.conversation import ConversationWriter
from voco_video.model.families import ImageSettings, PromptTemplate, family_of

Weight = TypeVar("Weight")

PUBLISHED_MODEL_TYPE, ONEVISION_MODEL_TYPE = PUBLISHED_TYPES
PUBLISHED_NUM_VOCO_TOKENS = 2

# Where there is no tokenizer: in Llama's a newline is the byte token 13.
_NEWLINE_ID = 13
_VOCO_TOKEN, _VOCO_TOKEN_ID = "<voco>", 32000
_IMAGE_TOKEN, _VIDEO_TOKEN = "<image>", "<video>"

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
# LLaVA-OneVision's `conv_qwen`.
_ONEVISION_CHAT_TEMPLATE = (
    "{% macro text(m) %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content if part.type == 'video' %}{{ '<video>\n' }}{% endfor %}"
    "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}{% endmacro %}"
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ text(m) }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
_NAMES = {
    "model.image_newline": "model.image_newline",
    "model.vision_tower.vision_tower.vision_model.": "model.vision_tower.",
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.": "model.language_model.",
    "lm_head.": "lm_head.",
}
_DECODER_SETTINGS = frozenset(
    {
        *("vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "hidden_act", "rms_norm_eps", "rope_theta", "rope_scaling"),
        *("attention_bias", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"),
        *("use_sliding_window", "sliding_window", "max_window_layers"),
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

    model_type: ClassVar[str] = PUBLISHED_MODEL_TYPE
    architecture: ClassVar[str] = "LlavaForConditionalGeneration"
    decoder_config: ClassVar[Any] = LlamaConfig
    media_tokens: ClassVar[tuple[str, ...]] = (_IMAGE_TOKEN,)

    @property
    def title(self) -> str:
        """What it is, for people."""
        return "original LLaVA-1.5" if self.voco_token_id is None else "VoCo-LLaMA"

    @cached_property
    def config(self) -> Any:
        """The same model's configuration in the library's layout.

        Raises:
            ModelError: settings that cannot be right, or a projector or a way of reading pictures that the library
                does not have.
        """
        vision: Any = read_config(self.tower)
        try:
            config = self._config(getattr(vision, "vision_config", vision))
        except Exception as error:  # the library raises anything
            raise ModelError(f"{self.folder / CONFIG} cannot be read: {first_line(error)}") from error
        check_config(config, self.folder / CONFIG)
        return config

    def _config(self, vision: Any) -> Any:
        feature = self.settings.get("mm_vision_select_feature", "patch")
        return LlavaConfig(
            vision_config=vision,
            text_config=self._text_config,
            image_token_index=self._media_token_id(_IMAGE_TOKEN),
            vision_feature_layer=self.settings["mm_vision_select_layer"],
            vision_feature_select_strategy="default" if feature == "patch" else "full",
            tie_word_embeddings=self.settings.get("tie_word_embeddings", False),
        )

    @property
    def _text_config(self) -> Any:
        return self.decoder_config(**{k: v for k, v in self.settings.items() if k in _DECODER_SETTINGS})

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer, or None where there is none; it gets the tokens that stand for pictures which it lacks."""
        tokenizer = read_tokenizer(self.folder, config=self.decoder_config())  # no library knows what it declares
        missing = [] if tokenizer is None else [t for t in self.media_tokens if t not in tokenizer.get_vocab()]
        if missing:
            added = [AddedToken(token, special=True, normalized=False) for token in missing]
            tokenizer.add_tokens(added, special_tokens=True)
        return tokenizer

    def _media_token_id(self, token: str) -> int:
        if self.tokenizer is None:
            return int(self.settings["vocab_size"]) + self.media_tokens.index(token)
        return int(self.tokenizer.convert_tokens_to_ids(token))

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

    def _keeps(self, name: str) -> bool:
        """Whether a weight of the library's name is part of the model."""
        return True

    def _renamed(self, read: Callable[[Path], dict[str, Weight]]) -> Iterator[dict[str, Weight]]:
        has_tower = False
        for path in weight_files(self.folder):
            named = {_library_name(n, path): weight for n, weight in read(path).items() if not n.endswith(_BUFFERS)}
            shard = {name: weight for name, weight in named.items() if self._keeps(name)}
            has_tower = has_tower or any(name.startswith("model.vision_tower.") for name in shard)
            yield shard
        if not has_tower:  # it stayed frozen
            for path in weight_files(self.tower):
                named = {
                    name.replace("vision_model.", "model.vision_tower.", 1): weight
                    for name, weight in read(path).items()
                    if name.startswith("vision_model.") and not name.endswith(_BUFFERS)
                }
                yield {name: weight for name, weight in named.items() if self._keeps(name)}


@dataclass(frozen=True)
class OnevisionCheckpoint(PublishedCheckpoint):
    """An original LLaVA-OneVision checkpoint, in the terms of a ``LlavaOnevisionForConditionalGeneration``.

    The original code drops the last layer of the tower, or those after the one that is read, and its head.
    """

    model_type: ClassVar[str] = ONEVISION_MODEL_TYPE
    architecture: ClassVar[str] = "LlavaOnevisionForConditionalGeneration"
    decoder_config: ClassVar[Any] = Qwen2Config
    media_tokens: ClassVar[tuple[str, ...]] = (_IMAGE_TOKEN, _VIDEO_TOKEN)
    voco_token_id: ClassVar[None] = None
    title: ClassVar[str] = "original LLaVA-OneVision"
    chat_template: ClassVar[str] = _ONEVISION_CHAT_TEMPLATE

    def _config(self, vision: Any) -> Any:
        vision.num_hidden_layers = self._num_tower_layers(vision)
        vision.vision_use_head = False
        return LlavaOnevisionConfig(
            vision_config=vision,
            text_config=self._text_config,
            image_token_index=self._media_token_id(_IMAGE_TOKEN),
            video_token_index=self._media_token_id(_VIDEO_TOKEN),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=self.settings.get("tie_word_embeddings", False),
        )

    def _num_tower_layers(self, vision: Any) -> int:
        layer = self.settings["mm_vision_select_layer"]
        return int(vision.num_hidden_layers + 1 + layer if layer < 0 else layer)

    def _keeps(self, name: str) -> bool:
        _, _, number = name.partition("model.vision_tower.encoder.layers.")
        dropped = bool(number) and int(number.partition(".")[0]) >= self.config.vision_config.num_hidden_layers
        return not dropped and not name.startswith("model.vision_tower.head.")

    @property
    def images(self) -> ImageSettings:
        """How frames are prepared: the tower's own settings; padding and tiles are for still images."""
        images = read_images(self.tower, self.config)
        check_frames(images, self.config, self.tower / "preprocessor_config.json")
        return images

    @cached_property
    def template(self) -> PromptTemplate:
        """As trained; without a tokenizer, frames first."""
        family = family_of(self.config)
        if self.tokenizer is None:
            return family.template(self.config)
        return ConversationWriter(family, self.config, self.tokenizer, self.chat_template).template()


def is_published(settings: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is of a published layout."""
    return settings.get("model_type") in (PUBLISHED_MODEL_TYPE, ONEVISION_MODEL_TYPE)


def open_published(folder: Path, settings: dict[str, Any], *, offline: bool = False) -> PublishedCheckpoint:
    """Open a checkpoint of a published layout with the vision tower that its config.json names.

    Args:
        settings: its config.json.
        offline: as in `find_checkpoint`.

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
    is_onevision = settings.get("model_type") == ONEVISION_MODEL_TYPE
    if is_onevision:
        _check_onevision(settings, path)
    aspect = settings.get("image_aspect_ratio")
    if not is_onevision and aspect not in (None, "square", "pad"):
        raise ModelError(
            f"{path}: image_aspect_ratio {aspect!r}: pictures cut into tiles (LLaVA-1.6) are not supported, only 'pad' "
            "and 'square'; use a LLaVA-1.5 checkpoint"
        )
    name = checked.get("mm_vision_tower", "the name of a vision tower", lambda value: is_text(value) and value != "")
    beside = folder / name
    try:
        tower = find_checkpoint(beside if is_there(beside) else name, offline=offline)
    except ModelError as error:
        raise ModelError(f"{path}: mm_vision_tower {name!r}: {error}") from error
    return (OnevisionCheckpoint if is_onevision else PublishedCheckpoint)(folder, settings, tower)


def _check_onevision(settings: dict[str, Any], path: Path) -> None:
    """Refuse what the library's LLaVA-OneVision does not do with a video, as LLaVA-Video's checkpoints ask for it."""
    wanted = {
        "mm_newline_position": ("one_token",),
        "mm_spatial_pool_mode": ("bilinear",),
        "mm_spatial_pool_stride": (2,),
        "mm_resampler_type": (None,),
        "add_faster_video": (False,),
    }
    for name, possible in wanted.items():
        if (value := settings.get(name, possible[0])) not in possible:
            raise ModelError(
                f"{path}: {name} is {value!r}; of this layout only LLaVA-OneVision is supported, which has "
                f"{possible[0]!r}; LLaVA-Video reads frames in another way"
            )
    if not str(settings.get("mm_patch_merge_type", "flat")).startswith("spatial"):
        raise ModelError(f"{path}: mm_patch_merge_type has to be one of the 'spatial' kinds, as LLaVA-OneVision has it")


def _library_name(name: str, path: Path) -> str:
    for old, new in _NAMES.items():
        if name.startswith(old):
            return new + name[len(old) :]
    raise ModelError(f"{path}: unknown weight {name!r} in a published checkpoint")
