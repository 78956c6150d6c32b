"""What predictions are worth without a judge: no network, no key, the same figures everywhere.

    exact_match  the normalised texts are equal (`normalize_answer`)
    strict       the texts are equal, character by character, as the sets' published scripts count
    token_f1     words in common, as SQuAD counts them (Rajpurkar et al., 2016), on normalised texts
    top1, top10  the true answer is the likeliest, or among the ten likeliest, of the training split's answers, where
                 predictions carry ranks; an answer that is none of them, and an unanswered question, is a miss

Of multiple choice:

    accuracy        the option that the answer names (`read_letter`) is the right one. Where options were scored by
                    likelihood, the answer is the letter of the one with the highest mean over its tokens
    accuracy_plain  the option with the highest sum over its tokens is the right one, where options were scored

An unanswered question is wrong in all of them. WUPS (Malinowski and Fritz, 2014) is left out: it needs WordNet's
files, which no library that is kept up brings along.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from voco_video.data.choices import likeliest, read_letter
from voco_video.data.multiple_choice import DURATION_CLASSES
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
"""Question types that a set's own script also counts together: ActivityNet-QA's free questions are neither on motion
nor on spatial nor temporal relations."""

MEANS = {"mlvu": "mean of tasks"}
"""Sets whose authors report the mean of the question types' values, whatever their size, and what it is called here:
MLVU's M-Avg."""

_ARTICLES = frozenset(("a", "an", "the"))
_TO_TEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_TEENS = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_NUMBERS = {word: str(number) for number, word in enumerate((*_TO_TEN, *_TEENS, "twenty"))}
_APOSTROPHES = re.compile("['\u2019]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_PUNCTUATION = re.compile(r"\.(?!\d)|(?<!\d)\.|[^\w\s.]|_")


def normalize_answer(text: str) -> str:
    """A text as it is compared.

    In this order: Unicode's compatible forms (NFKC) and lower case; commas between thousands and apostrophes go, other
    punctuation becomes a blank, decimal points stay; the words zero to twenty become digits, for MSVD-QA and
    MSRVTT-QA write "two" where ActivityNet-QA writes "2"; articles go, unless nothing else is there; blanks become one.

    >>> normalize_answer(" The two-seater's. ")
    '2 seaters'
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = _PUNCTUATION.sub(" ", _THOUSANDS.sub("", _APOSTROPHES.sub("", text)))
    words = [_NUMBERS.get(word, word) for word in text.split()]
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the normalised words.

    >>> round(token_f1("a black dog", "dog"), 3)
    0.667
    """
    predicted, wanted = normalize_answer(prediction).split(), normalize_answer(answer).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    return 2 * sum((Counter(predicted) & Counter(wanted)).values()) / (len(predicted) + len(wanted))


def _within(rank: int) -> Callable[[Prediction], float]:
    return lambda one: float(one.vocabulary_rank is not None and one.vocabulary_rank <= rank)


def _of_texts(compare: Callable[[str, str], float]) -> Callable[[Prediction], float]:
    return lambda one: 0.0 if one.prediction is None else float(compare(one.prediction, one.answer))


def _of_letters(letter_of: Callable[[Prediction], str | None]) -> Callable[[Prediction], float]:
    return lambda one: float(one.prediction is not None and bool(one.options) and letter_of(one) == one.answer)


METRICS: dict[str, Callable[[Prediction], float]] = {
    "exact_match": _of_texts(lambda prediction, answer: normalize_answer(prediction) == normalize_answer(answer)),
    "strict": _of_texts(str.__eq__),
    "token_f1": _of_texts(token_f1),
    "top1": _within(1),
    "top10": _within(10),
    "accuracy": _of_letters(lambda one: read_letter(one.prediction or "", one.options)),
    "accuracy_plain": _of_letters(
        lambda one: None if one.option_log_likelihoods is None else likeliest(one.option_log_likelihoods)
    ),
}
"""Each question's value, from 0 to 1."""

RANK_METRICS = ("top1", "top10")
CHOICE_METRICS = ("accuracy", "accuracy_plain")


@dataclass(frozen=True)
class GroupScores:
    """The scores of a question type, of several together, or of all questions.

    Attributes:
        name: the type, the union's name, or "all".
        num_questions, num_videos: how many there are, answered or not.
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
        overall: of all questions.
        types: of each question type.
        unions: of question types together, see UNIONS, and their mean, see MEANS.
        durations: of videos by their duration class, where the set has such classes.
        num_ranked: questions whose true answer has a rank; None where none has.
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
        """All of them: question types, unions, duration classes, all questions."""
        return (*self.types, *self.unions, *self.durations, self.overall)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that there are."""
        return tuple(self.overall.metrics)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def to_frame(self) -> pandas.DataFrame:
        """As a table for notebooks: a row per group, and per metric its value and the ends of its interval."""
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
        dataset: whose unions of question types to score too; "" for none.
        num_resamples, seed: of the intervals; see `voco_video.scoring.bootstrap`.

    Raises:
        DataError: there are no predictions.

    >>> score(read_predictions("msvd.jsonl")).overall["exact_match"].value        # doctest: +SKIP
    0.4114920
    """
    predictions = with_answers(predictions)
    if not predictions:
        raise DataError("there are no predictions to score")
    groups = group_rows(predictions, dataset=dataset)
    is_ranked = any(one.vocabulary_rank is not None for one in predictions)
    names = metrics_of(predictions)
    values = np.array([[METRICS[name](one) for name in names] for one in predictions])  # [questions, metrics]
    clusters = number_clusters([one.video for one in predictions])
    members = np.stack(list(groups.values()), axis=1)  # [questions, groups]
    numerators = (members[:, :, None] * values[:, None, :]).reshape(len(predictions), -1)
    denominators = np.repeat(members, len(names), axis=1)  # [questions, groups * metrics]
    resampled = resample(numerators, denominators, clusters, num_resamples=num_resamples, seed=seed)
    found = resampled.estimates()
    unanswered = np.array([one.prediction is None for one in predictions])
    scored = {}
    for place, (name, rows) in enumerate(groups.items()):
        chosen = rows > 0
        scored[name] = GroupScores(
            name,
            num_questions=int(chosen.sum()),
            num_videos=len(np.unique(clusters[chosen])),
            num_unanswered=int(unanswered[chosen].sum()),
            metrics=dict(zip(names, found[place * len(names) : (place + 1) * len(names)], strict=True)),
        )
    unions = UNIONS.get(dataset, {})
    durations = tuple(group for name, group in scored.items() if name in DURATION_CLASSES)
    types = tuple(g for name, g in scored.items() if name != "all" and name not in {*unions, *DURATION_CLASSES})
    together = tuple(group for name, group in scored.items() if name in unions)
    if dataset in MEANS and types:
        means = _means(resampled, [list(scored).index(group.name) for group in types], len(names))
        together += (replace(scored["all"], name=MEANS[dataset], metrics=dict(zip(names, means, strict=True))),)
    return Scores(
        scored["all"],
        types=types,
        unions=together,
        durations=durations,
        num_ranked=sum(one.vocabulary_rank is not None for one in predictions) if is_ranked else None,
        num_resamples=num_resamples,
        seed=seed,
    )


def group_rows(predictions: Sequence[Prediction], *, dataset: str = "") -> dict[str, np.ndarray]:
    """By the groups' names, which predictions belong to them, [questions] of 0 and 1; "all" comes last.

    Types come in the sets' own order, then in the alphabet's; some sets have none. Duration classes come after them.
    """
    known = [*QUESTION_WORDS, *ACTIVITYNET_TYPES]
    present = {one.question_type for one in predictions if one.question_type}
    types = [name for name in known if name in present] + sorted(present - set(known))
    groups = {name: (name,) for name in types} | {
        name: parts for name, parts in UNIONS.get(dataset, {}).items() if present & set(parts)
    }
    rows = {
        name: np.array([one.question_type in parts for one in predictions], np.float64)
        for name, parts in groups.items()
    }
    for name in DURATION_CLASSES:
        if any(one.duration_class == name for one in predictions):
            rows[name] = np.array([one.duration_class == name for one in predictions], np.float64)
    return rows | {"all": np.ones(len(predictions))}


def _means(resampled: Resampled, groups: Sequence[int], num_metrics: int) -> list[Estimate]:
    """Of each metric the mean of some groups' values; a draw that leaves nothing of one means the others."""
    columns = np.array([[group * num_metrics + metric for group in groups] for metric in range(num_metrics)])
    draws = resampled.draws[:, columns]  # [resamples, metrics, groups]
    with np.errstate(invalid="ignore"):
        means = np.nansum(draws, axis=-1) / (~np.isnan(draws)).sum(-1)
    # All questions are the last group; their videos are those of all groups.
    return Resampled(resampled.values[columns].mean(-1), means, resampled.num_videos[-num_metrics:]).estimates()


def with_answers(predictions: Sequence[Prediction]) -> Sequence[Prediction]:
    """Without the multiple-choice questions whose answers were never published."""
    return [one for one in predictions if one.answer or not one.options]


def metrics_of(predictions: Sequence[Prediction]) -> list[str]:
    """The names of the metrics that predictions have values in; the first is what they are compared in."""
    if any(one.options for one in predictions):
        is_scored = any(one.option_log_likelihoods for one in predictions)
        return list(CHOICE_METRICS if is_scored else CHOICE_METRICS[:1])
    is_ranked = any(one.vocabulary_rank is not None for one in predictions)
    return [name for name in METRICS if name not in CHOICE_METRICS and (is_ranked or name not in RANK_METRICS)]


@dataclass(frozen=True)
class OfficialFree:
    """What ActivityNet-QA's own script prints as "Free", and why.

    Attributes:
        num_right: right answers to free questions, by string equality.
        num_questions: free questions.
        official_denominator: what the script divides by instead.
        left_out: the types that it leaves out of that: the three that the annotation file names first.
    """

    num_right: int
    num_questions: int
    official_denominator: int
    left_out: tuple[str, ...]


def official_free(predictions: Sequence[Prediction]) -> OfficialFree:
    """ActivityNet-QA's "Free" accuracy as its evaluation/eval.py comes to it.

    The script counts the questions of each type in the order in which the annotation file first names the types, and
    takes all but the first three counts for those of the free types, which they are only if the file begins with
    motion, spatial and temporal questions. Right answers are counted in the types' own order.
    """
    in_order = sorted(predictions, key=lambda one: one.row)
    counts = Counter(one.question_type for one in in_order)  # in the order of first appearance
    free = UNIONS["activitynet"]["free"]
    return OfficialFree(
        num_right=sum(one.prediction == one.answer for one in in_order if one.question_type in free),
        num_questions=sum(counts[name] for name in free),
        official_denominator=sum(list(counts.values())[3:]),
        left_out=tuple(counts)[:3],
    )
