"""Fails when a ratio, never an absolute time, falls under its recorded floor.

    python -m benchmarks.guard [NAME ...]       exit 1 where a ratio is under its floor
    python -m benchmarks.guard --record         measure, and write floors with a margin under what was measured

Small versions of the benchmarks run several times, each in a process of its own; the median of each ratio counts.
Floors are in floors.json beside this file. Ratios of a side that cannot run here are left out, which is said.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.errors import MismatchError

NAMES = ("attention", "compress", "compress_rivals", "answer", "cache", "scaling", "decode")
FLOORS = Path(__file__).parent / "floors.json"
MARGIN = 0.35  # the share of a ratio that may be lost to noise and to another machine before it counts


def measured_ratios(name: str) -> dict[str, float]:
    """One benchmark's ratios from its quick settings; higher is better. Raises MismatchError where sides disagree."""
    benchmark = importlib.import_module(f"benchmarks.speed.{name}").BENCHMARK
    return {f"{name}: {ratio}": value for ratio, value in benchmark.ratios(benchmark.run(benchmark.quick)).items()}


def median_ratios(names: Sequence[str], *, rounds: int) -> dict[str, float]:
    """The median of each ratio over rounds, in each of which every benchmark has its turn."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in names:
            for ratio, value in in_process(name).items():
                found.setdefault(ratio, []).append(value)
    return {ratio: statistics.median(values) for ratio, values in found.items()}


def in_process(name: str) -> dict[str, float]:
    """`measured_ratios` in a fresh process, so that benchmarks do not warm each other up."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured_ratios, name).result()


def floors_for(ratios: Mapping[str, float], *, margin: float) -> dict[str, dict[str, float]]:
    """What to record: each ratio as measured, and its floor a margin under that."""
    return {name: {"measured": round(r, 4), "floor": round(r * (1 - margin), 4)} for name, r in ratios.items()}


def under_floor(ratios: Mapping[str, float], floors: Mapping[str, Any]) -> list[str]:
    """A line for every ratio that is under its floor; a ratio that is not a number is."""
    return [
        f"{name}: {value:.3g} is under {floors[name]['floor']:.3g}; it was {floors[name]['measured']:.3g} when recorded"
        for name, value in ratios.items()
        if name in floors and not value >= floors[name]["floor"]
    ]


def report(ratios: Mapping[str, float], floors: Mapping[str, Any], names: Sequence[str]) -> int:
    """Print every ratio beside its floor; 1 where one is under it or nothing could be compared."""
    for name, value in ratios.items():
        floor = f"{floors[name]['floor']:.3g}" if name in floors else "none; run with --record"
        print(f"{value:10.3g}  floor {floor:<8}  {name}")
    for name in floors:
        if name not in ratios and name.partition(":")[0] in names:
            print(f"not measured here: {name}")
    failures = under_floor(ratios, floors)
    if not any(name in floors for name in ratios):
        failures = [f"no floor for any of these in {FLOORS.name}; record them with --record"]
    for line in failures:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if failures else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, then compare or record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(NAMES)}; all when left out")
    parser.add_argument("--record", action="store_true", help="write floors for what is measured, keeping others")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each benchmark; the median ratio counts")
    parser.add_argument("--margin", type=float, default=MARGIN, help="share under the measured ratio, for --record")
    parser.add_argument("--floors", type=Path, default=FLOORS)
    parsed = parser.parse_args(arguments)
    if unknown := [name for name in parsed.names if name not in NAMES]:
        parser.error(f"no guarded benchmark {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    if parsed.rounds < 1 or not 0 <= parsed.margin < 1:
        parser.error("--rounds is 1 or more, and --margin at least 0 and under 1")
    names = parsed.names or NAMES
    floors = json.loads(parsed.floors.read_text()) if parsed.floors.exists() else {}
    try:
        ratios = median_ratios(names, rounds=parsed.rounds)
    except MismatchError as error:
        print(f"FAILED {error}", file=sys.stderr)
        return 1
    if not parsed.record:
        return report(ratios, floors, names)
    kept = {name: floor for name, floor in floors.items() if name.partition(":")[0] not in names}
    floors = dict(sorted((kept | floors_for(ratios, margin=parsed.margin)).items()))
    parsed.floors.write_text(json.dumps(floors, indent=1) + "\n")
    print(f"{len(ratios)} floors written to {parsed.floors}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
