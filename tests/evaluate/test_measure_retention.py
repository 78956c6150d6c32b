"""Retention of voco-tiny on MovingShapes, as a function and from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from voco_video.api import VideoModel, load_model
from voco_video.data.registry import load_video_set
from voco_video.errors import UsageError
from voco_video.evaluate import EvalOptions, evaluate
from voco_video.evaluate.retention import measure_retention, retention_rows
from voco_video.scoring.metrics import score
from voco_video.scoring.predictions import read_predictions
from voco_video.shapes.write_dataset import write_dataset

OPTIONS = EvalOptions(num_frames=4, num_voco_tokens=(1,), limit=16, max_new_tokens=6)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("shapes") / "set", layout="msvd", num_videos=8, size=64)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


@pytest.fixture(scope="module")
def model(cache_dir: Path) -> VideoModel:
    return load_model("voco-tiny", dtype="float32", cache_dir=cache_dir)


def test_rows_are_runs_of_their_own(model, shapes, tmp_path):
    data = load_video_set("msvd", shapes, split="train")
    (task,) = measure_retention(model, [data], options=OPTIONS, out=tmp_path / "out")
    assert [row.name for row in task.rows] == ["none", "pool:1", "voco k=1", "full"]
    assert [row.tokens_per_frame for row in task.rows] == [0, 1, 1, model.voco.backbone.num_vision_tokens]
    # Each row is what `evaluate` gives by itself.
    options = replace(OPTIONS, compressor="none", num_voco_tokens=())
    alone = evaluate(model, data, options=options, out=tmp_path / "alone")
    blind = read_predictions(alone.predictions["none"])
    assert read_predictions(tmp_path / "out/msvd-train/predictions-none.jsonl") == blind
    assert task["none"].score == score(blind).overall["exact_match"]
    # Frames help voco-tiny, and VoCo tokens keep most of that.
    assert task["full"].score.value > task["none"].score.value + 0.2
    assert task["voco k=1"].retention.value > 0.5
    # The second call asks nothing again.
    seen = []
    again = measure_retention(
        model, [data], options=OPTIONS, out=tmp_path / "out", on_progress=lambda t, row, p: seen.append(p)
    )
    assert again == [task]
    assert all(progress.num_resumed == progress.total_answers for progress in seen)


def test_rows_that_a_model_cannot_do_are_left_out(model, caplog):
    rows = retention_rows(model, EvalOptions(num_voco_tokens=(3, 8, 999)))
    assert list(rows) == ["none", "voco k=3", "voco k=8", "full"]
    assert "no row pool:3" in caplog.text
    assert "no row voco k=999" in caplog.text
    k = model.voco.num_voco_tokens
    assert [name for name in retention_rows(model, EvalOptions()) if "voco" in name][-1] == f"voco k={k}"
    with pytest.raises(UsageError, match="searches frames, and the row 'none' has none"):
        measure_retention(model, [], options=EvalOptions(answer_by="find"), out="nowhere")


def test_from_the_command_line(run, shapes, cache_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", str(cache_dir))
    words = ["retention", "voco-tiny", "--num-frames", "4", "--num-voco-tokens", "1", "--limit", "4"]
    words += ["--out", tmp_path / "out", "--tasks"]
    code, out, err = run(*words, f"msvd:train={shapes},msvd:val={shapes}")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines() if "  none  " in line] == ["msvd", "msvd", "mean"]
    assert "retention %" in out
    assert {path.name for path in (tmp_path / "out").glob("retention.*")} == {
        "retention.json",
        "retention.md",
        "retention.png",
    }
    code, out, err = run(*words, f"msvd:train={shapes}", "--json")
    assert code == 0, err
    assert [row["name"] for row in json.loads(out)["tasks"][0]["rows"]] == ["none", "pool:1", "voco k=1", "full"]
    for tasks, message in (
        ("msvd", "give a set and its folder, as in msvd=data/MSVD"),
        ("tgif=x", "dataset is 'tgif'"),
        (f"msvd:dev={shapes}", "split is 'dev'"),
        (f"msvd={shapes},", "--tasks ''"),
    ):
        code, _, err = run(*words, tasks)
        assert (code, message in " ".join(err.split()), "Traceback" in err) == (2, True, False), err
