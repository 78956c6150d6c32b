"""Where the weights of a model go and what type they get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from voco_video.errors import UsageError
from voco_video.options.fields import Options, documented, option

if TYPE_CHECKING:
    import torch

MODEL = "Model"
"""The group of options on which weights are used, and how."""
WeightBits = Literal[4, 8, 16]
Layout = Literal["released", "library"]
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


@documented
@dataclass(frozen=True)
class LoadOptions(Options, panel=MODEL):
    """Where weights come from and go, and what they become.

    ``device="auto"`` takes CUDA where there is one; ``dtype="auto"`` is bfloat16 on CUDA and float32 elsewhere;
    ``attn_implementation="auto"`` is flash-attn (the flash-attn extra) on CUDA in 16 bit where it is installed, blocked
    (`voco_video.model.cpu_attention`) in bfloat16 on processors that compute in it without AMX, else sdpa.
    ``device_map`` may also name a device for every part of the model. ``weight_bits`` of 8 or 4 stores the decoder's
    matrices in bitsandbytes' types. ``offline`` does for one call what ``HF_HUB_OFFLINE=1`` does for all.

    Raises:
        UsageError: an option that cannot be right, or not on this machine.
    """

    device: str = option("auto", "Where to compute: auto, cpu, cuda, cuda:1, ...")
    dtype: str = option(
        "auto",
        "Type of the weights; auto: bfloat16 on a GPU, else float32.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    attn_implementation: str = option(
        "auto",
        "How attention is computed; auto takes what is fastest here.",
        flag="--attention",
        choices=("auto", "sdpa", "flash_attention_2", "eager", "blocked"),
    )
    device_map: str | Mapping[str, str | int] | None = option(
        None, "Spread layers over all GPUs: auto, balanced, balanced_low_0 or sequential.", metavar="HOW"
    )
    weight_bits: WeightBits = option(16, "8 or 4: the decoder's weights in that many bits, on a GPU.")
    layout: Layout | None = option(
        None,
        "Where frames and words stand: as the model was released, or as the installed transformers writes them.",
        unset="released, or as recorded in voco_config.json",
    )
    revision: str | None = option(
        None, "Branch, tag or commit of a hub id; user/name@revision says the same.", unset="main"
    )
    offline: bool = option(False, "Ask no hub; what was fetched before is used.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.device_map, str) and self.device_map not in DEVICE_MAPS:
            raise UsageError(f"device_map={self.device_map!r} is not one of {', '.join(DEVICE_MAPS)}")
        if self.device_map is not None and self.device != "auto":
            raise UsageError(f"device={self.device!r} and device_map={self.device_map!r}: give one of them")
        if isinstance(self.device_map, Mapping) and "disk" in self.device_map.values():
            raise UsageError(
                "device_map: weights left on the disk are not supported; use weight_bits=4 or more devices"
            )
        if self.weight_bits < 16:
            _check_quantization(self.torch_device, self.weight_bits)
        if self.device not in ("auto", "cpu"):  # those are everywhere, and torch takes seconds to import
            _ = self.torch_device

    @property
    def torch_device(self) -> torch.device:
        """``device``, resolved; with a map the device that decides about types."""
        return resolve_device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype``, resolved."""
        return resolve_dtype(self.dtype, self.torch_device)


def resolve_device(device: str) -> torch.device:
    """Find the device of a name, or the one that ``auto`` stands for.

    Raises:
        UsageError: no such device here.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device={device!r} is not available here; use 'cpu' or leave it at 'auto'") from error
    return resolved


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Find the floating-point type of a name, or the one that ``auto`` stands for."""
    import torch

    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, dtype)


def _check_quantization(device: torch.device, bits: int) -> None:
    if device.type != "cuda":
        raise UsageError(
            f"weight_bits={bits} needs an NVIDIA GPU, and the device is {device}; use dtype='bfloat16' to halve the "
            "memory of float32 here"
        )
    if find_spec("bitsandbytes") is None:
        raise UsageError(f"weight_bits={bits} needs bitsandbytes: pip install 'voco-video[bitsandbytes]'")
