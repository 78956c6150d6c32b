"""A small adapter beside an unchanged base: what training added to a checkpoint, without a copy of it.

voco_config.json             as in a whole checkpoint, and ``base``: where the rest is, and a digest of its weights
voco.safetensors             voco_embeds [K, D]
changed.safetensors          weights that were trained whole, such as the projector's, by their names in the library
adapter_config.json          LoRA that compresses and answers, as peft reads it
adapter_model.safetensors
answer_adapter/              weights that answer alone
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors.torch import save_file
from torch import Tensor

from voco_video.checkpoint.files import stored_weights, weight_files
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.needed import VOCO_CONFIG
from voco_video.checkpoint.recommended import full_name
from voco_video.checkpoint.voco_settings import Base, read_voco_settings
from voco_video.errors import ModelError
from voco_video.files.checked_values import Checked, is_number, is_whole
from voco_video.files.paths import expanded
from voco_video.files.settings import FETCH_AGAIN, has_file, read_settings
from voco_video.files.weights import add_to_digest, read_small_weights
from voco_video.hub.names import HubName
from voco_video.model.backbone import Backbone

CHANGED_WEIGHTS = "changed.safetensors"
LORA_CONFIG, LORA_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PEFT_PREFIX = "base_model.model."


def describe_base(path: str | Path) -> Base:
    """Describe a base by its path or id, as it is now."""
    folder = find_checkpoint(path)
    is_snapshot = folder.parent.name == "snapshots" and not expanded(path).exists()
    name = f"{full_name(str(path)).partition('@')[0]}@{folder.name}" if is_snapshot else str(path)
    is_folder = expanded(path).is_dir()
    return Base(str(folder.resolve()) if is_folder else name, stored_digest(folder))


def base_of(folder: Path, *, offline: bool = False) -> Base | None:
    """Find the base that a checkpoint's folder refers to; None where it holds everything itself.

    Args:
        offline: as in `find_checkpoint`.

    Raises:
        ModelError: the base is not here, or is not what it was.
    """
    path = folder / VOCO_CONFIG
    settings = read_voco_settings(folder)
    base = settings.base if settings else None
    if base is None:
        return None
    try:
        found = find_checkpoint(base.name, offline=offline)
    except ModelError as error:
        raise ModelError(f"{folder} is an adapter for {base.name!r}: {error}; or correct `base` in {path}") from error
    if stored_digest(found) != base.digest:
        raise ModelError(
            f"{folder} is an adapter for {base.name!r}, whose weights are not what they were in training; fetch that "
            f"version of them, or correct `base` in {path}"
        )
    return base


def stored_digest(folder: Path) -> str:
    """Digest the name, shape, type and a few numbers of every weight in a checkpoint's files, as 64 hex digits.

    An adapter counts with its own files and what its base's digest says.
    """
    digest = blake3()
    described = read_settings(folder / VOCO_CONFIG) if has_file(folder, VOCO_CONFIG) else {}
    digest.update(json.dumps(described.get("base")).encode())
    files = sorted(folder.glob("*.safetensors")) if "base" in described else weight_files(folder)
    for path in files:
        for name, weight in sorted(stored_weights([path], dtype=torch.float32).items()):
            add_to_digest(digest, name, weight[...], is_sampled=True)
    return digest.hexdigest()


def write_changes(
    folder: Path, *, changed: Mapping[str, Tensor], lora: Mapping[str, Tensor], lora_settings: Mapping[str, Any]
) -> list[str]:
    """Write what was trained of the image-text model.

    Args:
        changed: weights by their names in it.
        lora: LoRA matrices by their names in it, ``....q_proj.lora_A.default.weight``.
        lora_settings: their ``rank``, ``alpha`` and ``targets``, and ``base`` for peft.

    Returns:
        The names of the files that it wrote.
    """
    written = []
    if changed:
        save_file(_plain(changed), folder / CHANGED_WEIGHTS, {"format": "pt"})
        written.append(CHANGED_WEIGHTS)
    if not lora:
        return written
    renamed = {_PEFT_PREFIX + name.replace(".default.", "."): tensor for name, tensor in lora.items()}
    save_file(_plain(renamed), folder / LORA_WEIGHTS, {"format": "pt"})
    modules = sorted({name.partition(".lora_")[0] for name in lora})  # by whole names: towers have a q_proj too
    named = HubName.parse(lora_settings["base"])
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": lora_settings["base"] if named is None else named.repo_id,
        "revision": None if named is None else named.revision,
        "r": lora_settings["rank"],
        "lora_alpha": lora_settings["alpha"],
        "lora_dropout": 0.0,
        "target_modules": modules,
        "bias": "none",
        "inference_mode": True,
    }
    (folder / LORA_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return [*written, LORA_CONFIG, LORA_WEIGHTS]


@torch.no_grad()
def apply_changes(backbone: Backbone, folder: Path) -> None:
    """Put what `write_changes` wrote into a base's weights; LoRA is merged.

    Raises:
        ModelError: it is for another model, or the base's weights are quantized.
    """
    parameters = dict(backbone.hf_model.named_parameters())
    changed, lora = read_changes(folder)
    for name, tensor in changed.items():
        _fitting(parameters, name, tensor.shape, folder).copy_(tensor)
    for name, (down, up, scale) in sorted(lora.items()):
        parameter = _fitting(parameters, name, torch.Size((up.shape[0], down.shape[1])), folder)
        parameter.add_((scale * (up @ down)).to(parameter))


def read_changes(folder: Path) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor, float]]]:
    """Read what `write_changes` wrote.

    Returns:
        Changed weights by their names in the image-text model, and by such names A, B and the scale of what LoRA adds,
        ``scale * B A``.

    Raises:
        ModelError: one of the files is damaged, or one of two is missing.
    """
    changed = read_small_weights(folder / CHANGED_WEIGHTS) if has_file(folder, CHANGED_WEIGHTS) else {}
    if has_file(folder, LORA_CONFIG) != has_file(folder, LORA_WEIGHTS):
        raise ModelError(f"{folder} holds one of {LORA_CONFIG} and {LORA_WEIGHTS} without the other; {FETCH_AGAIN}")
    if not has_file(folder, LORA_CONFIG):
        return changed, {}
    path = folder / LORA_CONFIG
    settings = Checked(read_settings(path), path)
    rank = settings.get("r", "a whole number from 1 on", lambda value: is_whole(value, least=1))
    scale = settings.get("lora_alpha", "a number", is_number) / rank
    weights = read_small_weights(folder / LORA_WEIGHTS)
    lora = {}
    for name in {_lora_name(name, folder) for name in weights}:
        down, up = (weights.get(f"{name}.lora_{which}.weight", torch.empty(0)) for which in "AB")
        if down.ndim != 2 or up.ndim != 2 or not len(down) == up.shape[1] == rank:
            raise ModelError(f"{folder / LORA_WEIGHTS}: {name} lacks one of two matrices of rank {rank}; {FETCH_AGAIN}")
        lora[f"{name.removeprefix(_PEFT_PREFIX)}.weight"] = (down.float(), up.float(), scale)
    return changed, lora


def _lora_name(name: str, folder: Path) -> str:
    module, _, rest = name.rpartition(".lora_")
    if rest not in ("A.weight", "B.weight"):
        raise ModelError(f"{folder / LORA_WEIGHTS}: {name} is no matrix of LoRA; {FETCH_AGAIN}")
    return module


def _fitting(parameters: Mapping[str, Tensor], name: str, shape: torch.Size, folder: Path) -> Tensor:
    parameter = parameters.get(name)
    if parameter is None or parameter.shape != shape or not parameter.is_floating_point():
        found = "no such weight" if parameter is None else f"{parameter.dtype} {tuple(parameter.shape)}"
        raise ModelError(
            f"{folder}: {name} {tuple(shape)} does not fit its base, which has {found}; quantized weights take no "
            "changes, so load them with weight_bits=16"
        )
    return parameter


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
