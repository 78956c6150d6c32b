"""Reports: what their files hold, and that they say what a reader has to know."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from voco_video.data.registry import load_dataset
from voco_video.errors import DataError, UsageError
from voco_video.scoring.bootstrap import Estimate
from voco_video.scoring.comparison import compare
from voco_video.scoring.judge.judging import Judged, Judgement, _groups
from voco_video.scoring.judge.replies import Verdict
from voco_video.scoring.predictions import Prediction, read_predictions, write_predictions, write_run_info
from voco_video.scoring.report import default_stem, draw_sweep, score_file, sweep_of, write_comparison, write_report
from voco_video.scoring.report.scores import to_markdown

SETTINGS = {"dataset": "msvd", "split": "test", "num_voco_tokens": 8, "model_fingerprint": "ab" * 32, "seed": 3}


def predicted(number: int, prediction: str | None = "dog") -> Prediction:
    kind = ("what", "who")[number % 2]
    status = "answered" if prediction is not None else "missing" if number % 2 else "undecodable"
    question = f"{kind} is | number {number}?"
    return Prediction(f"clip{number // 4}", question, "dog", str(number), kind, number, prediction, status)


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """Twelve right, eight wrong, two unanswered."""
    path = tmp_path / "predictions-k8.jsonl"
    texts = ["dog"] * 12 + ["cat"] * 8 + [None] * 2
    write_predictions(path, [predicted(number, text) for number, text in enumerate(texts)])
    write_run_info(path, {"settings": SETTINGS, "command": "voco-video eval msvd", "versions": {"torch": "2"}})
    return path


def is_picture(path: Path) -> bool:
    """Whether something is drawn in a PNG."""
    with Image.open(path) as image:
        return image.format == "PNG" and np.asarray(image.convert("L")).std() > 5


def test_a_report_holds_the_scores_and_all_they_depend_on(predictions: Path) -> None:
    report = score_file(predictions, facts={"command": "voco-video score"})
    files = write_report(report, default_stem(predictions))
    assert [path.name for path in files] == [f"predictions-k8.scores.{suffix}" for suffix in ("json", "md", "png")]
    written = json.loads(files[0].read_text())
    assert written["scores"]["overall"]["metrics"]["exact_match"]["value"] == 12 / 22
    assert written["scores"]["overall"]["num_unanswered"] == written["counts"]["num_unanswered"] == 2
    assert [group["name"] for group in written["scores"]["types"]] == ["what", "who"]
    assert (written["dataset"], written["split"]) == ("msvd", "test")
    assert written["run"]["settings"] == SETTINGS
    assert written["scored_with"]["command"] == "voco-video score"
    assert set(written["scored_with"]["versions"]) == {"voco_video", "numpy", "python"}
    assert "These are 22 questions; msvd test as published has 13157." in written["notes"]
    assert (
        "2 of 22 questions are unanswered and count as wrong, 1 of them because their video cannot be decoded."
        in written["notes"]
    )
    text = files[1].read_text()
    for said in ("# msvd test", "54.55 [", "ab" * 32, "voco-video eval msvd", "seed 0", *written["notes"]):
        assert said in text
    assert "![accuracy by question type](predictions-k8.scores.png)" in text
    assert is_picture(files[2])


def test_a_report_of_the_same_predictions_is_the_same(predictions: Path, tmp_path: Path) -> None:
    names = ("json", "md", "png")
    for place in ("a", "b"):
        write_report(score_file(predictions), tmp_path / place / "scores")
    for name in names:
        assert (tmp_path / f"a/scores.{name}").read_bytes() == (tmp_path / f"b/scores.{name}").read_bytes()


def test_the_table_has_a_row_for_each_group(predictions: Path) -> None:
    columns, rows = score_file(predictions).table()
    assert columns[:4] == ["questions about", "questions", "videos", "unanswered"]
    assert columns[4:] == ["exact match %", "strict match %", "token F1 %"]
    assert [row[:4] for row in rows] == [["what", "11", "6", "1"], ["who", "11", "6", "1"], ["all", "22", "6", "2"]]
    assert all(len(row) == len(columns) for row in rows)


def test_unanswered_questions_are_left_out_if_asked_for(predictions: Path) -> None:
    report = score_file(predictions, skip_missing=True)
    assert report.scores.overall.num_questions == 20
    assert report.scores.overall["exact_match"].value == 12 / 20
    assert report.as_dict()["counts"]["num_skipped"] == 2
    assert any("2 of 22 questions are unanswered and left out" in note for note in report.notes)
    assert not any("count as wrong" in note for note in report.notes)


def test_predictions_without_a_run_say_so(predictions: Path) -> None:
    predictions.with_suffix(".run.json").unlink()
    report = score_file(predictions)
    assert (report.dataset, report.run) == ("", None)
    text = to_markdown(report)
    assert "Nobody wrote down how these predictions came about." in text
    assert text.startswith("# predictions-k8.jsonl\n")


def test_ranks_are_reported_where_they_are(predictions: Path) -> None:
    rows = [replace(one, vocabulary_rank=1 + one.row if one.row < 5 else None) for one in read_predictions(predictions)]
    write_predictions(predictions, rows)
    report = score_file(predictions)
    assert report.table()[0][-2:] == ["top-1 %", "top-10 %"]
    assert report.table()[1][-1][-2].startswith(f"{100 / 22:.2f}")
    assert "the true answer of 5 of 22 questions was ranked" in to_markdown(report)


def test_a_judge_s_verdicts_stand_beside_the_rest(predictions: Path, tmp_path: Path) -> None:
    report = score_file(predictions)
    answered = report.loaded.predictions
    questions = tuple(
        Judged(one.question_id, None, None)
        if one.prediction is None
        else Judged(one.question_id, None, "it |\nis", "no verdict: it")
        if one.row == 0
        else Judged(one.question_id, Verdict(one.row % 2 == 0, 4.8), "{...}")
        for one in answered
    )
    judgement = Judgement(
        judge={"model": "judge", "base_url": "http://localhost/v1", "prompt_hash": "cd" * 32},
        answered_as=("judge-1", "judge-2"),
        groups=_groups(answered, questions, dataset="", num_resamples=100, seed=0),
        questions=questions,
        num_yes=9,
        num_unanswered=2,
        num_unparsable=1,
        num_no_reply=0,
        num_requests=25,
        num_retries=5,
        num_asked=20,
        num_from_cache=0,
        prompt_tokens=2000,
        completion_tokens=100,
        num_without_usage=3,
        cost=0.012345,
    )
    report = replace(report, judgement=judgement)
    files = write_report(report, tmp_path / "judged")
    assert [path.suffixes[-2:] for path in files][2] == [".verdicts", ".jsonl"]
    verdicts = [json.loads(line) for line in files[2].read_text().splitlines()]
    assert len(verdicts) == 22
    assert verdicts[0] == {
        "question_id": "0",
        "pred": None,
        "score": None,
        "reply": "it |\nis",
        "failure": "no verdict: it",
    }
    assert (verdicts[1]["pred"], verdicts[2]["pred"], verdicts[2]["score"]) == ("no", "yes", 4.8)
    written = json.loads(files[0].read_text())["judgement"]
    assert (written["num_failures"], written["num_retries"], written["cost"]) == (1, 5, 0.012345)
    assert written["share_yes_bounds"] == [9 / 22, 10 / 22]
    columns, rows = report.table()
    assert columns[-2:] == ["judged yes %", "judge's score"]
    assert rows[-1][-2].startswith(f"{100 * 9 / 21:.2f} [")
    assert rows[-1][-1].startswith(f"{4.8 * 19 / 21:.2f} [")
    assert judgement.groups[0].num_counted == 10
    assert is_picture(files[-1])


def test_what_a_judge_s_notes_say(predictions: Path) -> None:
    from voco_video.scoring.report.scores import judge_notes

    judgement = Judgement(
        judge={"model": "gpt", "base_url": "http://localhost/v1", "prompt_hash": "cd" * 32},
        answered_as=("gpt-0613",),
        groups=(),
        questions=tuple(Judged(str(number), None, None) for number in range(10)),
        num_yes=4,
        num_unanswered=0,
        num_unparsable=1,
        num_no_reply=2,
        num_requests=25,
        num_retries=5,
        num_asked=20,
        num_from_cache=7,
        prompt_tokens=2000,
        completion_tokens=100,
        num_without_usage=0,
        cost=None,
    )
    notes = " ".join(judge_notes(judgement))
    for said in (
        "gpt, of no named revision: its name may mean other weights later, at http://localhost/v1",
        "(it calls itself gpt-0613), temperature 0",
        "prompt cdcdcdcdcdcdcdcd.",
        "Requests 25, 5 of them retries; 7 replies from disk; tokens 2000 in, 100 out.",
        "3 predictions are not judged (1 replies were no verdict, 2 questions got no reply)",
        "the share would be 40.00 or 70.00 %",
    ):
        assert said in notes


def test_the_predictions_are_never_written_over(predictions: Path, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text("{}")
    report = replace(score_file(predictions), predictions=path)
    with pytest.raises(UsageError, match="holds the predictions themselves"):
        write_report(report, tmp_path / "answers")
    assert path.read_text() == "{}"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--out"):
        write_report(report, tmp_path / "file" / "scores")


# --- several runs


def _run(**settings: Any) -> dict[str, Any]:
    return {"settings": {**SETTINGS, **settings}}


def test_a_sweep_differs_in_k_alone() -> None:
    assert sweep_of([_run(num_voco_tokens=k) for k in (4, 1, 2)]) == [4, 1, 2]
    assert sweep_of([_run(num_voco_tokens=1), _run(num_voco_tokens=1)]) is None
    assert sweep_of([_run(num_voco_tokens=1), _run(num_voco_tokens=2, seed=4)]) is None
    assert sweep_of([_run(num_voco_tokens=1), _run(num_voco_tokens=None)]) is None
    assert sweep_of([_run(num_voco_tokens=1), None]) is None


def test_a_sweep_is_drawn_against_k(tmp_path: Path) -> None:
    low = {1: Estimate(0.2, 0.1, 0.3), 8: Estimate(0.8, None, None), 2: Estimate(0.5, 0.4, 0.6)}
    high = {**low, 8: Estimate(0.3, None, None)}
    pictures = [draw_sweep(values, tmp_path / f"{place}.png") for place, values in enumerate((low, high))]
    assert all(map(is_picture, pictures))
    assert pictures[0].read_bytes() != pictures[1].read_bytes()


def test_a_comparison_is_written_too(predictions: Path, tmp_path: Path) -> None:
    first = read_predictions(predictions)
    second = [replace(one, prediction="dog", status="answered") for one in first]
    comparison = compare({"a|b": first, "c": second, "d": first}, num_resamples=200)
    by_k = write_comparison(comparison, tmp_path / "k", inputs=[predictions], num_voco_tokens=[1, 2, 4])
    by_run = write_comparison(comparison, tmp_path / "runs", inputs=[predictions])
    written = json.loads(by_k[0].read_text())
    assert (written["num_questions"], written["differences"][0]["num_only_this"]) == (22, 10)
    text = by_k[1].read_text()
    for said in ("22 questions on 6 videos", "0 : 10", "not corrected for 2 comparisons", r"| a\|b |", "45.45 ["):
        assert said in text
    assert is_picture(by_k[2])
    assert is_picture(by_run[2])
    assert by_k[2].read_bytes() != by_run[2].read_bytes()


# --- published predictions


def test_the_report_says_why_the_official_script_prints_another_figure(shared: Path) -> None:
    dataset = load_dataset("activitynet", shared / "annotations/activitynet-qa", split="val")
    report = score_file(shared / "predictions/activitynet/pred_val_example.json", references=dataset)
    (note,) = report.notes
    for said in ("6369 right of 12600 = 0.5055", "eval.py prints 0.7583", "yes/no, other, number", "8399"):
        assert said in note
    assert report.table()[1][-1][5].startswith("39.84 [")
