"""Attention over whole frames in bfloat16 on a processor: this package's blocks against the library's ways.

    python -m benchmarks.speed.attention [--quick]

One layer's queries, keys and values of a batch of frames, as projections leave them, in the shapes of real models.
Every side is held against SDPA in float32 before it is timed.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from benchmarks.report import Benchmark, Report, option, seconds_cell, table
from benchmarks.timing import check_same, interleaved
from voco_video.model.cpu_attention import BLOCKED, has_bfloat16

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 1e-2  # 8 bits of mantissa, in scores and in weights
SIDES = (BLOCKED, "sdpa", "eager")


@dataclass(frozen=True)
class Layer:
    """Attention of one layer over a batch of frames."""

    num_frames: int
    heads: int
    kv_heads: int
    length: int
    head_dim: int
    is_causal: bool

    @property
    def flops(self) -> float:
        """Additions and multiplications; causal attention needs half of the square."""
        return (2 if self.is_causal else 4) * self.num_frames * self.heads * self.length**2 * self.head_dim


LAYERS = {
    "voco-tiny": Layer(16, 4, 2, 74, 32, True),
    "SmolLM2-135M, N = 196": Layer(8, 9, 3, 199, 64, True),
    "CLIP B/16": Layer(8, 12, 12, 197, 64, False),
    "CLIP L/14-336": Layer(4, 16, 16, 577, 64, False),
    "Vicuna-7B, N = 576": Layer(4, 32, 32, 579, 128, True),
    "Qwen2-7B, N = 1196": Layer(2, 28, 4, 1200, 128, True),
}


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    layers: tuple[str, ...] = option(tuple(LAYERS), "shapes")
    repeats: int = option(9, "rounds over all sides")
    max_seconds: float = option(15.0, "for a shape no round begins after this long")


QUICK = Settings(layers=("voco-tiny", "SmolLM2-135M, N = 196"), repeats=3)


def attend(name: str, layer: Layer, tensors: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
    """One of the library's or this package's attentions, ``[B, L, heads, head_dim]``."""
    module: Any = SimpleNamespace(
        is_causal=layer.is_causal, num_key_value_groups=layer.heads // layer.kv_heads, training=False
    )
    scaling = layer.head_dim**-0.5
    if name == "eager":
        return eager_attention_forward(module, *tensors, mask, scaling=scaling)[0]
    return ALL_ATTENTION_FUNCTIONS[name](module, *tensors, None, scaling=scaling)[0]


@torch.inference_mode()
def measure(settings: Settings) -> Report:
    """A row a shape; none where the processor has no arithmetic in that type."""
    return {"rows": [measure_layer(name, settings) for name in settings.layers] if has_bfloat16() else []}


def measure_layer(name: str, settings: Settings) -> Report:
    """All sides on one layer."""
    layer, generator = LAYERS[name], torch.Generator().manual_seed(0)
    tensors = tuple(
        torch.randn(layer.num_frames, layer.length, heads, layer.head_dim, generator=generator).transpose(1, 2)
        for heads in (layer.heads, layer.kv_heads, layer.kv_heads)
    )
    halves = tuple(t.bfloat16() for t in tensors)
    later = torch.full((1, 1, layer.length, layer.length), float("-inf")).triu(1).bfloat16()
    mask = later if layer.is_causal else None
    results = {"float32": attend("sdpa", layer, tuple(t.float() for t in halves), None)}
    errors = check_same(results | {side: attend(side, layer, halves, mask) for side in SIDES}, tolerance=TOLERANCE)
    sides = {side: lambda side=side: attend(side, layer, halves, mask) for side in SIDES}
    timings = interleaved(sides, repeats=settings.repeats, max_seconds=settings.max_seconds)
    return {
        "layer": name,
        "flops": layer.flops,
        **{side: timing.as_json() | {"error": errors[side]} for side, timing in timings.items()},
    }


def ratios(report: Report) -> dict[str, float]:
    """How many times longer SDPA takes, in processor seconds."""
    return {
        f"{r['layer']}: SDPA over blocked": r["sdpa"]["cpu_seconds"] / r[BLOCKED]["cpu_seconds"] for r in report["rows"]
    }


def markdown(report: Report) -> str:
    """One table."""
    cells = []
    for r in report["rows"]:
        ours = r[BLOCKED]["cpu_seconds"]
        times = [f"{seconds_cell(r[s], cpu=True)}, {r[s]['cpu_seconds'] / ours:.2f}x" for s in SIDES]
        cells.append([r["layer"], *times, *(f"{r[s]['error']:.4f}" for s in SIDES)])
    headings = ["layer", *(f"{s}, CPU" for s in SIDES), *(f"{s}, error" for s in SIDES)]
    about = "Errors are root mean squares relative to float32."
    if not cells:
        about = "Not run: this processor has no arithmetic of that type."
    return "\n\n".join(["# Attention over whole frames, bfloat16", about, table(headings, cells)])


def draw(report: Report, figure: Figure) -> None:
    """Rate of each side, by shape."""
    axes = figure.subplots()
    names = [r["layer"] for r in report["rows"]]
    for number, side in enumerate(SIDES):
        places = [i + 0.27 * (number - 1) for i in range(len(names))]
        axes.barh(places, [r["flops"] / r[side]["cpu_seconds"] / 1e9 for r in report["rows"]], 0.25, label=side)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="GFLOP per processor second")
    axes.invert_yaxis()
    axes.legend()


BENCHMARK = Benchmark(
    name="attention",
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
