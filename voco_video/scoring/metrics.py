"""Scores without a judge: no network, no key, the same figures everywhere.

    exact_match  the normalised texts are equal (`normalize_answer`)
    strict       the texts are equal, character by character, as the sets' published scripts count
    token_f1     words in common, as SQuAD counts them (Rajpurkar et al., 2016), on normalised texts
    top1, top10  the true answer is the likeliest, or among the ten likeliest, of the training split's answers; for
                 predictions with ranks. An answer outside that list, and an unanswered question, is a miss

For multiple choice:

    accuracy        the option that the answer names (`read_letter`) is the right one. Where options were scored by
                    likelihood, the answer is the letter of the one with the highest mean over its tokens
    accuracy_plain  the option with the highest sum over its tokens is the right one, where options were scored

For temporal grounding, where the reference is one window or several and the answer is read by `read_span`:

    miou         intersection over union of the answer's first window and the reference window that it fits best
    r1_iou_0.3   that is 0.3 or more, and so on for 0.5 and 0.7 (R@1 at IoU 0.3, 0.5, 0.7; Gao et al., 2017; of several
                 windows the best one counts, as in QVHighlights' standalone_eval/eval.py)

An unanswered question is wrong in all of them. WUPS (Malinowski and Fritz, 2014) is left out: it needs WordNet's
files, which no maintained library includes.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from voco_video.data.choices import likeliest
from voco_video.data.letters import read_letter
from voco_video.data.multiple_choice import DURATION_CLASSES
from voco_video.data.samples import BETWEEN_TYPES
from voco_video.data.spans import iou, read_span
from voco_video.data.video_qa import ACTIVITYNET_TYPES, QUESTION_WORDS
from voco_video.errors import DataError
from voco_video.scoring.bootstrap import NUM_RESAMPLES, Estimate, Resampled, number_clusters, resample
from voco_video.scoring.predictions import Prediction

if TYPE_CHECKING:
    import pandas

UNIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "activitynet": {"free": ACTIVITYNET_TYPES[3:]},
    "nextqa": {
        "causal": ("causal why", "causal how"),
        "temporal": ("temporal order", "temporal when"),
        "descriptive": ("descriptive count", "descriptive location", "descriptive other"),
    },
}
"""Unions of question types that a set's own script also reports. ActivityNet-QA's free questions are those that are
neither about motion nor about spatial or temporal relations."""

MEANS = {"mlvu": "mean of tasks"}
"""Names, in reports, of the mean over question types, for sets whose authors weight all types equally: MLVU's M-Avg."""

_ARTICLES = frozenset(("a", "an", "the"))
_TO_TEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_TEENS = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_NUMBERS = {word: str(number) for number, word in enumerate((*_TO_TEN, *_TEENS, "twenty"))}
_APOSTROPHES = re.compile("['\u2019]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_PUNCTUATION = re.compile(r"\.(?!\d)|(?<!\d)\.|[^\w\s.]|_")


def normalize_answer(text: str) -> str:
    """Normalise a text for comparison.

    The steps, in this order: Unicode NFKC and lower case; thousands separators and apostrophes are removed, other
    punctuation becomes a blank, decimal points stay; the words zero to twenty become digits, since MSVD-QA and
    MSRVTT-QA write "two" where ActivityNet-QA writes "2"; articles are removed unless nothing else would remain;
    repeated blanks become one.

    >>> normalize_answer(" The two-seater's. ")
    '2 seaters'
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = _PUNCTUATION.sub(" ", _THOUSANDS.sub("", _APOSTROPHES.sub("", text)))
    words = [_NUMBERS.get(word, word) for word in text.split()]
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def token_f1(prediction: str, answer: str) -> float:
    """Return the harmonic mean of precision and recall of the normalised words.

    >>> round(token_f1("a black dog", "dog"), 3)
    0.667
    """
    predicted, reference = normalize_answer(prediction).split(), normalize_answer(answer).split()
    if not predicted or not reference:
        return float(predicted == reference)
    return 2 * sum((Counter(predicted) & Counter(reference)).values()) / (len(predicted) + len(reference))


def _within(rank: int) -> Callable[[Prediction], float]:
    return lambda p: float(p.vocabulary_rank is not None and p.vocabulary_rank <= rank)


def _of_texts(compare: Callable[[str, str], float]) -> Callable[[Prediction], float]:
    return lambda p: 0.0 if p.prediction is None else float(compare(p.prediction, p.answer))


def _of_letters(letter_of: Callable[[Prediction], str | None]) -> Callable[[Prediction], float]:
    return lambda p: float(p.prediction is not None and bool(p.options) and letter_of(p) == p.answer)


def best_iou(prediction: Prediction) -> float:
    """Compute the intersection over union of an answer's first window with the reference window that it fits best.

    0 where the answer names no window, or there is none to fit.
    """
    span = None if prediction.prediction is None else read_span(prediction.prediction)
    return 0.0 if span is None else max((iou(span, window) for window in prediction.windows), default=0.0)


def _reaches(least: float) -> Callable[[Prediction], float]:
    return lambda p: float(best_iou(p) >= least)


METRICS: dict[str, Callable[[Prediction], float]] = {
    "exact_match": _of_texts(lambda prediction, answer: normalize_answer(prediction) == normalize_answer(answer)),
    "strict": _of_texts(str.__eq__),
    "token_f1": _of_texts(token_f1),
    "top1": _within(1),
    "top10": _within(10),
    "accuracy": _of_letters(lambda p: read_letter(p.prediction or "", p.options)),
    "accuracy_plain": _of_letters(
        lambda p: None if p.option_log_likelihoods is None else likeliest(p.option_log_likelihoods)
    ),
    "miou": best_iou,
    "r1_iou_0.3": _reaches(0.3),
    "r1_iou_0.5": _reaches(0.5),
    "r1_iou_0.7": _reaches(0.7),
}
"""Functions that give a prediction's value, from 0 to 1, by the metric's name."""

RANK_METRICS = ("top1", "top10")
CHOICE_METRICS = ("accuracy", "accuracy_plain")
GROUNDING_METRICS = ("miou", "r1_iou_0.3", "r1_iou_0.5", "r1_iou_0.7")


@dataclass(frozen=True)
class GroupScores:
    """The scores of one question type, of a union of types, or of all questions.

    Attributes:
        name: of the type or union, or "all".
        num_questions, num_videos: their numbers, answered or not.
        num_unanswered: questions without a prediction.
        metrics: by the names of METRICS.
    """

    name: str
    num_questions: int
    num_videos: int
    num_unanswered: int
    metrics: dict[str, Estimate]

    def __getitem__(self, metric: str) -> Estimate:
        return self.metrics[metric]


@dataclass(frozen=True)
class Scores:
    """The scores of a set of predictions.

    Attributes:
        overall: scores of all questions.
        types: scores of each question type.
        unions: scores of unions of question types, see UNIONS, and their mean, see MEANS.
        durations: scores of each duration class of videos, where the set has such classes.
        num_ranked: number of questions whose true answer has a rank; None if none has.
        num_resamples, seed: of the intervals.
    """

    overall: GroupScores
    types: tuple[GroupScores, ...]
    unions: tuple[GroupScores, ...]
    num_ranked: int | None
    num_resamples: int
    seed: int
    durations: tuple[GroupScores, ...] = ()

    def __getitem__(self, name: str) -> GroupScores:
        return next(group for group in self.groups if group.name == name)

    @property
    def groups(self) -> tuple[GroupScores, ...]:
        """All groups in report order: question types, unions, duration classes, all questions."""
        return (*self.types, *self.unions, *self.durations, self.overall)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics."""
        return tuple(self.overall.metrics)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def to_frame(self) -> pandas.DataFrame:
        """Return a table for notebooks: a row per group, and per metric its value and the ends of its interval."""
        import pandas

        rows = [
            {"group": g.name, "questions": g.num_questions, "videos": g.num_videos, "unanswered": g.num_unanswered}
            | {metric: g[metric].value for metric in self.metrics}
            | {f"{metric}_low": g[metric].low for metric in self.metrics}
            | {f"{metric}_high": g[metric].high for metric in self.metrics}
            for g in self.groups
        ]
        return pandas.DataFrame(rows).set_index("group")


def score(
    predictions: Sequence[Prediction], *, dataset: str = "", num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Scores:
    """Score predictions, overall and by question type, with 95 % intervals from resampled videos.

    Args:
        predictions: one for each question.
        dataset: the set whose unions of question types are scored too; "" for none.
        num_resamples, seed: of the intervals; see `voco_video.scoring.bootstrap`.

    Raises:
        DataError: there are no predictions.

    >>> score(read_predictions("msvd.jsonl")).overall["exact_match"].value        # doctest: +SKIP
    0.4114920
    """
    predictions = with_answers(predictions)
    if not predictions:
        raise DataError("there are no predictions to score")
    rows = group_rows(predictions, dataset=dataset)
    names = metrics_of(predictions)
    values = np.array([[METRICS[name](p) for name in names] for p in predictions])  # [questions, metrics]
    clusters = number_clusters([p.video for p in predictions])
    members = np.stack(list(rows.values()), axis=1)  # [questions, groups]
    numerators = (members[:, :, None] * values[:, None, :]).reshape(len(predictions), -1)
    denominators = np.repeat(members, len(names), axis=1)  # [questions, groups * metrics]
    resampled = resample(numerators, denominators, clusters, num_resamples=num_resamples, seed=seed)
    estimates = iter(resampled.estimates())
    groups = [
        _group_scores(name, list(compress(predictions, is_member)), {metric: next(estimates) for metric in names})
        for name, is_member in rows.items()
    ]
    overall, unions = groups[-1], [group for group in groups if group.name in UNIONS.get(dataset, {})]
    lengths = set(duration_classes(predictions))
    durations = [group for group in groups if group.name in lengths]
    types = [group for group in groups[:-1] if group not in unions and group not in durations]
    if dataset in MEANS and types:
        means = _means(resampled, [groups.index(group) for group in types], len(names))
        unions.append(replace(overall, name=MEANS[dataset], metrics=dict(zip(names, means, strict=True))))
    return Scores(
        overall,
        types=tuple(types),
        unions=tuple(unions),
        durations=tuple(durations),
        num_ranked=sum(p.vocabulary_rank is not None for p in predictions) or None,
        num_resamples=num_resamples,
        seed=seed,
    )


def _group_scores(name: str, members: Sequence[Prediction], metrics: dict[str, Estimate]) -> GroupScores:
    return GroupScores(
        name,
        num_questions=len(members),
        num_videos=len({p.video for p in members}),
        num_unanswered=sum(p.prediction is None for p in members),
        metrics=metrics,
    )


def group_rows(predictions: Sequence[Prediction], *, dataset: str = "") -> dict[str, np.ndarray]:
    """Return which predictions belong to each group, [questions] of 0 and 1, by the group's name; "all" is last.

    Types come in the sets' own order, then alphabetically; some sets have none. Duration classes come after them.
    """
    known = [*QUESTION_WORDS, *ACTIVITYNET_TYPES]
    types_of = [p.question_type.split(BETWEEN_TYPES) for p in predictions]
    present = {name for types in types_of for name in types if name}
    types = [name for name in known if name in present] + sorted(present - set(known))
    groups = {name: (name,) for name in types} | {
        name: parts for name, parts in UNIONS.get(dataset, {}).items() if present & set(parts)
    }
    rows = {name: [not set(parts).isdisjoint(types) for types in types_of] for name, parts in groups.items()}
    rows |= {name: [p.duration_class == name for p in predictions] for name in duration_classes(predictions)}
    rows["all"] = [True] * len(predictions)
    return {name: np.array(row, np.float64) for name, row in rows.items()}


def duration_classes(predictions: Sequence[Prediction]) -> list[str]:
    """List the duration classes that there are: Video-MME's in their order, then others by the first number in them."""
    present = {p.duration_class for p in predictions if p.duration_class}
    others = present - set(DURATION_CLASSES)
    return [name for name in DURATION_CLASSES if name in present] + sorted(others, key=_first_number)


def _first_number(text: str) -> tuple[float, str]:
    found = re.search(r"\d+(?:\.\d+)?", text)
    return (float(found[0]) if found else math.inf, text)


def _means(resampled: Resampled, groups: Sequence[int], num_metrics: int) -> list[Estimate]:
    """Average some groups' values, for each metric; a group without questions in a draw is left out of that draw."""
    columns = np.array([[group * num_metrics + metric for group in groups] for metric in range(num_metrics)])
    draws = resampled.draws[:, columns]  # [resamples, metrics, groups]
    with np.errstate(invalid="ignore"):
        means = np.nansum(draws, axis=-1) / (~np.isnan(draws)).sum(-1)
    # The last group is "all", whose videos are those of all groups.
    return Resampled(resampled.values[columns].mean(-1), means, resampled.num_videos[-num_metrics:]).estimates()


def with_answers(predictions: Sequence[Prediction]) -> Sequence[Prediction]:
    """Leave out the multiple-choice questions whose answers were never published."""
    return [p for p in predictions if p.answer or not p.options]


def metrics_of(predictions: Sequence[Prediction]) -> list[str]:
    """Return the names of the metrics that fit predictions; the first is the one that runs are compared by."""
    if any(p.options for p in predictions):
        is_scored = any(p.option_log_likelihoods for p in predictions)
        return list(CHOICE_METRICS if is_scored else CHOICE_METRICS[:1])
    if any(p.windows for p in predictions):
        return list(GROUNDING_METRICS)
    is_ranked = any(p.vocabulary_rank is not None for p in predictions)
    others = {*CHOICE_METRICS, *GROUNDING_METRICS, *(() if is_ranked else RANK_METRICS)}
    return [name for name in METRICS if name not in others]


@dataclass(frozen=True)
class OfficialFree:
    """The "Free" accuracy that ActivityNet-QA's own script prints, and how it comes about.

    Attributes:
        num_right: right answers to free questions, by string equality.
        num_questions: free questions.
        official_denominator: the number that the script divides by instead.
        left_out: the types that are missing from this number: the three that the annotation file names first.
    """

    num_right: int
    num_questions: int
    official_denominator: int
    left_out: tuple[str, ...]


def official_free(predictions: Sequence[Prediction]) -> OfficialFree:
    """Compute ActivityNet-QA's "Free" accuracy as its evaluation/eval.py does.

    The script counts the questions of each type in the order in which the annotation file first names the types, and
    takes all but the first three counts for those of the free types, which they are only if the file begins with
    motion, spatial and temporal questions. Right answers are counted in the types' own order.
    """
    in_order = sorted(predictions, key=lambda p: p.row)
    counts = Counter(p.question_type for p in in_order)  # in the order of first appearance
    free = UNIONS["activitynet"]["free"]
    return OfficialFree(
        num_right=sum(p.prediction == p.answer for p in in_order if p.question_type in free),
        num_questions=sum(counts[name] for name in free),
        official_denominator=sum(list(counts.values())[3:]),
        left_out=tuple(counts)[:3],
    )
