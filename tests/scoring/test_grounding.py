"""Scores of temporal grounding, and of questions with several types, against values computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from voco_video.errors import DataError
from voco_video.scoring.comparison import compare
from voco_video.scoring.metrics import GROUNDING_METRICS, score
from voco_video.scoring.predictions import Prediction, read_predictions, write_predictions
from voco_video.scoring.report import score_file, write_report


def predicted(number: int, answer: str | None, *windows: tuple[float, float]) -> Prediction:
    status = "missing" if answer is None else "answered"
    return Prediction(
        f"video{number}", "it rains", "-", str(number), "", number, answer, status=status, windows=windows
    )


ANSWERS = (
    predicted(0, "It happens in 0 - 10 seconds.", (0, 10)),  # IoU 1
    predicted(1, "from 0:05 to 0:15", (0, 10)),  # 5 / 15
    predicted(2, "0 - 6", (0, 10), (50, 60)),  # the better of 0.6 and 0
    predicted(3, "50 - 60, 0 - 10", (0, 10)),  # the first counts: 0
    predicted(4, "I do not know.", (0, 10)),
    predicted(5, None, (0, 10)),
)


def test_metrics_by_hand() -> None:
    overall = score(ANSWERS).overall
    assert tuple(overall.metrics) == GROUNDING_METRICS
    assert overall["miou"].value == pytest.approx((1 + 1 / 3 + 0.6) / 6)
    assert overall["r1_iou_0.3"].value == pytest.approx(3 / 6)
    assert overall["r1_iou_0.5"].value == pytest.approx(2 / 6)
    assert overall["r1_iou_0.7"].value == pytest.approx(1 / 6)
    assert overall.num_unanswered == 1


def test_a_threshold_counts_what_reaches_it() -> None:
    overall = score([predicted(0, "0 - 5", (0, 10)), predicted(1, "0 - 3", (0, 10))]).overall
    assert (overall["r1_iou_0.5"].value, overall["r1_iou_0.3"].value) == (0.5, 1)


def test_windows_on_disk(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.jsonl", ANSWERS)
    assert read_predictions(tmp_path / "a.jsonl") == ANSWERS
    line = ANSWERS[0].json_line()
    assert '"windows": [[0, 10]]' in line
    with pytest.raises(DataError, match=r"windows has \[0\], but has to be a list of pairs"):
        Prediction.from_json_line(line.replace("[[0, 10]]", "[[0]]"))
    assert "windows" not in replace(ANSWERS[0], windows=()).json_line()


def test_report_and_comparison(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.jsonl", ANSWERS)
    report = score_file(tmp_path / "a.jsonl")
    assert "1 of 5 answers name no two times and count as wrong." in report.notes
    write_report(report, tmp_path / "scores")
    text = (tmp_path / "scores.md").read_text()
    assert "R@1 IoU 0.5 %" in text
    assert "IoU 0.60" in text
    assert "the first stretch that an answer names" in text
    right = [replace(one, prediction="0 - 10", status="answered") for one in ANSWERS]
    comparison = compare({"a": ANSWERS, "b": right}, metric="r1_iou_0.7")
    assert comparison.differences[0].difference.value == pytest.approx(5 / 6)
    assert comparison.differences[0].num_only_this == 5


def test_a_question_with_two_types_counts_in_both() -> None:
    """As LVBench's own compute_accuracy.py counts."""

    def about(number: int, kind: str, letter: str) -> Prediction:
        return Prediction("v", "?", "A", str(number), kind, number, letter, options=("x", "y"), duration_class="60 s")

    scores = score([about(0, "reasoning + summarization", "A"), about(1, "reasoning", "B"), about(2, "", "A")])
    assert {g.name: (g.num_questions, g["accuracy"].value) for g in scores.groups} == {
        "reasoning": (2, 0.5),
        "summarization": (1, 1.0),
        "60 s": (3, pytest.approx(2 / 3)),
        "all": (3, pytest.approx(2 / 3)),
    }


def test_lengths_are_in_the_order_of_their_numbers() -> None:
    lengths = ["10800 s", "60 s", "up to 600 s", "300 s"]
    rows = [
        Prediction("v", "?", "A", str(n), "", n, "A", options=("x", "y"), duration_class=length)
        for n, length in enumerate(lengths)
    ]
    assert [group.name for group in score(rows).durations] == ["60 s", "300 s", "up to 600 s", "10800 s"]
