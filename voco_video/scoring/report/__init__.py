"""Reports of scores and of how they were measured: tables for the terminal, and JSON, Markdown and PNG files."""

from voco_video.scoring.basis import default_stem
from voco_video.scoring.report.charts import draw_by_group, draw_runs, draw_sweep
from voco_video.scoring.report.comparisons import (
    comparison_notes,
    comparison_table,
    sweep_of,
    traits_notes,
    traits_table,
    write_comparison,
)
from voco_video.scoring.report.scores import Report, score_file, write_report

__all__ = [
    "Report",
    "comparison_notes",
    "comparison_table",
    "default_stem",
    "draw_by_group",
    "draw_runs",
    "draw_sweep",
    "score_file",
    "sweep_of",
    "traits_notes",
    "traits_table",
    "write_comparison",
    "write_report",
]
