"""Loss and accuracy of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw a run's log.

    Args:
        history: one mapping per log line, each with its ``step``; keys that begin with ``loss`` and those that contain
            ``accuracy`` are drawn.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in _series(history).items():
        steps, values = zip(*points, strict=True)
        if name.startswith("loss"):
            left.plot(steps, values, label=name, linewidth=2 if name == "loss" else 1)
        elif "accuracy" in name:
            marker = "o" if name.startswith("eval") else None
            right.plot(steps, values, label=name.removeprefix("eval_"), marker=marker, markersize=3)
    left.set(xlabel="step", ylabel="cross-entropy", title="loss", yscale="log")
    right.set(xlabel="step", title="accuracy (dots: validation, whole answers)", ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    return path


def _series(history: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    series: dict[str, list[tuple[int, float]]] = {}
    for line in history:
        for name, value in line.items():
            if isinstance(value, (int, float)) and name not in ("step", "epoch", "train_loss"):
                series.setdefault(name, []).append((int(line["step"]), float(value)))
    return series
