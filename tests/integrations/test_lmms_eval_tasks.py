"""MSVD-QA, MSRVTT-QA and ActivityNet-QA as lmms-eval's tasks: what the task files name, and the harness itself."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from voco_video.api import load_model
from voco_video.data.registry import load_dataset
from voco_video.errors import DataError, UsageError
from voco_video.evaluate import EvalOptions, evaluate
from voco_video.integrations import lmms_eval_tasks as tasks
from voco_video.integrations.lmms_eval_tasks import functions
from voco_video.scoring.predictions import read_predictions
from voco_video.shapes.write_dataset import write_dataset

PROMPT = "{question}\nAnswer the question using a single word or phrase."
YAML_FILES = sorted(tasks.FOLDER.glob("*.yaml"))


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has loaded is no other test's, and no variable of the machine counts."""
    tasks._load.cache_clear()
    tasks._judged_once.cache_clear()
    for name in [name for name in os.environ if name.startswith(("VOCO_VIDEO_JUDGE", "VOCO_VIDEO_MSVD"))]:
        monkeypatch.delenv(name)


def document(number: int, answer: str = "dog") -> dict[str, Any]:
    values = {"question_id": str(number), "video": f"clip{number}", "path": f"clip{number}.mp4", "answer": answer}
    return values | {"question": f"what is number {number}?", "question_type": "what", "row": number}


# --- without the harness


def test_there_is_a_task_of_each_set_with_and_without_a_judge():
    names = {f"voco_{name}_qa{judged}" for name in tasks.SETS for judged in ("", "_judged")}
    assert {path.stem for path in YAML_FILES} == names
    for path in YAML_FILES:
        assert f"task: {path.stem}\n" in path.read_text()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("path", [*YAML_FILES, tasks.FOLDER / "_all", tasks.FOLDER / "_judged"], ids=lambda p: p.name)
def test_every_function_that_a_task_file_names_is_there(path, tmp_path, monkeypatch):
    write_dataset(tmp_path / "set", layout="msvd", num_videos=4, size=32)
    monkeypatch.setattr(tasks, "load_video_set", lambda name, root: load_dataset("msvd", tmp_path / "set"))
    for name in tasks.SETS:
        monkeypatch.setenv(f"VOCO_VIDEO_{name.upper()}_ROOT", str(tmp_path))
    monkeypatch.setenv("VOCO_VIDEO_JUDGE_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("VOCO_VIDEO_JUDGE_MODEL", "judge")
    named = [line.split("!function functions.")[1] for line in path.read_text().splitlines() if "!function" in line]
    assert named
    for name in named:
        found = getattr(functions, name)
        assert callable(found) or found["data_files"]["test"] == str(tasks.FOLDER / "placeholder.json")
    with pytest.raises(AttributeError):
        _ = functions.msvd_nothing


def test_scores_are_those_of_score():
    assert tasks.scored(document(1), ["The Dog."]) == {
        "exact_match": 1.0,
        "strict": 0.0,
        "token_f1": 1.0,
        "empty_answers": 0.0,
        "question_id": "1",
    }
    assert tasks.scored(document(1), [" "])["empty_answers"] == 1
    assert tasks.total([1.0, 0.0, 1.0]) == 2
    assert tasks.prompt_of(document(1), {"post_prompt": " In a word."}) == "what is number 1? In a word."


def test_a_set_that_nobody_named_is_refused_before_anything_runs(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="set VOCO_VIDEO_MSVD_ROOT to its folder"):
        _ = functions.msvd_data
    monkeypatch.setenv("VOCO_VIDEO_MSVD_ROOT", str(tmp_path))
    with pytest.raises(DataError, match="no annotations of the test split"):
        _ = functions.msvd_data
    write_dataset(tmp_path / "set", layout="msvd", num_videos=4, size=32)
    monkeypatch.setenv("VOCO_VIDEO_MSVD_ROOT", str(tmp_path / "set"))
    with pytest.raises(UsageError, match="nobody said who judges: set VOCO_VIDEO_JUDGE_BASE_URL"):
        _ = functions.msvd_judged_data
    monkeypatch.setenv("VOCO_VIDEO_JUDGE_MODEL", "judge")
    monkeypatch.setenv("VOCO_VIDEO_JUDGE_CONCURRENCY", "many")
    with pytest.raises(UsageError, match="VOCO_VIDEO_JUDGE_CONCURRENCY is 'many', but has to be a number"):
        _ = functions.msvd_judged_data
    monkeypatch.setenv("VOCO_VIDEO_JUDGE_CONCURRENCY", "3")
    monkeypatch.setenv("VOCO_VIDEO_JUDGE_TIMEOUT", "2.5")
    monkeypatch.setenv("VOCO_VIDEO_JUDGE_CACHE_DIR", str(tmp_path))
    judging = tasks.judging_from_environment()
    assert (judging.judge_concurrency, judging.judge_timeout, judging.judge_cache_dir) == (3, 2.5, tmp_path)


def judged_by(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, int], Any]) -> tuple[float, float, int, int]:
    """The judge's three figures of four answers, and how often it was asked."""
    from tests.helpers.judge_server import serve

    with serve(answer) as server:
        monkeypatch.setenv("VOCO_VIDEO_JUDGE_BASE_URL", server.base_url)
        monkeypatch.setenv("VOCO_VIDEO_JUDGE_MODEL", "judge")
        monkeypatch.setenv("VOCO_VIDEO_JUDGE_RETRIES", "0")
        items = [tasks.scored_and_judged(document(number), ["a dog"])["judged_yes"] for number in range(4)]
        figures = tasks.judged_yes(items), tasks.judge_score(items), tasks.judge_failures(items)
        return *figures, len(server.requests)


def test_failures_are_counted_and_never_scores_and_decimals_stay(monkeypatch):
    """Where the harness's own task makes of a failed request ("no", 0), and 4 of 4.8."""
    pytest.importorskip("openai", reason="the judge's client library is not installed (extra judge)")
    from tests.helpers.judge_server import fails, says

    replies = {0: says("{'pred': 'yes', 'score': 4.8}"), 1: says("{'pred': 'no', 'score': 1}")}
    replies |= {2: says("yes, I think"), 3: fails(400)}
    yes, score, failures, num_requests = judged_by(
        monkeypatch, lambda user, _: replies[int(user.split("number ")[1].split("?")[0])]
    )
    assert (yes, score, failures, num_requests) == (0.5, pytest.approx(2.9), 2, 4)


def test_a_judge_that_refuses_gives_no_score(monkeypatch, caplog):
    pytest.importorskip("openai", reason="the judge's client library is not installed (extra judge)")
    from tests.helpers.judge_server import fails

    yes, score, failures, _ = judged_by(monkeypatch, lambda *_: fails(401))
    assert math.isnan(yes)
    assert math.isnan(score)
    assert failures == 4
    assert "nothing is judged" in caplog.text


# --- the harness, really installed


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: pip install --no-deps 'lmms-eval>=0.7.2'")
    folder = tmp_path_factory.mktemp("sets")
    return {
        name: write_dataset(folder / name, layout=name, num_videos=8, questions_per_video=3, size=64)
        for name in tasks.SETS
    }


def harness(folder: Path, roots: dict[str, Path], names: list[str], **variables: str) -> dict[str, Any]:
    """Run tasks by the harness's own command; gives its scores by task."""
    include = subprocess.run([sys.executable, "-m", tasks.__name__], capture_output=True, text=True, check=True)
    arguments = f"pretrained=voco-tiny,num_frames=3,dtype=float32,device=cpu,cache_dir={folder / 'cache'}"
    command = [sys.executable, "-m", "lmms_eval", "--model", "voco_video", "--batch_size", "1", "--log_samples"]
    command += ["--model_args", arguments, "--tasks", ",".join(names), "--include_path", include.stdout.strip()]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), **variables}
    env |= {f"VOCO_VIDEO_{name.upper()}_ROOT": str(root) for name, root in roots.items()}
    done = subprocess.run(
        [*command, "--output_path", str(folder / "out")], capture_output=True, text=True, env=env, cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (scores,) = (folder / "out").rglob("*_results.json")
    return json.loads(scores.read_text())["results"]


@pytest.mark.slow
def test_the_harness_answers_and_scores_as_eval_does(roots, run, tmp_path):
    pytest.importorskip("openai", reason="the judge's client library is not installed (extra judge)")
    from tests.helpers.judge_server import says, serve

    missing = load_dataset("msrvtt", roots["msrvtt"]).samples[0]
    missing.media[0].path.unlink()  # which costs its own questions
    names = [f"voco_{name}_qa" for name in tasks.SETS]
    with serve(lambda user, _: says("{'pred': 'yes', 'score': 4.8}" if "?" in user else "no")) as server:
        judge = {"VOCO_VIDEO_JUDGE_BASE_URL": server.base_url, "VOCO_VIDEO_JUDGE_MODEL": "judge"}
        results = harness(tmp_path, roots, [*names, "voco_msvd_qa_judged"], **judge)
    model = load_model("voco-tiny", dtype="float32", device="cpu", cache_dir=tmp_path / "cache")
    options = EvalOptions(num_frames=3, prompt=PROMPT, questions_per_batch=1)
    for name in tasks.SETS:
        data = load_dataset(name, roots[name])
        own = evaluate(model, data, options=options, out=tmp_path / name).predictions["k8"]
        (log,) = (tmp_path / "out").rglob(f"*_samples_voco_{name}_qa.jsonl")
        theirs = {one.question_id: one for one in read_predictions(log, references=data)}
        assert {i: p.prediction or "" for i, p in theirs.items()} == {
            p.question_id: p.prediction or "" for p in read_predictions(own)
        }
        scores, num_missing = results[f"voco_{name}_qa"], sum(p.prediction is None for p in read_predictions(own))
        code, out, err = run("score", own, "--json")
        assert code == 0, err
        for metric, value in json.loads(out)["scores"]["overall"]["metrics"].items():
            assert scores[f"{metric},none"] == pytest.approx(value["value"])
        assert scores["empty_answers,none"] == num_missing
        assert num_missing == (len(missing.turns) if name == "msrvtt" else 0)
        code, out, err = run("compare", own, log, "--references", name, "--root", roots[name], "--json")
        assert code == 0, err
        traits = {trait["name"]: trait for trait in json.loads(out)["traits"]}
        assert traits["prompt"]["state"] == "same", "compared on what the harness wrote down"
        assert traits["engine"]["values"][1].startswith("engine lmms-eval, model voco_video (pretrained=voco-tiny")
        assert traits["times of the frames"]["state"] == "not known"
    judged = results["voco_msvd_qa_judged"]
    assert (judged["judged_yes,none"], judged["judge_failures,none"]) == (1.0, 0)
    assert judged["judge_score,none"] == pytest.approx(4.8), "not cut to 4"
