"""`voco-video score` and `voco-video compare` as a user types them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import voco_video.cli
from voco_video.data.registry import load_dataset
from voco_video.errors import DataError, JudgeError, UsageError
from voco_video.scoring.predictions import Prediction, read_predictions, write_predictions, write_run_info
from voco_video.shapes.write_dataset import write_dataset


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(voco_video.cli.app, list(map(str, arguments)))
    if code == 0 and result.exception is not None:
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def error_of(*arguments: object) -> Exception:
    result = CliRunner().invoke(voco_video.cli.app, list(map(str, arguments)))
    assert isinstance(result.exception, Exception)
    return result.exception


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shapes"
    return write_dataset(out, layout="activitynet", num_videos=12, seed=1, size=32, questions_per_video=4)


def answered(shapes: Path, *, num_right: int) -> list[Prediction]:
    questions = load_dataset("activitynet", shapes, split="test").questions()
    return [
        Prediction(
            sample.name,
            turn.question,
            turn.answer,
            turn.question_id,
            turn.question_type,
            turn.row,
            turn.answer if turn.row < num_right else "xyzzy",
        )
        for sample, turn in questions
    ]


def test_our_own_predictions_need_no_references(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "k8.jsonl"
    write_predictions(path, answered(shapes, num_right=3))
    write_run_info(path, {"settings": {"dataset": "activitynet", "split": "test"}})
    printed = run("score", path).output
    assert "exact match %" in printed
    all_row = next(line for line in printed.splitlines() if line.startswith("all "))
    assert f"{100 * 3 / 12:.2f} [" in all_row
    assert any(line.startswith("free ") for line in printed.splitlines())
    assert "as published has 8000" in printed
    assert {file.suffix for file in tmp_path.iterdir()} == {".jsonl", ".json"}, (
        "only what was there: facts were asked for"
    )
    assert "--out STEM writes the report" in printed
    written = run("score", path, "--out", tmp_path / "out/k8").output
    for suffix in ("json", "md", "png"):
        assert (tmp_path / f"out/k8.{suffix}").stat().st_size > 0
    assert f"written: {tmp_path}/out/k8.json, " in written


def test_somebody_else_s_predictions_are_scored_against_the_annotations(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    predictions = answered(shapes, num_right=6)
    rows = [{"question_id": one.question_id, "answer": one.prediction} for one in predictions[:9]]
    path.write_text(json.dumps([*rows, {"question_id": "v_nobody_1", "answer": "yes"}]))
    printed = run(
        "score", path, "--references", "activitynet", "--root", shapes, "--out", tmp_path / "out", "--json"
    ).output
    report = json.loads(printed)
    assert report["scores"]["overall"]["metrics"]["strict"]["value"] == 6 / 12
    assert (report["counts"]["num_unanswered"], report["counts"]["num_unknown"]) == (3, 1)
    assert report["files"] == [str(tmp_path / f"out.{suffix}") for suffix in ("json", "md", "png")]
    assert json.loads((tmp_path / "out.json").read_text()) == {k: v for k, v in report.items() if k != "files"}
    by_file = run("score", path, "--references", "activitynet", "--annotations", shapes / "test_q.json", "--json")
    assert json.loads(by_file.output)["scores"] == report["scores"]
    skipped = run(
        "score",
        path,
        "--references",
        "activitynet",
        "--root",
        shapes,
        "--skip-missing",
        "--json",
        "--out",
        tmp_path / "s",
    )
    assert json.loads(skipped.output)["scores"]["overall"]["num_questions"] == 9


def test_score_refuses_what_cannot_be(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    path.write_text('{"v_1": "yes"}')
    error = error_of("score", path)
    assert isinstance(error, DataError)
    assert "--references msvd" in str(error)
    error = error_of("score", path, "--references", "activitynet", "--root", shapes)
    assert "none of its ids (such as v_1)" in str(error)
    assert isinstance(error_of("score", path, "--root", shapes), UsageError)
    assert isinstance(error_of("score", path, "--judge-prompt", path), UsageError)
    for wrong in (["--references", "coco"], ["--references", "rows.json"], ["--references", "msvd", "--split", "dev"]):
        assert isinstance(error_of("score", path, *wrong), UsageError)
    right = tmp_path / "right.json"
    right.write_text(json.dumps({one.question_id: one.answer for one in answered(shapes, num_right=0)}))
    onto_itself = ("score", right, "--references", "activitynet", "--root", shapes, "--out", tmp_path / "right")
    assert "holds the predictions themselves" in str(error_of(*onto_itself))


def test_a_judge_from_the_command_line(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai", reason="the judge's client library is not installed (extra judge)")
    from tests.helpers.judge_server import says, serve

    path = tmp_path / "k8.jsonl"
    write_predictions(path, answered(shapes, num_right=3))
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Grade.\n---\n{question}|{answer}|{prediction}")
    monkeypatch.setenv("A_KEY", "secret")
    with serve(lambda user, _: says("unsure" if "xyzzy" in user else "{'pred': 'yes', 'score': 4.5}")) as server:
        command = ["score", path, "--judge-model", "judge", "--judge-base-url", server.base_url]
        command += ["--judge-api-key-env", "A_KEY", "--judge-prompt", prompt, "--judge-concurrency", 2]
        command += ["--judge-price-per-million-in", 1, "--judge-price-per-million-out", 2, "--judge-timeout", 9]
        printed = run(*command).output
        num_requests = len(server.requests)
        report = json.loads(run(*command, "--json", "--out", tmp_path / "k8.scores").output)
        assert len(server.requests) == num_requests
    assert server.requests[0]["messages"][0]["content"] == "Grade."
    assert set(server.keys) == {"Bearer secret"}
    assert "judged yes %" in printed
    assert "9 predictions are not judged (9 replies were no verdict, 0 questions got no reply)" in printed
    judged = report["judgement"]
    assert (judged["num_yes"], judged["num_failures"], judged["num_from_cache"]) == (3, 9, num_requests)
    assert judged["groups"][-1]["share_yes"]["value"] == 1
    assert judged["groups"][-1]["mean_score"]["value"] == 4.5
    assert judged["cost"] == pytest.approx(num_requests * (100 * 1 + 10 * 2) / 1e6)
    assert report["files"][2] == str(tmp_path / "k8.scores.verdicts.jsonl")
    everything = "".join(Path(file).read_text(errors="ignore") for file in report["files"])
    assert "secret" not in everything
    assert isinstance(error_of(*command[:2], "--judge-model", "judge", "--judge-base-url", "localhost"), UsageError)


def test_a_judge_that_refuses_is_one_line(shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="the judge's client library is not installed (extra judge)")
    from tests.helpers.judge_server import fails, serve

    path = tmp_path / "k8.jsonl"
    write_predictions(path, answered(shapes, num_right=3))
    with serve(lambda *_: fails(404)) as server:
        error = error_of("score", path, "--judge-model", "nobody", "--judge-base-url", server.base_url)
    assert isinstance(error, JudgeError)
    assert "will not judge with nobody: status 404" in str(error)
    assert "\n" not in str(error)


# --- compare


@pytest.fixture
def sweep(shapes: Path, tmp_path: Path) -> list[Path]:
    paths = []
    for k, num_right in ((1, 3), (4, 12)):
        path = tmp_path / f"run/predictions-k{k}.jsonl"
        write_predictions(path, answered(shapes, num_right=num_right))
        write_run_info(path, {"settings": {"dataset": "activitynet", "num_voco_tokens": k}})
        paths.append(path)
    return paths


def test_compare_prints_differences_and_draws_a_sweep(sweep: list[Path], tmp_path: Path) -> None:
    printed = run("compare", *sweep, "--out", tmp_path / "out/sweep").output
    first, second = (
        next(line for line in printed.splitlines() if line.startswith(f"predictions-k{k} ")) for k in (1, 4)
    )
    assert "25.00 [" in first
    assert "100.00 [100.00, 100.00]" in second
    assert "75.00 [" in second
    assert "0 : 9" in second
    assert "12 questions on 3 videos are in all runs" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sweep.json", "sweep.md", "sweep.png"]
    compared = json.loads(run("compare", *sweep, "--metric", "token_f1", "--json").output)
    assert compared["metric"] == "token_f1"
    assert compared["files"] == []


def test_compare_takes_other_layouts_and_equal_names(sweep: list[Path], shapes: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs/predictions-k1.json"
    theirs.parent.mkdir()
    theirs.write_text(json.dumps({one.question_id: one.prediction for one in answered(shapes, num_right=3)}))
    compared = json.loads(
        run("compare", sweep[0], theirs, "--references", "activitynet", "--root", shapes, "--json").output
    )
    assert [one["name"] for one in compared["runs"]] == ["run/predictions-k1", "theirs/predictions-k1"]
    assert compared["differences"][0]["p_value"] == 1


def test_compare_refuses_other_questions(sweep: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    rows = read_predictions(sweep[0])
    write_predictions(other, [replace(one, answer="something else") for one in rows])
    assert "is on other questions" in str(error_of("compare", sweep[0], other))
    write_predictions(other, [replace(one, question_id=f"{one.question_id}x") for one in rows])
    assert "no question id in common" in str(error_of("compare", sweep[0], other))
    assert "two or more" in str(error_of("compare", sweep[0]))
    assert "is given twice" in str(error_of("compare", sweep[0], sweep[0]))
    assert "has no ranks" in str(error_of("compare", *sweep, "--metric", "top10"))
