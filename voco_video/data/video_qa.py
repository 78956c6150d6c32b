"""MSVD-QA, MSRVTT-QA and ActivityNet-QA from their published files, in every layout that is in use.

    msvd         {split}_qa.json (answer, id, question, video_id), youtube_mapping.txt; clips <name>.avi or vid<n>.avi
    msrvtt       {split}_qa.json (and category_id); clips video<n>.mp4
    activitynet  {split}_q.json (video_name, question, question_id) + {split}_a.json (answer, type, question_id);
                 clips v_<video_name>.mp4, .mkv or .webm
    any of them  {split}.csv (video, question, answer, qid), {split}_q.json + {split}_a.json, or one JSON of
                 question, video_name, answer

A file's name may have further parts (hqga_test.csv, test_q.rebuilt.json). Its columns show which layout it is in.
Answers are joined by question id, never by their place in the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from voco_video.data.files import Row, Tree, read_rows
from voco_video.data.samples import SplitSize, Turn
from voco_video.data.video_sets import AnnotationFiles, VideoQuestion, with_question_mark
from voco_video.errors import DataError

MAPPING_NAME = "youtube_mapping.txt"
QUESTION_WORDS = ("what", "who", "how", "when", "where")
"""Question types of MSVD-QA and MSRVTT-QA: the first word; any other is "other"."""

ACTIVITYNET_TYPES = (
    "motion",
    "spatial",
    "temporal",
    "yes/no",
    "colour",
    "object",
    "location",
    "number",
    "other",
)
"""Answer types of ActivityNet-QA by their published numbers, 0 to 8."""


PUBLISHED_SIZES = {
    ("msvd", "train"): SplitSize(1161, 30933),
    ("msvd", "val"): SplitSize(245, 6415),
    ("msvd", "test"): SplitSize(504, 13157),
    ("msrvtt", "train"): SplitSize(6513, 158581),
    ("msrvtt", "val"): SplitSize(497, 12278),
    ("msrvtt", "test"): SplitSize(2990, 72821),
    ("activitynet", "train"): SplitSize(3200, 32000),
    ("activitynet", "val"): SplitSize(1800, 18000),
    ("activitynet", "test"): SplitSize(800, 8000),
}
"""Videos with questions, and questions, by set and split."""


def read_video_qa(dataset: str, paths: tuple[Path, ...], tree: Tree) -> tuple[tuple[Path, ...], list[VideoQuestion]]:
    """Read the questions of one of the three sets.

    Questions get the "?" that ActivityNet-QA and the CSV files leave out. Videos have the names of their clips (from
    MSVD's youtube_mapping.txt, if that is there).

    Args:
        paths: the file of questions, as QA_FILES finds it.
        tree: the folder with the clips.

    Returns:
        All files that were read, and the questions.

    Raises:
        DataError: an invalid row.
    """
    rows = list(read_rows(paths[0]))
    answers_path = None if rows[0].has("answer") else answers_of(rows[0])
    questions = list(_read(dataset, rows, answers_path, _naming(dataset, paths[0].parent, tree)))
    return (*paths, *([answers_path] if answers_path else ())), questions


def _rank(name: str, depth: int, split: str) -> tuple[int, ...] | None:
    """Rank files: those named exactly as published first, then those near the root, then complete ones."""
    kinds = (rf"{split}_qa(\..+)?\.json", rf"{split}(\..+)?\.csv", rf"{split}_q(\..+)?\.json")
    matches = (re.fullmatch(rf"(.+[_-])?{pattern}", name) for pattern in kinds)
    return next(((any(match.groups()), depth, kind) for kind, match in enumerate(matches) if match), None)


QA_FILES = AnnotationFiles(_rank, "{split}_qa.json, {split}.csv, and {split}_q.json with {split}_a.json")
"""The annotation files of all three sets."""


def answers_of(first: Row) -> Path:
    """Find the file of answers to a file of questions: the same name with _a for _q.

    Raises:
        DataError: there is no such file.
    """
    name = re.sub(r"_q(?=[._][^/]*$)", "_a", first.path.name)
    path = first.path.with_name(name)
    if not first.has("question") or path == first.path or not path.is_file():
        expected = f", and {name} is not beside it" if path != first.path else ""
        raise first.error(f"has no question with an answer; its fields are {', '.join(first.values)}{expected}")
    return path


def _read(dataset: str, rows: list[Row], answers_path: Path | None, naming: _Naming) -> Iterator[VideoQuestion]:
    answers = _by_id(read_rows(answers_path)) if answers_path else None
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    for row in rows:
        video = naming.clip_name(row.filled("video_name", "video_id", "video"))
        question_id = f"v_{video}_{counts[video]}"
        if row.has("question_id", "id", "qid"):
            question_id = row.filled("question_id", "id", "qid")
        counts[video] += 1
        if question_id in seen:
            raise row.error(f"question id {question_id} was there before")
        seen.add(question_id)
        answer_row = row if answers is None else answers.get(question_id)
        if answer_row is None:
            raise row.error(f"{answers_path} has no answer to question {question_id}")
        question = with_question_mark(row.filled("question"))
        kind = _question_type(dataset, question, answer_row)
        turn = Turn(question, answer_row.filled("answer"), question_id, kind, row.number - 1)
        yield VideoQuestion(video, turn, naming.file_names(video))


def _by_id(rows: Iterator[Row]) -> dict[str, Row]:
    by_id: dict[str, Row] = {}
    for row in rows:
        question_id = row.filled("question_id", "id", "qid")
        if question_id in by_id:
            raise row.error(f"question id {question_id} was there before, in row {by_id[question_id].number}")
        by_id[question_id] = row
    return by_id


def _question_type(dataset: str, question: str, answer: Row) -> str:
    if dataset != "activitynet":
        first = question.split(maxsplit=1)[0].lower()
        return first if first in QUESTION_WORDS else "other"
    number = answer.text("type")
    if not number.isdecimal() or int(number) >= len(ACTIVITYNET_TYPES):
        raise answer.error(f"type is {number}, but has to be from 0 to {len(ACTIVITYNET_TYPES) - 1}")
    return ACTIVITYNET_TYPES[int(number)]


@dataclass(frozen=True)
class _Naming:
    """Functions from a video's name in annotations to its clip's name, and from there to the names of its file."""

    clip_name: Callable[[str], str]
    file_names: Callable[[str], tuple[str, ...]]


def _naming(dataset: str, folder: Path, tree: Tree) -> _Naming:
    if dataset == "msvd":
        mapping = find_mapping(folder, tree)
        clip_of = {} if mapping is None else read_mapping(mapping)
        number_of = {clip: number for number, clip in clip_of.items()}
        return _Naming(
            lambda name: clip_of.get(_numbered("vid", name), _numbered("vid", name)),
            lambda clip: (clip, number_of.get(clip, clip)),
        )
    if dataset == "msrvtt":
        return _Naming(lambda name: _numbered("video", name), lambda clip: (clip,))
    # An id is eleven characters and may itself begin with "v_".
    return _Naming(lambda name: name.removeprefix("v_") if len(name) == 13 else name, lambda clip: (clip,))


def _numbered(prefix: str, name: str) -> str:
    return f"{prefix}{name}" if name.isdecimal() else name


def find_mapping(folder: Path, tree: Tree) -> Path | None:
    """Find youtube_mapping.txt in a folder (that of the annotations), or else nearest to the tree's root."""
    if (folder / MAPPING_NAME).is_file():
        return folder / MAPPING_NAME
    return next((path for path in tree.annotations if path.name == MAPPING_NAME), None)


def read_mapping(path: Path) -> dict[str, str]:
    """Read MSVD's clip names by "vid<n>", from lines "<clip name> vid<n>" (with CR LF in the published file).

    Raises:
        DataError: the file cannot be read, or a line has another form.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match line.split():
            case []:
                continue
            case [clip, video] if re.fullmatch(r"vid\d+", video) and video not in names:
                names[video] = clip
            case _:
                raise DataError(
                    f'{path}, line {number}: is {line!r:.80}, but has to be "<clip name> vid<n>", each n once'
                )
    return names
