"""What this machine can do at most: matrix products in GFLOP/s and memory copies in MB/s.

    python -m benchmarks.speed.ceiling [--quick]

Other benchmarks measure the same products in their own process, in turns with the model, and give its arithmetic as a
share of the fastest of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from benchmarks.report import Benchmark, Report, option, seconds_cell, table
from benchmarks.timing import Timing, check_same, interleaved, time_once
from voco_video.model.cpu_attention import has_bfloat16

if TYPE_CHECKING:
    from matplotlib.figure import Figure


RUN_SECONDS = 0.1


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    dtypes: tuple[str, ...] = option(("float32", "bfloat16"), "of the matrices")
    sizes: tuple[int, ...] = option((512, 1024, 2048, 4096), "rows and columns of the square matrices")
    copy_mbytes: int = option(256, "megabytes that a copy reads, and writes again")
    device: str = option("cpu", "cpu or cuda")
    repeats: int = option(9, "rounds over all sides")
    max_seconds: float = option(60.0, "no round begins after this long")


QUICK = Settings(sizes=(256, 512), copy_mbytes=16, repeats=3)


@dataclass(frozen=True)
class Product:
    """Products of square matrices, laid out as a model's linear layers have them.

    Attributes:
        num_products: in one run, so that a run takes a measurable time.
    """

    size: int
    dtype: str
    device: str = "cpu"
    num_products: int = 1

    @property
    def flops(self) -> float:
        """Additions and multiplications in one run."""
        return 2.0 * self.size**3 * self.num_products

    def side(self) -> Callable[[], None]:
        """The run, its matrices made beforehand."""
        dtype = getattr(torch, self.dtype)
        left, right = (torch.randn(self.size, self.size, device=self.device).to(dtype) for _ in range(2))

        def run() -> None:
            for _ in range(self.num_products):
                torch.nn.functional.linear(left, right)

        return run

    def lasting(self, seconds: float) -> Product:
        """The same with as many products as take about that long."""
        side = self.side()
        side()
        once = time_once(side).wall_seconds
        return replace(self, num_products=max(1, round(seconds / once)))


def products(dtype: str, *, sizes: tuple[int, ...] = (512, 1024, 2048), device: str = "cpu") -> dict[str, Product]:
    """Products by name, to be timed in turns with a model's runs; on a CPU none that takes seconds but the first."""
    sizes = (4096, 8192) if device == "cuda" else sizes
    chosen: dict[str, Product] = {}
    for size in sizes:
        largest = next(reversed(chosen.values()), None)
        if largest is not None and largest.num_products == 1:  # a type without kernels of its own
            break
        chosen[f"matmul {size} {dtype}"] = Product(size, dtype, device).lasting(RUN_SECONDS)
    return chosen


def is_fast(dtype: str, *, device: str = "cpu") -> bool:
    """Whether the device computes in that type, rather than in another one by way of conversions."""
    if device != "cpu" or dtype == "float32":
        return True
    return dtype == "bfloat16" and has_bfloat16()


def best_rate(chosen: dict[str, Product], timings: dict[str, Timing], *, cpu: bool = False) -> float:
    """FLOP/s of the fastest product by its median; with `cpu`, FLOP per processor second."""
    seconds = {name: timings[name].cpu_seconds if cpu else timings[name].wall_seconds for name in chosen}
    return max(product.flops / seconds[name] for name, product in chosen.items())


def check_product(product: Product) -> float:
    """How far the product of this type is from the exact one, which must be rounding error only."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(64, 64, generator=generator, dtype=torch.float64) for _ in range(2))
    dtype = getattr(torch, product.dtype)
    found = torch.nn.functional.linear(left.to(product.device, dtype), right.to(product.device, dtype))
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    return check_same({"float64": left @ right.T, product.dtype: found}, tolerance=tolerance)[product.dtype]


def measure(settings: Settings) -> Report:
    """All products and a copy, in turns."""
    chosen = {
        name: product
        for dtype in settings.dtypes
        for name, product in products(dtype, sizes=settings.sizes, device=settings.device).items()
    }
    errors = {name: check_product(product) for name, product in chosen.items()}
    source = torch.ones(settings.copy_mbytes * 10**6, dtype=torch.uint8, device=settings.device)
    target = torch.zeros_like(source)
    sides = {name: product.side() for name, product in chosen.items()} | {"copy": lambda: target.copy_(source)}
    timings = interleaved(sides, repeats=settings.repeats, max_seconds=settings.max_seconds)
    check_same({"source": source[::4096].float(), "copy": target[::4096].float()}, tolerance=0)
    rows = [
        {"name": name, "dtype": p.dtype, "size": p.size, "flops": p.flops, "error": errors[name]}
        | {"gflops_per_second": p.flops / timings[name].wall_seconds / 1e9}
        | timings[name].as_json()
        for name, p in chosen.items()
    ]
    copied = timings["copy"]
    return {
        "products": rows,
        "copy": copied.as_json() | {"mbytes_per_second": settings.copy_mbytes / copied.wall_seconds},
    }


def markdown(report: Report) -> str:
    """Rates as a table."""
    rows = [
        (r["dtype"], r["size"], f"{r['gflops_per_second']:.0f} GFLOP/s", seconds_cell(r), seconds_cell(r, cpu=True))
        for r in report["products"]
    ]
    copy = report["copy"]
    size = f"{report['settings']['copy_mbytes']} MB"
    rate = f"{copy['mbytes_per_second']:.0f} MB/s"
    rows.append(("copy", size, rate, seconds_cell(copy), seconds_cell(copy, cpu=True)))
    return "# What the machine can do\n\n" + table(["what", "size", "rate", "wall seconds", "CPU seconds"], rows)


def draw(report: Report, figure: Figure) -> None:
    """Rate over matrix size."""
    axes = figure.subplots()
    for dtype in report["settings"]["dtypes"]:
        rows = [r for r in report["products"] if r["dtype"] == dtype]
        axes.plot([r["size"] for r in rows], [r["gflops_per_second"] for r in rows], "o-", label=dtype)
    axes.set(xscale="log", xlabel="rows and columns", ylabel="GFLOP/s", ylim=0)
    axes.legend()


BENCHMARK = Benchmark(
    name="ceiling",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    measure=measure,
    markdown=markdown,
    draw=draw,
)

if __name__ == "__main__":
    BENCHMARK.main()
