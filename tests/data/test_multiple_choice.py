"""Loaders of the multiple-choice sets: genuine layouts, published sizes, and one clear error for each fault."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.helpers.choice_sets import (
    NEXTQA_COLUMNS,
    UIDS,
    WRITERS,
    nextqa_rows,
    videomme_rows,
    write_json,
    write_mlvu,
    write_mlvu_test,
    write_nextqa,
    write_videomme,
)
from voco_video import cli
from voco_video.data.check import check_dataset
from voco_video.data.multiple_choice import CHOICE_SIZES
from voco_video.data.registry import CHOICE_SETS, load_dataset, load_video_set, published_size
from voco_video.data.samples import Dataset, SplitSize, Turn
from voco_video.errors import DataError, UsageError


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return {name: write(folder / name) for name, write in WRITERS.items()}


def turns(dataset: Dataset) -> dict[str, Turn]:
    return {turn.question_id: turn for _, turn in dataset.questions()}


def files(dataset: Dataset) -> dict[str, str]:
    return {sample.name: str(sample.media[0].path) for sample in dataset.samples}


# --- what the genuine layouts say


def test_egoschema(sets: dict[str, Path]) -> None:
    root = sets["egoschema"]
    subset, whole = (load_dataset("egoschema", root, split=split) for split in (None, "test"))
    assert (subset.split, whole.split) == ("val", "test")
    assert subset.annotations == (root / "questions.json", root / "subset_answers.json")
    assert [(t.question_id, t.answer, t.row) for _, t in subset.questions()] == [(UIDS[1], "D", 1), (UIDS[2], "A", 2)]
    assert [(t.question_id, t.answer) for _, t in whole.questions()] == list(zip(UIDS, ("", "D", "A")))
    turn = turns(subset)[UIDS[1]]
    assert turn.question == "What was C's goal in video 1?"
    assert turn.options == tuple(f"C did thing {place} of 1" for place in range(5))
    assert files(whole) == {uid: str(root / f"videos/{uid}.mp4") for uid in UIDS}


def test_nextqa(sets: dict[str, Path]) -> None:
    root = sets["nextqa"]
    loaded = load_dataset("nextqa", root, split="val")
    assert files(loaded) == {
        "1000000001": str(root / "NExTVideo/1164/1000000001.mp4"),
        "2000000002": str(root / "NExTVideo/0032/2000000002.mp4"),
    }
    assert [(turn.question_id, turn.question_type, turn.answer) for _, turn in loaded.questions()] == [
        ("1000000001_6", "causal how", "A"),
        ("2000000002_1", "causal why", "C"),
        ("1000000001_1", "temporal order", "B"),
        ("2000000002_7", "temporal order", "E"),
        ("1000000001_2", "temporal when", "D"),
        ("2000000002_0", "descriptive count", "C"),
        ("2000000002_4", "descriptive location", "A"),
    ]
    turn = turns(loaded)["1000000001_6"]
    assert turn.question == "how do the two men cross the stream?"
    assert turn.options == tuple(f"ch answer {place}" for place in range(5))


def test_nextqa_from_a_parquet(sets: dict[str, Path], tmp_path: Path) -> None:
    """lmms-lab's copy, MC/test-00000-of-00001.parquet: the same columns, but numbers where the .csv has text."""
    pytest.importorskip("pyarrow", reason="parquet files need pyarrow, which the extra `eval` brings")
    from pyarrow import Table, parquet

    rows = [dict(zip(NEXTQA_COLUMNS, row)) | {"video": int(row[0])} for row in nextqa_rows()]
    parquet.write_table(Table.from_pylist(rows), path := tmp_path / "test-00000-of-00001.parquet")
    copied = load_dataset("nextqa", sets["nextqa"], split="test", annotations=path)
    assert list(copied.questions()) == list(load_dataset("nextqa", sets["nextqa"], split="val").questions())


@pytest.mark.parametrize("layout", ["parquet", "jsonl", "nested", "first"])
def test_videomme(tmp_path: Path, layout: str) -> None:
    if layout == "parquet":
        pytest.importorskip("pyarrow", reason="parquet files need pyarrow, which the extra `eval` brings")
    loaded = load_dataset("videomme", write_videomme(tmp_path / "set", layout=layout))
    assert loaded.missing == ()
    assert [len(sample.turns) for sample in loaded.samples] == [3, 3, 3]
    by_number = layout in ("nested", "first")
    named = ["001", "301", "601"] if by_number else ["abcdefghijk", "-N1cdUjctpG", "_26dzf-vc5g"]
    assert [Path(path).stem for path in files(loaded).values()] == named == [sample.name for sample in loaded.samples]
    for number, (row, (_, turn)) in enumerate(zip(videomme_rows(), loaded.questions(), strict=True)):
        assert turn == Turn(
            question=row["question"],
            answer=row["answer"],
            question_id=row["question_id"],
            question_type=row["task_type"],
            row=number,
            options=("Apples.", "Candles and more.", "Berries.", "None."),
            duration_class=row["duration"],
        )


def test_mlvu(sets: dict[str, Path]) -> None:
    root = sets["mlvu"]
    loaded = load_dataset("mlvu", root)
    assert loaded.split == "val"
    assert [path.stem for path in loaded.annotations] == ["1_plotQA", "2_needle", "7_topic_reasoning"]
    assert files(loaded) == {
        name: str(root / f"video/{name}.mp4")
        for name in ("1_plotQA/movie101_66", "1_plotQA/en_tv_10", "2_needle/needle_32", "7_topic_reasoning/movie101_66")
    }
    assert [(turn.question_id, turn.question_type, turn.answer) for _, turn in loaded.questions()] == [
        ("1_plotQA_0", "plotQA", "B"),
        ("1_plotQA_1", "plotQA", "C"),
        ("1_plotQA_2", "plotQA", "D"),
        ("2_needle_0", "findNeedle", "B"),
        ("2_needle_1", "findNeedle", "C"),
        ("7_topic_reasoning_0", "topic_reasoning", "B"),
        ("7_topic_reasoning_1", "topic_reasoning", "C"),
    ]
    assert [turn.row for _, turn in loaded.questions()] == list(range(7))
    assert turns(loaded)["1_plotQA_1"].options == ("plotQA w1", "plotQA x1", "plotQA y1", "plotQA z1")


def test_mlvu_test(tmp_path: Path) -> None:
    root = write_mlvu_test(tmp_path / "set")
    loaded = load_dataset("mlvu", root, split="test")
    assert loaded.annotations == (root / "test-ground-truth/test_mcq_gt.json",)
    assert files(loaded) == {name: str(root / f"MLVU_Test/video/{name}.mp4") for name in ("test_film_1", "test_game_2")}
    assert [(t.question_id, t.question_type, t.answer, len(t.options)) for _, t in loaded.questions()] == [
        ("PQA_0", "plotQA", "F", 6),
        ("NQA_0", "needleQA", "E", 6),
        ("SQA_0", "sportsQA", "D", 6),
    ]
    with pytest.raises(DataError, match=r"test_multi_choice_tasks\.json, row 1: has no 'answer'"):
        load_dataset("mlvu", root, split="test", annotations=root / "test_multi_choice_tasks.json")
    with pytest.raises(DataError, match=r"no annotations of the val split \(looked for 1_plotQA\.json"):
        load_dataset("mlvu", root)


def test_candidates_that_are_empty_or_equal(tmp_path: Path) -> None:
    """Both are in 1_plotQA.json as published. The authors' script takes the last candidate that reads as the answer."""
    rows = [
        MLVU | {"candidates": ["", "There is one", "There is none", ""], "answer": "There is none"},
        MLVU | {"candidates": ["Blue", "Red", "White", "Blue"], "answer": "Blue"},
    ]
    write_json(tmp_path / "1_plotQA.json", rows)
    empty, equal = turns(load_dataset("mlvu", tmp_path)).values()
    assert (empty.options, empty.answer) == (("There is one", "There is none"), "B")
    assert (equal.options, equal.answer) == (("Blue", "Red", "White", "Blue"), "D")


def test_a_tasks_video_is_never_taken_from_another_tasks_folder(tmp_path: Path) -> None:
    root = write_mlvu(tmp_path / "set")
    (root / "video/7_topic_reasoning/movie101_66.mp4").rename(root / "video/7_topic_reasoning/other.mp4")
    assert load_dataset("mlvu", root).missing == ("7_topic_reasoning/movie101_66",)
    (root / "video/7_topic_reasoning/other.mp4").unlink()
    (root / "video/7_topic_reasoning").rmdir()
    assert load_dataset("mlvu", root).missing == ("7_topic_reasoning/movie101_66",)
    # Without any task's folder all videos lie together.
    for path in list((root / "video").rglob("*.mp4")):
        path.rename(root / path.name)
    assert load_dataset("mlvu", root).missing == ()


def test_one_task_alone(sets: dict[str, Path]) -> None:
    loaded = load_dataset("mlvu", sets["mlvu"], annotations=sets["mlvu"] / "json/2_needle.json")
    assert [turn.question_id for _, turn in loaded.questions()] == ["2_needle_0", "2_needle_1"]


# --- published sizes


def test_published_sizes() -> None:
    """Of MLVU's tasks copies give 539 (plot) and 259 (order) questions apart; the other five are 1376 together."""
    assert published_size("egoschema", "test") == SplitSize(5031, 5031)
    assert published_size("egoschema", "val") == SplitSize(500, 500)
    assert published_size("nextqa", "val") == SplitSize(570, 4996)
    assert published_size("nextqa", "test") == SplitSize(1000, 8564)
    assert sum(size.num_questions for (name, _), size in CHOICE_SIZES.items() if name == "nextqa") == 47692
    assert published_size("videomme", "test") == SplitSize(900, 2700)
    assert published_size("mlvu", "val") == SplitSize(None, 539 + 259 + 1376)
    assert published_size("mlvu", "test") == SplitSize(None, 502)
    assert {name for name, _ in CHOICE_SIZES} == set(WRITERS) <= set(CHOICE_SETS)


def test_check_says_what_is_missing(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = check_dataset("nextqa", sets["nextqa"], split="val", open_media=True)
    assert (report.num_samples, report.num_questions, report.published) == (2, 7, SplitSize(570, 4996))
    assert report.problems == (
        "the annotations hold 2 videos, but 570 were published",
        "the annotations hold 7 questions, but 4996 were published",
    )
    monkeypatch.setitem(CHOICE_SIZES, ("nextqa", "val"), SplitSize(2, 7))
    assert check_dataset("nextqa", sets["nextqa"], split="val", open_media=True).is_complete
    root = write_nextqa(tmp_path / "set")
    (root / "NExTVideo/1164/1000000001.mp4").unlink()
    (root / "NExTVideo/0032/2000000002.mp4").write_bytes(b"")
    report = check_dataset("nextqa", root, split="val")
    assert [(one.name, one.status, one.origin, one.num_questions) for one in report.media] == [
        ("1000000001", "missing", "VidOR video 1164/1000000001", 3),
        ("2000000002", "broken", "VidOR video 0032/2000000002", 4),
    ]


def test_check_of_a_set_whose_videos_nobody_counted(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_dataset("mlvu", sets["mlvu"]).problems == (
        "the annotations hold 7 questions, but 2174 were published",
    )
    monkeypatch.setitem(CHOICE_SIZES, ("mlvu", "val"), SplitSize(None, 7))
    assert check_dataset("mlvu", sets["mlvu"]).is_complete


@pytest.mark.parametrize("dataset", tuple(WRITERS))
def test_check_from_the_command_line(sets: dict[str, Path], dataset: str, tmp_path: Path) -> None:
    options = ["--split", "val"] if dataset == "nextqa" else []
    shown = CliRunner().invoke(cli.app, ["data", "check", dataset, "--root", str(sets[dataset]), "--open", *options])
    assert shown.exit_code == 1, shown.output
    assert f"{dataset} clips" in shown.output
    assert f"questions, but {published_size(dataset, 'test' if dataset == 'videomme' else 'val').num_questions}" in (
        shown.output
    )
    shown = CliRunner().invoke(cli.app, ["data", "check", dataset, "--root", str(tmp_path), *options])
    assert shown.exit_code == 1
    assert f"{tmp_path} has no annotations of the" in shown.output
    assert "they come from https://" in shown.output


# --- which annotations


def test_the_published_name_goes_first(tmp_path: Path) -> None:
    root = write_videomme(tmp_path / "set")
    rows = videomme_rows()
    for name in ("my_video_mme.json", "output_test_template.json", "predictions.json"):
        write_json(root / name, rows[:1])
    with pytest.raises(DataError, match=r"my_video_mme\.json and .*videomme\.jsonl could both be"):
        load_dataset("videomme", root)
    (root / "videomme.jsonl").rename(root / "kept.jsonl")
    assert load_dataset("videomme", root).num_questions == 1
    assert load_dataset("videomme", root, annotations=root / "kept.jsonl").num_questions == 9
    # Example replies in the authors' repository, to a few of the videos.
    (root / "my_video_mme.json").unlink()
    with pytest.raises(DataError, match="no annotations of the test split"):
        load_dataset("videomme", root)


# --- faults

EGO = {"q_uid": "a", "question": "What?", "option 0": "x", "option 1": "y"}
NEXT = dict(zip(NEXTQA_COLUMNS, nextqa_rows()[0]))
MME = videomme_rows()[0]
MLVU = {"video": "a.mp4", "question": "What?", "candidates": ["x", "y"], "answer": "x", "question_type": "plotQA"}


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("dataset", "content", "message"),
    [
        (
            "egoschema val",
            {"questions.json": [EGO]},
            r"questions\.json: subset_answers\.json, which says what the val split",
        ),
        ("egoschema test", {"questions.json": [without(EGO, "question")]}, r"row 1: has no 'question'"),
        ("egoschema test", {"questions.json": [EGO | {"option 1": ""}]}, r"row 1: 'option 1' is empty"),
        (
            "egoschema test",
            {"questions.json": [without(EGO, "option 1")]},
            r"row 1: has 1 options, but has to have 2 to 26",
        ),
        (
            "egoschema test",
            {"questions.json": [EGO], "subset_answers.json": {"a": 2}},
            r"row 1: answer is '2', but .* 0 to 1",
        ),
        ("egoschema val", {"questions.json": [EGO], "subset_answers.json": {"b": 1}}, r"has no question of this split"),
        ("egoschema val", {"questions.json": [EGO], "subset_answers.json": [1]}, r"subset_answers\.json: holds a list"),
        ("egoschema val", {"questions.json": [EGO, EGO], "subset_answers.json": {"a": 1}}, r"id a is there 2 times"),
        ("nextqa val", {"val.csv": [without(NEXT, "a0")]}, r"val\.csv, row 1: has no options a0 to a4; .*open-ended"),
        (
            "nextqa val",
            {"val.csv": [NEXT | {"answer": "5"}]},
            r"row 1: answer is '5', but has to be a place from 0 to 4",
        ),
        ("nextqa val", {"val.csv": [NEXT | {"answer": "roll it"}]}, r"row 1: answer is 'roll it'"),
        ("nextqa val", {"val.csv": [NEXT | {"type": "XX"}]}, r"row 1: type is 'XX', but has to be one of CW, CH"),
        (
            "videomme test",
            {"test.json": [MME | {"answer": "E"}]},
            r"row 1: answer is 'E', but has to be one of A, B, C, D",
        ),
        (
            "videomme test",
            {"test.json": [MME | {"options": "A. x"}]},
            r"row 1: 'options' is 'A. x', but has to be a list",
        ),
        ("videomme test", {"test.json": [MME | {"options": ["x", None]}]}, r"row 1: 'options\[1\]' is None"),
        (
            "videomme test",
            {"test.json": [MME | {"duration": "12"}]},
            r"row 1: duration is '12', but has to be one of short",
        ),
        ("videomme test", {"test.json": [{"questions": ["x"]}]}, r"row 1: 'questions' is \['x'\]"),
        (
            "videomme test",
            {"test.json": [without(without(MME, "videoID"), "video_id")]},
            r"row 1: has no 'videoID' or 'video_id'",
        ),
        (
            "mlvu val",
            {"1_plotQA.json": [MLVU | {"answer": "z"}]},
            r"row 1: answer is 'z', but is none of .* x, y; .* a newer copy",
        ),
        (
            "mlvu val",
            {"1_plotQA.json": [MLVU | {"question": "", "candidates": ["", ""], "answer": ""}]},
            r"row 1: 'answer' is empty; MLVU repaired such rows in 2024: take a newer copy",
        ),
        ("mlvu val", {"1_plotQA.json": [MLVU | {"candidates": ["x", ""]}]}, r"row 1: has 1 options, but has to have 2"),
        ("mlvu val", {"1_plotQA.json": [MLVU | {"candidates": ["x", None]}]}, r"row 1: 'candidates\[1\]' is None"),
        (
            "mlvu val",
            {"1_plotQA.json": [without(MLVU, "answer")]},
            r"row 1: has no 'answer'; its fields are video, question",
        ),
        ("mlvu val", {"1_plotQA.json": [without(MLVU, "candidates")]}, r"row 1: has no 'candidates': free text"),
        ("mlvu val", {"8_sub_scene.json": [MLVU]}, r"no annotations of the val split"),
    ],
)
def test_one_clear_error(tmp_path: Path, dataset: str, content: dict[str, Any], message: str) -> None:
    for name, rows in content.items():
        if name.endswith(".csv"):
            with (tmp_path / name).open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            write_json(tmp_path / name, rows)
    name, split = dataset.split()
    with pytest.raises(DataError, match=message):
        load_video_set(name, tmp_path, split=split)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="parquet files need pyarrow, which the extra `eval` brings")
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: not parquet"):
        load_dataset("videomme", tmp_path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"needs pyarrow: pip install 'voco-video\[eval\]'"):
        load_dataset("videomme", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [
        ("mlvu", "train", "split is 'train', but mlvu has val and test"),
        ("egoschema", "train", "egoschema has val and test"),
        ("videomme", "val", "videomme has test"),
    ],
)
def test_splits_that_were_not_published(sets: dict[str, Path], dataset: str, split: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_dataset(dataset, sets[dataset], split=split)
    with pytest.raises(UsageError, match=message):
        check_dataset(dataset, sets[dataset], split=split)


def test_questions_keep_what_json_keeps(tmp_path: Path) -> None:
    """Numbers as options, blanks around texts, a line break inside: as published but for the blanks."""
    row = MLVU | {"candidates": [2, " 3 "], "answer": "3", "question": "How many\nare there?"}
    write_json(tmp_path / "4_count.json", [row])
    (turn,) = turns(load_dataset("mlvu", tmp_path)).values()
    assert (turn.options, turn.answer, turn.question) == (("2", "3"), "B", "How many\nare there?")
    assert json.loads((tmp_path / "4_count.json").read_text())[0]["question"] == turn.question
