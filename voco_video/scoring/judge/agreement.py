"""How well a judge agrees with people: pairs of a reference and an answer that people have called right or wrong.

    pairs -> rules that cost nothing (equal texts, words in common, the reference within the answer)
          -> a chat model, if one is named
    each -> share of pairs on which it says what people say, Cohen's kappa, and its two kinds of errors

Cohen's kappa (Cohen, 1960) is the agreement beyond what chance gives: 1 is perfect, 0 is no better than guessing by
how often each of the two says yes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voco_video.data.files import Row, read_rows
from voco_video.errors import DataError, UsageError
from voco_video.options.judging import Judging
from voco_video.scoring.bootstrap import NUM_RESAMPLES, Estimate, number_clusters, resample
from voco_video.scoring.judge.judging import Judgement, judge
from voco_video.scoring.metrics import normalize_answer, token_f1
from voco_video.scoring.predictions import Prediction

_SAID = {"yes": True, "no": False, "true": True, "false": False, "1": True, "0": False}
_HUMAN_FIELDS = ("human", "label", "is_right")
_REFERENCE_BREAK = "/"  # between the references of one question, in EVOUNA's files


@dataclass(frozen=True, slots=True)
class Pair:
    """A question's reference and an answer to it, with what people say.

    Attributes:
        question: the question's text.
        references: right answers; the answer has to mean the same as one of them.
        prediction: the answer that people judged.
        is_right: what they say.
    """

    question: str
    references: tuple[str, ...]
    prediction: str
    is_right: bool


@dataclass(frozen=True)
class Agreement:
    """How a judge agrees with people.

    Attributes:
        judge: its name.
        num_pairs: all of them.
        num_judged: pairs that it gave a verdict on; the others are failures, which count in none of the figures.
        agreement: share of these on which it says what people say, with an interval from resampled questions.
        kappa: Cohen's kappa on these; NaN where one of the two always says the same.
        num_wrongly_right, num_wrongly_wrong: pairs that it alone calls right, or wrong.
    """

    judge: str
    num_pairs: int
    num_judged: int
    agreement: Estimate
    kappa: float
    num_wrongly_right: int
    num_wrongly_wrong: int

    @property
    def num_failures(self) -> int:
        """Pairs without a verdict."""
        return self.num_pairs - self.num_judged


def read_pairs(path: str | os.PathLike[str]) -> tuple[Pair, ...]:
    """Read pairs that people judged, from a .json list, a .jsonl, a .csv or a .parquet file.

    A row has ``question``, ``answer`` (the reference), ``prediction`` and ``human`` (yes or no, true or false). Rows of
    EVOUNA (Wang et al., Evaluating Open-QA Evaluation, 2023) are read as published: ``golden_answer``, and for each
    system ``answer_<system>`` and ``judge_<system>``; improper questions and answers that nobody judged are left out.

    Raises:
        DataError: the file cannot be read, a row is something else, or no pair is left.
    """
    place = Path(path)
    pairs = tuple(pair for row in read_rows(place) for pair in _pairs_of(row))
    if not pairs:
        raise DataError(f"{place}: nobody judged any of its answers")
    return pairs


def _pairs_of(row: Row) -> Iterator[Pair]:
    if not row.has("golden_answer"):
        said = row.text(*_HUMAN_FIELDS).lower() if not _is_bool(row) else str(row.values[_human(row)]).lower()
        if said not in _SAID:
            raise row.error(f"{_human(row)} is {said!r:.80}, but has to be yes or no")
        yield Pair(row.text("question"), (row.text("answer"),), row.text("prediction", "pred"), _SAID[said])
        return
    if row.values.get("improper"):
        return
    references = tuple(filter(None, (text.strip() for text in row.text("golden_answer").split(_REFERENCE_BREAK))))
    for name, verdict in row.values.items():
        answer = row.values.get(f"answer_{name.removeprefix('judge_')}")
        if name.startswith("judge_") and isinstance(verdict, bool) and isinstance(answer, str):
            yield Pair(row.text("question"), references, answer.strip(), verdict)


def _human(row: Row) -> str:
    return next((name for name in _HUMAN_FIELDS if name in row.values), _HUMAN_FIELDS[0])


def _is_bool(row: Row) -> bool:
    return isinstance(row.values.get(_human(row)), bool)


def _within(prediction: str, reference: str) -> bool:
    words, wanted = normalize_answer(prediction).split(), normalize_answer(reference).split()
    return any(words[n : n + len(wanted)] == wanted for n in range(len(words) - len(wanted) + 1))


RULES: dict[str, Callable[[str, str], bool]] = {
    "exact match": lambda prediction, reference: normalize_answer(prediction) == normalize_answer(reference),
    "token F1 of 0.5 or more": lambda prediction, reference: token_f1(prediction, reference) >= 0.5,
    "reference within the answer": _within,
}
"""Judges that cost nothing, by their names; an answer is right if it is so by one of its references."""


def drawn(pairs: Sequence[Pair], limit: int | None, *, seed: int = 0) -> tuple[Pair, ...]:
    """Draw some of the pairs, in their order; all of them where ``limit`` is None.

    Raises:
        UsageError: fewer than one.
    """
    if limit is None or limit >= len(pairs):
        return tuple(pairs)
    if limit < 1:
        raise UsageError(f"limit={limit}: it takes at least 1 pair")
    places = sorted(random.Random(seed).sample(range(len(pairs)), limit))
    return tuple(pairs[place] for place in places)


def rule_agreements(pairs: Sequence[Pair]) -> tuple[Agreement, ...]:
    """Measure how each of `RULES` agrees with people."""
    return tuple(
        agreement_of(name, pairs, [any(rule(pair.prediction, one) for one in pair.references) for pair in pairs])
        for name, rule in RULES.items()
    )


def judge_agreement(
    pairs: Sequence[Pair],
    options: Judging,
    *,
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Agreement, Judgement]:
    """Measure how a chat model agrees with people; it is asked as for `voco_video.scoring.judge.judge`.

    Several references stand in one prompt, with "or" between them.

    Raises:
        UsageError, JudgeError, DataError: see `voco_video.scoring.judge.judge`.
    """
    predictions = [
        Prediction(
            video=pair.question,  # questions are resampled, as videos are elsewhere
            question=pair.question,
            answer=" or ".join(pair.references),
            question_id=str(number),
            question_type="",
            row=number,
            prediction=pair.prediction,
        )
        for number, pair in enumerate(pairs)
    ]
    judgement = judge(predictions, options, cache_dir=cache_dir, progress=progress)
    verdicts = [None if one.verdict is None else one.verdict.is_right for one in judgement.questions]
    return agreement_of(options.judge_model or "", pairs, verdicts), judgement


def agreement_of(name: str, pairs: Sequence[Pair], verdicts: Sequence[bool | None], *, seed: int = 0) -> Agreement:
    """Compare verdicts with what people say.

    Args:
        name: the judge's.
        pairs: what was judged.
        verdicts: one for each pair; None: a failure.
        seed: of the interval.

    >>> pairs = [Pair("who?", ("dog",), text, said) for text, said in (("a dog", True), ("cat", False), ("cow", False))]
    >>> found = agreement_of("it", pairs, [True, True, None])
    >>> found.agreement.value, found.num_wrongly_right, found.num_failures
    (0.5, 1, 1)
    """
    said = np.array([pair.is_right for pair in pairs])
    judged = np.array([verdict is not None for verdict in verdicts])
    yes = np.array([bool(verdict) for verdict in verdicts])
    same = judged & (yes == said)
    clusters = number_clusters([pair.question for pair in pairs])
    (agreement,) = resample(
        same[:, None].astype(float), judged[:, None].astype(float), clusters, num_resamples=NUM_RESAMPLES, seed=seed
    ).estimates()
    num_judged = int(judged.sum())
    return Agreement(
        name,
        num_pairs=len(pairs),
        num_judged=num_judged,
        agreement=agreement,
        kappa=_kappa(yes[judged], said[judged]),
        num_wrongly_right=int((judged & yes & ~said).sum()),
        num_wrongly_wrong=int((judged & ~yes & said).sum()),
    )


def _kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Compute Cohen's kappa of two lists of yes and no; NaN where chance alone would make them equal."""
    if not len(one):
        return float("nan")
    observed, (p, q) = float((one == other).mean()), (float(one.mean()), float(other.mean()))
    by_chance = p * q + (1 - p) * (1 - q)
    return float("nan") if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def agreement_rows(agreements: Sequence[Agreement]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of a table of judges, shares in percent."""
    columns = ["judge", "pairs", "not judged", "agrees with people %", "kappa", "wrongly right", "wrongly wrong"]
    rows = [
        [
            one.judge,
            str(one.num_pairs),
            str(one.num_failures),
            one.agreement.text(100),
            "–" if one.kappa != one.kappa else f"{one.kappa:.3f}",
            str(one.num_wrongly_right),
            str(one.num_wrongly_wrong),
        ]
        for one in agreements
    ]
    return columns, rows


def agreement_values(one: Agreement) -> dict[str, Any]:
    """Return an agreement as JSON values."""
    kappa = None if one.kappa != one.kappa else one.kappa
    return asdict(one) | {"num_failures": one.num_failures, "kappa": kappa}
