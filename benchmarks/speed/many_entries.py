"""What a cache folder costs that holds many entries: what every write ends with, listing, finding one by its digits.

    python -m benchmarks.speed.many_entries [--num-entries 100 400 1600]

Small entries are written into one folder; at each number of them the steps are timed. After every entry that it
finishes `FrameCache` reads a running sum of bytes, and looks at every entry only where the bound may be exceeded, or
after one write for every eight entries; the table has the mean price of a write too. While the folder is filled,
looking is left out.

    after    what nearly every write ends with
    prune    looking at every entry; nothing has to go
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
from voco_video.cache.room import writes_between_looks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = ("after", "prune", "list", "find", "contains")


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
    """A cache that never looks at all other entries after a write."""

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
    if cache._size.may_exceed(cache.max_bytes):
        raise MismatchError("all entries would be looked at although that has just happened")
    timings = interleaved(
        {
            "after": lambda: cache._prune_after_write(),
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
    per_write = steps["after"]["wall_seconds"] + steps["prune"]["wall_seconds"] / writes_between_looks(len(digests))
    return {"num_entries": len(digests), "steps": steps, "seconds_per_write": per_write}


def markdown(report: Report) -> str:
    """Seconds of each step, of looking for each entry that the folder holds, and what a write costs on average."""
    rows = [
        [
            row["num_entries"],
            *(seconds_cell(row["steps"][step]) for step in STEPS),
            f"{row['steps']['prune']['seconds_per_entry'] * 1e6:.0f} µs",
            f"{row['seconds_per_write'] * 1e3:.2f} ms",
        ]
        for row in report["rows"]
    ]
    headings = [
        "entries",
        "after a write",
        "look at all, prune",
        "list",
        "find by digits",
        "by key",
        "looking, for each entry",
        "mean price of a write",
    ]
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
