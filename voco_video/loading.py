"""Weights from the files of a checkpoint to the devices and the type that they are wanted in, one after the other.

Memory holds the model and little more at any time: nothing is initialised first, and of a weight that is converted or
moved only the result stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, GenerationConfig

from voco_video.backbones import family_of
from voco_video.blocked_attention import BLOCKED, has_bfloat16
from voco_video.checkpoint_files import StoredWeight
from voco_video.errors import ModelError, UsageError
from voco_video.inference import lock_across_forks

WeightBits = Literal[4, 8, 16]
ATTENTION_IMPLEMENTATIONS = ("auto", "sdpa", "flash_attention_2", "eager", BLOCKED)
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_LOADING = lock_across_forks()


@dataclass(frozen=True)
class LoadOptions:
    """Where weights go and what they become.

    Attributes:
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: ``auto`` (bfloat16 on CUDA, float32 elsewhere), ``float32``, ``bfloat16`` or ``float16``.
        attn_implementation: ``sdpa``, ``flash_attention_2`` (the flash-attn extra), ``eager``, ``blocked`` (see
            `voco_video.blocked_attention`), or ``auto``: flash-attn on CUDA in 16 bit where it is installed, blocked
            in bfloat16 on processors that compute in it, else sdpa.
        device_map: spread layers over all devices there are: ``auto``, ``balanced``, ``balanced_low_0``,
            ``sequential``, or a device for every part of the model by name. None puts all on ``device``.
        weight_bits: 16 for ``dtype`` as it is; 8 or 4 for the decoder's matrices in bitsandbytes' types, on CUDA.

    Raises:
        UsageError: an option that cannot be right, or not here.
    """

    device: str = "auto"
    dtype: str = "auto"
    attn_implementation: str = "auto"
    device_map: str | Mapping[str, str | int] | None = None
    weight_bits: WeightBits = 16

    def __post_init__(self) -> None:
        if self.attn_implementation not in ATTENTION_IMPLEMENTATIONS:
            known = ", ".join(ATTENTION_IMPLEMENTATIONS)
            raise UsageError(f"attention {self.attn_implementation!r} is not one of {known}")
        if isinstance(self.device_map, str) and self.device_map not in DEVICE_MAPS:
            raise UsageError(f"device_map {self.device_map!r} is not one of {', '.join(DEVICE_MAPS)}")
        if self.device_map is not None and self.device != "auto":
            raise UsageError(f"device={self.device!r} and device_map={self.device_map!r}: give one of them")
        if isinstance(self.device_map, Mapping) and "disk" in self.device_map.values():
            raise UsageError(
                "device_map: weights left on the disk are not supported; use weight_bits=4 or more devices"
            )
        if self.weight_bits not in get_args(WeightBits):
            raise UsageError(f"weight_bits={self.weight_bits} is not one of 4, 8, 16")
        if self.weight_bits < 16:
            _check_quantization(self.torch_device, self.weight_bits)
        _ = self.torch_dtype

    @property
    def torch_device(self) -> torch.device:
        """``device``, resolved; with a map the device that decides about types."""
        return resolve_device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype``, resolved."""
        return resolve_dtype(self.dtype, self.torch_device)

    @property
    def attention(self) -> str:
        """``attn_implementation``, resolved."""
        if self.attn_implementation != "auto":
            return self.attn_implementation
        if self.torch_device.type == "cpu":
            return BLOCKED if self.torch_dtype == torch.bfloat16 and has_bfloat16() else "sdpa"
        has_flash = self.torch_device.type == "cuda" and find_spec("flash_attn") is not None
        return "flash_attention_2" if has_flash and self.torch_dtype != torch.float32 else "sdpa"


def resolve_device(device: str) -> torch.device:
    """``auto`` or a device name to a device.

    Raises:
        UsageError: no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device!r} is not available here; use 'cpu' or leave it at 'auto'") from error
    return resolved


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``auto`` or a type name to a floating-point type.

    Raises:
        UsageError: not a type that weights are kept in.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    names = ("float32", "bfloat16", "float16")
    if dtype not in names:
        raise UsageError(f"dtype {dtype!r} is not one of auto, {', '.join(names)}")
    return getattr(torch, dtype)


def load_image_text_model(
    config: Any, weights: Mapping[str, StoredWeight], options: LoadOptions, *, folder: Path
) -> Any:
    """A Hugging Face image-text model in eval mode, its weights read straight to where they belong.

    One model is loaded at a time: meanwhile the library changes the default type and initialisation for all threads.

    Args:
        config: its configuration.
        weights: by the names in its files; the library's own renamings of older names apply.
        folder: the checkpoint, for its generation settings and for messages.

    Raises:
        UsageError: an option that needs what is not installed.
        ModelError: weights are missing or do not fit, or the model does not fit the devices.
    """
    single = {"": options.torch_device}
    kind: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    try:
        with _LOADING:
            model, found = kind.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=options.torch_dtype,
                attn_implementation=options.attention,
                device_map=single if options.device_map is None else options.device_map,
                quantization_config=_quantization(config, options),
                output_loading_info=True,
            )
    except ImportError as error:
        raise UsageError(f"{error}. Install the extra: pip install 'voco-video[flash-attn]', or use sdpa") from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"{folder} does not fit into the memory of {options.device_map or options.torch_device} as "
            f"{options.torch_dtype}: use --dtype bfloat16, --weight-bits 8 or 4, or --device-map auto"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot load {folder}: {error}") from error
    _check_complete(model, found, folder)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def _check_complete(model: Any, found: Mapping[str, Any], folder: Path) -> None:
    """The library gives a missing weight random numbers and a warning."""
    if missing := sorted(found["missing_keys"]):
        raise ModelError(f"{folder}: missing weights {missing[:3]}{', ...' if len(missing) > 3 else ''}")
    places = {name: str(device) for name, device in (getattr(model, "hf_device_map", None) or {}).items()}
    left = (
        {"disk"} if set(places.values()) <= {"cpu", "disk"} else {"cpu", "disk"}
    )  # beside GPUs, memory is a shelf too
    if left_out := [name for name, device in places.items() if device in left]:
        raise ModelError(
            f"{folder} does not fit into all devices together: there is no room for {', '.join(left_out[:3])}; use "
            "--dtype bfloat16, --weight-bits 4 or another machine"
        )


def _check_quantization(device: torch.device, bits: int) -> None:
    if device.type != "cuda":
        raise UsageError(
            f"weight_bits={bits} needs an NVIDIA GPU, and the device is {device}; use --dtype bfloat16 to halve the "
            "memory of float32 here"
        )
    if find_spec("bitsandbytes") is None:
        raise UsageError(f"weight_bits={bits} needs bitsandbytes: pip install 'voco-video[bitsandbytes]'")


def _quantization(config: Any, options: LoadOptions) -> Any:
    if options.weight_bits == 16:
        return None
    from transformers import BitsAndBytesConfig

    family = family_of(config)
    kept: Any = [family.vision_tower, family.projector, "lm_head"]  # a small part of the bytes, and most of the harm
    if options.weight_bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=options.torch_dtype,
        llm_int8_skip_modules=kept,
    )
