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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file
from torch import Tensor

from voco_video.backbone import Backbone
from voco_video.checkpoint_files import VOCO_CONFIG, find_checkpoint, sampled, stored_weights, weight_files
from voco_video.errors import ModelError
from voco_video.paths import expanded

CHANGED_WEIGHTS = "changed.safetensors"
LORA_CONFIG, LORA_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Base:
    """The checkpoint that an adapter is for.

    Attributes:
        name: as `load_voco_model` takes it; a hub id with the commit it was.
        digest: `stored_digest` of its folder.
    """

    name: str
    digest: str

    @staticmethod
    def of(path: str | Path) -> Base:
        """A base by its path or id, as it is now."""
        folder = find_checkpoint(path)
        is_snapshot = folder.parent.name == "snapshots" and not expanded(path).exists()
        name = f"{str(path).partition('@')[0]}@{folder.name}" if is_snapshot else str(path)
        is_folder = expanded(path).is_dir()
        return Base(str(folder.resolve()) if is_folder else name, stored_digest(folder))


def base_of(folder: Path) -> Base | None:
    """The base that a checkpoint's folder refers to; None where it holds everything itself.

    Raises:
        ModelError: the base is not here, or is not what it was.
    """
    path = folder / VOCO_CONFIG
    described = json.loads(path.read_text()).get("base") if path.is_file() else None
    if described is None:
        return None
    base = Base(**described)
    try:
        found = find_checkpoint(base.name)
    except ModelError as error:
        raise ModelError(f"{folder} is an adapter for {base.name!r}: {error}; or correct `base` in {path}") from error
    if stored_digest(found) != base.digest:
        raise ModelError(f"{folder} is an adapter for {base.name!r}, whose weights are not what they were in training")
    return base


def stored_digest(folder: Path) -> str:
    """64 hex digits over the name, shape and type of every weight in a checkpoint's files, and a few of its numbers.

    An adapter counts with its own files and what its base's digest says.
    """
    digest = blake3()
    described = json.loads((folder / VOCO_CONFIG).read_text()) if (folder / VOCO_CONFIG).is_file() else {}
    digest.update(json.dumps(described.get("base")).encode())
    files = sorted(folder.glob("*.safetensors")) if "base" in described else weight_files(folder)
    for path in files:
        for name, weight in sorted(stored_weights([path], dtype=torch.float32).items()):
            tensor = weight[...]
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(sampled(tensor))
    return digest.hexdigest()


def write_changes(
    folder: Path, *, changed: Mapping[str, Tensor], lora: Mapping[str, Tensor], lora_settings: Mapping[str, Any]
) -> None:
    """Write what was trained of the image-text model.

    Args:
        changed: weights by their names in it.
        lora: LoRA matrices by their names in it, ``....q_proj.lora_A.default.weight``.
        lora_settings: their ``rank``, ``alpha`` and ``targets``, and ``base`` for peft.
    """
    if changed:
        save_file(_plain(changed), folder / CHANGED_WEIGHTS, {"format": "pt"})
    if not lora:
        return
    renamed = {_PEFT_PREFIX + name.replace(".default.", "."): tensor for name, tensor in lora.items()}
    save_file(_plain(renamed), folder / LORA_WEIGHTS, {"format": "pt"})
    modules = sorted({name.partition(".lora_")[0] for name in lora})  # by whole names: towers have a q_proj too
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": lora_settings["base"],
        "r": lora_settings["rank"],
        "lora_alpha": lora_settings["alpha"],
        "lora_dropout": 0.0,
        "target_modules": modules,
        "bias": "none",
        "inference_mode": True,
    }
    (folder / LORA_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def apply_changes(backbone: Backbone, folder: Path) -> None:
    """Put what `write_changes` wrote into a base's weights; LoRA is merged.

    Raises:
        ModelError: it is for another model, or the base's weights are quantized.
    """
    parameters = dict(backbone.model.named_parameters())
    if (folder / CHANGED_WEIGHTS).is_file():
        for name, tensor in load_file(folder / CHANGED_WEIGHTS).items():
            _fitting(parameters, name, tensor.shape, folder).copy_(tensor)
    if not (folder / LORA_CONFIG).is_file():
        return
    settings = json.loads((folder / LORA_CONFIG).read_text())
    scale = settings["lora_alpha"] / settings["r"]
    weights = load_file(folder / LORA_WEIGHTS)
    for name in sorted(n for n in weights if n.endswith(".lora_A.weight")):
        down, up = weights[name].float(), weights[name.replace("lora_A", "lora_B")].float()
        target = name.removeprefix(_PEFT_PREFIX).replace(".lora_A", "")
        parameter = _fitting(parameters, target, torch.Size((up.shape[0], down.shape[1])), folder)
        parameter.add_((scale * (up @ down)).to(parameter))


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
