"""Reports of scores and of how they were measured: tables for the terminal, and JSON, Markdown and PNG files."""

from voco_video.scoring.report.charts import draw_by_group, draw_runs, draw_sweep
from voco_video.scoring.report.comparisons import comparison_notes, comparison_table, sweep_of, write_comparison
from voco_video.scoring.report.scores import Report, default_stem, score_file, write_report

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
    "write_comparison",
    "write_report",
]
