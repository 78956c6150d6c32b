"""The layouts of published predictions, read into one kind of entry.

rows        .json (a list), .jsonl or .csv whose rows name their fields: an id (question_id, id or qid), or a
            video (video_name, video_id or video) with its questions in order; the prediction (pred, prediction,
            predicted_answer). Without such a field "answer" is the prediction, as in ActivityNet-QA's example;
            with one it is the reference, as in Video-LLaVA's merge.jsonl. Video-ChatGPT writes Q and A. The log of
            samples of lmms-eval is read where its task logs ids, as this package's tasks do (filtered_resps, target).
{id: text}  one JSON object with the prediction to each question id
HQGA        one JSON object {id: {prediction, answer}} of numbers that count in a list of words: number n is word
            n - 1, and 0 is any answer outside the list

For multiple choice a prediction may also be an option's place, a whole number from 0: as {id: place} for EgoSchema,
and as {id: {prediction, answer}} for NExT-QA's own script.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voco_video.data.files import Row, read_json, read_rows
from voco_video.data.letters import LETTERS
from voco_video.errors import DataError

ID_FIELDS = ("question_id", "id", "qid")
_VIDEO_FIELDS = ("video_name", "video_id", "video")
_QUESTION_FIELDS = ("question", "Q")
_ANSWER_FIELDS = ("answer", "A", "target")
_RESPONSES = "filtered_resps"  # of lmms-eval, which lists them in some versions
_PREDICTION_FIELDS = ("pred", "prediction", "predicted_answer", _RESPONSES)
_VOCABULARY_NAME = r"(.+[._-])?ans_word\.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file's entry for one question.

    Attributes:
        number: its place in the file, from 1.
        question_id: from the file; if it has none, "v_<video>_<k>" for the video's k-th row, from 0.
        prediction: the predicted answer; None if there is none.
        question: the question in the file; "" if there is none.
        answer: the reference answer in the file; "" if there is none.
        extra: further fields of this package's own layout.
    """

    number: int
    question_id: str
    prediction: str | None
    question: str = ""
    answer: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def read_entries(
    path: Path, *, vocabulary: Path | None = None, is_multiple_choice: bool = False
) -> tuple[str, list[Entry]]:
    """Read a file's entries, and name its layout.

    Args:
        path: a .json, .jsonl or .csv file.
        vocabulary: the list of words that HQGA's numbers count in.
        is_multiple_choice: whether numbers are places of options, which become letters.

    Raises:
        DataError: the file cannot be read, or is in none of the layouts.
    """
    content = _read_object(path)
    if content is None:
        return "rows", list(_row_entries(read_rows(path)))
    values = list(content.values())
    if not values:
        raise DataError(f"{path}: has no predictions")
    if is_multiple_choice and not any(isinstance(value, str) for value in values):
        return "places of options", list(_place_entries(path, content))
    if all(isinstance(value, dict) for value in values):
        return "HQGA", list(_hqga_entries(path, content, vocabulary))
    return "{id: text}", [_plain_entry(path, number, *pair) for number, pair in enumerate(content.items(), start=1)]


def find_vocabulary(folders: Sequence[Path]) -> Path | None:
    """Find HQGA's list of words, which its annotations come with: *ans_word.json in the first folder that has one."""
    files = (path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()))
    return next((path for path in files if re.fullmatch(_VOCABULARY_NAME, path.name)), None)


def _read_object(path: Path) -> dict[str, Any] | None:
    """Read the JSON object in a file; None if the file is not a .json, or holds a list of rows."""
    if path.suffix.lower() != ".json":
        return None
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); is the file whole?") from error
    return content if isinstance(content, dict) else None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary and refuse equal keys, of which Python would silently keep the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        key, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"{key!r:.80} is there {count} times")
    return content


def _row_entries(rows: Iterator[Row]) -> Iterator[Entry]:
    counts: Counter[str] = Counter()
    for row in rows:
        if row.has(*ID_FIELDS):
            question_id = row.filled(*ID_FIELDS)
        else:
            video = row.filled(*_VIDEO_FIELDS)
            question_id = f"v_{video}_{counts[video]}"
            counts[video] += 1
        named = row.has(*_PREDICTION_FIELDS)
        prediction = _text_or_none(row, *(_PREDICTION_FIELDS if named else _ANSWER_FIELDS))
        answer = row.text(*_ANSWER_FIELDS) if named and row.has(*_ANSWER_FIELDS) else ""
        question = row.text(*_QUESTION_FIELDS) if row.has(*_QUESTION_FIELDS) else ""
        yield Entry(row.number, question_id, prediction, question, answer)


def _text_or_none(row: Row, *names: str) -> str | None:
    """Read the first of these fields that is there; null means no prediction, unlike an empty text."""
    present = next((name for name in names if name in row.values), None)
    value = row.values.get(present or "")
    if present == _RESPONSES and isinstance(value, list) and len(value) == 1:
        return Row(row.path, row.number, {_RESPONSES: value[0]}).text(_RESPONSES)
    return None if present is not None and value is None else row.text(*names)


def _plain_entry(path: Path, number: int, question_id: str, value: Any) -> Entry:
    return Entry(number, question_id, _text_or_none(Row(path, number, {question_id: value}), question_id))


def _place_entries(path: Path, content: dict[str, Any]) -> Iterator[Entry]:
    for number, (question_id, value) in enumerate(content.items(), start=1):
        places = [value.get("prediction"), value.get("answer")] if isinstance(value, dict) else [value, None]
        # Python's bool is an int.
        if not all(place is None or (type(place) is int and 0 <= place < len(LETTERS)) for place in places):
            raise Row(path, number, {}).error(f"{question_id} is {value!r:.80}, but has to be a place, counting from 0")
        prediction, answer = (None if place is None else LETTERS[place] for place in places)
        yield Entry(number, question_id, prediction, answer=answer or "")


def _hqga_entries(path: Path, content: dict[str, Any], vocabulary: Path | None) -> Iterator[Entry]:
    words = None
    for number, (question_id, value) in enumerate(content.items(), start=1):
        row = Row(path, number, value)
        places = [value.get("prediction"), value.get("answer")]
        if not all(type(place) is int and place >= 0 for place in places):
            raise row.error(f"{question_id} is {value!r:.80}, but has to have a prediction and an answer, as numbers")
        words = _read_words(path, vocabulary) if words is None else words
        if max(places) > len(words):
            raise row.error(f"{question_id} names word {max(places)}, but {vocabulary} has {len(words)}")
        # 0 stands for every answer outside the list, so it is the same as no other answer, and no text.
        prediction, answer = (words[place - 1] if place else "" for place in places)
        yield Entry(number, question_id, prediction, answer=answer)


def _read_words(path: Path, vocabulary: Path | None) -> list[str]:
    if vocabulary is None:
        what = "its numbers count in a list of words (HQGA's *ans_word.json)"
        raise DataError(f"{path}: {what}, which is not beside the annotations: say where it is")
    words = read_json(vocabulary)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DataError(f"{vocabulary}: has to hold a list of words")
    return words
