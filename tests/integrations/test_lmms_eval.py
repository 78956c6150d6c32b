"""The harness lmms-eval, really installed, runs voco-video models on tasks of local files, by its own command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import voco_video
from tests.helpers.lmms_eval_tasks import Rows, write_tasks
from voco_video.integrations.visuals import Viewer
from voco_video.options.answering import AnswerOptions
from voco_video.options.sampling import Sampling

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: pip install --no-deps 'lmms-eval>=0.7.2'")

pytestmark = pytest.mark.slow  # the harness takes its time to start

_WITHOUT_DECODER = """
import sys
import voco_video.compress
voco_video.compress.open_video = None
from lmms_eval.__main__ import cli_evaluate
cli_evaluate()
"""
_ARGUMENTS = ("pretrained=voco-tiny", "num_frames=4", "num_voco_tokens=4", "dtype=float32", "device=cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, Rows]:
    return write_tasks(folder)


@pytest.fixture(scope="module")
def logged(folder: Path, rows: dict[str, Rows]) -> dict[str, list[Any]]:
    """What the harness logs of each task's rows: the model's responses, in the rows' order."""
    return run(folder, folder / "first", ["-m", "lmms_eval"])


@pytest.fixture(scope="module")
def viewer(folder: Path) -> Viewer:
    """The same model without the harness, and without its cache."""
    model = voco_video.load_model("voco-tiny", device="cpu", dtype="float32", cache_dir=folder / "other-cache")
    return Viewer(model, Sampling(num_frames=4), num_voco_tokens=4)


def run(folder: Path, out: Path, program: list[str]) -> dict[str, list[Any]]:
    """Run all tasks with one question at a time, so that answers are the same to the last bit."""
    tasks = sorted(path.stem for path in folder.glob("*.yaml"))
    command = [sys.executable, *program, "--model", "voco_video", "--batch_size", "1", "--log_samples"]
    command += ["--model_args", ",".join([*_ARGUMENTS, f"cache_dir={folder / 'cache'}"]), "--tasks", ",".join(tasks)]
    command += ["--include_path", str(folder), "--output_path", str(out)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (scores,) = out.rglob("*_results.json")
    assert set(json.loads(scores.read_text())["results"]) == set(tasks)
    return {task: read_log(out, task) for task in tasks}


def read_log(out: Path, task: str) -> list[Any]:
    (path,) = out.rglob(f"*_samples_{task}.jsonl")
    documents = sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda d: d["doc_id"])
    return [document["filtered_resps"] for document in documents]


def said(viewer: Viewer, visuals: list[Any], question: str) -> str:
    return viewer.look(visuals).answers([question], options=AnswerOptions(12), batch_size=1)[0]


def test_the_harness_knows_the_model():
    assert "voco-video" in {point.name for point in entry_points(group="lmms_eval.models")}, "install voco-video again"
    from lmms_eval.models import get_model

    assert get_model("voco_video").__name__ == "VocoVideo"


def test_videos_images_both_and_neither(rows, logged, viewer):
    expected = {
        "shapes_video": [said(viewer, [row["video"]], row["question"]) for row in rows["shapes_video"]],
        "shapes_image": [said(viewer, [Image.open(row["image"])], row["question"]) for row in rows["shapes_image"]],
        "shapes_both": [
            said(viewer, [row["video"], Image.open(row["image"])], row["question"]) for row in rows["shapes_both"]
        ],
        "shapes_alone": [said(viewer, [], row["question"]) for row in rows["shapes_alone"]],
    }
    assert {task: logged[task] for task in expected} == expected
    assert expected["shapes_image"] == [row["answer"] for row in rows["shapes_image"]], "voco-tiny reads images right"
    assert len(set(expected["shapes_video"])) > 2


def test_choices_come_as_losses(rows, logged, viewer):
    for row, responses in zip(rows["shapes_choice"], logged["shapes_choice"], strict=True):
        expected = viewer.look([Image.open(row["image"])]).losses(row["question"], row["choices"])
        assert [float(loss) for loss, _ in responses] == pytest.approx([loss for loss, _ in expected], abs=1e-4)
        assert [is_greedy == "True" for _, is_greedy in responses] == [is_greedy for _, is_greedy in expected]
        smallest = min(range(len(expected)), key=lambda i: expected[i][0])
        assert row["choices"][smallest] == row["answer"]


def test_rounds_end_when_the_task_says(rows, logged, viewer):
    for row, responses in zip(rows["shapes_rounds"], logged["shapes_rounds"], strict=True):
        assert responses == [said(viewer, [row["video"]], question) for question in row["questions"]]


def test_a_second_run_decodes_and_compresses_nothing(folder, logged):
    assert run(folder, folder / "second", ["-c", _WITHOUT_DECODER]) == logged


def test_media_that_cannot_be_read_cost_their_own_questions(rows, logged, tmp_path):
    broken = {str(tmp_path / name) for name in ("0.mp4", "0.png")}
    own = write_tasks(tmp_path)
    for path in map(Path, broken):
        path.write_bytes(b"neither a video nor a picture")  # the harness has PIL fill up what is merely cut off
    found = run(tmp_path, tmp_path / "out", ["-m", "lmms_eval"])
    for task, documents in own.items():
        for row, before, now in zip(documents, logged[task], found[task], strict=True):
            if not broken & {row.get("video"), row.get("image")}:
                assert now == before
            elif task == "shapes_choice":
                assert {tuple(map(str, loss)) for loss in now} == {("inf", "False")}
            else:
                assert not any(now), f"{task}: nothing is said about what was not seen"
