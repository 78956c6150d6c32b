"""Step b: frames a second at LLaVA-1.5-7B's shape, and the share of what plain products of matrices reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.arithmetic import FLOPS_PER_SECOND, compress_bytes, compress_flops, weight_bytes
from benchmarks.gpu.plan import Bench, Figures, Part
from benchmarks.shapes import llm_flops, make_model, random_pixels, vision_flops
from benchmarks.speed.ceiling import best_rate, products
from benchmarks.speed.compress import see
from benchmarks.timing import check_same, interleaved

K = 1


def parts(bench: Bench) -> Iterator[Part]:
    """Batches first, then what explains them."""
    plan, shape = bench.plan, bench.shape
    flops = compress_flops(shape)
    expected = {"flops_per_frame": flops, "frames_per_second_at_peak": FLOPS_PER_SECOND / flops}
    rate: Figures = {}
    yield Part("matmul rate", lambda: rate | _matmul(bench, rate), weight_bytes(shape))
    for size in plan.batches:
        needed = compress_bytes(shape, size)
        yield Part(f"compress, batches of {size}", lambda s=size: _compress(bench, s, rate), needed, expected=expected)  # type: ignore[misc]
    size = plan.batches[0]
    needed = compress_bytes(shape, size)
    yield Part(f"a batch is its frames, {size}", lambda: _same(bench, size), needed)
    yield Part("profile", lambda: _profile(bench, size), needed)
    lacks = "" if bench.is_gpu and find_spec("flash_attn") else "flash-attn is not installed, or there is no GPU"
    yield Part("flash-attn", lambda: _flash(bench, size, rate), needed, lacks)


def _matmul(bench: Bench, rate: Figures) -> Figures:
    chosen = products(bench.plan.dtype, sizes=(256,), device=bench.plan.device)
    sides = {name: product.side() for name, product in chosen.items()}
    timings = interleaved(sides, repeats=bench.plan.repeats)
    rate["flops_per_second"] = best_rate(chosen, timings)
    return dict(rate)


def _compress(bench: Bench, size: int, rate: Figures) -> Figures:
    model, plan = bench.model, bench.plan
    pixels = random_pixels(model, size)
    with torch.inference_mode():
        vision_tokens = model.vision_tokens(pixels)
    sides: dict[str, Callable[[], Any]] = {
        "tower": lambda: see(model, pixels),
        "decoder": lambda: model.compress(vision_tokens, num_voco_tokens=K),
        "both": lambda: model.compress(see(model, pixels), num_voco_tokens=K),
    }
    timings = interleaved(sides, repeats=plan.repeats, max_seconds=plan.max_seconds)
    flops = {"tower": vision_flops(model), "decoder": llm_flops(model, K)}
    flops["both"] = sum(flops.values())
    figures: Figures = {"frames_per_second": size / timings["both"].wall_seconds}
    for name, timing in timings.items():
        figures[f"{name}_seconds"] = timing.wall_seconds
        figures[f"{name}_range"] = [min(timing.wall), max(timing.wall)]
        figures[f"{name}_flops_per_second"] = size * flops[name] / timing.wall_seconds
        if rate:
            figures[f"{name}_share"] = figures[f"{name}_flops_per_second"] / rate["flops_per_second"]
    return figures


def _same(bench: Bench, size: int) -> Figures:
    model, pixels = bench.model, random_pixels(bench.model, size)
    kept = [model.compress(see(model, p), num_voco_tokens=K)[0:1].values for p in (pixels[:1], pixels)]
    found = {name: values for name, values in zip(("alone", "batch"), kept, strict=True) if values is not None}
    return {"error": check_same(found, tolerance=5e-2)["batch"]}


def _profile(bench: Bench, size: int) -> Figures:
    model, pixels = bench.model, random_pixels(bench.model, size)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.is_gpu else [])]
    with profile(activities=activities) as recorded:
        model.compress(see(model, pixels), num_voco_tokens=K)
        if bench.is_gpu:
            torch.cuda.synchronize()
    key = "self_device_time_total" if bench.is_gpu else "self_cpu_time_total"
    averages = recorded.key_averages()
    (bench.folder / "profile.txt").write_text(averages.table(sort_by=key, row_limit=40))
    total = sum(getattr(row, key) for row in averages) or 1
    largest = sorted(averages, key=lambda row: -getattr(row, key))[:12]
    return {"shares": {row.key[:80]: round(getattr(row, key) / total, 4) for row in largest}, "table": "profile.txt"}


def _flash(bench: Bench, size: int, rate: Figures) -> Figures:
    plan = bench.plan
    del bench.__dict__["model"]  # both would take twice the memory
    torch.cuda.empty_cache()
    bench.__dict__["model"] = make_model(
        plan.shape, dtype=plan.dtype, device=plan.device, attention="flash_attention_2"
    )
    return _compress(bench, size, rate)
