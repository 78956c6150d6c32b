"""The benchmarks of answers measure what generation answers, and their figures mean what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import questions
from benchmarks.quality import compressors, retention
from voco_video.answer.generate import answer_questions
from voco_video.checkpoint.folder import load_voco_model
from voco_video.options.answering import AnswerOptions


@pytest.fixture(scope="module")
def model():
    return load_voco_model("voco-tiny", dtype="float32")


def test_right_without_generating_is_right_with_generating(model):
    counts = {True: 0, False: 0}
    for index in range(12):
        case = questions.draw_case(index, seed=0, stage="image", temporal_fraction=0.0)
        with torch.inference_mode():
            prefix = retention.shown(model, model.vision_tokens(case.pixels(64)), num_voco_tokens=2)
        asked = [q.question for q in case.questions]
        answers = answer_questions(
            model, prefix, asked, options=AnswerOptions(max_new_tokens=12), frame_pts_seconds=np.zeros(1)
        )
        generated = [answer.text == q.answer for answer, q in zip(answers, case.questions, strict=True)]
        assert questions.is_right(model, prefix, case.questions) == generated
        for right in generated:
            counts[right] += 1
    print(counts)


def test_retention_rate_and_interval():
    def outcomes(right):
        return [questions.Outcome(i, "what", bool(r), 0.5) for i, r in enumerate(right)]

    table = {"none": outcomes([0, 0, 0, 0] * 10), "full": outcomes([1, 1, 1, 1] * 10), "x": outcomes([1, 1, 1, 0] * 10)}
    kept = questions.retention(table, "x")
    assert kept["rate"] == pytest.approx(0.75)
    assert 0.5 < kept["low"] < 0.75 < kept["high"] < 0.95


@pytest.mark.exhaustive
def test_the_table_of_compressors(tmp_path):
    """Two scenes, every row: through encoding, cache and answer, into the three files."""
    compressors.BENCHMARK.main(["--num-scenes", "2", "--out", str(tmp_path), "--budgets", "1", "8"])
    out = tmp_path / "compressors"
    rows = {row["compressor"]: row for row in json.loads(out.with_suffix(".json").read_text())["rows"]}
    assert list(rows) == ["none", "pool:1", "pool:4", "pool:16", "full", "voco K=1", "voco K=8"]
    numbers = 2 * 5 * 128  # keys and values of 5 layers
    assert rows["none"]["bytes_per_frame"] == 0
    assert rows["voco K=8"]["bytes_per_frame"] == 8 * (4 * numbers + 4) + 16  # float32, a position, a digest
    assert rows["full"]["tokens_per_frame"] == 66
    assert rows["full"]["retention"]["rate"] == 1.0
    assert rows["none"]["compress_frames_per_second"] is None
    assert all(0 < row["question_seconds"] < 10 for row in rows.values())
    assert out.with_suffix(".md").read_text().count("\n| ") == len(rows) + 2
    assert out.with_suffix(".png").stat().st_size > 5000


@pytest.mark.exhaustive
def test_the_tables_of_retention(tmp_path):
    retention.BENCHMARK.main(["--quick", "--out", str(tmp_path)])
    text = (tmp_path / "retention.md").read_text()
    assert text.count("\n## ") == 3
    tables = json.loads((tmp_path / "retention.json").read_text())["tables"]
    assert {*tables["Images"]["accuracy"]} >= {"none", "full", "pool:1", "VoCo K=8, kv"}
    assert (tmp_path / "retention.png").stat().st_size > 5000
