"""What was measured, on what, and how: tables for the terminal, and JSON, Markdown and PNG files."""

from voco_video.report.card import model_card, write_model_card
from voco_video.report.charts import draw_by_group, draw_runs, draw_sweep
from voco_video.report.comparisons import comparison_notes, comparison_table, sweep_of, write_comparison
from voco_video.report.scores import Report, default_stem, score_file, write_report

__all__ = [
    "Report",
    "comparison_notes",
    "comparison_table",
    "default_stem",
    "draw_by_group",
    "draw_runs",
    "draw_sweep",
    "model_card",
    "score_file",
    "sweep_of",
    "write_comparison",
    "write_model_card",
    "write_report",
]
