"""Step f: the decoder's weights in 8 and 4 bits: memory, frames a second, and how far tokens are from 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.gpu.arithmetic import compress_bytes
from benchmarks.gpu.plan import Bench, Figures, Part, model_without_weights
from benchmarks.shapes import make_model, random_pixels
from benchmarks.speed.compress import see
from benchmarks.timing import interleaved
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.options.loading import WeightBits


def parts(bench: Bench) -> Iterator[Part]:
    """16 bits first, which the others are held against."""
    plan = bench.plan
    needed = 2 * compress_bytes(model_without_weights(plan.small_shape, plan.dtype), plan.batches[-1])
    lacks = "" if bench.is_gpu and find_spec("bitsandbytes") else "bitsandbytes is not installed, or there is no GPU"
    exact: list[torch.Tensor] = []
    bits: tuple[WeightBits, ...] = (16, 8, 4)
    for count in bits:
        yield Part(
            f"{count} bits, shape {plan.small_shape}",
            lambda count=count: _measure(bench, count, exact),  # type: ignore[misc]
            needed,
            "" if count == 16 else lacks,
        )


def _checkpoint(bench: Bench) -> Path:
    folder = bench.folder / "checkpoint"
    if not folder.exists():
        model = make_model(bench.plan.small_shape, dtype=bench.plan.dtype, device="cpu", attention="sdpa")
        save_voco_model(model, folder)
    return folder


def _measure(bench: Bench, bits: WeightBits, exact: list[torch.Tensor]) -> Figures:
    plan = bench.plan
    model = load_voco_model(_checkpoint(bench), device=plan.device, dtype=plan.dtype, weight_bits=bits)
    pixels = random_pixels(model, plan.batches[-1])
    values = model.compress(see(model, pixels)).values
    assert values is not None
    exact.append(values.float().cpu())
    error = float((exact[-1] - exact[0]).norm() / exact[0].norm())
    if not error < 1:  # values that have nothing to do with each other differ by 1.4
        raise ArithmeticError(f"values in {bits} bits differ by {error:.2f} of their size from those in 16")
    timing = interleaved({"compress": lambda: model.compress(see(model, pixels))}, repeats=plan.repeats)["compress"]
    layers = model.backbone.decoder.layers.parameters()
    return {
        "frames_per_second": len(pixels) / timing.wall_seconds,
        "layer_bytes": sum(p.numel() * p.element_size() for p in layers),
        "error": error,
    }
