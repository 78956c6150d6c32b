"""What the public sets of questions about videos share: their files' names, their splits, one sample a video."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from voco_video.data.files import Tree
from voco_video.data.samples import Media, Sample, Turn
from voco_video.errors import DataError


@dataclass(frozen=True)
class VideoQuestion:
    """A question about a video.

    Attributes:
        video: the video's name in the set.
        turn: the question and its answer.
        names: names that the video's file may have, the better ones first.
        folder: the folder that the file is in; "" for any.
    """

    video: str
    turn: Turn
    names: tuple[str, ...]
    folder: str = ""


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
    return tuple(Sample(video, (Media("video", video, paths[video]),), tuple(turns[video])) for video in turns)


def with_question_mark(question: str) -> str:
    """Put "?" at the end of a question that has no mark there, as in ActivityNet-QA and the CSV files.

    >>> with_question_mark("is the athlete wearing trousers")
    'is the athlete wearing trousers?'
    """
    return question if question.endswith(("?", ".", "!")) else f"{question}?"
