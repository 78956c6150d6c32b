"""How fast frames are compressed, and what share of the machine's arithmetic that is.

    python -m benchmarks.speed.compress [--quick]
    python -m benchmarks.speed.compress --device cuda --models 7b --dtypes bfloat16 --attention sdpa flash_attention_2

Pixels in memory go through vision tower and language model, in batches of several sizes, in turns with plain matrix
products of the same type. The share is the arithmetic that VoCo tokens cannot do without (`benchmarks.shapes`) per
second, over the fastest product's rate: work that could be left out counts as time only. A batch has to give what its
frames give one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.report import Benchmark, Report, option, seconds_cell, table
from benchmarks.shapes import llm_flops, make_model, random_pixels, vision_flops
from benchmarks.speed.ceiling import best_rate, is_fast, products
from benchmarks.timing import Timing, check_same, interleaved
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sums in another order: rounding error, which grows with depth in 8 bits of mantissa.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}

NO_KERNELS = "this processor has no arithmetic of that type"


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    models: tuple[str, ...] = option(("voco-tiny", "mid"), "of benchmarks.shapes")
    dtypes: tuple[str, ...] = option(("float32", "bfloat16"), "of the weights")
    batch_sizes: tuple[int, ...] = option((1, 4, 16), "frames per forward pass")
    num_voco_tokens: int = option(1, "K")
    device: str = option("cpu", "cpu or cuda")
    attention: tuple[str, ...] = option(("auto",), "kinds of attention: auto, sdpa, blocked, flash_attention_2")
    repeats: int = option(5, "rounds over all sides")
    max_seconds: float = option(60.0, "for a model and type no round begins after this long")


QUICK = Settings(models=("voco-tiny", "small"), batch_sizes=(1, 8), repeats=3, max_seconds=5.0)


def measure(settings: Settings) -> Report:
    """A group of rows for every model, type and attention."""
    groups, not_run = [], {}
    for name in settings.models:
        for dtype in settings.dtypes:
            if not is_fast(dtype, device=settings.device):
                not_run[dtype] = NO_KERNELS
                continue
            for attention in settings.attention:
                model = make_model(name, dtype=dtype, device=settings.device, attention=attention)
                chosen = model.backbone.text_config._attn_implementation
                groups.append({"model": name, "dtype": dtype, "attention": chosen} | measure_model(model, settings))
    return {"groups": groups, "not_run": not_run}


def measure_model(model: VocoModel, settings: Settings) -> Report:
    """One model at every batch size, and the ceiling."""
    num_frames = max(settings.batch_sizes)
    pixels = random_pixels(model, num_frames)
    with torch.inference_mode():
        vision_tokens = model.vision_tokens(pixels)
    num_voco_tokens = settings.num_voco_tokens
    dtype = str(model.backbone.dtype).removeprefix("torch.")
    error = check_batches(model, pixels[:4], num_voco_tokens=num_voco_tokens, tolerance=TOLERANCES[dtype])
    chosen = products(dtype, device=settings.device)
    sides: dict[str, Callable[[], Any]] = {name: product.side() for name, product in chosen.items()}
    for size in settings.batch_sizes:
        batch, tokens = pixels[:size], vision_tokens[:size]
        sides[f"vision {size}"] = lambda batch=batch: see(model, batch)
        sides[f"llm {size}"] = lambda tokens=tokens: model.compress(tokens, num_voco_tokens=num_voco_tokens)
    timings = interleaved(sides, repeats=settings.repeats, max_seconds=settings.max_seconds)
    flops = {"vision": vision_flops(model), "llm": llm_flops(model, num_voco_tokens)}
    ceiling, cpu_ceiling = (best_rate(chosen, timings, cpu=cpu) for cpu in (False, True))
    return {
        "num_vision_tokens": model.backbone.num_vision_tokens,
        "flops_per_frame": flops,
        "ceiling_flops_per_second": ceiling,
        "error": error,
        "rows": [row(size, timings, flops, ceiling, cpu_ceiling) for size in settings.batch_sizes],
    }


def row(
    batch_size: int, timings: dict[str, Timing], flops: dict[str, float], ceiling: float, cpu_ceiling: float
) -> Report:
    """One batch size: seconds of both stages, frames per second and shares of the ceiling.

    Args:
        flops: of one frame, by stage.
        ceiling, cpu_ceiling: FLOP per second on the clock, and of the processor.
    """
    stages = {stage: timings[f"{stage} {batch_size}"] for stage in ("vision", "llm")}
    wall = {stage: timing.wall_seconds for stage, timing in stages.items()}
    total, total_flops = sum(wall.values()), batch_size * sum(flops.values())
    cpu_total = sum(timing.cpu_seconds for timing in stages.values())
    return {
        "batch_size": batch_size,
        **{stage: timing.as_json() for stage, timing in stages.items()},
        "frames_per_second": batch_size / total,
        "flops_per_second": total_flops / total,
        "share": total_flops / total / ceiling,
        "frames_per_cpu_second": batch_size / cpu_total,
        "cpu_share": total_flops / cpu_total / cpu_ceiling,
        **{f"{stage}_share": batch_size * flops[stage] / wall[stage] / ceiling for stage in stages},
    }


@torch.inference_mode()
def see(model: VocoModel, pixels: Any) -> torch.Tensor:
    """Normalise, vision tower, projector."""
    return model.vision_tokens(pixels)


def check_batches(model: VocoModel, pixels: Any, *, num_voco_tokens: int, tolerance: float) -> float:
    """How far a batch's keys and values are from those of its frames one by one.

    Raises:
        MismatchError: by more than the tolerance.
    """
    batch = model.compress(see(model, pixels), num_voco_tokens=num_voco_tokens)
    frames = [pixels[f : f + 1] for f in range(len(pixels))]
    one_by_one = VocoTokens.cat([model.compress(see(model, f), num_voco_tokens=num_voco_tokens) for f in frames])
    results = {"one by one": _keys_and_values(one_by_one), "batch": _keys_and_values(batch)}
    return check_same(results, tolerance=tolerance)["batch"]


def _keys_and_values(tokens: VocoTokens) -> torch.Tensor:
    assert tokens.keys is not None
    assert tokens.values is not None
    return torch.stack([tokens.keys, tokens.values])


def best_row(group: Report) -> Report:
    """The batch size with the most frames per second."""
    return max(group["rows"], key=lambda r: r["frames_per_second"])


def ratios(report: Report) -> dict[str, float]:
    """Share of the ceiling and what batching gains, in processor seconds, which a busy machine changes little."""
    found = {}
    for group in report["groups"]:
        name = f"{group['model']} {group['dtype']}"
        best, first = best_row(group), group["rows"][0]
        found[f"{name}: share of the matmul ceiling"] = best["cpu_share"]
        found[f"{name}: best batch over batch of 1"] = best["frames_per_cpu_second"] / first["frames_per_cpu_second"]
    return found


def markdown(report: Report) -> str:
    """All rows as one table."""
    headings = ["model", "type, attention", "batch", "frames/s", "GFLOP/s", "ceiling"]
    headings += ["share", "share of CPU s", "vision", "LLM", "vision, wall", "LLM, wall", "vision, CPU", "LLM, CPU"]
    rows = []
    for group in report["groups"]:
        ceiling = f"{group['ceiling_flops_per_second'] / 1e9:.0f}"
        for r in group["rows"]:
            rates = [f"{r['frames_per_second']:.2f}", f"{r['flops_per_second'] / 1e9:.0f}", ceiling]
            shares = [f"{r[key]:.0%}" for key in ("share", "cpu_share", "vision_share", "llm_share")]
            times = [seconds_cell(r[stage], cpu=cpu) for cpu in (False, True) for stage in ("vision", "llm")]
            kind = f"{group['dtype']}, {group['attention']}"
            rows.append([group["model"], kind, r["batch_size"], *rates, *shares, *times])
    not_run = [f"Not run: {dtype} ({reason})." for dtype, reason in report["not_run"].items()]
    return "\n\n".join(["# Compressing, against the matmul ceiling", table(headings, rows), *not_run])


def draw(report: Report, figure: Figure) -> None:
    """Share of the ceiling over batch size."""
    axes = figure.subplots()
    for group in report["groups"]:
        label = f"{group['model']}, {group['dtype']}, {group['attention']}"
        axes.plot([r["batch_size"] for r in group["rows"]], [r["share"] for r in group["rows"]], "o-", label=label)
    axes.axhline(1, color="black", linestyle=":", linewidth=1)
    axes.set(xlabel="frames per batch", ylabel="share of the matmul ceiling", ylim=0)
    axes.legend(fontsize=8)


BENCHMARK = Benchmark(
    name="compress",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    measure=measure,
    markdown=markdown,
    draw=draw,
    ratios=ratios,
)

if __name__ == "__main__":
    BENCHMARK.main()
