"""LoRA adapters that a model answers with but never compresses with, so frame caches outlive their training.

Nothing here needs peft to be installed as long as a model carries no adapters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from voco_video.errors import ModelError, UsageError

ADAPTER_FOLDER = "answer_adapter"
_CONFIG, _WEIGHTS = "adapter.json", "adapter.safetensors"


def adapted_layers(module: nn.Module) -> list[Any]:
    """The layers below ``module`` that carry adapters."""
    import sys

    if "peft" not in sys.modules:  # then nothing can have put any there
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Run ``module`` as if it had no adapters."""
    layers = [layer for layer in adapted_layers(module) if not layer.disable_adapters]
    trained = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter in trained:  # enable_adapters also decides about gradients
            parameter.requires_grad_(True)


def base_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters without those of adapters, under the names they have where there are no adapters."""
    bases = {id(p) for layer in adapted_layers(module) for p in layer.get_base_layer().parameters()}
    adapters = {id(p) for layer in adapted_layers(module) for p in layer.parameters()} - bases
    for name, parameter in module.named_parameters():
        if id(parameter) not in adapters:
            yield (name.replace(".base_layer.", ".") if id(parameter) in bases else name), parameter


def add_adapters(
    decoder: nn.Module, *, rank: int, alpha: float, dropout: float = 0.0, targets: tuple[str, ...]
) -> None:
    """Put LoRA adapters on linear layers, in place.

    Args:
        targets: names of the layers that get one.

    Raises:
        UsageError: peft is not installed, or there is no such layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError("LoRA needs peft: pip install 'voco-video[train]'") from error
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=list(targets),
    )
    try:
        inject_adapter_in_model(settings, decoder)
    except ValueError as error:
        raise UsageError(f"LoRA on {', '.join(targets)}: {error}") from error


def adapter_weights(decoder: nn.Module) -> dict[str, Tensor]:
    """The weights of all adapters, by their names in ``decoder``."""
    bases = {id(p) for _, p in base_parameters(decoder)}
    return {n: p.detach().cpu().contiguous() for n, p in decoder.named_parameters() if id(p) not in bases}


def save_adapters(
    weights: dict[str, Tensor], folder: Path, *, rank: int, alpha: float, targets: tuple[str, ...]
) -> None:
    """Write answering adapters below a checkpoint's folder; `load_adapters` puts them back."""
    folder = folder / ADAPTER_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / _WEIGHTS)
    settings = {"rank": rank, "alpha": alpha, "targets": list(targets)}
    (folder / _CONFIG).write_text(json.dumps(settings, indent=2) + "\n")


def load_adapters(decoder: nn.Module, folder: Path) -> bool:
    """Put a checkpoint's answering adapters on its decoder, where it has any.

    Raises:
        ModelError: the adapters do not fit the decoder.
    """
    folder = folder / ADAPTER_FOLDER
    if not (folder / _CONFIG).is_file():
        return False
    settings = json.loads((folder / _CONFIG).read_text())
    add_adapters(decoder, rank=settings["rank"], alpha=settings["alpha"], targets=tuple(settings["targets"]))
    weights = load_file(folder / _WEIGHTS)
    parameters = dict(decoder.named_parameters())
    if weights.keys() != adapter_weights(decoder).keys():
        raise ModelError(f"{folder}: these adapters are for another model")
    for name, tensor in weights.items():
        parameters[name].data.copy_(tensor)
    for name in weights:
        parameters[name].requires_grad_(False)
    return True
