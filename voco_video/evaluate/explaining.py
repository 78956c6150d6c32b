"""One question of several runs, laid open: the prompt, the frames that each run saw, and each run's answer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from voco_video.answer.moments import format_seconds
from voco_video.answer.page import BODY, INK, TITLE, WARNING_INK, Grid, Paragraph, Tile, page
from voco_video.answer.pictures import MAX_FRAMES, frames_at
from voco_video.data.choices import filled_prompt
from voco_video.data.letters import LETTERS
from voco_video.errors import FILE_ERRORS, UsageError
from voco_video.files.digest import digest_file
from voco_video.scoring.basis import Basis, FramesSeen, digest_of
from voco_video.scoring.metrics import METRICS, metrics_of
from voco_video.scoring.predictions import Prediction

_NUM_SHOWN = 3


@dataclass(frozen=True)
class ExplainedRun:
    """A run's answer to one question, and what it rests on.

    Attributes:
        name: of the run.
        prediction: its answer, with the question.
        asked: its prompt, with the question in it; None: nobody wrote it down.
        told: all words that the model read; None: nobody wrote them down.
        seen: the frames that it saw; None: nobody wrote them down.
    """

    name: str
    prediction: Prediction
    asked: str | None
    told: str | None
    seen: FramesSeen | None

    @property
    def answer(self) -> str:
        """The answer and what it is worth, in one line."""
        one = self.prediction
        if one.prediction is None:
            return f"no answer: {one.status}"
        facts = []
        if one.answer:
            facts.append("right" if METRICS[metrics_of([one])[0]](one) == 1 else "wrong")
        if one.confidence is not None:
            facts.append(f"confidence {one.confidence:.0%}")
        return f"{one.prediction.strip() or '(an empty answer)'} ({', '.join(facts)})" if facts else one.prediction

    @property
    def frames(self) -> str:
        """What it saw, in one line."""
        if self.seen is None:
            return "frames: nobody wrote down which"
        if not self.seen.times:
            return "frames: none"
        size = (
            "" if self.seen.frame_size is None else f" of {self.seen.frame_size[1]} x {self.seen.frame_size[0]} pixels"
        )
        shown = ", ".join(f"{time:.2f}" for time in self.seen.times[:8])
        more = ", …" if len(self.seen.times) > 8 else ""
        return f"frames: {len(self.seen.times)}{size}, {self.seen.seen_tokens} tokens, at {shown}{more} s"


def explain(
    question_id: str, runs: Mapping[str, Sequence[Prediction]], bases: Mapping[str, Basis]
) -> tuple[ExplainedRun, ...]:
    """Lay open how runs came to their answers to one question.

    Args:
        question_id: of a question that every run has.
        runs, bases: by the runs' names.

    Raises:
        UsageError: a run does not have the question.
    """
    explained = []
    for name, predictions in runs.items():
        one = next((p for p in predictions if p.question_id == question_id), None)
        if one is None:
            some = ", ".join(p.question_id for p in predictions[:_NUM_SHOWN])
            raise UsageError(f"{name} has no question {question_id!r}; its questions are called {some}, …")
        asked, told = prompt_of(one, bases[name])
        explained.append(ExplainedRun(name, one, asked, told, bases[name].seen_by(question_id)))
    return tuple(explained)


def prompt_of(one: Prediction, basis: Basis) -> tuple[str | None, str | None]:
    """Return a question's prompt, and all words around it: None where nobody wrote them down.

    Only one prompt of each type is written down in full. Another one is put together again from the run's settings,
    and counts only if it has the digest that was written down.
    """
    example = basis.examples.get(one.question_type)
    if example is not None and example.question_id == one.question_id:
        return example.asked, example.told or None
    template = basis.settings.get("prompt")
    if not isinstance(template, str):
        return None, None
    asked = filled_prompt(template, one.question, one.options)
    if digest_of(asked) != basis.prompt_of.get(one.question_id):
        return None, None
    if example is None or not example.told:
        return asked, None
    return asked, example.told.replace(example.asked.strip(), asked.strip())


def explained_lines(explained: Sequence[ExplainedRun]) -> list[str]:
    """Write runs' answers to a question for a terminal; a prompt that several runs have in common comes once."""
    one = explained[0].prediction
    lines = [f"question {one.question_id} on {one.video}: {one.question}"]
    lines += [f"  {letter}. {option}" for letter, option in zip(LETTERS, one.options)]
    lines += [f"reference answer: {one.answer or '(not published)'}"]
    for run in explained:
        lines += ["", f"{run.name}: {run.answer}", f"  {run.frames}"]
    prompts: dict[str | None, list[str]] = {}
    for run in explained:
        prompts.setdefault(run.told or run.asked, []).append(run.name)
    for prompt, names in prompts.items():
        lines += ["", f"prompt of {', '.join(names)}:"]
        lines += [f"  {line}" for line in ("(nobody wrote it down)" if prompt is None else prompt).splitlines()]
    return lines


def explained_picture(explained: Sequence[ExplainedRun]) -> Image.Image:
    """Draw a contact sheet of the frames that runs saw for a question, each run's below its answer."""
    one = explained[0].prediction
    about = f"{one.video} · question {one.question_id} · reference answer: {one.answer or '(not published)'}"
    blocks: list[Paragraph | Grid] = [Paragraph(one.question, TITLE, is_bold=True, ink=INK), Paragraph(about)]
    for run in explained:
        blocks += [Paragraph(f"{run.name}: {run.answer}", BODY, ink=INK), Paragraph(run.frames)]
        if run.seen is None or not run.seen.times:
            continue
        times = np.array(run.seen.times)
        if len(times) > MAX_FRAMES:
            times = times[np.linspace(0, len(times) - 1, MAX_FRAMES).round().astype(int)]
            blocks.append(Paragraph(f"{MAX_FRAMES} of them are drawn."))
        note = _note_on_file(run.seen)
        frames = frames_at(None if note else run.seen.source, times)
        if None in frames and not note:
            note = "The video cannot be read any more, so the frames themselves are missing."
        tiles = [Tile(frame, lines=(format_seconds(float(time)),)) for frame, time in zip(frames, times)]
        blocks += [Paragraph(note, ink=WARNING_INK), Grid(tiles, tile_height=110)]
    return page(blocks)


def _note_on_file(seen: FramesSeen) -> str:
    """Say why a run's frames cannot be shown: the file is gone, or holds something else by now; "" if they can."""
    if not os.path.isfile(seen.source):
        return f"{seen.source or 'The video'} is not there any more, so the frames themselves are missing."
    try:
        is_same = digest_file(Path(seen.source)) == seen.file
    except FILE_ERRORS as error:
        return f"The video cannot be read: {error}"
    return "" if is_same else f"{seen.source} is another file by now, so the frames that were seen are not shown."
