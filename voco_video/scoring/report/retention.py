"""Retention as a table, as files, and as a picture against tokens per frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voco_video.scoring.bootstrap import NUM_RESAMPLES
from voco_video.scoring.report.charts import draw_retention
from voco_video.scoring.report.writing import (
    NAMES,
    bullet_lines,
    fact_lines,
    folded_lines,
    json_text,
    table_lines,
    write_files,
)
from voco_video.scoring.retention import FULL, TaskRetention, mean_retention

_WHAT = (
    "Retention is (score - none) / (full - none): none answers without a frame, full from all vision tokens "
    "(VoCo-LLaMA, arXiv:2406.12275, section 4.2). Images, which that paper measures, are not measured here."
)


def with_mean(tasks: Sequence[TaskRetention]) -> list[TaskRetention]:
    """Return the tasks, and their mean where there are several."""
    mean = mean_retention(tasks)
    return [*tasks, *([mean] if mean else [])]


def retention_table(tasks: Sequence[TaskRetention]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of a table, in percent with intervals."""
    columns = ["task", "frames as", "tokens a frame", "score %", "retention %"]
    rows = []
    for task in tasks:
        for place, row in enumerate(task.rows):
            what = f"{task.task} ({', '.join(NAMES.get(name, name) for name in task.metric.split(', '))})"
            tokens = "–" if row.tokens_per_frame is None else str(row.tokens_per_frame)
            rows.append([what if not place else "", row.name, tokens, row.score.text(100), row.retention.text(100)])
    return columns, rows


def retention_notes(tasks: Sequence[TaskRetention]) -> list[str]:
    """Return what a reader of the table has to know."""
    counts = ", ".join(f"{task.task} {task.num_questions} on {task.num_videos}" for task in tasks if len(task.rows) > 1)
    notes = [
        _WHAT,
        f"Questions on videos: {counts}. Intervals are 95 % percentiles of {NUM_RESAMPLES} resamples of videos, the "
        "same for all rows of a task.",
    ]
    for task in tasks:
        if task[FULL].retention.value != task[FULL].retention.value:
            notes.append(f"{task.task}: full is no better than none, so there is nothing to retain.")
        elif task.num_left_out:
            share = 100 * task.num_left_out / task.draws.shape[1]
            notes.append(f"{task.task}: in {share:.1f} % of the draws full is no better than none; they are left out.")
    return notes


def write_retention(tasks: Sequence[TaskRetention], stem: Path, *, facts: Mapping[str, Any]) -> tuple[Path, ...]:
    """Write STEM.json, STEM.md and STEM.png.

    Args:
        tasks: with their mean, see `with_mean`.
        facts: the model, the options, the command.

    Raises:
        DataError: the place cannot be written.
    """
    notes = retention_notes(tasks)
    lines = ["# Retention", "", f"![retention against tokens per frame]({stem.name}.png)", ""]
    lines += [*table_lines(*retention_table(tasks)), "", *bullet_lines(notes)]
    lines += folded_lines("How it was measured", fact_lines(facts))
    values = {"tasks": [task.as_dict() for task in tasks], "notes": notes, **facts}
    files = {".json": json_text(values), ".md": "\n".join(lines).rstrip() + "\n"}
    return write_files(files, stem, lambda path: draw_retention(tasks, path), inputs=())
