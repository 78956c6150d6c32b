"""How much of a model's ability compressed frames keep: (score - none) / (full - none), with intervals.

    none   the question alone, without a frame: what a model guesses from words
    full   all vision tokens of every frame: the model's own answer
    row    a compressor with a budget, such as voco at k tokens a frame

as VoCo-LLaMA's paper reports it (Ye et al., arXiv:2406.12275, section 4.2). All rows answer the same questions, and one
draw of videos serves all of them, so differences and ratios are paired. A draw in which ``full`` is no better than
``none`` has no retention and is left out; where that is so over all videos, retention is not a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from voco_video.errors import DataError
from voco_video.scoring.bootstrap import CONFIDENCE, NUM_RESAMPLES, Estimate, Floats, number_clusters, resample
from voco_video.scoring.metrics import METRICS, metrics_of, with_answers
from voco_video.scoring.predictions import Prediction

NONE, FULL = "none", "full"
_MEAN = "mean of tasks"


@dataclass(frozen=True)
class RetentionRow:
    """A compressor with a budget, on one task or on the mean of several.

    Attributes:
        name: "none", "full", "pool:4", or "voco k=4".
        tokens_per_frame: that a frame keeps; None where that is not known.
        score: of the task's metric.
        retention: of what ``full`` gains over ``none``; 1 is all of it.
    """

    name: str
    tokens_per_frame: int | None
    score: Estimate
    retention: Estimate


@dataclass(frozen=True)
class TaskRetention:
    """The retention of every row on one task.

    Attributes:
        task: the set and its split, or "mean of tasks".
        metric: a name of METRICS; several, with commas between them, for the mean.
        num_questions, num_videos: that all rows answer.
        rows: none, then the compressors, then full.
        num_left_out: draws without a retention, of all; 0 where ``full`` is surely better than ``none``.
        draws: retention by row and draw, [rows, resamples].
    """

    task: str
    metric: str
    num_questions: int
    num_videos: int
    rows: tuple[RetentionRow, ...]
    num_left_out: int
    draws: Floats = field(repr=False, compare=False)

    def __getitem__(self, name: str) -> RetentionRow:
        return next(row for row in self.rows if row.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the draws as JSON values."""
        values = asdict(self)
        del values["draws"]
        return values


def task_retention(
    task: str,
    runs: Mapping[str, Sequence[Prediction]],
    *,
    tokens_per_frame: Mapping[str, int] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> TaskRetention:
    """Compute the retention of runs on one task.

    Args:
        task: its name.
        runs: predictions on the same questions by the rows' names, "none" and "full" among them.
        tokens_per_frame: of each row, as far as known.
        num_resamples, seed: of the intervals; see `voco_video.scoring.bootstrap`.

    Raises:
        DataError: "none" or "full" is missing, or the runs do not answer the same questions.

    >>> task_retention("msvd test", {"none": blind, "voco k=1": small, "full": all_tokens})   # doctest: +SKIP
    """
    if missing := [name for name in (NONE, FULL) if name not in runs]:
        raise DataError(f"{task}: retention needs a run named {missing[0]!r}")
    shared = _same_questions(task, runs)
    first = shared[FULL]
    metric = metrics_of(first)[0]
    names = [NONE, *(name for name in shared if name not in (NONE, FULL)), FULL]
    values = np.array([[METRICS[metric](p) for p in shared[name]] for name in names]).T  # [questions, rows]
    clusters = number_clusters([p.video for p in first])
    resampled = resample(values, np.ones_like(values), clusters, num_resamples=num_resamples, seed=seed)
    draws = _rates(resampled.draws.T)
    rates = _rates(resampled.values[:, None])[:, 0]
    num_videos = int(clusters.max()) + 1
    rows = tuple(
        RetentionRow(name, (tokens_per_frame or {}).get(name), score, _estimate(float(rate), draw, num_videos))
        for name, score, rate, draw in zip(names, resampled.estimates(), rates, draws, strict=True)
    )
    return TaskRetention(task, metric, len(first), num_videos, rows, int(np.isnan(draws[-1]).sum()), draws)


def mean_retention(tasks: Sequence[TaskRetention]) -> TaskRetention | None:
    """Average the retention of the rows that all tasks have; tasks without a retention are left out.

    None where fewer than two tasks have a retention.
    """
    counted = [task for task in tasks if not np.isnan(task[FULL].retention.value)]
    if len(counted) < 2:
        return None
    names = [row.name for row in counted[0].rows if all(row.name in {r.name for r in task.rows} for task in counted)]
    draws = np.stack(
        [
            np.mean([task.draws[[r.name for r in task.rows].index(name)] for task in counted], axis=0)  # NaN stays NaN
            for name in names
        ]
    )
    num_videos = min(task.num_videos for task in counted)
    rows = tuple(
        RetentionRow(
            name,
            counted[0][name].tokens_per_frame,
            Estimate(float(np.mean([task[name].score.value for task in counted])), None, None),
            _estimate(float(np.mean([task[name].retention.value for task in counted])), draw, num_videos),
        )
        for name, draw in zip(names, draws, strict=True)
    )
    return TaskRetention(
        _MEAN,
        ", ".join(dict.fromkeys(task.metric for task in counted)),
        sum(task.num_questions for task in counted),
        sum(task.num_videos for task in counted),
        rows,
        int(np.isnan(draws[-1]).sum()),
        draws,
    )


def _rates(scores: Floats) -> Floats:
    """Turn scores, [rows, draws] with none first and full last, into retention; NaN where full is no better."""
    none, full = scores[0], scores[-1]
    rates: Floats = (scores - none) / np.where(full > none, full - none, np.nan)
    return rates


def _estimate(value: float, draws: Floats, num_videos: int) -> Estimate:
    if num_videos < 2 or np.isnan(draws).all():
        return Estimate(value, None, None)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))


def _same_questions(task: str, runs: Mapping[str, Sequence[Prediction]]) -> dict[str, Sequence[Prediction]]:
    shared = {name: with_answers(predictions) for name, predictions in runs.items()}
    ids = [p.question_id for p in shared[FULL]]
    if not ids:
        raise DataError(f"{task}: no question has a public answer, so nothing can be scored")
    for name, predictions in shared.items():
        if [p.question_id for p in predictions] != ids:
            raise DataError(f"{task}: {name} does not answer the questions that {FULL} answers")
    return shared
