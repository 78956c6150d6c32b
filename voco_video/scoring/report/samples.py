"""Some questions of a run with their answers, for people to look at."""

from __future__ import annotations

import html
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from voco_video.data.letters import LETTERS
from voco_video.scoring.metrics import METRICS, best_iou, metrics_of, with_answers
from voco_video.scoring.predictions import Prediction

NUM_SAMPLES, _SEED = 10, 0
_MOST_CHARACTERS = 600  # of a text in the table
_MARKS = str.maketrans({mark: f"&#{ord(mark)};" for mark in "|*_`[]$~\\:"})  # what Markdown makes something of


@dataclass(frozen=True)
class SampleFrames:
    """A picture of frames of a question's video.

    Attributes:
        picture: the picture's path, as seen from the report.
        text: what it shows, such as "4 of 10 frames: 0:00.00, ...".
    """

    picture: str
    text: str


def sample_predictions(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Draw the questions that a report shows, in published order; the same for all budgets of a run.

    >>> sample_predictions([])
    []
    """
    in_order = sorted(predictions, key=lambda p: (p.row, p.question_id))
    drawn = random.Random(_SEED).sample(range(len(in_order)), min(NUM_SAMPLES, len(in_order)))
    return [in_order[place] for place in sorted(drawn)]


def sample_lines(predictions: Sequence[Prediction], frames: Mapping[str, SampleFrames]) -> list[str]:
    """Write the sampled questions as a Markdown table.

    Args:
        predictions: all of a run.
        frames: the frames of questions' videos, by question id; without any, the table has no column for them.
    """
    samples = sample_predictions(predictions)
    if not samples:
        return []
    first = metrics_of(with_answers(predictions) or predictions)[0]
    columns = ["question", "model's answer", "reference answer", *(["frames"] if frames else [])]
    rows = []
    for one in samples:
        row = [_question(one), _answer(one, metric=first), _cell(one.answer) or "(not published)"]
        rows.append([*row, *([_frames(frames.get(one.question_id), one)] if frames else [])])
    which = "All questions" if len(samples) == len(predictions) else f"{len(samples)} questions, drawn at random"
    return [
        f"## {which}",
        "",
        *(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)),
        "",
    ]


def _question(one: Prediction) -> str:
    options = [f"<br>{letter}. {_cell(option)}" for letter, option in zip(LETTERS, one.options)]
    about = " · ".join(_cell(text) for text in (one.question_type, one.video) if text)
    return f"{_cell(one.question)}{''.join(options)}<br><sub>{about}</sub>"


def _answer(one: Prediction, *, metric: str) -> str:
    if one.prediction is None:
        return f"(none: the video is {one.status})"
    facts = []
    if one.windows:
        facts.append(f"IoU {best_iou(one):.2f}")
    elif one.answer:
        facts.append("**right**" if METRICS[metric](one) == 1 else "**wrong**")
    if one.confidence is not None:
        facts.append(f"confidence {one.confidence:.0%}")
    return f"{_cell(one.prediction) or '(an empty answer)'}<br>{', '.join(facts)}"


def _frames(frames: SampleFrames | None, one: Prediction) -> str:
    if frames is None:
        return "(no frames: the video cannot be read)"
    picture = html.escape(frames.picture)
    return f'<img src="{picture}" width="320" alt="frames of {_cell(one.video)}"><br><sub>{frames.text}</sub>'


def _cell(text: str) -> str:
    r"""Write a text so that it stands in a cell of a Markdown table as it is.

    >>> _cell("a|b <i>\n*c*")
    'a&#124;b &lt;i&gt;<br>&#42;c&#42;'
    """
    shown = text.strip()
    if len(shown) > _MOST_CHARACTERS:
        shown = f"{shown[:_MOST_CHARACTERS]}… ({len(shown) - _MOST_CHARACTERS} more characters)"
    lines = [html.escape(line, quote=False).replace("&", "\0") for line in shown.splitlines()]
    return "<br>".join(line.translate(_MARKS).replace("\0", "&") for line in lines)
