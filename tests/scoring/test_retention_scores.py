"""Retention against values computed by hand, and what is said where there is none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from voco_video.errors import DataError
from voco_video.scoring.predictions import Prediction
from voco_video.scoring.report.retention import retention_notes, retention_table, with_mean, write_retention
from voco_video.scoring.retention import TaskRetention, mean_retention, task_retention


def run(right: list[int], num_videos: int = 10) -> list[Prediction]:
    return [
        Prediction(f"v{n % num_videos}", "?", "A", str(n), "", n, "A" if is_right else "B", options=("x", "y"))
        for n, is_right in enumerate(right)
    ]


def measured(none: list[int], row: list[int], full: list[int], **options) -> TaskRetention:
    runs = {"full": run(full), "voco k=1": run(row), "none": run(none)}
    return task_retention("set test", runs, tokens_per_frame={"none": 0, "voco k=1": 1, "full": 64}, **options)


HALF, THREE, ALL = [1, 1, 0, 0] * 10, [1, 1, 1, 0] * 10, [1, 1, 1, 1] * 10


def test_by_hand() -> None:
    task = measured(HALF, THREE, ALL)
    assert [row.name for row in task.rows] == ["none", "voco k=1", "full"]
    assert [row.score.value for row in task.rows] == [0.5, 0.75, 1.0]
    assert [row.retention.value for row in task.rows] == [0.0, 0.5, 1.0]
    assert (task.metric, task.num_questions, task.num_videos, task.num_left_out) == ("accuracy", 40, 10, 0)
    assert task["voco k=1"].tokens_per_frame == 1
    # none and full are 0 and 1 in every draw.
    assert (task["none"].retention.low, task["full"].retention.high) == (0.0, 1.0)


def test_intervals_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(3)
    none, row, full = (rng.integers(0, 2, 60).tolist() for _ in range(3))
    full = [max(a, b) for a, b in zip(full, none)]
    task = measured(none, row, full, num_resamples=500, seed=1)
    draws = np.random.default_rng(1).multinomial(10, np.full(10, 0.1), size=500)
    sums = {
        name: np.array([sum(values[n] for n in range(60) if n % 10 == video) for video in range(10)])
        for name, values in (("none", none), ("row", row), ("full", full))
    }
    n, r, f = (draws @ sums[name] for name in ("none", "row", "full"))
    rates = np.where(f > n, (r - n) / np.where(f > n, f - n, 1), np.nan)
    low, high = np.nanpercentile(rates, [2.5, 97.5])
    assert (task["voco k=1"].retention.low, task["voco k=1"].retention.high) == pytest.approx((low, high))
    assert task.num_left_out == np.isnan(rates).sum()


def test_a_row_may_lose_or_gain_more_than_everything() -> None:
    assert measured(HALF, [0] * 40, ALL)["voco k=1"].retention.value == -1.0
    assert measured(HALF, ALL, THREE)["voco k=1"].retention.value == 2.0


def test_where_frames_do_not_help_there_is_nothing_to_retain(tmp_path: Path) -> None:
    task = measured(THREE, HALF, THREE)
    assert all(math.isnan(row.retention.value) for row in task.rows)
    assert any("full is no better than none" in note for note in retention_notes([task]))
    assert retention_table([task])[1][1][4] == "–"
    write_retention([task], tmp_path / "retention", facts={"model": "m"})
    assert json.loads((tmp_path / "retention.json").read_text())["tasks"][0]["rows"][0]["retention"]["value"] is None


def test_mean_of_tasks() -> None:
    one, other = measured(HALF, THREE, ALL), measured(HALF, ALL, ALL)
    useless = measured(ALL, ALL, ALL)
    mean = mean_retention([one, useless, other])
    assert [row.retention.value for row in mean.rows] == [0.0, 0.75, 1.0]
    low, high = np.percentile((one.draws[1] + other.draws[1]) / 2, [2.5, 97.5])
    assert (mean["voco k=1"].retention.low, mean["voco k=1"].retention.high) == pytest.approx((low, high))
    assert (mean.num_questions, mean["voco k=1"].score.value) == (80, (0.75 + 1) / 2)
    assert mean_retention([one, useless]) is None
    assert [task.task for task in with_mean([one, other])] == ["set test", "set test", "mean of tasks"]


def test_one_video_has_no_interval() -> None:
    runs = {name: run(right, 1) for name, right in (("none", HALF), ("full", ALL))}
    assert task_retention("t", runs)["full"].retention.low is None


def test_faults() -> None:
    with pytest.raises(DataError, match="needs a run named 'none'"):
        task_retention("t", {"full": run(ALL)})
    with pytest.raises(DataError, match="k does not answer the questions that full answers"):
        task_retention("t", {"none": run(ALL), "k": run(ALL)[1:], "full": run(ALL)})


def test_files(tmp_path: Path) -> None:
    tasks = with_mean([measured(HALF, THREE, ALL), measured(HALF, ALL, ALL)])
    write_retention(tasks, tmp_path / "retention", facts={"model": "m"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["retention.json", "retention.md", "retention.png"]
    text = (tmp_path / "retention.md").read_text()
    assert "| mean of tasks (accuracy) | none | 0 |" in text
    assert "Images, which that paper measures, are not measured here." in text
    content = json.loads((tmp_path / "retention.json").read_text())
    assert [row["retention"]["value"] for row in content["tasks"][0]["rows"]] == [0.0, 0.5, 1.0]
    assert "draws" not in content["tasks"][0]
