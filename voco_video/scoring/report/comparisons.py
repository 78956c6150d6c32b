"""A comparison of runs as a table, as files, and as a picture (against k if the runs are a sweep of budgets)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voco_video.scoring.basis_differences import trait_notes, trait_rows
from voco_video.scoring.comparison import Comparison
from voco_video.scoring.report.charts import draw_runs, draw_sweep
from voco_video.scoring.report.writing import NAMES, bullet_lines, json_text, table_lines, write_files


def sweep_of(runs: Sequence[dict[str, Any] | None]) -> list[int] | None:
    """Return each run's k if the runs are a sweep: all k are different and all other settings are equal."""
    settings = [dict((run or {}).get("settings", {})) for run in runs]
    budgets = [values.pop("num_voco_tokens", None) for values in settings]
    is_sweep = len(set(budgets)) == len(runs) and all(values == settings[0] for values in settings)
    return [int(k) for k in budgets] if is_sweep and all(isinstance(k, int) for k in budgets) else None


def write_comparison(
    comparison: Comparison, stem: Path, *, inputs: Sequence[Path], num_voco_tokens: Sequence[int] | None = None
) -> tuple[Path, ...]:
    """Write STEM.json, STEM.md and STEM.png: accuracy against k if the runs are a sweep, else by run.

    Args:
        inputs: the predictions, which are never overwritten.
        num_voco_tokens: each run's k; None if the runs are not a sweep.

    Raises:
        UsageError, DataError: see `write_report`.
    """
    files = {
        ".json": json_text(comparison.as_dict()),
        ".md": comparison_markdown(comparison, picture=f"{stem.name}.png"),
    }
    values = [run.accuracy for run in comparison.runs]

    def draw(path: Path) -> Path:
        if num_voco_tokens is not None:
            return draw_sweep(dict(zip(num_voco_tokens, values, strict=True)), path, metric=comparison.metric)
        names = [run.name for run in comparison.runs]
        return draw_runs(dict(zip(names, values, strict=True)), path, metric=comparison.metric)

    return write_files(files, stem, draw, inputs=inputs)


def comparison_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of a comparison, in percent with intervals."""
    columns = ["run", "questions", "unanswered", f"{NAMES[comparison.metric]} %"]
    columns += ["difference to the first", "p (bootstrap)", "only first : only this", "p (McNemar)"]
    first, *others = comparison.runs
    rows = [[first.name, str(first.num_questions), str(first.num_unanswered), first.accuracy.text(100), *["–"] * 4]]
    for run, difference in zip(others, comparison.differences, strict=True):
        cells = [difference.difference.text(100), _p(difference.p_value)]
        if difference.mcnemar_p is None:
            cells += ["–", "–"]
        else:
            counts = f"{difference.num_only_first} : {difference.num_only_this}"
            cells += [counts, _p(difference.mcnemar_p)]
        rows.append([run.name, str(run.num_questions), str(run.num_unanswered), run.accuracy.text(100), *cells])
    return columns, rows


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return what a reader of the table has to know."""
    common = f"{comparison.num_questions} questions on {comparison.num_videos} videos are in all runs; only they count."
    notes = [
        common,
        f"Intervals and p (bootstrap) are from {comparison.num_resamples} resamples of videos, seed {comparison.seed}, "
        "the same for all runs. McNemar's exact test takes questions for independent, which those on one video are "
        "not: where the two differ, trust the first.",
    ]
    if len(comparison.differences) > 1:
        notes.append(f"P-values are not corrected for {len(comparison.differences)} comparisons.")
    return notes


def comparison_markdown(comparison: Comparison, *, picture: str | None = None) -> str:
    """Write the comparison as Markdown."""
    lines = ["# Comparison", "", *_trait_lines(comparison)]
    if picture is not None:
        lines += [f"![accuracy of the runs]({picture})", ""]
    return "\n".join(
        [*lines, *table_lines(*comparison_table(comparison)), "", *bullet_lines(comparison_notes(comparison))]
    )


def traits_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of a table of what the runs differ in."""
    return ["the runs differ in", *(run.name for run in comparison.runs)], trait_rows(comparison.traits)


def traits_notes(comparison: Comparison) -> list[str]:
    """Return what a reader has to know of what the runs rest on; empty where that was not compared."""
    if not comparison.traits:
        return []
    differs = any(trait.state == "differs" for trait in comparison.traits)
    nothing = [] if differs else ["The runs differ in nothing that was written down of them all."]
    return [*nothing, *trait_notes(comparison.traits, [run.name for run in comparison.runs])]


def _trait_lines(comparison: Comparison) -> list[str]:
    if not comparison.traits:
        return []
    columns, rows = traits_table(comparison)
    table = [*table_lines(columns, rows), ""] if rows else []
    return ["## What the scores rest on", "", *table, *bullet_lines(traits_notes(comparison)), "## Scores", ""]


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"
