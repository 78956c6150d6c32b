"""Adapters that a model answers with but never compresses with, so frame caches outlive their training.

An adapter is LoRA, or a second set of weights: a layer that compresses with one matrix and answers with another.
Nothing here needs peft to be installed as long as a model carries no LoRA.

Whether a pass runs with adapters is known to that pass alone (`adapters_off`). No layer is switched: other threads may
be in the middle of a pass through the same layers.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from voco_video.errors import ModelError, UsageError
from voco_video.files.checked_values import Checked, is_list_of, is_number, is_one_of, is_text, is_whole
from voco_video.files.settings import FETCH_AGAIN, is_there, read_settings
from voco_video.files.weights import read_small_weights

ADAPTER_FOLDER = "answer_adapter"
_CONFIG, _WEIGHTS = "adapter.json", "adapter.safetensors"
ADAPTER_FILES = (f"{ADAPTER_FOLDER}/{_CONFIG}", f"{ADAPTER_FOLDER}/{_WEIGHTS}")
_without_adapters: ContextVar[frozenset[int]] = ContextVar("without_adapters", default=frozenset())
"""The layers, by `id`, that the pass of this thread runs through without their adapters."""


class AnsweringLinear(nn.Module):
    """A linear layer with a second set of weights to answer with.

    Args:
        base_layer: the weights to compress with; those to answer with begin as a copy of them.
    """

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.answer_layer = copy.deepcopy(base_layer).requires_grad_(True)

    def get_base_layer(self) -> nn.Linear:
        """Return the layer that compresses, under the name that peft's layers have for theirs."""
        return self.base_layer

    def forward(self, hidden: Tensor) -> Tensor:
        """Run the layer, ``[..., in] -> [..., out]``."""
        if id(self) in _without_adapters.get():
            output: Tensor = self.base_layer(hidden)
            return output
        # While they are trained, the weights to answer with are float32, whatever the type of the rest.
        weight, bias = self.answer_layer.weight, self.answer_layer.bias
        return nn.functional.linear(hidden, weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype))


def adapted_layers(module: nn.Module) -> list[Any]:
    """List the layers below ``module`` that carry adapters."""
    kinds: tuple[type, ...] = (AnsweringLinear,)
    if "peft" in sys.modules:  # without peft there is no LoRA
        from peft.tuners.tuners_utils import BaseTunerLayer

        kinds += (BaseTunerLayer,)
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Run ``module`` as if it had no adapters: in this thread, until the block is left."""
    layers = adapted_layers(module)
    for layer in layers:
        if not isinstance(layer, AnsweringLinear) and not hasattr(layer, "asks_the_pass"):
            kind: Any = type(layer)
            layer.__class__ = _asking_the_pass(kind)
    token = _without_adapters.set(_without_adapters.get() | {id(layer) for layer in layers})
    try:
        yield
    finally:
        _without_adapters.reset(token)


@cache
def _asking_the_pass(kind: Any) -> Any:
    """Make a kind of peft's layers whose adapters can be off for one pass, not only for all threads."""

    def disable_adapters(layer: Any) -> bool:
        return layer._disable_adapters or id(layer) in _without_adapters.get()

    return type(kind.__name__, (kind,), {"disable_adapters": property(disable_adapters), "asks_the_pass": True})


def base_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """List parameters without those of adapters, under the names they have where there are no adapters."""
    bases = {id(p) for layer in adapted_layers(module) for p in layer.get_base_layer().parameters()}
    adapters = {id(p) for layer in adapted_layers(module) for p in layer.parameters()} - bases
    for name, parameter in module.named_parameters():
        if id(parameter) not in adapters:
            yield (name.replace(".base_layer.", ".") if id(parameter) in bases else name), parameter


def add_adapters(
    decoder: nn.Module, *, rank: int, alpha: float, dropout: float = 0.0, targets: tuple[str, ...]
) -> None:
    """Put adapters on linear layers, in place.

    Args:
        rank: of LoRA; 0 gives the layers a second set of weights instead.
        targets: names of the layers that get one.

    Raises:
        UsageError: peft is not installed, or there is no such layer.
    """
    if rank == 0:
        _add_answering_weights(decoder, targets)
        return
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


def _add_answering_weights(decoder: nn.Module, targets: tuple[str, ...]) -> None:
    targeted = [(name, module) for name, module in decoder.named_modules() if name.rpartition(".")[2] in targets]
    if not targeted:
        raise UsageError(f"answering weights for {', '.join(targets)}: the decoder has no such layers")
    for name, module in targeted:
        parent, _, attribute = name.rpartition(".")
        setattr(decoder.get_submodule(parent), attribute, AnsweringLinear(module))


def remove_adapters(decoder: nn.Module) -> bool:
    """Take all adapters off for good; whether there were any."""
    layers = {id(layer) for layer in adapted_layers(decoder)}
    adapted = [(name, module) for name, module in decoder.named_modules() if id(module) in layers]
    for name, module in adapted:
        parent, _, attribute = name.rpartition(".")
        setattr(decoder.get_submodule(parent), attribute, module.get_base_layer())
    return bool(adapted)


def adapter_weights(decoder: nn.Module) -> dict[str, nn.Parameter]:
    """Collect the parameters of all adapters, by their names in ``decoder``."""
    bases = {id(p) for _, p in base_parameters(decoder)}
    return {name: p for name, p in decoder.named_parameters() if id(p) not in bases}


def adapter_settings(decoder: nn.Module) -> dict[str, Any]:
    """Read what `add_adapters` was given off the adapters that are there."""
    layers = {id(layer): layer for layer in adapted_layers(decoder)}
    targets = sorted({name.rpartition(".")[2] for name, module in decoder.named_modules() if id(module) in layers})
    first = next(iter(layers.values()))
    if isinstance(first, AnsweringLinear):
        return {"rank": 0, "alpha": 0.0, "targets": targets}
    return {"rank": first.r["default"], "alpha": first.lora_alpha["default"], "targets": targets}


def save_adapters(decoder: nn.Module, weights: Mapping[str, Tensor], folder: Path, *, form: str | None) -> None:
    """Write answering adapters below a checkpoint's folder; `load_adapters` puts them back.

    Args:
        weights: tensors by the names of `adapter_weights`.
        form: the form of VoCo tokens that they were trained on; None for any.
    """
    folder = folder / ADAPTER_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / _WEIGHTS)
    (folder / _CONFIG).write_text(json.dumps(adapter_settings(decoder) | {"form": form}, indent=2) + "\n")


def load_adapters(decoder: nn.Module, folder: Path) -> str | None:
    """Put a checkpoint's answering adapters on its decoder, where it has any.

    Returns:
        The form of VoCo tokens that they were trained on; None for any, and without adapters.

    Raises:
        ModelError: the adapters are damaged, or do not fit the decoder.
    """
    adapters = read_adapters(folder)
    if adapters is None:
        return None
    folder = folder / ADAPTER_FOLDER
    settings, weights = adapters
    try:
        add_adapters(decoder, rank=settings["rank"], alpha=settings["alpha"], targets=tuple(settings["targets"]))
    except UsageError as error:
        raise ModelError(f"{folder / _CONFIG}: {error}") from error
    parameters = adapter_weights(decoder)
    shapes = [{name: tuple(t.shape) for name, t in tensors.items()} for tensors in (weights, parameters)]
    if shapes[0] != shapes[1]:
        name = next(n for n in sorted({**shapes[0], **shapes[1]}) if shapes[0].get(n) != shapes[1].get(n))
        stored, expected = (s.get(name, "no such weight") for s in shapes)
        raise ModelError(
            f"{folder}: these adapters are for another model, or not complete: {name} is {stored} in {_WEIGHTS}, and "
            f"{expected} by {_CONFIG} and the model; {FETCH_AGAIN}"
        )
    for name, tensor in weights.items():
        parameters[name].data.copy_(tensor)
        parameters[name].requires_grad_(False)
    form: str | None = settings["form"]
    return form


def read_adapters(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Read the settings and the weights of a checkpoint's answering adapters; None where it has none.

    Raises:
        ModelError: they are damaged.
    """
    folder = folder / ADAPTER_FOLDER
    if not is_there(folder):
        return None
    if not folder.is_dir():
        raise ModelError(f"{folder} has to be the folder of the answering adapters; {FETCH_AGAIN}")
    path = folder / _CONFIG
    checked = Checked(read_settings(path), path)
    settings = {
        "rank": checked.get("rank", "a whole number from 0 on", is_whole),
        "alpha": checked.get("alpha", "a number", is_number),
        "targets": checked.get("targets", "a list of names of layers", is_list_of(is_text)),
        "form": checked.get("form", '"kv", "embeds", "both" or null', is_one_of("kv", "embeds", "both", None)),
    }
    weights = read_small_weights(folder / _WEIGHTS)
    ranks = {len(tensor) for name, tensor in weights.items() if ".lora_A." in name and tensor.ndim}
    if ranks != ({settings["rank"]} if settings["rank"] else set()):  # before LoRA of that rank takes memory
        existing = f"LoRA of rank {sorted(ranks)}" if ranks else "no LoRA"
        raise ModelError(f"{path} says rank {settings['rank']}, and {_WEIGHTS} holds {existing}; {FETCH_AGAIN}")
    return settings, weights
