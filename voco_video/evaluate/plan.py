"""Which questions are asked, and which of them are still to be asked."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voco_video.data.samples import Dataset, Turn
from voco_video.errors import DataError, UsageError
from voco_video.evaluate.options import EvalOptions
from voco_video.scoring.predictions import Prediction


@dataclass(frozen=True)
class Asked:
    """A video with the questions to ask about it, in published order; the path is None where it is missing."""

    video: str
    path: Path | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Job:
    """Questions about one video, and the budgets from which they have not been answered yet."""

    asked: Asked
    budgets: tuple[int | None, ...]

    @property
    def num_answers(self) -> int:
        """What there is to do."""
        return len(self.asked.turns) * len(self.budgets)


def choose_questions(dataset: Dataset, options: EvalOptions) -> list[Asked]:
    """The questions of a run, by video: all of the split, or as many as ``limit`` says, drawn by ``seed``.

    Raises:
        DataError: a sample that is not about one video, or no question to ask.
        UsageError: options that are for multiple choice where there is none, or the other way round.
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
    found = [
        Asked(sample.name, sample.media[0].path, tuple(turn for turn in sample.turns if turn.question_id in chosen))
        for sample in dataset.samples
    ]
    return [one for one in found if one.turns]


def _check_fits(dataset: Dataset, options: EvalOptions) -> None:
    prompt = options.prompt_for(is_multiple_choice=dataset.is_multiple_choice)
    if not dataset.is_multiple_choice:
        if options.answer_by != "letter":
            raise UsageError(f"answer_by {options.answer_by!r} is for multiple choice, which {dataset.name} is not")
        if "{options}" in prompt:
            raise UsageError(f"prompt {prompt!r} asks for {{options}}, but the questions of {dataset.name} have none")
        return
    if options.vocabulary:
        raise UsageError(f"a vocabulary cannot be ranked on {dataset.name}: each question has options of its own")
    if options.answer_by == "letter" and "{options}" not in prompt:
        raise UsageError(f"prompt {prompt!r} has no {{options}} in it, so letters would mean nothing")


def open_jobs(asked: Sequence[Asked], known: Mapping[int | None, Mapping[str, Prediction]]) -> list[Job]:
    """What is left to do: questions without a prediction, and those whose video could not be read last time.

    All of a video's questions are asked again if one of them has no answer, so that batches are always the same.
    """

    def is_settled(one: Asked, turn: Turn, predictions: Mapping[str, Prediction]) -> bool:
        prediction = predictions.get(turn.question_id)
        return prediction is not None and (prediction.status == "answered" or one.path is None)

    jobs = []
    for one in asked:
        budgets = [k for k, found in known.items() if not all(is_settled(one, turn, found) for turn in one.turns)]
        jobs += [Job(one, tuple(budgets))] if budgets else []
    return jobs
