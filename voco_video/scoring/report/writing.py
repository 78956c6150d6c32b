"""Files of a report, and the parts of its Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voco_video.errors import DataError, UsageError

NAMES = {
    "exact_match": "exact match",
    "strict": "strict match",
    "token_f1": "token F1",
    "top1": "top-1",
    "top10": "top-10",
    "accuracy": "accuracy",
    "accuracy_plain": "plain accuracy",
    "miou": "mean IoU",
    "r1_iou_0.3": "R@1 IoU 0.3",
    "r1_iou_0.5": "R@1 IoU 0.5",
    "r1_iou_0.7": "R@1 IoU 0.7",
}
"""The metrics' names in reports."""


def write_files(
    files: Mapping[str, str], stem: Path, draw: Callable[[Path], Path], *, inputs: Sequence[Path]
) -> tuple[Path, ...]:
    """Write a text to STEM plus each suffix, and draw STEM.png.

    Raises:
        UsageError: one of these files is an input.
        DataError: the place cannot be written.
    """
    places = {suffix: stem.with_name(stem.name + suffix) for suffix in (*files, ".png")}
    for place in places.values():
        if any(place.resolve() == given.resolve() for given in inputs):
            raise UsageError(f"{place} holds the predictions themselves: choose another --out")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in files.items():
            places[suffix].write_text(text, encoding="utf-8")
        draw(places[".png"])
    except OSError as error:
        raise DataError(
            f"cannot write {stem}.json: {error.strerror or error}; choose another place with --out"
        ) from error
    return tuple(places.values())


def json_text(values: Mapping[str, Any]) -> str:
    """Write indented JSON; NaN and infinity become null, since JSON does not have them."""
    return json.dumps(_without_nan(values), indent=2, ensure_ascii=False) + "\n"


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Write a Markdown table; all columns but the first hold numbers."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return [f"| {' | '.join(map(_in_a_cell, row))} |" for row in (columns, rule, *rows)]


def bullet_lines(lines: Sequence[str]) -> list[str]:
    """Write a list with a blank line after it; nothing if there are no lines."""
    return [*(f"- {line}" for line in lines), ""] if lines else []


def fact_lines(named: Mapping[str, Any]) -> list[str]:
    """Write a table of named values, as JSON; of values with names of their own a row for each."""
    rows = [[f"`{name}`", f"`` {json.dumps(value, ensure_ascii=False)} ``"] for name, value in _flat(named)]
    return ["| setting | value |", "| --- | --- |", *(f"| {' | '.join(map(_in_a_cell, row))} |" for row in rows)]


def folded_lines(title: str, lines: Sequence[str]) -> list[str]:
    """Write lines that are hidden below a title until it is clicked."""
    return ["<details>", f"<summary>{title}</summary>", "", *lines, "", "</details>", ""]


def _flat(named: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in named.items():
        flat += _flat(value, f"{before}{name}.") if isinstance(value, Mapping) and value else [(before + name, value)]
    return flat


def _in_a_cell(text: str) -> str:
    return text.replace("|", "\\|")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value
