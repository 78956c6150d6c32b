"""Predictions on disk: our own layout, the public ones, and what is matched to what."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from voco_video.data.registry import load_dataset
from voco_video.data.samples import Dataset, Sample, Turn
from voco_video.errors import DataError
from voco_video.scoring.predictions import (
    LoadedPredictions,
    Prediction,
    load_predictions,
    read_predictions,
    read_run_info,
    write_predictions,
    write_run_info,
)

CHOICE_FIELDS = ["options", "duration_class", "option_log_likelihoods", "option_num_tokens"]
ONE = Prediction("clip", "what is «it»?", "dog", "7", "what", 3, "a\u2028dog\n", "answered", 0.25, 4, True)
NONE = Prediction("clip", "who is it?", "man", "8", "who", 4, None, "undecodable")


@pytest.fixture
def references() -> Dataset:
    """Three videos with two questions each, ids from 10, in published order 10, 12, 14, 11, 13, 15."""
    samples = tuple(
        Sample(
            name,
            (),
            tuple(
                Turn(
                    f"what is number {2 * video + k}?", f"answer {2 * video + k}", str(10 + 2 * video + k), "what", row
                )
                for k, row in ((0, video), (1, video + 3))
            ),
        )
        for video, name in enumerate(("one", "-two", "_three"))
    )
    return Dataset("msvd", "test", (Path("nowhere/test_qa.json"),), samples)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, Any], Path]:
    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        if name.endswith(".jsonl"):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def given(loaded: LoadedPredictions) -> dict[str, str | None]:
    return {one.question_id: one.prediction for one in loaded.predictions}


# --- our own layout


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "predictions.jsonl"
    write_predictions(path, [ONE, NONE])
    assert read_predictions(path) == (ONE, NONE)
    assert path.read_bytes().count(b"\n") == 2
    assert list(path.parent.iterdir()) == [path]
    first = path.read_bytes()
    write_predictions(path, read_predictions(path))
    assert path.read_bytes() == first
    assert Prediction.from_json_line(ONE.json_line()) == ONE
    fields = json.loads(ONE.json_line())
    assert [*fields, *CHOICE_FIELDS, "windows"] == list(Prediction.__slots__)


def test_multiple_choice_is_read_as_it_was_written() -> None:
    scored = {"option_log_likelihoods": (-1.5, -2.0), "option_num_tokens": (1, 3)}
    for fields in ({}, scored, {"duration_class": "long"}):
        one = replace(ONE, options=("dog", "cat"), **fields)
        assert Prediction.from_json_line(one.json_line()) == one
        assert Prediction.from_json_line(one.json_line()).json_line() == one.json_line()


def test_fields_that_nobody_measured_may_be_left_out() -> None:
    values = json.loads(replace(ONE, confidence=None, vocabulary_rank=None, in_vocabulary=None).json_line())
    needed = {name: values[name] for name in values if values[name] is not None and name != "status"}
    assert Prediction.from_json_line(json.dumps(needed)) == Prediction.from_json_line(json.dumps(values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": "3"}, "row is '3', but has to be a whole number"),
        ({"row": True}, "row is True"),
        ({"confidence": True}, "confidence is True"),
        ({"question_id": 7}, "question_id is 7, but has to be text"),
        ({"status": "lost"}, "status is 'lost'"),
        ({"status": "missing"}, "the status is 'missing'"),
        ({"prediction": None}, "prediction is None, but the status is 'answered'"),
        ({"vocabulary_rank": 0}, "rank 1"),
        ({"extra": 1}, "is no prediction"),
        ({"options": "dog"}, "options is 'dog', but has to be a list"),
        ({"options": ["dog", 2]}, r"options is \['dog', 2\], but has to be a list of text"),
        ({"options": ["dog", "cat"], "option_num_tokens": [True, 2]}, "has to be a list of a whole number"),
        ({"options": ["dog", "cat"], "option_log_likelihoods": [-1.5]}, "holds 1 values, but there are 2 options"),
    ],
)
def test_a_line_that_cannot_be_names_its_row(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    line = json.dumps({**json.loads(ONE.json_line()), **changes})
    with pytest.raises(DataError, match=message):
        Prediction.from_json_line(line)
    path = tmp_path / "predictions.jsonl"
    path.write_text(f"{NONE.json_line()}\n{line}\n")
    with pytest.raises(DataError, match=f"predictions.jsonl, row 2: .*{message}"):
        read_predictions(path)


def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, references: Dataset) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(f"{ONE.json_line()}\n{NONE.json_line()}"[:-9])
    with pytest.raises(DataError, match="line 2: not JSON"):
        read_predictions(path)
    path.write_text("")
    with pytest.raises(DataError, match="no rows"):
        read_predictions(path)
    for name in ("none.jsonl", "none.json", "none.csv"):
        with pytest.raises(DataError, match=r"(?i)no such file"):
            load_predictions(tmp_path / "nowhere" / name, references=references)
    with pytest.raises(DataError, match="not JSON"):
        Prediction.from_json_line("{")


def test_a_repeated_question_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [ONE, NONE, replace(ONE, prediction="cat")])
    with caplog.at_level(logging.WARNING):
        assert read_predictions(path) == (ONE, NONE)
    assert "of 3 rows and 2 questions: 1 duplicates, 1 unanswered" in caplog.text


def test_our_own_layout_keeps_all_it_says_when_matched(tmp_path: Path, references: Dataset) -> None:
    path = tmp_path / "predictions.jsonl"
    turns = [turn for _, turn in references.questions()]
    rows = [
        Prediction("other name", turn.question, turn.answer, turn.question_id, "type", 0, "x", "answered", 0.5, 2, True)
        for turn in turns[:4]
    ]
    write_predictions(path, [*rows, replace(rows[0], prediction=None, status="undecodable", question_id="15")])
    loaded = load_predictions(path, references=references)
    assert [one.status for one in loaded.predictions] == ["answered"] * 4 + ["missing", "undecodable"]
    assert [one.vocabulary_rank for one in loaded.predictions] == [2] * 4 + [None, 2]
    assert loaded.predictions[1].video == "-two"
    assert loaded.counts["num_unanswered"] == 2


def test_run_info_lies_beside_the_predictions(tmp_path: Path) -> None:
    path = tmp_path / "k8.jsonl"
    assert read_run_info(path) is None
    write_run_info(path, {"seed": 1, "settings": {"dataset": "msvd"}})
    assert read_run_info(path) == {"seed": 1, "settings": {"dataset": "msvd"}}
    assert [place.name for place in tmp_path.iterdir()] == ["k8.run.json"]
    for broken in ("{", "[]"):
        (tmp_path / "k8.run.json").write_text(broken)
        with pytest.raises(DataError, match=r"k8\.run\.json"):
            read_run_info(path)


# --- public layouts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("activitynet.json", [{"question_id": "10", "answer": "x"}, {"question_id": "13", "answer": "y"}]),
        ("ids.json", {"13": "y", "10": "x"}),
        ("rows.csv", "id,prediction\n10,x\n13,y\n"),
        ("rows.csv", '\ufeffqid,pred\r\n13,y\r\n10,"x"\r\n'),
        ("merge.jsonl", [{"id": "v_one_0", "pred": "x"}, {"id": "v_-two_1", "pred": "y"}]),
        ("ids.jsonl", [{"id": 10, "pred": "x", "answer": "answer 0"}, {"id": 13, "pred": "y", "answer": "Answer 3"}]),
        (
            "chatgpt.json",
            [
                {"video_name": "one", "Q": "What is number 0", "A": "answer 0", "pred": "x"},
                {"video_name": "-two", "Q": "what is number 2?", "A": "answer 2", "pred": None},
                {"video_name": "-two", "Q": "what is number 3?", "A": "answer 3", "pred": "y"},
            ],
        ),
    ],
)
def test_public_layouts(written: Callable[[str, Any], Path], references: Dataset, name: str, content: Any) -> None:
    loaded = load_predictions(written(name, content), references=references)
    assert given(loaded) == {"10": "x", "11": None, "12": None, "13": "y", "14": None, "15": None}
    assert [one.row for one in loaded.predictions] == list(range(6))
    assert {one.status for one in loaded.predictions if one.prediction is None} == {"missing"}
    assert loaded.predictions[0] == Prediction("one", "what is number 0?", "answer 0", "10", "what", 0, "x")
    assert (loaded.num_unknown, loaded.num_other_questions, loaded.num_other_answers) == (0, 0, 0)


def test_numbers_of_hqga(written: Callable[[str, Any], Path], references: Dataset, tmp_path: Path) -> None:
    words = ["x", "answer 0", "y"]
    path = written("hqga.json", {"10": {"prediction": 1, "answer": 2}, "13": {"prediction": 0, "answer": 0}})
    with pytest.raises(DataError, match="list of words"):
        load_predictions(path, references=references_in(references, tmp_path))
    vocabulary = written("hqga_ans_word.json", words)
    loaded = load_predictions(path, references=references_in(references, tmp_path))
    assert (loaded.layout, given(loaded)["10"], given(loaded)["13"]) == ("HQGA", "x", "")
    assert load_predictions(path, references=references_in(references, tmp_path), vocabulary=vocabulary) == loaded
    vocabulary.write_text(json.dumps(["x", "another", "y"]))
    with pytest.raises(DataError, match=r"1 of 1 answers are not the references'.*'another' for 'answer 0'"):
        load_predictions(path, references=references_in(references, tmp_path))
    vocabulary.write_text(json.dumps(["x"]))
    with pytest.raises(DataError, match="names word 2"):
        load_predictions(path, references=references_in(references, tmp_path))
    for broken in ("{}", "[1]", "["):
        vocabulary.write_text(broken)
        with pytest.raises(DataError, match="hqga_ans_word"):
            load_predictions(path, references=references_in(references, tmp_path))


def references_in(references: Dataset, folder: Path) -> Dataset:
    return replace(references, annotations=(folder / "test_qa.json",))


def test_nothing_is_dropped_silently(written: Callable[[str, Any], Path], references: Dataset) -> None:
    rows = [
        {"id": "10", "question": "what is number 0", "pred": "x"},
        {"id": "10", "question": "what is number 0?", "pred": "z"},
        {"id": "99", "question": "who?", "pred": "x"},
        {"id": "12", "question": "what is the number 2?", "pred": ""},
        {"id": "13", "question": "what is number 3?", "pred": "y", "answer": "other"},
        {"id": "14", "pred": "y", "answer": "answer 4"},
        {"id": "15", "pred": None, "answer": "answer 5"},
    ]
    loaded = load_predictions(written("rows.jsonl", rows), references=references)
    assert given(loaded) == {"10": "x", "11": None, "12": "", "13": "y", "14": "y", "15": None}
    assert loaded.counts == {
        "num_rows": 7,
        "num_unknown": 1,
        "num_duplicates": 1,
        "num_other_questions": 1,
        "num_other_answers": 1,
        "num_unanswered": 2,
    }


def test_ids_go_before_places_where_both_would_do(written: Callable[[str, Any], Path], references: Dataset) -> None:
    """ActivityNet-QA's ids look like places, but count from 1 and not in the file's order."""
    sample = references.samples[0]
    turns = tuple(
        replace(turn, question_id=f"v_one_{number}") for turn, number in zip(sample.turns, (2, 1), strict=True)
    )
    dataset = replace(references, samples=(replace(sample, turns=turns),))
    path = written("rows.json", [{"question_id": "v_one_1", "answer": "x"}, {"question_id": "v_one_2", "answer": "y"}])
    assert given(load_predictions(path, references=dataset)) == {"v_one_2": "y", "v_one_1": "x"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("other.json", {"1": "x"}, r"none of its ids \(such as 1\) is one of msvd test \(such as 10\)"),
        ("empty.json", {}, "no predictions"),
        ("empty.json", [], "no rows"),
        ("text.json", "{", "not JSON"),
        ("twice.json", '{"10": "x", "10": "y"}', "'10' is there 2 times"),
        ("list.json", {"10": ["x"]}, "has to be text"),
        ("words.json", {"10": {"prediction": "x", "answer": "y"}}, "as numbers"),
        ("nothing.jsonl", [{"id": "10", "text": "x"}], "has no 'answer' or 'A'"),
        ("nobody.jsonl", [{"pred": "x"}], "'video_name' or 'video_id' or 'video'"),
        (
            "questions.jsonl",
            [{"id": "10", "question": "who sings?", "pred": "x"}, {"id": "11", "question": "why?", "pred": "x"}],
            "2 of 2 questions are not the references'; 10 has 'who sings.' for 'what is number 0.'",
        ),
    ],
)
def test_what_cannot_be_scored_says_why(
    written: Callable[[str, Any], Path], references: Dataset, name: str, content: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_predictions(written(name, content), references=references)


def test_other_layouts_need_the_references(written: Callable[[str, Any], Path]) -> None:
    with pytest.raises(DataError, match="--references msvd"):
        load_predictions(written("ids.json", {"10": "x"}))
    with pytest.raises(DataError, match="--references msvd"):
        load_predictions(written("rows.jsonl", [{"id": "10", "pred": "x"}]))


# --- published predictions


@pytest.mark.parametrize("name", ["msvd_HQGA_test.json", "msvd_HQGA_test.merge.jsonl"])
@pytest.mark.parametrize("annotations", ["hqga_test.csv", "videollava_test_q.rebuilt.json"])
def test_published_predictions_on_msvd(shared: Path, name: str, annotations: str) -> None:
    folder = shared / "annotations/msvd-qa"
    dataset = load_dataset("msvd", folder, split="test", annotations=folder / annotations)
    path = shared / "predictions/hqga" / name
    if name.endswith(".json") and annotations.endswith(".json"):
        with pytest.raises(DataError, match="none of its ids"):
            load_predictions(path, references=dataset)
        return
    loaded = load_predictions(path, references=dataset)
    assert sum(one.prediction == one.answer for one in loaded.predictions) == 5414
    assert len(loaded.predictions) == loaded.num_rows == 13157
    assert (loaded.num_unknown, loaded.num_duplicates, loaded.num_unanswered, loaded.num_other_answers) == (0, 0, 0, 0)
    # The two published copies of the questions differ in 19 of them.
    assert loaded.num_other_questions == (19 if (name.endswith(".jsonl") and annotations.endswith(".csv")) else 0)
