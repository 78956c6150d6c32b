"""The questions that a report shows: which they are, and that Markdown makes nothing else of their texts."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest

from voco_video.scoring.predictions import Prediction
from voco_video.scoring.report.samples import SampleFrames, sample_lines, sample_predictions
from voco_video.scoring.report.writing import fact_lines, folded_lines

ONE = Prediction("clip", "who?", "dog", "q0", "who", 0, "the dog", confidence=0.5)


def many(count: int) -> list[Prediction]:
    return [replace(ONE, question_id=f"q{n}", row=n, question=f"question {n}?") for n in range(count)]


@pytest.mark.parametrize("count", [0, 1, 10, 1000])
def test_ten_are_drawn_from_all_and_always_the_same(count):
    drawn = sample_predictions(many(count))
    assert len(drawn) == min(count, 10)
    assert drawn == sorted(drawn, key=lambda p: p.row)
    assert drawn == sample_predictions(many(count)[::-1])
    if count == 1000:
        assert drawn[-1].row > 500, "not the first ten"
        assert sample_lines(many(count), {})[0] == "## 10 questions, drawn at random"
    if count == 10:
        assert sample_lines(many(count), {})[0] == "## All questions"


def cells_of(*predictions: Prediction, **frames: SampleFrames) -> list[list[str]]:
    """The table's rows as cells, which is how Markdown reads it: one line a row, bars between cells."""
    header, rule, *rows = [line for line in sample_lines(predictions, frames) if line.startswith("|")]
    assert set(rule) == set("|- ")
    num_cells = header.count(" | ") + 1
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in rows]
    assert all(len(row) == num_cells for row in cells)
    return cells


@pytest.mark.parametrize(
    "text",
    [
        "a | b",
        "*bold* _x_ `code`",
        "<b>&amp;</b>",
        "[link](http://x)",
        "$x_1$ ~~gone~~",
        r"back\slash",
        ":smile:",
        "中文 שלום 👍",
    ],
)
def test_a_text_is_shown_as_it_is(text):
    ((question, answer, reference),) = cells_of(replace(ONE, question=text, prediction=text, answer=text))
    assert html.unescape(question).startswith(f"{text}<br><sub>who · clip</sub>")
    assert html.unescape(answer) == f"{text}<br>**right**, confidence 50%"
    assert html.unescape(reference) == text
    assert not re.search(r"[|*_`$~\\\[\]]", reference)


def test_long_and_broken_texts():
    ((question, answer, _),) = cells_of(replace(ONE, question="first\r\nsecond\n", prediction="word " * 1000))
    assert question.startswith("first<br>second<br><sub>")
    assert "… (4399 more characters)<br>**wrong**" in answer
    assert len(answer) < 700


def test_what_there_is_not_is_said():
    rows = cells_of(
        replace(ONE, prediction=None, confidence=None, status="missing"),
        replace(ONE, question_id="q1", prediction=" ", confidence=None),
        replace(ONE, question_id="q2", answer="B", options=("cat", "dog"), prediction="B. dog"),
        replace(ONE, question_id="q3", answer="", options=("cat", "dog"), prediction="A"),
    )
    assert rows[0][1] == "(none: the video is missing)"
    assert rows[1][1] == "(an empty answer)<br>**wrong**"
    assert rows[2][0].startswith("who?<br>A. cat<br>B. dog<br>")
    assert "**right**" in rows[2][1]
    assert rows[3][1:] == ["A<br>confidence 50%", "(not published)"]


def test_frames_have_a_column_where_there_are_any():
    frames = {"q0": SampleFrames("frames/question-0.jpg", "4 of its 9 frames: 0:00.00")}
    rows = cells_of(ONE, replace(ONE, question_id="q1", row=1), **frames)
    assert rows[0][3] == (
        '<img src="frames/question-0.jpg" width="320" alt="frames of clip"><br><sub>4 of its 9 frames: 0:00.00</sub>'
    )
    assert rows[1][3] == "(no frames: the video cannot be read)"


def test_settings_are_a_folded_table():
    lines = fact_lines({"k": 8, "cache": {"fit": {"mode": "a|b"}, "none": {}}, "command": "voco-video `eval`"})
    assert lines[2:] == [
        "| `k` | `` 8 `` |",
        r'| `cache.fit.mode` | `` "a\|b" `` |',
        "| `cache.none` | `` {} `` |",
        '| `command` | `` "voco-video `eval`" `` |',
    ]
    folded = folded_lines("The run", lines)
    assert folded[:3] == ["<details>", "<summary>The run</summary>", ""], "Markdown is read again after an empty line"
    assert folded[-3:] == ["", "</details>", ""]
