"""What all benchmarks share: settings as command-line flags, and a report as JSON, Markdown and a plot."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.errors import MismatchError
from voco_video.video.container import num_processors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
QUICK_RESULTS = Path(tempfile.gettempdir()) / "voco-video-benchmark" / "quick"
Report = dict[str, Any]
MAX_WIDTH, DPI = 800, 100  # of a plot, in pixels and pixels per inch


def module_of(name: str) -> str:
    """Give the module that ``python -m`` runs a benchmark by, such as ``benchmarks.speed.decode``."""
    folders = [
        folder for folder in ("speed", "quality", "library") if (RESULTS.parent / folder / f"{name}.py").exists()
    ]
    return ".".join(["benchmarks", *folders, name])


def option(default: Any, text: str) -> Any:
    """A field of a settings dataclass with its default and what ``--help`` says about it."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Benchmark:
    """One benchmark as a command: ``python -m benchmarks.speed.decode``.

    Attributes:
        name: of the module and of the files written.
        about: the module's docstring.
        default, quick, full: settings, all of one dataclass: a few minutes, some seconds, the whole table.
        measure: settings to a report of plain JSON values; raises `MismatchError` where sides disagree.
        markdown: the report's tables.
        draw: the report's plot.
        ratios: what the guard holds against recorded floors, by name; higher is better.
        merge: (an earlier report, this one) to one that has the rows of both; None where parts cannot be measured.
        size: inches of the plot.
    """

    name: str
    about: str
    default: Any
    quick: Any
    measure: Callable[[Any], Report]
    markdown: Callable[[Report], str]
    draw: Callable[[Report, Figure], None]
    ratios: Callable[[Report], dict[str, float]] = lambda report: {}
    full: Any = None
    merge: Callable[[Report, Report], Report] | None = None
    size: tuple[float, float] = (9, 3.8)

    def main(self, arguments: Sequence[str] | None = None) -> Report:
        """Parse flags, measure, write, print."""
        parsed = self._parser().parse_args(arguments)
        base = self.quick if parsed.quick else (self.full or self.default) if parsed.full else self.default
        given = {f.name: getattr(parsed, f.name) for f in fields(base)}
        settings = replace(base, **{name: _as_field(value) for name, value in given.items() if value is not None})
        out = parsed.out or (QUICK_RESULTS if parsed.quick else RESULTS)
        recorded = out / f"{self.name}.json"
        try:
            report = self.run(settings)
            if self.merge and parsed.merge and recorded.exists():
                report = self._merged(json.loads(recorded.read_text()), report)
        except MismatchError as error:
            sys.exit(f"{self.name}: {error}")
        self.write(report, out)
        print(self.markdown(report))
        print(f"written to {out / self.name}.json, .md and .png")
        return report

    def run(self, settings: Any) -> Report:
        """Measure, and put beside the figures what they were measured with."""
        started = time.perf_counter()
        described: Report = {"benchmark": self.name, "settings": asdict(settings), "machine": machine()}
        report = described | self.measure(settings)
        report["load_average_after"] = os.getloadavg()
        return report | {"total_seconds": time.perf_counter() - started}

    def _merged(self, before: Report, now: Report) -> Report:
        """Both as one report, which took as long as both; settings and machine are the later one's."""
        assert self.merge
        return self.merge(before, now) | {"total_seconds": before["total_seconds"] + now["total_seconds"]}

    def write(self, report: Report, out: Path) -> None:
        """``OUT/NAME.json``, ``.md`` and ``.png``."""
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{self.name}.json").write_text(json.dumps(report, indent=1) + "\n")
        text = f"{self.markdown(report).rstrip()}\n\n{about_machine(report)}\n"
        (out / f"{self.name}.md").write_text(text)
        self.plot(report, out / f"{self.name}.png")

    def plot(self, report: Report, path: Path) -> None:
        """Draw the plot, 800 pixels wide at most, so that a page shows it as it is and its texts stay readable."""
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        width, height = self.size
        with rc_context({"font.size": 8}):
            figure = Figure(figsize=(min(width, MAX_WIDTH / DPI), height), layout="constrained")
            self.draw(report, figure)
            figure.savefig(path, dpi=DPI)

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            prog=f"python -m {module_of(self.name)}",
            description=self.about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sizes = parser.add_mutually_exclusive_group()
        sizes.add_argument("--quick", action="store_true", help="the smallest sizes, to see that it works")
        sizes.add_argument("--full", action="store_true", help="the whole table, however long it takes")
        parser.add_argument("--out", type=Path, help=f"folder for the results (default {RESULTS.name}/ beside this)")
        if self.merge:
            parser.add_argument("--merge", action="store_true", help="keep rows in OUT that are not measured now")
        for setting in fields(self.default):
            assert setting.default is not MISSING
            is_many, default = isinstance(setting.default, tuple), getattr(self.default, setting.name)
            kind = type(setting.default[0]) if is_many else type(setting.default)
            shown = " ".join(map(str, default)) if is_many else default
            parser.add_argument(
                f"--{setting.name.replace('_', '-')}",
                type=kind,
                nargs="+" if is_many else None,
                help=f"{setting.metadata['help']} (default {shown})",
            )
        return parser


def _as_field(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def machine() -> Report:
    """Where the figures come from."""
    import torch

    described: Report = {
        "processor": _processor(),
        "num_processors": num_processors(),
        "num_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "load_average_before": os.getloadavg(),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    for package in ("torch", "transformers", "av"):
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            described[package] = None
    return described


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def about_machine(report: Report) -> str:
    """One line on where a report comes from."""
    m = report["machine"]
    where = f"{m['num_processors']} x {m['processor']}" + (f", {m['gpu']}" if "gpu" in m else "")
    before, after = m["load_average_before"][0], report["load_average_after"][0]
    return (
        f"Made by `python -m {module_of(report['benchmark'])}` in {report['total_seconds']:.0f} s on {where}, "
        f"{m['num_threads']} threads, torch {m['torch']}, transformers {m['transformers']}; load average "
        f"{before:.1f} before, {after:.1f} after."
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds_cell(timing: Report, *, cpu: bool = False) -> str:
    """A median with its range, in the unit that reads best."""
    kind = "cpu" if cpu else "wall"
    median, (low, high) = timing[f"{kind}_seconds"], timing[f"{kind}_range"]
    scale, unit = (1, "s") if median >= 1 else (1000, "ms")
    digits = 2 if median * scale < 100 else 0
    shown = f"{median * scale:.{digits}f} {unit}"
    return shown if low == high else f"{shown} ({low * scale:.{digits}f}–{high * scale:.{digits}f})"
