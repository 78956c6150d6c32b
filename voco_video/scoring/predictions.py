"""Predictions on disk: one JSON line for each question of a split, with the question and its answer.

    PREDICTIONS.jsonl     a line for each question, answered or not; it holds the reference answer, so scoring needs
                          no annotations
    PREDICTIONS.run.json  the run info: command, model, settings, versions, counts

Predictions of other programs are read too, in the layouts of `voco_video.scoring.prediction_layouts`. They are matched
to the references by question, never by their place in the file. A reference without a prediction counts as unanswered;
predictions that match no reference, or that come twice, are counted.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from voco_video.data.files import Row, named_values, read_rows
from voco_video.data.samples import Dataset, Sample, Turn
from voco_video.data.spans import Span, ordered
from voco_video.errors import DataError
from voco_video.files.atomic_write import write_atomically
from voco_video.scoring.prediction_layouts import Entry, find_vocabulary, read_entries
from voco_video.scoring.prediction_matching import match_entries

log = logging.getLogger(__name__)

STATUSES = ("answered", "missing", "undecodable")
"""Answered; no video or no prediction; a video that could not be decoded."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A question, its reference answer, and a model's answer.

    Attributes:
        video: the clip's name.
        question: the question's text.
        answer: the reference answer, as published.
        question_id: unique in its split.
        question_type: the type that results are grouped by.
        row: the question's place in the annotation file, from 0: the published order.
        prediction: the model's answer; None if there is none.
        status: one of STATUSES.
        confidence: the answer's probability; None if it was not measured.
        vocabulary_rank: the true answer's place by likelihood among the training split's answers, 1 = likeliest;
            None: not ranked.
        in_vocabulary: whether the true answer is one of the training split's answers; None: not checked.
        options: options of multiple choice; `answer` is then a letter, or "" if it was never published.
        duration_class: class that results are also grouped by; "" if the set has no such classes.
        option_log_likelihoods: natural logarithm of each option's probability; None: answered by generating.
        option_num_tokens: number of tokens that each of these is a sum over.
        windows: of temporal grounding, when it happens, in seconds; `answer` is then the same as text.
    """

    video: str
    question: str
    answer: str
    question_id: str
    question_type: str
    row: int
    prediction: str | None
    status: str = "answered"
    confidence: float | None = None
    vocabulary_rank: int | None = None
    in_vocabulary: bool | None = None
    options: tuple[str, ...] = ()
    duration_class: str = ""
    option_log_likelihoods: tuple[float, ...] | None = None
    option_num_tokens: tuple[int, ...] | None = None
    windows: tuple[Span, ...] = ()

    def json_line(self) -> str:
        """Write the prediction as one line of JSON, without a line end; equal predictions give equal bytes."""
        values = {name: getattr(self, name) for name in _TYPES}
        # Fields of multiple choice and of grounding are left out of other files.
        return json.dumps({n: v for n, v in values.items() if v or n not in _CHOICE_FIELDS}, ensure_ascii=False)

    @classmethod
    def unanswered(cls, video: str, turn: Turn, *, status: str) -> Prediction:
        """Make the prediction of a question without its answer."""
        return cls(
            video=video,
            question=turn.question,
            answer=turn.answer,
            question_id=turn.question_id,
            question_type=turn.question_type,
            row=turn.row,
            prediction=None,
            status=status,
            options=turn.options,
            duration_class=turn.duration_class,
            windows=turn.windows,
        )

    @classmethod
    def from_json_line(cls, line: str) -> Prediction:
        """Read what `json_line` wrote.

        Raises:
            DataError: the line is no JSON, or its fields are not those of a prediction.
        """
        try:
            return _from_values(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{line!r:.80} is not JSON ({error.msg})") from error


_TYPES: dict[str, tuple[type, ...]] = {
    "video": (str,),
    "question": (str,),
    "answer": (str,),
    "question_id": (str,),
    "question_type": (str,),
    "row": (int,),
    "prediction": (str, type(None)),
    "status": (str,),
    "confidence": (float, int, type(None)),
    "vocabulary_rank": (int, type(None)),
    "in_vocabulary": (bool, type(None)),
    "options": (list,),
    "duration_class": (str,),
    "option_log_likelihoods": (list,),
    "option_num_tokens": (list,),
    "windows": (list,),
}
_ITEM_TYPES = {"options": (str,), "option_log_likelihoods": (float, int), "option_num_tokens": (int,)}
_CHOICE_FIELDS = ("options", "duration_class", "option_log_likelihoods", "option_num_tokens", "windows")
_CARRIED = ("status", "confidence", "vocabulary_rank", "in_vocabulary", "option_log_likelihoods", "option_num_tokens")
_OPTIONAL = {*_CARRIED, *_CHOICE_FIELDS}
_REQUIRED = set(_TYPES) - set(_OPTIONAL)


def _from_values(values: Any) -> Prediction:
    if not isinstance(values, dict) or not _REQUIRED <= set(values) <= set(_TYPES):
        raise DataError(f"{values!r:.120} is no prediction; its fields have to be {', '.join(_TYPES)}")
    prediction = Prediction(**{name: _checked(name, value) for name, value in values.items()})
    for name, items in (
        ("option_log_likelihoods", prediction.option_log_likelihoods),
        ("option_num_tokens", prediction.option_num_tokens),
    ):
        if items is not None and len(items) != len(prediction.options):
            raise DataError(f"{name} holds {len(items)} values, but there are {len(prediction.options)} options")
    if prediction.status not in STATUSES:
        raise DataError(f"status is {prediction.status!r}, but has to be one of {', '.join(STATUSES)}")
    if (prediction.prediction is not None) != (prediction.status == "answered"):
        raise DataError(f"prediction is {prediction.prediction!r:.80}, but the status is {prediction.status!r}")
    if prediction.vocabulary_rank is not None and prediction.vocabulary_rank < 1:
        raise DataError(f"vocabulary_rank is {prediction.vocabulary_rank}, but the likeliest answer has rank 1")
    return prediction


def _checked(name: str, value: Any) -> Any:
    """Return a field's checked value, with lists as tuples."""
    if not _is(value, _TYPES[name]):
        raise DataError(f"{name} is {value!r:.80}, but has to be {_in_words(_TYPES[name])}")
    if name == "windows":
        return tuple(_checked_window(item) for item in value)
    if name not in _ITEM_TYPES:
        return value
    if not all(_is(item, _ITEM_TYPES[name]) for item in value):
        raise DataError(f"{name} is {value!r:.80}, but has to be a list of {_in_words(_ITEM_TYPES[name])}")
    return tuple(value)


def _checked_window(value: Any) -> Span:
    if not isinstance(value, list) or len(value) != 2 or not all(_is(time, (float, int)) for time in value):
        raise DataError(f"windows has {value!r:.80}, but has to be a list of pairs of seconds")
    return ordered(value)


def _is(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not (isinstance(value, bool) and bool not in types)  # Python's bool is an int


def _in_words(types: tuple[type, ...]) -> str:
    names: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    names |= {type(None): "null", list: "a list"}
    return " or ".join(names[kind] for kind in types)


@dataclass(frozen=True)
class LoadedPredictions:
    """Predictions with counts of the file's rows.

    Attributes:
        predictions: one for each question, in the order of the references, or without these in that of the file.
        layout: the file's layout, in words.
        num_rows: rows of the file.
        num_unknown: rows that match no question of the references.
        num_duplicates: rows on a question that an earlier row has answered; the first one counts.
        num_other_questions: rows whose question has another wording than the reference of the same id.
        num_other_answers: rows whose reference answer differs from the reference of the same id.
    """

    predictions: tuple[Prediction, ...]
    layout: str
    num_rows: int
    num_unknown: int = 0
    num_duplicates: int = 0
    num_other_questions: int = 0
    num_other_answers: int = 0

    @property
    def num_unanswered(self) -> int:
        """Number of questions without a prediction; they count as wrong."""
        return sum(p.prediction is None for p in self.predictions)

    @property
    def counts(self) -> dict[str, int]:
        """The counts by name, for reports."""
        names = [field.name for field in fields(self) if field.name.startswith("num_")]
        return {name: getattr(self, name) for name in [*names, "num_unanswered"]}


def write_predictions(path: str | os.PathLike[str], rows: Iterable[Prediction]) -> None:
    """Write predictions, one JSON line each; if writing is interrupted, the old file remains."""
    _publish(Path(path), "".join(f"{row.json_line()}\n" for row in rows))


def read_predictions(
    path: str | os.PathLike[str],
    *,
    references: Dataset | None = None,
    vocabulary: str | os.PathLike[str] | None = None,
) -> tuple[Prediction, ...]:
    """Read the predictions of a file: `load_predictions` without its counts, which are logged.

    >>> len(read_predictions("msvd.jsonl"))  # doctest: +SKIP
    13157
    """
    loaded = load_predictions(path, references=references, vocabulary=vocabulary)
    unusual = {name: count for name, count in loaded.counts.items() if count and name != "num_rows"}
    if unusual:
        counts = ", ".join(f"{count} {name.removeprefix('num_').replace('_', ' ')}" for name, count in unusual.items())
        log.warning("%s: of %d rows and %d questions: %s", path, loaded.num_rows, len(loaded.predictions), counts)
    return loaded.predictions


def load_predictions(
    path: str | os.PathLike[str],
    *,
    references: Dataset | None = None,
    vocabulary: str | os.PathLike[str] | None = None,
) -> LoadedPredictions:
    """Read the predictions of a file, in this package's layout or a public one, and match them to the references.

    Args:
        path: the predictions; see `voco_video.scoring.prediction_layouts` for the layouts.
        references: the questions with their answers; None: only for this package's layout, which holds them.
        vocabulary: the list of words that HQGA's numbers count in; None: *ans_word.json beside the annotations or
            the predictions.

    Raises:
        DataError: the file cannot be read, is in no known layout, needs references or a list of words and has none,
            matches no reference, or belongs to other questions or answers.
    """
    path = Path(path)
    own = _read_own(path) if path.suffix.lower() == ".jsonl" else None
    if references is None:
        if own is None:
            raise DataError(f"{path}: its rows do not carry what they answer; name the set, as with --references msvd")
        return own
    if own is not None:
        layout, entries = own.layout, _as_entries(own.predictions)
    else:
        words = Path(vocabulary) if vocabulary else find_vocabulary([references.annotations[0].parent, path.parent])
        layout, entries = read_entries(path, vocabulary=words, is_multiple_choice=references.is_multiple_choice)
    matching = match_entries(path, entries, references)
    return LoadedPredictions(
        tuple(
            _answered(sample, turn, matching.entries.get(turn.question_id)) for sample, turn in references.questions()
        ),
        layout,
        num_rows=len(entries) if own is None else own.num_rows,
        num_unknown=matching.num_unknown,
        num_duplicates=matching.num_duplicates + (0 if own is None else own.num_duplicates),
        num_other_questions=matching.num_other_questions,
        num_other_answers=matching.num_other_answers,
    )


def _answered(sample: Sample, turn: Turn, entry: Entry | None) -> Prediction:
    unanswered = Prediction.unanswered(sample.name, turn, status="missing")
    if entry is None or (entry.prediction is None and not entry.extra):
        return unanswered
    return replace(unanswered, prediction=entry.prediction, **{"status": "answered", **entry.extra})


def run_info_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a predictions file's run info.

    >>> run_info_path("out/msvd.jsonl").as_posix()
    'out/msvd.run.json'
    """
    return Path(path).with_suffix(".run.json")


def read_run_info(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the run info of a predictions file; None if there is none.

    Raises:
        DataError: it is there, but cannot be read.
    """
    place = run_info_path(path)
    return named_values(place) if place.is_file() else None


def write_run_info(path: str | os.PathLike[str], info: dict[str, Any]) -> None:
    """Write the run info of a predictions file, to `run_info_path`."""
    _publish(run_info_path(path), json.dumps(info, indent=2, ensure_ascii=False) + "\n")


def _publish(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def _read_own(path: Path) -> LoadedPredictions | None:
    """Read this package's own layout; None if the first row has another one."""
    first: dict[str, Prediction] = {}
    num_rows = 0
    for row in read_rows(path):
        if num_rows == 0 and not set(row.values) >= _REQUIRED:
            return None
        prediction = _parse(row)
        first.setdefault(prediction.question_id, prediction)
        num_rows += 1
    return LoadedPredictions(tuple(first.values()), "voco-video", num_rows, num_duplicates=num_rows - len(first))


def _parse(row: Row) -> Prediction:
    try:
        return _from_values(row.values)
    except DataError as error:
        raise row.error(str(error)) from error


def _as_entries(predictions: Sequence[Prediction]) -> list[Entry]:
    return [
        Entry(number, p.question_id, p.prediction, p.question, p.answer, {n: getattr(p, n) for n in _CARRIED})
        for number, p in enumerate(predictions, start=1)
    ]
