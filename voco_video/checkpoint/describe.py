"""What voco-video runs on, and what a given checkpoint is, without loading a weight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from voco_video.checkpoint.adapter_folder import base_of
from voco_video.checkpoint.beside import read_beside, read_beside_weights
from voco_video.checkpoint.configurations import checked_config
from voco_video.checkpoint.files import StoredWeight, stored_weights, weight_files, weights_dtype
from voco_video.checkpoint.finding import find_checkpoint, left_at_hub
from voco_video.checkpoint.generation import check_generation, departures
from voco_video.checkpoint.loading import empty_model
from voco_video.checkpoint.needed import CONFIG
from voco_video.checkpoint.published import (
    ONEVISION_MODEL_TYPE,
    PUBLISHED_MODEL_TYPE,
    PUBLISHED_NUM_VOCO_TOKENS,
    OnevisionCheckpoint,
    PublishedCheckpoint,
    is_published,
    open_published,
)
from voco_video.checkpoint.voco_settings import read_voco_settings
from voco_video.files.settings import read_settings
from voco_video.model.families import FAMILIES, family_of
from voco_video.model.families.family import ImageSettings


@dataclass(frozen=True)
class SupportedModel:
    """One kind of checkpoint that voco-video runs on.

    Attributes:
        title: its name, for people.
        model_type: what its config.json declares.
        layout: ``"Hugging Face"``, or ``"published"`` for the layouts that `convert_checkpoint` reads too.
        tower, decoder: the vision tower and language model that checkpoints of this kind have, by their model_type.
        positions: how the decoder counts positions.
    """

    title: str
    model_type: str
    layout: str
    tower: str
    decoder: str
    positions: str


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint is, as its files say.

    Attributes:
        path: its folder.
        title, model_type, layout, tower, decoder, positions: as in `SupportedModel`.
        num_voco_tokens: K; 0 for a checkpoint that was never trained to compress.
        trained: whether its VoCo tokens have learned anything; None where it has none.
        num_vision_tokens: N per frame.
        frame_size: height and width that frames are brought to, and how: ``"336 x 336, crop"``.
        bytes_per_frame: what one token of a frame takes in a cache, for each form that it can have, in its own type.
        dtype: the type of its weights.
        num_parameters: of tower, projector and decoder.
        about: what the weights know.
        base: the checkpoint that this one is a small adapter for; empty where it is whole.
        generation: how answers differ from what its generation_config.json asks for; empty where they do not.
    """

    path: str
    title: str
    model_type: str
    layout: str
    tower: str
    decoder: str
    positions: str
    num_voco_tokens: int
    trained: bool | None
    num_vision_tokens: int
    frame_size: str
    bytes_per_frame: dict[str, int]
    dtype: str
    num_parameters: int
    about: str = ""
    base: str = ""
    generation: str = ""


_PUBLISHED_TITLE = "original LLaVA-1.5, VoCo-LLaMA"
# What the published checkpoints of a family are made of; any tower and decoder that its configuration takes will do.
_PARTS = {
    "llava": ("clip_vision_model, siglip_vision_model", "llama, qwen2"),
    "llava_onevision": ("siglip_vision_model", "qwen2"),
    "smolvlm": ("smolvlm_vision", "llama"),
    "internvl": ("internvl_vision", "qwen2, qwen3"),
    "glm4v": ("glm4v_vision", "glm4v_text"),
    "glm4v_moe": ("glm4v_moe_vision", "glm4v_moe_text"),
    "glm46v": ("glm4v_vision, glm4v_moe_vision", "glm4v_text, glm4v_moe_text"),
    "llava_next_video": ("clip_vision_model", "llama, mistral"),
    "qwen2_vl": ("qwen2_vl_vision", "qwen2_vl_text"),
    "qwen3_vl_moe": ("qwen3_vl_moe_vision", "qwen3_vl_moe_text"),
    "video_llama_3": ("video_llama_3_vision", "qwen2"),
    "qwen2_5_vl": ("qwen2_5_vl_vision", "qwen2_5_vl_text"),
    "qwen3_vl": ("qwen3_vl_vision", "qwen3_vl_text"),
    "qwen3_5": ("qwen3_5_vision", "qwen3_5_text"),
    "qwen3_5_moe": ("qwen3_5_moe_vision", "qwen3_5_moe_text"),
    "gemma3": ("siglip_vision_model", "gemma3_text"),
}


def supported_models() -> list[SupportedModel]:
    """List every kind of checkpoint that voco-video runs on.

    >>> [model.model_type for model in supported_models()][:2]
    ['llava', 'llava_onevision']
    """
    kinds = [
        SupportedModel(family.title, model_type, "Hugging Face", *_PARTS[model_type], family.positions)
        for model_type, family in FAMILIES.items()
    ]
    tower, decoder = "clip_vision_model", "llama"
    return [
        *kinds,
        SupportedModel(_PUBLISHED_TITLE, PUBLISHED_MODEL_TYPE, "published", tower, decoder, "1-D"),
        SupportedModel(
            OnevisionCheckpoint.title, ONEVISION_MODEL_TYPE, "published", "siglip_vision_model", "qwen2", "1-D"
        ),
    ]


def describe_checkpoint(
    path: str | Path, *, revision: str | None = None, offline: bool = False, update: bool = False
) -> CheckpointFacts:
    """Describe a checkpoint from its settings and the heads of its files.

    Args:
        path, revision, offline, update: as in `find_checkpoint`. Of a hub id nothing but small files is fetched, where
            these say it all.

    Raises:
        ModelError: there is none, or voco-video does not run on it.

    >>> facts = describe_checkpoint("voco-tiny")
    >>> facts.num_voco_tokens, facts.num_vision_tokens
    (8, 64)
    """
    folder = find_checkpoint(path, revision=revision, offline=offline, update=update, weights=False)
    base, voco = base_of(folder, offline=offline), read_voco_settings(folder)
    if base is not None and voco is not None:
        facts = describe_checkpoint(base.name, offline=offline)
        read_beside_weights(folder)
        added = {name: getattr(voco, name) for name in ("num_voco_tokens", "trained", "about")}
        return replace(facts, path=str(folder), base=base.name, **added)
    read_beside_weights(folder)
    settings = read_settings(folder / CONFIG)
    if is_published(settings):  # whether its weights hold a tower says how large it is
        folder = find_checkpoint(path, revision=revision, offline=offline)
        return _published_facts(open_published(folder, settings, offline=offline))
    config = checked_config(folder)
    family = family_of(config)
    return _facts(
        folder,
        config,
        read_beside(folder, config).images,
        _stored(folder),
        title=family.title,
        model_type=config.model_type,
        layout="Hugging Face",
        num_voco_tokens=voco.num_voco_tokens if voco else 0,
        trained=voco.trained if voco else False,
        declared_dtype=str(config.dtype or "float32"),
        about=voco.about if voco else "",
    )


def _stored(folder: Path) -> dict[str, StoredWeight] | None:
    """Read the heads of a folder's weights; None for a configuration without weights, or where they stayed at a hub."""
    if left_at_hub(folder) or not (any(folder.glob("*.safetensors*")) or any(folder.glob("*.bin*"))):
        return None
    return stored_weights(weight_files(folder), dtype=torch.float32)


def _published_facts(checkpoint: PublishedCheckpoint) -> CheckpointFacts:
    has_voco = checkpoint.voco_token_id is not None
    return _facts(
        checkpoint.folder,
        checkpoint.config,
        checkpoint.images,
        checkpoint.stored_weights(torch.float32),
        title=checkpoint.title,
        model_type=checkpoint.model_type,
        layout="published",
        num_voco_tokens=PUBLISHED_NUM_VOCO_TOKENS if has_voco else 0,
        trained=has_voco,
        declared_dtype=str(checkpoint.settings.get("torch_dtype") or "float32"),
        about="",
    )


def _facts(
    folder: Path,
    config: Any,
    images: ImageSettings,
    weights: dict[str, StoredWeight] | None,
    *,
    title: str,
    model_type: str,
    layout: str,
    num_voco_tokens: int,
    trained: bool,
    declared_dtype: str,
    about: str,
) -> CheckpointFacts:
    family = family_of(config)
    dtype = weights_dtype(folder) or declared_dtype.removeprefix("torch.")
    generation = check_generation(folder, config.get_text_config(decoder=True).vocab_size)
    fit = images.fit
    return CheckpointFacts(
        path=str(folder),
        title=title,
        model_type=model_type,
        layout=layout,
        tower=config.vision_config.model_type,
        decoder=config.get_text_config(decoder=True).model_type,
        positions=family.positions,
        num_voco_tokens=num_voco_tokens,
        trained=trained if num_voco_tokens else None,
        num_vision_tokens=family.num_vision_tokens(config, fit),
        frame_size=f"{fit.height} x {fit.width}, {fit.mode}",
        bytes_per_frame=bytes_per_token(config, dtype),
        dtype=dtype,
        num_parameters=empty_model(config, weights, folder=folder).num_parameters,
        about=about,
        generation=departures(generation or {}),
    )


def bytes_per_token(config: Any, dtype: str) -> dict[str, int]:
    """Compute the bytes that one kept token of one frame takes in a cache, by form, for weights of a type."""
    text = config.get_text_config(decoder=True)
    itemsize = torch.finfo(getattr(torch, dtype, torch.float32)).bits // 8
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    sizes = {"kv": 2 * text.num_hidden_layers * kv_heads * head_dim * itemsize, "embeds": text.hidden_size * itemsize}
    return {form: size for form, size in sizes.items() if form == "embeds" or not family_of(config).needs_embeds}
