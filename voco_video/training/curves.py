"""Loss and accuracy of a run as a picture, which has a light ground of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw a run's log: loss above, accuracy below.

    Args:
        history: one mapping per log line, each with its ``step``; keys that begin with ``loss`` and those that contain
            ``accuracy`` are drawn.
        path: the PNG file to write.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    with rc_context({"font.size": 10, "text.parse_math": False}):  # 14 pixels; a name with $ in it is no formula
        figure = Figure(figsize=(8, 7.2), layout="constrained", facecolor="white")
        upper, lower = figure.subplots(2, 1, sharex=True)
        series = {name: points for name, points in _series(history).items() if _kind(name)}
        places = {what: place for place, what in enumerate(dict.fromkeys(map(_what, series)))}
        for name, points in series.items():
            steps, values = zip(*points, strict=True)
            is_marked = name.startswith("eval") or len(steps) == 1
            (upper if _kind(name) == "loss" else lower).plot(
                steps,
                values,
                label=name.removeprefix("eval_"),
                color=f"C{places[_what(name)]}",  # one of each thing, in both
                linewidth=2 if name == "loss" or is_marked else 1,
                marker="o" if is_marked else None,
                markersize=4,
            )
        upper.set(ylabel="cross-entropy", title="loss")
        losses = [value for name, points in series.items() if _kind(name) == "loss" for _, value in points if value > 0]
        if losses:  # else there are no logarithms
            upper.set_yscale("log")
            upper.yaxis.set_major_formatter("{x:g}")
            is_narrow = max(losses) < 1e4 * min(losses)  # then there is room between powers of ten
            upper.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if is_narrow else ()))
            upper.yaxis.set_minor_formatter("{x:g}")
        lower.set(xlabel="step", ylabel="share of answers", title="accuracy (dots: validation, whole answers)")
        lower.set_ylim(0, 1.02)
        for axes in (upper, lower):
            axes.grid(alpha=0.3)
            if axes.lines:  # beside the axes, where no curve is below it
                axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)
            else:
                axes.text(0.5, 0.5, "nothing was logged", transform=axes.transAxes, ha="center", color="#57606a")
        figure.savefig(path, dpi=100)
    return path


def _kind(name: str) -> str:
    """Tell losses and accuracies from all else.

    >>> _kind("loss_k=1"), _kind("eval_accuracy"), _kind("learning_rate")
    ('loss', 'accuracy', '')
    """
    return "loss" if name.startswith("loss") else "accuracy" if "accuracy" in name else ""


def _what(name: str) -> str:
    """Return what a series is of.

    >>> _what("loss_k=1"), _what("eval_accuracy_k=1"), _what("token_accuracy_k=1"), _what("loss")
    ('k=1', 'k=1', 'k=1', '')
    """
    return re.sub(r"^(eval_|token_)?(loss|accuracy)_?", "", name)


def _series(history: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    series: dict[str, list[tuple[int, float]]] = {}
    for line in history:
        for name, value in line.items():
            if isinstance(value, (int, float)) and math.isfinite(value) and name not in ("step", "epoch", "train_loss"):
                series.setdefault(name, []).append((int(line["step"]), float(value)))
    return series
