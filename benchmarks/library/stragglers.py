"""What stragglers and failures cost a library of videos, and what cutting long videos at windows changes: simulated.

    python -m benchmarks.library.stragglers                              1 000 hours on 64 GPUs, several windows
    python -m benchmarks.library.stragglers --windows none 600 --orders longest-first
    python -m benchmarks.library.stragglers --lengths lengths.txt --nodes 32 --node-hours 4 --speed 12
    python -m benchmarks.library.stragglers --json --plot stragglers.png
    python -m benchmarks.library.stragglers --record                     what docs/scale.md shows; minutes

A file of lengths has one number of seconds a line; without one, lengths are log-normal with a heavy tail. The same
seed gives the same run. What a worker does in a second comes from `benchmarks.library.cost`, so it is an assumption
where no GPU was measured. Nothing here is a measurement. See docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.library.arithmetic import Arithmetic
from benchmarks.library.command import PRODUCT, PUBLISHED, SCENARIO, add_flags, check_fields, given, options_from
from benchmarks.library.cost import table
from benchmarks.library.inputs import Inputs
from benchmarks.library.lengths import Lengths, read_lengths
from benchmarks.library.measured import RESULTS, per_video_figure
from benchmarks.library.simulation import Cluster, RandomFaults, simulate
from benchmarks.library.units import duration, number, percent
from voco_video.errors import UsageError, VocoVideoError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Report = dict[str, Any]
ORDERS = ("arrival", "longest-first")
RECORDED = RESULTS / "stragglers.json"
_LLAMA = "Llama 3, arXiv:2407.21783: 419 unplanned interruptions of 16 384 GPUs in 54 days; eight GPUs a node"


@dataclass(frozen=True)
class Options:
    """A library and a cluster.

    Raises:
        UsageError: a value that cannot be.
    """

    videos: int = given(10_000, "videos", kind=SCENARIO)
    hours: float = given(1000.0, "hours of video", kind=SCENARIO)
    sigma: float = given(2.1, "spread of the lengths: standard deviation of their logarithms", zero=True, most=5)
    longest_hours: float = given(12.0, "the longest video")
    lengths: str = given("", "a file of lengths in their place: one number of seconds a line", kind=SCENARIO)
    nodes: int = given(8, "nodes", kind=SCENARIO)
    workers_per_node: int = given(8, "workers of each, one a GPU", kind=SCENARIO)
    speed: float = given(0.0, "seconds of video a second of a worker; 0: as benchmarks.library.cost has it", zero=True)
    fetch_seconds: float = given(1.0, "until the bytes of a piece are there; its opening comes on top", zero=True)
    slow_share: float = given(0.125, "share of the nodes that are slow", zero=True, most=1)
    slow_factor: float = given(2.0, "how many times as long a slow node takes")
    worker_hours: float = given(1000.0, "between two failures of a worker; 0: never", zero=True)
    restart_seconds: float = given(60.0, "until a failed worker has its model again", zero=True)
    node_hours: float = given(
        6334.0, "between two losses of a node; 0: never", kind=PUBLISHED, source=_LLAMA, zero=True
    )
    replace_seconds: float = given(600.0, "until another node is in a lost one's place", zero=True)
    error_share: float = given(0.002, "share of attempts that end in an error that may pass", zero=True, most=0.9)
    max_attempts: int = given(3, "attempts at a piece")
    broken_share: float = given(0.005, "share of videos that are broken", zero=True, most=1)
    safe_every_seconds: float = given(32.0, "video between two safe points, a segment at 1 fps", kind=PRODUCT)
    seed: int = given(0, "of lengths, slow nodes and faults", kind=SCENARIO, zero=True)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.slow_factor < 1:
            raise UsageError(f"slow_factor must be at least 1, not {self.slow_factor:g}")

    def video_lengths(self) -> list[float]:
        """Seconds of every video, in the order of the queue."""
        if self.lengths:
            return read_lengths(Path(self.lengths))
        drawn = Lengths(self.hours * 3600 / self.videos, self.sigma, self.longest_hours * 3600)
        return drawn.shuffled(self.videos, seed=self.seed)

    def cluster(self) -> Cluster:
        """The machines."""
        return Cluster(
            nodes=self.nodes,
            workers_per_node=self.workers_per_node,
            speed=self.speed or default_speed(),
            start_seconds=self.fetch_seconds + per_video_figure().value,
            slow_share=self.slow_share,
            slow_factor=self.slow_factor,
            restart_seconds=self.restart_seconds,
            replace_seconds=self.replace_seconds,
            safe_every_seconds=self.safe_every_seconds,
            max_attempts=self.max_attempts,
        )

    def faults(self) -> RandomFaults:
        """What goes wrong, from the beginning."""
        return RandomFaults(
            self.seed,
            worker_hours=self.worker_hours,
            node_hours=self.node_hours,
            error_share=self.error_share,
            broken_share=self.broken_share,
        )


@lru_cache
def default_speed() -> float:
    """Seconds of video a second of one GPU with its cores, by the default inputs of `benchmarks.library.cost`."""
    return float(Arithmetic(Inputs()).worker["rate"]) / Inputs().fps


def run(options: Options, windows: Sequence[float | None], orders: Sequence[str]) -> Report:
    """Simulate every window in every order, on the same videos, nodes and faults."""
    lengths, cluster = options.video_lengths(), options.cluster()
    runs = []
    for order in orders:
        for window in windows:
            outcome = simulate(
                lengths,
                cluster,
                options.faults(),
                window_seconds=window,
                longest_first=order == "longest-first",
                seed=options.seed,
            )
            runs.append({"window_seconds": window, "order": order} | _rounded(outcome.as_json()))
    facts = {"hours": math.fsum(lengths) / 3600, "longest_seconds": max(lengths), "videos": len(lengths)}
    return {"options": asdict(options), "cluster": _rounded(asdict(cluster)), "lengths": _rounded(facts), "runs": runs}


def _rounded(values: Report) -> Report:
    """Floats with nine digits that count, so that the last bits of another machine's logarithms do not show."""
    return {k: float(f"{v:.9g}") if isinstance(v, float) else v for k, v in values.items()}


WINDOWS: tuple[float | None, ...] = (None, 3600.0, 1800.0, 600.0, 300.0, 60.0)
BATCH = Options()
SPOT = replace(BATCH, speed=5.0, node_hours=2.0, replace_seconds=120.0)
LIBRARY = replace(BATCH, videos=1_000_000, hours=100_000.0)
SCENARIOS: dict[str, tuple[Options, Sequence[float | None], Sequence[str]]] = {
    "batch": (BATCH, WINDOWS, ORDERS),
    "spot": (SPOT, WINDOWS, ORDERS),
    "library, 64 GPUs": (LIBRARY, (None, 600.0), ("arrival",)),
    "library, 512 GPUs": (replace(LIBRARY, nodes=64), (None, 600.0), ("arrival",)),
    "library, 4096 GPUs": (replace(LIBRARY, nodes=512), (None, 3600.0, 600.0), ("arrival",)),
    "library, 4096 GPUs, longest first": (replace(LIBRARY, nodes=512), (None,), ("longest-first",)),
}
"""What docs/scale.md shows: options, windows, orders."""


def runs_table(scenario: Report) -> str:
    """A row for each run of a scenario."""
    rows = []
    for one in scenario["runs"]:
        window = "whole videos" if one["window_seconds"] is None else duration(one["window_seconds"])
        killed = f"{one['worker_failures']:,} + {one['node_losses']:,}"
        rows.append([window, one["order"], f"{one['pieces']:,}", duration(one["makespan_seconds"])])
        rows[-1] += [f"**{number(one['over_ideal'])}**", percent(one["tail_share"])]
        rows[-1] += [number(one["lost_work"] / 3600), killed, f"{one['failed']:,}"]
    headings = ["cut at", "order", "pieces", "took", "times the ideal", "some worker idle", "hours done in vain"]
    return table([*headings, "killed: workers + by nodes", "rows failed"], rows)


def library_table(report: Report) -> str:
    """The whole library by the number of GPUs."""
    rows = []
    for name, scenario in report["scenarios"].items():
        for one in scenario["runs"] if name.startswith("library") else ():
            window = "whole videos" if one["window_seconds"] is None else duration(one["window_seconds"])
            cluster = scenario["cluster"]
            workers = cluster["nodes"] * cluster["workers_per_node"]
            alone = scenario["lengths"]["longest_seconds"] / cluster["speed"] / one["ideal_seconds"]
            rows.append([f"{workers:,}", window, one["order"], f"{one['pieces']:,}", duration(one["makespan_seconds"])])
            rows[-1] += [f"**{number(one['over_ideal'])}**", percent(one["tail_share"]), number(alone)]
    headings = ["GPUs", "cut at", "order", "pieces", "took", "times the ideal", "some worker idle"]
    return table([*headings, "the longest video alone, of the ideal"], rows)


def facts_line(scenario: Report) -> str:
    """One line on what was simulated."""
    cluster, lengths = scenario["cluster"], scenario["lengths"]
    workers = cluster["nodes"] * cluster["workers_per_node"]
    longest, ideal = duration(lengths["longest_seconds"]), duration(scenario["runs"][0]["ideal_seconds"])
    return (
        f"{lengths['videos']:,} videos, {number(lengths['hours'])} hours, the longest {longest}; {workers:,} workers "
        f"that do {number(cluster['speed'])} s of video a second and take {number(cluster['start_seconds'])} s to start "
        f"a piece; without starts, waits and faults {ideal}"
    )


def draw(report: Report, figure: Figure) -> None:
    """Workers at work over time; what cutting does to time where nodes are lost; the library by number of GPUs."""
    scenarios = report["scenarios"]
    left, middle, right = figure.subplots(1, 3)
    shown = [(None, "arrival"), (3600.0, "arrival"), (600.0, "arrival"), (None, "longest-first")]
    for one in scenarios["batch"]["runs"]:
        if (one["window_seconds"], one["order"]) in shown:
            step = one["makespan_seconds"] / len(one["busy"]) / 60
            minutes = [(n + 0.5) * step for n in range(len(one["busy"]))]
            left.plot(minutes, [100 * share for share in one["busy"]], label=_label(one))
    left.set(xlabel="minutes", ylabel="% of workers at work", title="1 000 hours, 64 GPUs", ylim=(0, 105))
    left.legend(fontsize="small")
    for name, label in (("batch", "data centre"), ("spot", "spot, slower model")):
        cut = [one for one in scenarios[name]["runs"] if one["order"] == "arrival"]
        windows = [one["window_seconds"] or scenarios[name]["lengths"]["longest_seconds"] for one in cut]
        middle.plot(windows, [one["over_ideal"] for one in cut], "o-", label=label)
    middle.set(xscale="log", yscale="log", xlabel="window, seconds (right: whole)", title="Time over the ideal")
    middle.legend(fontsize="small")
    for window, style in ((None, "o-"), (600.0, "s--")):
        points = [
            (s["cluster"]["nodes"] * s["cluster"]["workers_per_node"], one["over_ideal"])
            for name, s in scenarios.items()
            for one in s["runs"]
            if name.startswith("library") and one["window_seconds"] == window and one["order"] == "arrival"
        ]
        right.plot(*zip(*points, strict=True), style, label=_label({"window_seconds": window, "order": "arrival"}))
    right.set(xscale="log", xlabel="GPUs", title="100 000 hours: time over the ideal", ylim=(1, None))
    right.legend(fontsize="small")


def draw_runs(report: Report, figure: Figure) -> None:
    """Workers at work over time, a line for each run."""
    axes = figure.subplots()
    for one in report["runs"]:
        step = one["makespan_seconds"] / len(one["busy"]) / 60
        axes.plot(
            [(n + 0.5) * step for n in range(len(one["busy"]))], [100 * b for b in one["busy"]], label=_label(one)
        )
    axes.set(xlabel="minutes", ylabel="% of workers at work", ylim=(0, 105))
    axes.legend(fontsize="small")


def _label(one: Report) -> str:
    window = "whole videos" if one["window_seconds"] is None else f"windows of {duration(one['window_seconds'])}"
    return window if one["order"] == "arrival" else f"{window}, {one['order'].replace('-', ' ')}"


def record() -> Path:
    """Simulate all scenarios and write the JSON and the plot that the page shows."""
    report = {"scenarios": {name: run(*scenario) for name, scenario in SCENARIOS.items()}}
    RECORDED.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _save(lambda figure: draw(report, figure), RECORDED.with_suffix(".png"), (12, 3.8))
    return RECORDED


def _save(drawing: Any, path: Path, size: tuple[float, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    drawing(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _window(text: str) -> float | None:
    if text == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be seconds above 0, or none for whole videos, not {text!r}")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate and print; 2 for a value that cannot be, 1 for a file that cannot be read or written."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.library.stragglers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--windows", type=_window, nargs="+", default=[None, 3600.0, 600.0, 60.0], metavar="SECONDS")
    parser.add_argument(
        "--orders", choices=ORDERS, nargs="+", default=["arrival"], help="of the queue (default arrival)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: options, cluster, runs")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw workers at work over time into a PNG")
    parser.add_argument("--record", action="store_true", help="simulate what docs/scale.md shows, into results/")
    add_flags(parser, Options)
    parsed = parser.parse_args(arguments)
    try:
        if parsed.record:
            print(record())
            return 0
        options = options_from(parsed, Options)
        report = run(options, parsed.windows, parsed.orders)
        if parsed.plot:
            _save(lambda figure: draw_runs(report, figure), parsed.plot, (8, 4))
    except (VocoVideoError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(json.dumps(report, indent=1) if parsed.json else f"{facts_line(report)}\n\n{runs_table(report)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
