"""From a published layout to an ordinary Hugging Face folder, one file of weights at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationConfig

from voco_video.checkpoint.files import instead_of
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.folder import write_voco_files
from voco_video.checkpoint.needed import CONFIG
from voco_video.checkpoint.published import (
    PUBLISHED_MODEL_TYPE,
    PUBLISHED_NUM_VOCO_TOKENS,
    PublishedCheckpoint,
    is_published,
    open_published,
)
from voco_video.errors import ModelError, UsageError
from voco_video.files.settings import FETCH_AGAIN, first_line, read_settings, shown
from voco_video.files.weights import is_finite

_EMBEDDINGS = "model.language_model.embed_tokens.weight"


@dataclass(frozen=True)
class ConvertResult:
    """What a conversion wrote.

    Attributes:
        folder: the new checkpoint.
        num_voco_tokens: K; 0 for a LLaVA checkpoint, which has none.
        num_files: files of weights.
        size_bytes: of those.
    """

    folder: Path
    num_voco_tokens: int
    num_files: int
    size_bytes: int


def convert_checkpoint(
    source: str | Path,
    output: str | Path,
    *,
    num_voco_tokens: int | None = None,
    about: str = "",
    revision: str | None = None,
    offline: bool = False,
) -> ConvertResult:
    """Write a LLaVA-1.5 or VoCo-LLaMA checkpoint of the published layout as `load_voco_model` and the library read it.

    Weights keep their type. Memory holds one file of weights at a time; pickles are read as weights alone.

    Args:
        source: a folder, or a hub id.
        output: a folder that is empty or does not exist.
        num_voco_tokens: K of a VoCo-LLaMA checkpoint, 2 as it was trained.
        about: one sentence on what the weights know, shown to users.
        revision, offline: as in `find_checkpoint`.

    Raises:
        ModelError: the source is not in a published layout, or some of it is missing.
        UsageError: the output is not empty, or K does not go with the source.

    >>> convert_checkpoint("VoCo-LLaMA-7B", "voco-llama-7b-hf").num_voco_tokens  # doctest: +SKIP
    2
    """
    checkpoint = _published(find_checkpoint(source, revision=revision, offline=offline), offline=offline)
    num_voco_tokens = _checked_budget(checkpoint, num_voco_tokens)
    folder = _empty_folder(Path(output))
    voco_row = torch.empty(0, checkpoint.settings["hidden_size"])
    shapes = _expected_shapes(checkpoint)
    files: dict[str, list[str]] = {}
    size_bytes = 0
    for number, shard in enumerate(_checked_shards(checkpoint, shapes)):
        if checkpoint.voco_token_id is not None and _EMBEDDINGS in shard:
            voco_row = shard[_EMBEDDINGS][checkpoint.voco_token_id][None].clone()
        name = f"model-{number + 1:05}.safetensors"
        save_file({n: t.contiguous() for n, t in shard.items()}, folder / name, metadata={"format": "pt"})
        files[name] = list(shard)
        size_bytes += sum(t.numel() * t.element_size() for t in shard.values())
    _write_index(folder, files, size_bytes)
    write_voco_files(
        folder,
        config=checkpoint.config,
        voco_embeds=voco_row.expand(num_voco_tokens, -1) if num_voco_tokens else voco_row[:0],
        images=checkpoint.images,
        template=checkpoint.template,
        chat_template=checkpoint.chat_template,
        about=about,
    )
    _write_settings(checkpoint, folder)  # config.json comes last: a folder without it is no checkpoint
    return ConvertResult(folder, num_voco_tokens, len(files), size_bytes)


def _published(folder: Path, *, offline: bool) -> PublishedCheckpoint:
    settings = read_settings(folder / CONFIG)
    if not is_published(settings):
        instead = instead_of(settings) or "it as it is"
        raise ModelError(
            f"{folder} has model_type {shown(settings.get('model_type'))}, not {PUBLISHED_MODEL_TYPE!r}: it is not "
            f"in a published layout, so there is nothing to convert; use {instead}"
        )
    return open_published(folder, settings, offline=offline)


def _checked_budget(checkpoint: PublishedCheckpoint, num_voco_tokens: int | None) -> int:
    if checkpoint.voco_token_id is None:
        if num_voco_tokens:
            raise UsageError(f"num_voco_tokens={num_voco_tokens}: this is a LLaVA checkpoint without a <voco> token")
        return 0
    if num_voco_tokens is not None and num_voco_tokens < 1:
        raise UsageError(f"num_voco_tokens={num_voco_tokens}: a frame needs at least 1 VoCo token")
    return num_voco_tokens or PUBLISHED_NUM_VOCO_TOKENS


def _empty_folder(folder: Path) -> Path:
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} is there already; name a folder that is empty or does not exist")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}; name another folder") from error
    return folder


def _expected_shapes(checkpoint: PublishedCheckpoint) -> dict[str, torch.Size]:
    """Return the library's names and shapes for this model, without allocating its weights."""
    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(checkpoint.config, trust_remote_code=False)
    except ModelError:
        raise
    except Exception as error:  # the library raises anything
        path = checkpoint.folder / CONFIG
        raise ModelError(f"{path}: no model can be made of these settings: {first_line(error)}") from error
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _checked_shards(checkpoint: PublishedCheckpoint, shapes: dict[str, torch.Size]) -> Iterator[dict[str, Tensor]]:
    """Yield the checkpoint's weights; each must be known to the library, and none may be missing at the end."""
    missing = dict(shapes)
    for shard in checkpoint.shards():
        for name, tensor in shard.items():
            if tensor.shape != shapes.get(name):
                expected = tuple(shapes[name]) if name in shapes else "no such weight"
                raise ModelError(f"{checkpoint.folder}: {name} is {tuple(tensor.shape)}, expected {expected}")
            if not tensor.is_floating_point() or not is_finite(tensor):
                raise ModelError(f"{checkpoint.folder}: {name} holds NaN, infinite or whole numbers; {FETCH_AGAIN}")
            missing.pop(name, None)
        if shard:
            yield shard
    if checkpoint.config.tie_word_embeddings:
        missing.pop("lm_head.weight", None)
    if missing:
        raise ModelError(f"{checkpoint.folder}: {len(missing)} weights are missing, such as {next(iter(missing))}")


def _write_index(folder: Path, files: dict[str, list[str]], size_bytes: int) -> None:
    index = {
        "metadata": {"total_size": size_bytes},
        "weight_map": {weight: name for name, weights in files.items() for weight in weights},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_settings(checkpoint: PublishedCheckpoint, folder: Path) -> None:
    config = checkpoint.config
    GenerationConfig(
        **{name: checkpoint.settings.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    ).save_pretrained(folder)
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save_pretrained(folder)
    config.architectures = [checkpoint.architecture]
    config.save_pretrained(folder)
