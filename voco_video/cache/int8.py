"""int8 at rest: half the bytes of fp16, with one scale per token of each layer and head.

    scale = max |x| over the last axis / 127        q = round(x / scale)        x ≈ q · scale

so the error of every value is at most scale / 2: 0.4 % of the largest value in its row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from voco_video.errors import CacheError

_INT8, _SCALE = ".int8", ".scale"
_MAX_INT8 = 127  # symmetric: -128 is not used


def quantize(tensors: Mapping[str, torch.Tensor], *, names: Collection[str] | None = None) -> dict[str, torch.Tensor]:
    """Replace each floating-point tensor `name` by `name.int8` and `name.scale`.

    Args:
        tensors: by name, each [..., D] with at least two axes: keys or values [F, layers, kv_heads, K,
            head_dim], embeds [F, K, D].
        names: quantize only these and pass the others through; None means all floating-point tensors.

    Returns:
        `name.int8` int8 [..., D] and `name.scale` float32 [...] (fp16 could not hold the scales of all bf16
        values), and whatever was passed through. Rows of zeros come back as zeros.

    Raises:
        CacheError: a value is NaN or infinite, a tensor has fewer than two axes, or a name already ends in
            `.int8` or `.scale`.

    Example:
        >>> stored = quantize({"embeds": torch.tensor([[1.0, -2.0], [0.0, 0.0]])})
        >>> stored["embeds.int8"].tolist(), list(stored["embeds.scale"].shape)
        ([[64, -127], [0, 0]], [2])
        >>> dequantize(stored, dtype=torch.float16)["embeds"].dtype
        torch.float16
    """
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith((_INT8, _SCALE)):
            raise CacheError(f"tensor {name!r} looks quantized already")
        if name in names if names is not None else tensor.is_floating_point():
            stored[name + _INT8], stored[name + _SCALE] = _quantize_rows(name, tensor)
        else:
            stored[name] = tensor
    return stored


def dequantize(tensors: Mapping[str, torch.Tensor], *, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Undo `quantize`, in `dtype`; tensors that were passed through come back unchanged.

    Raises:
        CacheError: a scale is missing, or left without its int8 tensor, or of the wrong shape.
    """
    restored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        base = name.removesuffix(_INT8).removesuffix(_SCALE)
        if name.endswith((_INT8, _SCALE)) and not {base + _INT8, base + _SCALE} <= tensors.keys():
            raise CacheError(f"quantized tensor {name!r} needs both {base + _INT8!r} and {base + _SCALE!r}")
        if name.endswith(_INT8):
            restored[base] = _dequantize_rows(base, tensor, tensors[base + _SCALE], dtype)
        elif not name.endswith(_SCALE):
            restored[name] = tensor
    return restored


def _quantize_rows(name: str, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if not tensor.is_floating_point() or tensor.ndim < 2:
        raise CacheError(f"cannot quantize {name!r}: {tensor.dtype} {list(tensor.shape)}, needs floats [..., D]")
    rows = tensor.float()
    scale = rows.abs().amax(dim=-1) / _MAX_INT8  # [...]
    if not torch.isfinite(scale).all():
        raise CacheError(f"cannot quantize {name!r}: it holds NaN or infinite values")
    divisor = torch.where(scale > 0, scale, 1.0).unsqueeze(-1)  # [..., 1]
    return (rows / divisor).round_().clamp_(-_MAX_INT8, _MAX_INT8).to(torch.int8), scale


def _dequantize_rows(name: str, rows: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if rows.dtype != torch.int8 or scale.shape != rows.shape[:-1]:
        raise CacheError(f"{name!r}: {rows.dtype} {list(rows.shape)} does not go with a scale {list(scale.shape)}")
    return rows.float().mul_(scale.float().unsqueeze(-1)).to(dtype)
