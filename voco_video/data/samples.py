"""What training and evaluation read: media, and what is said about them.

    annotation file -> Dataset(samples) -> Sample(media, turns) -> Media(path), Turn(question, answer)

Every loader gives these, whatever the layout of its files. A file that is not there keeps its place, with no path:
whoever reads the samples decides whether to leave it out (`with_media`) or to count it as unanswered.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from voco_video.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: as it is to be asked; without placeholders for media.
        answer: the reference answer, as published; of multiple choice its letter, "" where it was never published.
        question_id: the published id as text, unique in its split; "" in conversations.
        question_type: what results are grouped by, such as "who" or "colour"; "" in conversations.
        row: which row of the annotation file it comes from, counting from 0: the published order.
        options: of multiple choice, without letters, A first; empty otherwise.
        duration_class: what results are also grouped by, such as "short"; "" where the set has no such classes.
    """

    question: str
    answer: str
    question_id: str = ""
    question_type: str = ""
    row: int = 0
    options: tuple[str, ...] = ()
    duration_class: str = ""


@dataclass(frozen=True, slots=True)
class Media:
    """A video or an image.

    Attributes:
        kind: "video" or "image".
        name: what the annotations call it.
        path: where it is; None where no such file was found.
    """

    kind: str
    name: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class Sample:
    """Media and one conversation about them, or all of a split's questions about one video.

    Attributes:
        name: the video's name, or the row's id.
        media: in the order of their placeholders, all of them before the first question; empty for text alone.
        turns: in the file's order.
        system: the system message; "" for the model's own.
    """

    name: str
    media: tuple[Media, ...]
    turns: tuple[Turn, ...]
    system: str = ""

    @property
    def has_all_media(self) -> bool:
        """Whether every file was found; true of text alone."""
        return all(media.path is not None for media in self.media)


@dataclass(frozen=True)
class SplitSize:
    """What a split has as published; None where that was never said."""

    num_samples: int | None
    num_questions: int | None


@dataclass(frozen=True)
class Dataset:
    """The samples of a split.

    Attributes:
        name: "msvd", "mlvu" or another set's name, or the conversation file's.
        split: "train", "val" or "test"; "" for a conversation file.
        annotations: the files that were read.
        samples: in the order in which the annotations first name them.
        num_skipped_turns: what conversations hold that is no question with an answer: an answer before the first
            question, a question after the last answer.
        num_skipped_rows: conversations that hold nothing else, and so give no sample.
    """

    name: str
    split: str
    annotations: tuple[Path, ...]
    samples: tuple[Sample, ...]
    num_skipped_turns: int = 0
    num_skipped_rows: int = 0

    @property
    def num_questions(self) -> int:
        """Questions of all samples."""
        return sum(len(sample.turns) for sample in self.samples)

    @property
    def is_multiple_choice(self) -> bool:
        """Whether its questions have options."""
        return any(turn.options for sample in self.samples for turn in sample.turns)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the media without a file, each once."""
        names = (media.name for sample in self.samples for media in sample.media if media.path is None)
        return tuple(dict.fromkeys(names))

    def questions(self) -> list[tuple[Sample, Turn]]:
        """Every question with its sample, in the published order, which need not keep a video's questions together."""
        pairs = [(sample, turn) for sample in self.samples for turn in sample.turns]
        return sorted(pairs, key=lambda pair: pair[1].row)

    def with_media(self, *, max_missing: int) -> Dataset:
        """The samples whose media are all there; what is left out is logged.

        Args:
            max_missing: how many samples may be left out.

        Raises:
            DataError: more than that would be, or none would stay.
        """
        kept = tuple(sample for sample in self.samples if sample.has_all_media)
        num_missing = len(self.samples) - len(kept)
        if num_missing == 0:
            return self
        lost = f"{num_missing} of {len(self.samples)} samples of {self.annotations[0]} have no media file"
        names = f"{', '.join(self.missing[:3])}{', ...' if len(self.missing) > 3 else ''}"
        if num_missing > max_missing or not kept:
            allowed = f"at most {max_missing} may be left out" if kept else "none would stay"
            raise DataError(f"{lost} ({names}), but {allowed}; `voco-video data check` lists them")
        log.warning("%s (%s) and are left out", lost, names)
        return replace(self, samples=kept)
