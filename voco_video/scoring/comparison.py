"""Comparison of two or more runs on the same questions: their differences, and whether these could be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from voco_video.errors import DataError, UsageError
from voco_video.scoring.basis import Basis
from voco_video.scoring.basis_differences import Trait, traits_of
from voco_video.scoring.bootstrap import Estimate, Floats, mcnemar_exact, number_clusters, paired_p_value, resample
from voco_video.scoring.metrics import METRICS, RANK_METRICS, metrics_of, with_answers
from voco_video.scoring.predictions import Prediction

NUM_RESAMPLES = 10_000
"""More than for an interval: the smallest p-value that so many draws can show is 0.0002."""


@dataclass(frozen=True)
class RunScore:
    """A run on the questions in common.

    Attributes:
        name: the run's name.
        num_questions: questions in its file.
        num_unanswered: questions in common that it does not answer.
        accuracy: the metric's value on the questions in common.
    """

    name: str
    num_questions: int
    num_unanswered: int
    accuracy: Estimate


@dataclass(frozen=True)
class Difference:
    """The difference between a run and the first one.

    Attributes:
        name: the run's name.
        difference: its value less the first run's, both on the same draws of videos.
        p_value: two-sided, of the paired bootstrap over videos.
        num_only_first, num_only_this: questions that only the first run, or only this run, has right; None for metrics
            with values between 0 and 1.
        mcnemar_p: two-sided exact McNemar p-value, which assumes independent questions; None for the same metrics.
    """

    name: str
    difference: Estimate
    p_value: float
    num_only_first: int | None
    num_only_this: int | None
    mcnemar_p: float | None


@dataclass(frozen=True)
class Comparison:
    """Runs on the questions that all of them have.

    Attributes:
        metric: a name of `voco_video.scoring.metrics.METRICS`.
        num_questions, num_videos: in common.
        runs: in the order given.
        differences: of each run but the first to the first. P-values are not corrected for their number.
        num_resamples, seed: of intervals and p-values.
        traits: what the runs rest on, those in which they differ first; empty where nothing was given.
    """

    metric: str
    num_questions: int
    num_videos: int
    runs: tuple[RunScore, ...]
    differences: tuple[Difference, ...]
    num_resamples: int
    seed: int
    traits: tuple[Trait, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def compare(
    runs: Mapping[str, Sequence[Prediction]],
    *,
    metric: str | None = None,
    bases: Mapping[str, Basis] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare runs, the first of them with each of the others, on the questions that all of them have.

    Args:
        runs: predictions by the runs' names, two runs or more.
        metric: a name of `voco_video.scoring.metrics.METRICS`; None: exact match, or accuracy for multiple choice.
        bases: what each run rests on, from `voco_video.scoring.basis.read_basis`; None: not compared.
        num_resamples, seed: of intervals and p-values.

    Raises:
        UsageError: fewer than two runs, or an unknown metric.
        DataError: the runs have no question in common, one id stands for two questions, or ranks are missing.

    >>> compare({"k1": read_predictions("k1.jsonl"), "k8": read_predictions("k8.jsonl")})  # doctest: +SKIP
    """
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} run cannot be compared: give two or more")
    if metric is not None and metric not in METRICS:
        raise UsageError(f"metric is {metric!r}, but has to be one of {', '.join(METRICS)}")
    shared = _in_common({name: with_answers(predictions) for name, predictions in runs.items()})
    metric = metric or metrics_of(next(iter(shared.values())))[0]
    _check_has_metric(shared, metric)
    values = np.array([list(map(METRICS[metric], run)) for run in shared.values()]).T  # [questions, runs]
    first = next(iter(shared.values()))
    clusters = number_clusters([prediction.video for prediction in first])
    columns = np.concatenate([values, values[:, 1:] - values[:, :1]], axis=1)  # [questions, runs + differences]
    resampled = resample(columns, np.ones_like(columns), clusters, num_resamples=num_resamples, seed=seed)
    estimates, names = resampled.estimates(), list(runs)
    return Comparison(
        metric,
        num_questions=len(first),
        num_videos=int(clusters.max()) + 1,
        runs=tuple(
            RunScore(name, len(runs[name]), sum(p.prediction is None for p in shared[name]), estimate)
            for name, estimate in zip(names, estimates, strict=False)
        ),
        differences=tuple(
            _difference(name, estimate, draws, values[:, 0], values[:, place])
            for place, (name, estimate, draws) in enumerate(
                zip(names[1:], estimates[len(names) :], resampled.draws.T[len(names) :], strict=True), start=1
            )
        ),
        num_resamples=num_resamples,
        seed=seed,
        traits=() if bases is None else traits_of(bases, [prediction.question_id for prediction in first]),
    )


def _difference(name: str, estimate: Estimate, draws: Floats, first: Floats, this: Floats) -> Difference:
    p_value = paired_p_value(draws)
    if not set(np.unique([first, this])) <= {0.0, 1.0}:
        return Difference(name, estimate, p_value, None, None, None)
    num_only_first, num_only_this = int((first > this).sum()), int((this > first).sum())
    return Difference(
        name, estimate, p_value, num_only_first, num_only_this, mcnemar_exact(num_only_first, num_only_this)
    )


def _in_common(runs: Mapping[str, Sequence[Prediction]]) -> dict[str, list[Prediction]]:
    """Return each run's predictions for the questions that all runs have, in the first run's order."""
    by_id = {name: {p.question_id: p for p in predictions} for name, predictions in runs.items()}
    first, *others = by_id.values()
    ids = [question_id for question_id in first if all(question_id in other for other in others)]
    if not ids:
        examples = ", ".join(f"{name} has {next(iter(run), 'none')}" for name, run in by_id.items())
        raise DataError(f"the runs have no question id in common ({examples}): are they on the same split?")
    for name, run in by_id.items():
        for question_id in ids:
            _check_same(question_id, first[question_id], name, run[question_id])
    return {name: [run[question_id] for question_id in ids] for name, run in by_id.items()}


def _check_same(question_id: str, first: Prediction, name: str, other: Prediction) -> None:
    """Refuse different questions under one id: many sets number their questions from 0."""
    if (_plain(first.question), first.answer) != (_plain(other.question), other.answer):
        texts = " for ".join(repr(f"{p.question} ({p.answer})") for p in (other, first))
        raise DataError(f"{name} is on other questions: under id {question_id} it has {texts}")


def _plain(question: str) -> str:
    return " ".join(question.lower().strip(" ?").split())


def _check_has_metric(runs: Mapping[str, Sequence[Prediction]], metric: str) -> None:
    for name, predictions in runs.items():
        names = metrics_of(predictions)
        if metric in names:
            continue
        if metric in RANK_METRICS and "exact_match" in names:
            raise DataError(f"{name} has no ranks for {metric}: evaluate it with --rank-vocabulary, or compare another")
        raise DataError(f"{name} has no values in {metric}: compare {' or '.join(names)}")
