"""The data of training and evaluation: media, with questions and answers about them.

    annotation file -> Dataset(samples) -> Sample(media, turns) -> Media(path), Turn(question, answer)

Every loader returns these, whatever the layout of its files. Media without a file stay in their sample, with no path:
the reader of the samples decides whether to leave them out or to count their questions as unanswered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voco_video.data.spans import Span

BETWEEN_TYPES = " + "
"""Stands between the types of a question that has several, in each of which it counts."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: the question's text, without placeholders for media.
        answer: the reference answer, as published; for multiple choice its letter, or "" if it was never published.
        question_id: the published id as text, unique in its split; "" in conversations.
        question_type: the type that results are grouped by, such as "who" or "colour"; "" in conversations.
        row: its row in the annotation file, counting from 0: the published order.
        options: options of multiple choice, without letters, A first; empty otherwise.
        duration_class: class that results are also grouped by, such as "short"; "" if the set has no such classes.
        windows: of temporal grounding, when it happens, in seconds; `answer` is then the same as text.
    """

    question: str
    answer: str
    question_id: str = ""
    question_type: str = ""
    row: int = 0
    options: tuple[str, ...] = ()
    duration_class: str = ""
    windows: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Media:
    """A video or an image.

    Attributes:
        kind: "video" or "image".
        name: its name in the annotations.
        path: its file; None if no such file was found.
        window: the part of a video that the questions are about, in seconds; None for all of it.
        subtitles: the set's own file of what is said in a video; None where it has none.
        subtitles_start_seconds: the time in that file at which the video begins.
    """

    kind: str
    name: str
    path: Path | None
    window: Span | None = None
    subtitles: Path | None = None
    subtitles_start_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Media and one conversation about them, or all of a split's questions about one video.

    Attributes:
        name: the video's name, or the row's id.
        media: in the order of their placeholders, all of them before the first question; empty for text alone.
        turns: in the file's order.
        system: the system message; "" for the default of the chat template.
    """

    name: str
    media: tuple[Media, ...]
    turns: tuple[Turn, ...]
    system: str = ""

    @property
    def has_all_media(self) -> bool:
        """Whether every file was found; True for text alone."""
        return all(media.path is not None for media in self.media)


@dataclass(frozen=True)
class SplitSize:
    """The published size of a split; None for numbers that were never published."""

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
        num_skipped_turns: turns that belong to no question with an answer: an answer before the first question, or a
            question after the last answer.
        num_skipped_rows: conversations that have only such turns, and so give no sample.
        prompt: what the set's authors ask, see `voco_video.data.choices.filled_prompt`; "" for this package's prompt.
        prompt_with_subtitles: the same where the model is told what is said; "" for no other.
    """

    name: str
    split: str
    annotations: tuple[Path, ...]
    samples: tuple[Sample, ...]
    num_skipped_turns: int = 0
    num_skipped_rows: int = 0
    prompt: str = ""
    prompt_with_subtitles: str = ""

    @property
    def num_questions(self) -> int:
        """Number of questions of all samples."""
        return sum(len(sample.turns) for sample in self.samples)

    @property
    def is_multiple_choice(self) -> bool:
        """Whether its questions have options."""
        return any(turn.options for sample in self.samples for turn in sample.turns)

    @property
    def is_grounding(self) -> bool:
        """Whether its questions ask when something happens."""
        return any(turn.windows for sample in self.samples for turn in sample.turns)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the media without a file, each once."""
        names = (media.name for sample in self.samples for media in sample.media if media.path is None)
        return tuple(dict.fromkeys(names))

    def questions(self) -> list[tuple[Sample, Turn]]:
        """Return every question with its sample, in the published order, which may separate a video's questions."""
        pairs = [(sample, turn) for sample in self.samples for turn in sample.turns]
        return sorted(pairs, key=lambda pair: pair[1].row)
