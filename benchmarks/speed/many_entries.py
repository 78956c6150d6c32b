"""What a cache folder costs that holds many entries: what every write ends with, listing, finding one by its digits.

    python -m benchmarks.speed.many_entries [--num-entries 100 400 1600]

Small entries are written into one folder; at each number of them the steps are timed. Pruning is what `FrameCache`
does after every entry that it finishes: it looks at every other one. While the folder is filled it is left out, as it
would make filling quadratic; that is what this benchmark is about.

    prune    nothing has to go, so it is the looking alone
    list     `FrameCache.entries`, which `voco-video cache ls` prints: it opens every entry
    find     one entry by the first digits of its digest
    contains one entry by its key, as `compress` looks for it
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.errors import MismatchError
from benchmarks.report import Benchmark, Report, option, seconds_cell, table
from benchmarks.timing import interleaved
from voco_video.cache import CacheKey, FrameCache

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = ("prune", "list", "find", "contains")


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    num_entries: tuple[int, ...] = option((100, 400, 1600), "entries in the folder")
    num_frames: int = option(32, "frames of an entry; one segment")
    folder: str = option("", "where to write; the temporary folder when empty")
    repeats: int = option(3, "rounds over all steps")
    max_seconds: float = option(20.0, "for a number of entries no round begins after this long")


QUICK = Settings(num_entries=(4, 16), num_frames=2, repeats=2, max_seconds=5.0)


class _Filling(FrameCache):
    """A cache that does not look at all other entries after every write."""

    def _prune_after_write(self) -> None:
        pass


def measure(settings: Settings) -> Report:
    """A row for every number of entries."""
    rows: list[Report] = []
    with tempfile.TemporaryDirectory(dir=settings.folder or None) as folder:
        filling = _Filling(folder, max_bytes=10**15)
        cache, digests = FrameCache(folder, max_bytes=10**15), []
        for number in sorted(settings.num_entries):
            while len(digests) < number:
                digests.append(_write(filling, len(digests), settings.num_frames))
            rows.append(_measure_at(cache, digests, settings))
    return {"rows": rows}


def _key(number: int) -> CacheKey:
    return CacheKey("0" * 64, "0" * 64, {"number": number})


def _write(cache: FrameCache, number: int, num_frames: int) -> str:
    with cache.writer(_key(number), facts={}) as writer:
        writer.append({"embeds": torch.full((num_frames, 1, 8), float(number))}, np.arange(float(num_frames)))
        return writer.finish().digest


def _measure_at(cache: FrameCache, digests: list[str], settings: Settings) -> Report:
    listed = {entry.digest for entry in cache.entries()}
    if listed != set(digests) or cache.find(digests[-1][:20]).digest != digests[-1] or cache.prune():
        raise MismatchError(f"a folder of {len(digests)} entries lists {len(listed)}")
    timings = interleaved(
        {
            "prune": lambda: cache.prune(),
            "list": lambda: cache.entries(),
            "find": lambda: cache.find(digests[-1][:20]).close(),
            "contains": lambda: cache.contains(_key(len(digests) - 1)),
        },
        repeats=settings.repeats,
        max_seconds=settings.max_seconds,
    )
    steps = {
        name: timing.as_json() | {"seconds_per_entry": timing.wall_seconds / len(digests)}
        for name, timing in timings.items()
    }
    return {"num_entries": len(digests), "steps": steps}


def markdown(report: Report) -> str:
    """Seconds of each step, and of pruning for each entry that the folder holds."""
    rows = [
        [
            row["num_entries"],
            *(seconds_cell(row["steps"][step]) for step in STEPS),
            f"{row['steps']['prune']['seconds_per_entry'] * 1e6:.0f} µs",
        ]
        for row in report["rows"]
    ]
    headings = ["entries", "prune, after every write", "list", "find by digits", "by key", "pruning, for each entry"]
    return f"# A cache folder of many entries\n\n{table(headings, rows)}"


def draw(report: Report, figure: Figure) -> None:
    """Seconds over entries."""
    axes = figure.subplots()
    for step in STEPS:
        numbers = [row["num_entries"] for row in report["rows"]]
        axes.plot(numbers, [row["steps"][step]["wall_seconds"] for row in report["rows"]], "o-", label=step)
    axes.set(xscale="log", yscale="log", xlabel="entries in the folder", ylabel="seconds", title="One cache folder")
    axes.legend()


BENCHMARK = Benchmark("many_entries", __doc__, Settings(), QUICK, measure, markdown, draw)

if __name__ == "__main__":
    BENCHMARK.main()
