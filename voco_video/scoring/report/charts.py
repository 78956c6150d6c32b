"""Scores as pictures. Each has a light ground of its own, and is readable where 800 pixels are shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voco_video.errors import UsageError
from voco_video.files.fonts import Writing, note_on_missing, shortened, wrapped, writing
from voco_video.scoring.bootstrap import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from voco_video.scoring.retention import TaskRetention

_DPI = 100
_WIDTH, _NAME_WIDTH, _NAME_LINES = 800, 230, 3  # pixels and lines
_LINE_HEIGHT, _FONT_SIZE = 17, 14  # pixels
_POINTS = 72 / _DPI  # of a pixel
_COLOURS = ("#1f6fb4", "#e0701a", "#2a8a4a", "#8a4fb0")


def draw_by_group(series: Mapping[str, Mapping[str, Estimate]], path: Path, *, title: str) -> Path:
    """Draw bars of values from 0 to 1 by group, one colour for each series, with their intervals.

    Args:
        series: by its name each group's value, such as {"exact match": {"who": Estimate(...), ...}}; all series have
            the same groups.
        path: the PNG file to write.
        title: the title above the bars.
    """
    groups = list(next(iter(series.values())))
    width = 0.8 / len(series)
    values = [values[group] for values in series.values() for group in groups]
    with _rows(path, groups, title=f"{title}, {_on_intervals(values)}", lines=len(series)) as axes:
        for place, (name, by_group) in enumerate(series.items()):
            estimates = [by_group[group] for group in groups]
            places = [number + (place - (len(series) - 1) / 2) * width for number in range(len(groups))]
            lengths = [0.0 if math.isnan(estimate.value) else 100 * estimate.value for estimate in estimates]
            errors = {"linewidth": 1, "capsize": 2}
            axes.barh(
                places, lengths, 0.9 * width, xerr=_errors(estimates), label=name, color=_colour(place), error_kw=errors
            )
            _write_values(axes, places, estimates)
        axes.set(xlabel=f"{next(iter(series))}, %" if len(series) == 1 else "%", xlim=(0, 100))
        if len(series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series), frameon=False)
    return path


def draw_runs(accuracy: Mapping[str, Estimate], path: Path, *, metric: str = "exact_match") -> Path:
    """Draw runs one below the other, with intervals; a line goes through the first, which the others are compared to.

    Args:
        accuracy: by the runs' names.
        path: the PNG file to write.
        metric: the name of the metric.
    """
    estimates, places = list(accuracy.values()), list(range(len(accuracy)))
    name = metric.replace("_", " ")
    with _rows(path, list(accuracy), title=f"{name} by run, {_on_intervals(estimates)}") as axes:
        values = [100 * estimate.value for estimate in estimates]
        axes.errorbar(values, places, xerr=_errors(estimates), fmt="o", capsize=3, color=_colour(0))
        if not math.isnan(values[0]):
            axes.axvline(values[0], color="#888888", linewidth=1, linestyle=":", zorder=0)
        if all(map(math.isnan, values)):
            axes.set_xlim(0, 100)
        _write_values(axes, places, estimates)
        axes.set(xlabel=f"{name}, % (dotted line: the first run)" if len(values) > 1 else f"{name}, %")
    return path


def draw_sweep(accuracy: Mapping[int, Estimate], path: Path, *, metric: str = "exact_match") -> Path:
    """Draw accuracy with intervals against k, the VoCo tokens per frame that answers were given from.

    Args:
        accuracy: by k.
        path: the PNG file to write.
        metric: the name of the metric.
    """
    budgets = sorted(accuracy)
    name, estimates = metric.replace("_", " "), [accuracy[k] for k in budgets]
    title = f"{name} by number of VoCo tokens, {_on_intervals(estimates)}"
    with _figure(path, 420, title=title) as figure:
        axes = figure.subplots()
        values = [100 * estimate.value for estimate in estimates]
        axes.errorbar(budgets, values, yerr=_errors(estimates), marker="o", capsize=3, color=_colour(0))
        axes.set_xscale("log", base=2)
        labelled = _apart(budgets)
        axes.set_xticks(labelled, list(map(str, labelled)), minor=False)
        axes.minorticks_off()
        if all(map(math.isnan, values)):
            axes.set(ylim=(0, 100))
            axes.text(0.5, 0.5, "no question has a value", transform=axes.transAxes, ha="center", color="#57606a")
        axes.set(xlabel="k, VoCo tokens per frame", ylabel=f"{name}, %")
        axes.grid(alpha=0.3)
    return path


def draw_retention(tasks: Sequence[TaskRetention], path: Path) -> Path:
    """Draw retention with intervals against tokens per frame, a line for each task and kind of compressor.

    Args:
        tasks: with their mean, where there are several; none, whose retention is 0, and full are left out.
        path: the PNG file to write.
    """
    lines: dict[str, list[tuple[int, Estimate]]] = {}
    for task in tasks:
        for row in task.rows[1:-1]:
            if row.tokens_per_frame and not math.isnan(row.retention.value):
                kind = row.name.partition(":")[0].partition(" ")[0]
                lines.setdefault(f"{task.task}, {kind}", []).append((row.tokens_per_frame, row.retention))
    estimates = [estimate for line in lines.values() for _, estimate in line]
    with _figure(path, 420, title=f"retention by tokens per frame, {_on_intervals(estimates)}") as figure:
        axes = figure.subplots()
        for place, (name, points) in enumerate(lines.items()):
            points.sort(key=lambda point: point[0])
            values = [100 * estimate.value for _, estimate in points]
            errors = _errors([estimate for _, estimate in points])
            line: Any = ("-", "--", ":")[place // len(_COLOURS) % 3]
            counts = [count for count, _ in points]
            axes.errorbar(
                counts, values, yerr=errors, label=name, marker="o", capsize=3, color=_colour(place), linestyle=line
            )
        budgets = sorted({count for line in lines.values() for count, _ in line})
        if budgets:
            axes.set_xscale("log", base=2)
            labelled = _apart(budgets)
            axes.set_xticks(labelled, list(map(str, labelled)), minor=False)
            axes.minorticks_off()
            axes.legend(frameon=False)
        else:
            axes.text(0.5, 0.5, "no row has a retention", transform=axes.transAxes, ha="center", color="#57606a")
        axes.axhline(100, color="#888888", linewidth=1, linestyle=":", zorder=0)
        axes.set(xlabel="tokens per frame", ylabel="retention, % (dotted line: all vision tokens)")
        axes.grid(alpha=0.3)
    return path


def _apart(budgets: Sequence[int]) -> list[int]:
    """Leave out the labels that have no room on a logarithmic axis of about 600 pixels; the ends stay.

    >>> _apart([1, 2, 4, 8]), _apart([1, 2, 30, 31, 32])
    ([1, 2, 4, 8], [1, 2, 32])
    """
    pixels_per_octave = 600 / max(math.log2(budgets[-1] / budgets[0]), 1e-9)
    kept = [budgets[-1]]
    for k in reversed(budgets[:-1]):
        if pixels_per_octave * math.log2(kept[-1] / k) > 10 * len(str(kept[-1])) + 8:
            kept.append(k)
    return kept[::-1]


def _on_intervals(estimates: Sequence[Estimate]) -> str:
    """Say what the error bars are; there are none over fewer than two videos."""
    known = any(estimate.low is not None for estimate in estimates)
    return "with 95 % intervals over videos" if known else "without intervals: they need two videos"


def _errors(estimates: Sequence[Estimate]) -> Any:
    """Compute how far intervals reach below and above their values, in percent, [2][values]."""
    below = [0.0 if e.low is None else 100 * max(0.0, e.value - e.low) for e in estimates]
    above = [0.0 if e.high is None else 100 * max(0.0, e.high - e.value) for e in estimates]
    return [below, above]


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


def _write_values(axes: Axes, places: Sequence[float], estimates: Sequence[Estimate]) -> None:
    """Write values and intervals in a column to the right of the axes, where no bar reaches."""
    for place, estimate in zip(places, estimates, strict=True):
        text = "no value" if math.isnan(estimate.value) else _one_digit(estimate)
        axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=12 * _POINTS)


def _one_digit(estimate: Estimate) -> str:
    """Write percents with one digit: ``41.1 [39.3, 43.1]``."""
    bounds = [f"{100 * bound:.1f}" for bound in (estimate.low, estimate.high) if bound is not None]
    return f"{100 * estimate.value:.1f}" + (f" [{', '.join(bounds)}]" if bounds else "")


@contextmanager
def _rows(path: Path, names: Sequence[str], *, title: str, lines: int = 1) -> Iterator[Axes]:
    """Give axes with a row for each name, from the top down; the picture grows with the rows.

    Args:
        lines: lines of values in a row.
    """
    shown = [writing(name.replace("\n", " ") or "(no name)") for name in names]
    labels = [shortened(one.text, one.font(_FONT_SIZE), _NAME_WIDTH, num_lines=_NAME_LINES) for one in shown]
    row = _LINE_HEIGHT * max(lines, *map(len, labels)) + 9
    with _figure(path, 110 + row * len(names), title=title, writings=shown) as figure:
        axes = figure.subplots()
        yield axes
        axes.set_yticks(range(len(names)), ["\n".join(label) for label in labels])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)


@contextmanager
def _figure(path: Path, height: int, *, title: str, writings: Sequence[Writing] = ()) -> Iterator[Figure]:
    """Give an empty figure, and write it as a PNG at the end.

    Args:
        height: pixels below the title.
        title: broken into lines where it is long.
        writings: other texts of the figure, for the fonts that they need.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise UsageError("a picture needs matplotlib: pip install 'voco-video[eval]'") from error
    head = writing(title)
    above = wrapped(head.text, head.font(16), _WIDTH - 40)
    small = writing(note_on_missing([head, *writings]))
    below = wrapped(small.text, small.font(12), _WIDTH - 40) if small.text else []
    pixels = height + 24 * len(above) + 18 * len(below)
    with rc_context(
        {
            "font.family": _families([head, *writings]),
            "font.size": _FONT_SIZE * _POINTS,
            "text.parse_math": False,  # a name with $ in it is no formula
            "figure.facecolor": "white",
            "axes.facecolor": "white",
        }
    ):
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
        figure = Figure(figsize=(_WIDTH / _DPI, pixels / _DPI), layout=layout)
        figure.suptitle("\n".join(above), x=0.01, ha="left", fontsize=16 * _POINTS)
        if below:
            figure.supxlabel("\n".join(below), x=0.01, ha="left", fontsize=12 * _POINTS, color="#57606a")
        yield figure
        figure.savefig(path, dpi=_DPI, facecolor="white")


def _families(writings: Sequence[Writing]) -> list[str]:
    """List matplotlib's own font and those that the texts need beside it."""
    from matplotlib.font_manager import FontProperties, fontManager

    families = ["DejaVu Sans"]
    for file in dict.fromkeys(one.font_file for one in writings if one.font_file is not None):
        if "DejaVuSans." not in file:
            fontManager.addfont(file)
            families.append(FontProperties(fname=file).get_name())
    return families
