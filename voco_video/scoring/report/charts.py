"""Scores as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voco_video.errors import UsageError
from voco_video.scoring.bootstrap import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110


def draw_by_group(series: Mapping[str, Mapping[str, Estimate]], path: Path, *, title: str) -> Path:
    """Draw bars of values from 0 to 1 by group, one colour for each series, with their intervals.

    Args:
        series: by its name each group's value, such as {"exact match": {"who": Estimate(...), ...}}; all series have
            the same groups.
        path: the PNG file to write.
        title: the title above the bars.
    """
    groups = list(next(iter(series.values())))
    figure = _figure(2.5 + 0.75 * len(groups))
    axes = figure.subplots()
    width = 0.8 / len(series)
    for place, (name, values) in enumerate(series.items()):
        estimates = [values[group] for group in groups]
        positions = [number + (place - (len(series) - 1) / 2) * width for number in range(len(groups))]
        heights = [0.0 if math.isnan(estimate.value) else 100 * estimate.value for estimate in estimates]
        axes.bar(positions, heights, width, yerr=_errors(estimates), capsize=2, label=name, error_kw={"linewidth": 1})
    axes.set_xticks(range(len(groups)), groups, rotation=30, ha="right")
    axes.set(ylabel=f"{next(iter(series))}, %" if len(series) == 1 else "%", ylim=(0, 105), title=title)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if len(series) > 1:
        axes.legend(fontsize=8)
    return _save(figure, path)


def draw_sweep(accuracy: Mapping[int, Estimate], path: Path, *, metric: str = "exact_match") -> Path:
    """Draw accuracy with intervals against k, the VoCo tokens per frame that answers were given from.

    Args:
        accuracy: by k.
        path: the PNG file to write.
        metric: the name of the metric.
    """
    budgets = sorted(accuracy)
    figure = _figure(6.5)
    axes = figure.subplots()
    values = [accuracy[k] for k in budgets]
    axes.errorbar(budgets, [100 * estimate.value for estimate in values], yerr=_errors(values), marker="o", capsize=3)
    axes.set_xscale("log", base=2)
    _finish_points(axes, budgets, metric)
    axes.set(xlabel="k, VoCo tokens per frame")
    return _save(figure, path)


def draw_runs(accuracy: Mapping[str, Estimate], path: Path, *, metric: str = "exact_match") -> Path:
    """Draw runs side by side, with intervals.

    Args:
        accuracy: by the runs' names.
        path: the PNG file to write.
        metric: the name of the metric.
    """
    figure = _figure(2.5 + 1.2 * len(accuracy))
    axes = figure.subplots()
    values, places = list(accuracy.values()), range(len(accuracy))
    axes.errorbar(places, [100 * estimate.value for estimate in values], yerr=_errors(values), fmt="o", capsize=3)
    _finish_points(axes, places, metric, list(accuracy))
    axes.set_xlim(-0.5, len(accuracy) - 0.5)
    return _save(figure, path)


def _finish_points(axes: Axes, places: Sequence[int], metric: str, names: Sequence[str] | None = None) -> None:
    axes.set_xticks(places, list(names or map(str, places)), minor=False)
    axes.minorticks_off()
    axes.set(ylabel=f"{metric.replace('_', ' ')}, %", title="with 95 % intervals over videos")
    axes.grid(alpha=0.3)


def _errors(values: Sequence[Estimate]) -> Any:
    """Compute how far intervals reach below and above their values, in percent, [2][values]."""
    below = [0.0 if e.low is None else 100 * max(0.0, e.value - e.low) for e in values]
    above = [0.0 if e.high is None else 100 * max(0.0, e.high - e.value) for e in values]
    return [below, above]


def _figure(width_inches: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("a picture needs matplotlib: pip install 'voco-video[eval]'") from error
    return Figure(figsize=(max(4.5, width_inches), 4.2), layout="constrained")


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=_DPI)
    return path
