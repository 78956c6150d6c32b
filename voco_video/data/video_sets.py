"""What the public sets of questions about videos share: their files' names, their splits, one sample a video."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from voco_video.data.files import Row, Tree
from voco_video.data.letters import LETTERS
from voco_video.data.samples import Media, Sample, SplitSize, Turn
from voco_video.data.spans import Span, ordered
from voco_video.errors import DataError


@dataclass(frozen=True)
class Origin:
    """The addresses of a set's annotations and media; of each of its `folders` if it comes in several parts."""

    annotations: str
    media: str = ""
    folders: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoQuestion:
    """A question about a video.

    Attributes:
        video: the video's name in the set.
        turn: the question and its answer.
        names: names that the video's file may have, the better ones first; one with folders in it
            ("perception/videos/video_1") is the end of a path.
        folder: the folder that the file is in; "" for any.
        window: the part of the video that the question is about; None for all of it.
        cut_in: what the names of folders end with whose videos are cut to their windows already; "" for none.
        subtitles: the end of the path of the set's own file of what is said; "" for none.
        subtitles_start_seconds: the time in that file at which the video begins.
    """

    video: str
    turn: Turn
    names: tuple[str, ...]
    folder: str = ""
    window: Span | None = None
    cut_in: str = ""
    subtitles: str = ""
    subtitles_start_seconds: float = 0.0

    def media(self, path: Path | None, tree: Tree) -> Media:
        """Make the medium that the question is about, with its file."""
        subtitles = tree.file(self.subtitles) if self.subtitles else None
        return Media("video", self.video, path, self.window_in(path), subtitles, self.subtitles_start_seconds)

    def window_in(self, path: Path | None) -> Span | None:
        """Return the window, or None where this file is cut to it already."""
        is_cut = self.cut_in and path is not None and any(part.endswith(self.cut_in) for part in path.parent.parts)
        return None if is_cut else self.window


@dataclass(frozen=True)
class AnnotationFiles:
    """The names of a set's annotation files.

    Attributes:
        rank: says how well a file fits, from its name, its depth below the root and the split; the lowest rank is best,
            None means not at all.
        names: the names in words, with {split} where the split's name goes.
        several: whether all files of the best rank and folder belong together.
        beside: the name of a further file that belongs to them, if it is there.
    """

    rank: Callable[[str, int, str], tuple[int, ...] | None]
    names: str
    several: bool = False
    beside: str = ""

    def find(self, place: str | os.PathLike[str], split: str) -> tuple[Path, ...]:
        """Find a split's annotations: the place itself if it is a file, else the best match below it.

        Returns:
            The files; empty if there are none.

        Raises:
            DataError: no such place, or two files that fit equally well.
        """
        if Path(place).is_file():
            return self._with_beside(Path(place))
        tree = Tree(Path(place))
        ranks = {path: self.rank(path.name, tree.depth(path), split) for path in tree.annotations}
        best = min((rank for rank in ranks.values() if rank is not None), default=None)
        paths = [path for path, rank in ranks.items() if rank is not None and rank == best]
        if self.several:
            return tuple(path for path in paths if path.parent == paths[0].parent)
        if len(paths) > 1:
            raise DataError(f"{paths[0]} and {paths[1]} could both be the {split} split's annotations: say which")
        return self._with_beside(paths[0]) if paths else ()

    def absent(self, place: str | os.PathLike[str], split: str) -> str:
        """Say that a place has no annotations of a split."""
        looked_for = self.names.replace("{split}", split)
        return f"{place} has no annotations of the {split} split (looked for {looked_for})"

    def _with_beside(self, path: Path) -> tuple[Path, ...]:
        beside = path.with_name(self.beside) if self.beside else None
        return (path, beside) if beside is not None and beside.is_file() else (path,)


@dataclass(frozen=True)
class VideoSet:
    """A public set: its files, its splits, how its rows become questions, and what its authors ask.

    Attributes:
        name: the name in commands.
        kind: "open", "choice", or "grounding": questions of when something happens.
        sizes: published sizes by split; the first split is the default.
        files: the annotation files, by split; under "" those of all other splits.
        read: makes questions of the files that were found, given the split.
        origin: where the set is to be had.
        prompt: what the authors' own evaluation asks, see `filled_prompt`; "" for this package's.
    """

    name: str
    kind: str
    sizes: Mapping[str, SplitSize]
    files: Mapping[str, AnnotationFiles]
    read: Callable[[Sequence[Path], str], Iterable[VideoQuestion]]
    origin: Origin
    prompt: str = ""

    def files_of(self, split: str) -> AnnotationFiles:
        """Return the names of a split's annotation files."""
        return self.files.get(split) or self.files[""]


def named(pattern: str, names: str, *, several: bool = False) -> AnnotationFiles:
    """Describe annotation files by a regular expression for their names, in which {split} is the split's name.

    Args:
        pattern: of the file's whole name; of several that fit, the one nearest to the root is taken.
        names: in words.
        several: whether all that fit, in one folder, belong together.
    """

    def rank(name: str, depth: int, split: str) -> tuple[int, ...] | None:
        return (depth,) if re.fullmatch(pattern.replace("{split}", split), name) else None

    return AnnotationFiles(rank, names, several=several)


def samples_of(questions: Sequence[VideoQuestion], tree: Tree) -> tuple[Sample, ...]:
    """Group questions into one sample a video; videos without a file have no path."""
    turns: dict[str, list[Turn]] = {}
    first: dict[str, VideoQuestion] = {}
    for question in questions:
        turns.setdefault(question.video, []).append(question.turn)
        first.setdefault(question.video, question)
    # If some of the folders are there, a video of another folder is missing, though one of them may have its name.
    folders = {question.folder for question in questions} & tree.clips_by_folder.keys()
    paths = {
        video: tree.clip(question.names, folder=question.folder) if not folders or question.folder in folders else None
        for video, question in first.items()
    }
    return tuple(Sample(video, (first[video].media(paths[video], tree),), tuple(turns[video])) for video in turns)


def with_question_mark(question: str) -> str:
    """Put "?" at the end of a question that has no mark there, as in ActivityNet-QA and the CSV files.

    >>> with_question_mark("is the athlete wearing trousers")
    'is the athlete wearing trousers?'
    """
    return question if question.endswith(("?", ".", "!")) else f"{question}?"


def rows_in(row: Row, name: str) -> Iterator[Row]:
    """Yield the rows that a field of a row holds, with the number of that row.

    Raises:
        DataError: the field holds something else.
    """
    values = row.values.get(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise row.error(f"{name!r} is {values!r:.80}, but has to be a list of rows")
    yield from (Row(row.path, row.number, value) for value in values)


def checked_options(row: Row, options: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a question with one option or none, or with more than there are letters.

    Raises:
        DataError: it has.
    """
    if not 2 <= len(options) <= len(LETTERS):
        raise row.error(f"has {len(options)} options, but has to have 2 to {len(LETTERS)}")
    return options


def letter_at(row: Row, place: object, options: Sequence[str]) -> str:
    """Return the letter of an option given by its place, counting from 0.

    Raises:
        DataError: there is no such place.
    """
    text = str(place)
    if not (text.isascii() and text.isdigit()) or int(text) >= len(options):
        raise row.error(f"answer is {text!r:.80}, but has to be a place from 0 to {len(options) - 1}")
    return LETTERS[int(text)]


def checked_letter(row: Row, letter: str, options: Sequence[str]) -> str:
    """Return the letter of an option as a capital.

    Raises:
        DataError: no option has this letter.
    """
    letter = letter.strip().upper()
    if letter not in LETTERS[: len(options)] or len(letter) != 1:
        raise row.error(f"answer is {letter!r:.80}, but has to be one of {', '.join(LETTERS[: len(options)])}")
    return letter


def letter_of(row: Row, answer: str, options: Sequence[str]) -> str:
    """Return the letter of the option that is the answer; of equal ones the last, as in the sets' own scripts.

    Raises:
        DataError: none is.
    """
    if answer not in options:
        raise row.error(f"answer is {answer!r:.80}, but is none of the options {', '.join(options):.200}")
    return LETTERS[len(options) - 1 - list(options)[::-1].index(answer)]


def window_of(row: Row, value: object) -> Span:
    """Read a window in seconds from a pair of numbers; the smaller one is its start.

    Raises:
        DataError: it is no such pair.
    """
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    if not is_pair or not all(_is_time(time) for time in value):  # type: ignore[attr-defined]
        raise row.error(f"a window is {value!r:.80}, but has to be two numbers of seconds")
    return ordered([float(time) for time in value])  # type: ignore[attr-defined]


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
