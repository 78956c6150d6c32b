"""What the task files beside this one name; lmms-eval loads this file by its path, once for each name."""

from __future__ import annotations

from typing import Any

from voco_video.integrations.lmms_eval_tasks import (
    data_of,
    documents,
    judge_failures,
    judge_score,
    judged_yes,
    prompt_of,
    scored,
    scored_and_judged,
    total,
    video_of,
)

__all__ = [
    "judge_failures",
    "judge_score",
    "judged_yes",
    "prompt_of",
    "scored",
    "scored_and_judged",
    "total",
    "video_of",
]


def __getattr__(name: str) -> Any:
    """Return what belongs to one set, such as ``msvd_data``, ``msvd_judged_data`` and ``msvd_documents``."""
    dataset, _, what = name.partition("_")
    if what == "documents":
        return documents(dataset)
    if what in ("data", "judged_data"):
        return data_of(dataset, is_judged=what == "judged_data")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
