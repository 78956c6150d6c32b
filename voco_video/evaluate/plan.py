"""The questions of a run, and those of them that are not answered yet."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from voco_video.data.samples import Dataset, Media, Turn
from voco_video.errors import DataError, UsageError
from voco_video.evaluate.options import EvalOptions
from voco_video.scoring.predictions import Prediction


@dataclass(frozen=True)
class VideoQuestions:
    """A video and the questions about it, in published order; the path is None if the video is missing.

    `media` also has the window that they are about, and the set's file of what is said.
    """

    video: str
    path: Path | None
    turns: tuple[Turn, ...]
    media: Media | None = None


@dataclass(frozen=True)
class Job:
    """Questions about one video, and the budgets that have no answers to them yet."""

    questions: VideoQuestions
    budgets: tuple[int | None, ...]

    @property
    def num_answers(self) -> int:
        """Number of answers to give."""
        return len(self.questions.turns) * len(self.budgets)


@dataclass(frozen=True)
class JobDone:
    """What a job took.

    Attributes:
        num_answers: all of the job.
        num_frames: that its video was answered from; 0 where it is missing or cannot be decoded.
        from_cache: its video was compressed before.
    """

    num_answers: int
    num_frames: int
    from_cache: bool


def choose_questions(dataset: Dataset, options: EvalOptions) -> list[VideoQuestions]:
    """Choose a run's questions, grouped by video: all of the split, or ``limit`` of them, drawn by ``seed``.

    Raises:
        DataError: a sample that is not about one video, or no question to ask.
        UsageError: options for multiple choice on a set without it, or the other way round.
    """
    _check_fits(dataset, options)
    for sample in dataset.samples:
        if [media.kind for media in sample.media] != ["video"]:
            raise DataError(
                f"{dataset.annotations[0]}: {sample.name} is not about one video, so it cannot be evaluated"
            )
    pairs = dataset.questions()
    if options.limit is not None:
        pairs = [pair for pair in pairs if pair[0].has_all_media or not options.skip_missing]
        pairs = random.Random(options.seed).sample(pairs, min(options.limit, len(pairs)))
    if not pairs:
        raise DataError(f"{dataset.annotations[0]}: no question about a video that is there; look at --root")
    chosen = {turn.question_id for _, turn in pairs}
    videos = [
        VideoQuestions(
            sample.name,
            sample.media[0].path,
            tuple(turn for turn in sample.turns if turn.question_id in chosen),
            sample.media[0],
        )
        for sample in dataset.samples
    ]
    return [video for video in videos if video.turns]


def _check_fits(dataset: Dataset, options: EvalOptions) -> None:
    if options.subtitles != "none" and find_spec("pysubs2") is None:
        raise UsageError("subtitles need pysubs2: pip install 'voco-video[subtitles]'")
    prompt = options.prompt_for(is_multiple_choice=dataset.is_multiple_choice)
    if (options.answer_by == "find") > dataset.is_grounding:
        raise UsageError(f"answer_by 'find' is for questions of when something happens, unlike those of {dataset.name}")
    if not dataset.is_multiple_choice:
        if options.answer_by == "likelihood":
            raise UsageError(f"answer_by {options.answer_by!r} is for multiple choice, which {dataset.name} is not")
        if "{options" in prompt:
            raise UsageError(f"prompt {prompt!r} asks for {{options}}, but the questions of {dataset.name} have none")
        return
    if options.vocabulary:
        raise UsageError(f"a vocabulary cannot be ranked on {dataset.name}: each question has options of its own")
    shows_options = not dataset.prompt or "{options" in dataset.prompt
    if options.answer_by == "letter" and shows_options and "{options" not in prompt:
        raise UsageError(f"prompt {prompt!r} has no {{options}} in it, so letters would mean nothing")


def open_jobs(questions: Sequence[VideoQuestions], known: Mapping[int | None, Mapping[str, Prediction]]) -> list[Job]:
    """List the questions without a prediction, and those whose video could not be read last time.

    All of a video's questions are asked again if one of them has no answer, so that batches are always the same.
    """

    def is_settled(video: VideoQuestions, predictions: Mapping[str, Prediction]) -> bool:
        found = [predictions.get(turn.question_id) for turn in video.turns]
        return all(p is not None and (p.status == "answered" or video.path is None) for p in found)

    jobs = [
        Job(video, tuple(k for k, predictions in known.items() if not is_settled(video, predictions)))
        for video in questions
    ]
    return [job for job in jobs if job.budgets]
