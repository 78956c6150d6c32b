"""Loaders of the sets that have a file each: samples in their genuine form, the prompt of each, and its faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.helpers.choice_sets import write_videomme
from tests.helpers.more_sets import WRITERS, longvideobench_rows, timescope_rows, write_lines
from voco_video import cli
from voco_video.data.choices import filled_prompt
from voco_video.data.registry import default_split, load_video_set, published_size
from voco_video.data.samples import Dataset, SplitSize
from voco_video.data.sets import SETS
from voco_video.errors import DataError, UsageError
from voco_video.video.subtitles import Cue, read_subtitles


def loaded(dataset: str, root: Path, split: str | None = None) -> Dataset:
    WRITERS[dataset](root)
    return load_video_set(dataset, root, split=split)


def asked(data: Dataset) -> list[str]:
    return [filled_prompt(data.prompt, turn.question, turn.options) for _, turn in data.questions()]


def facts(data: Dataset) -> list[tuple[str, str, str, str]]:
    """Video, id, type, answer."""
    return [(s.name, turn.question_id, turn.question_type, turn.answer) for s, turn in data.questions()]


def test_every_set_has_a_sample() -> None:
    assert set(WRITERS) == set(SETS)


def test_lvbench(tmp_path: Path) -> None:
    data = loaded("lvbench", tmp_path)
    assert facts(data) == [
        ("Cm73ma6Ibcs", "55", "key information retrieval", "D"),
        ("Cm73ma6Ibcs", "56", "event understanding + reasoning", "B"),
        ("-t8rH1w_2Ek", "1201", "entity recognition", "A"),
    ]
    assert [turn.options[0] for _, turn in data.questions()] == ["1636", "He is\ntired", "Ann"]
    assert asked(data)[0] == (
        "What year appears in the opening caption of the video?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633\n"
        "Answer the question with the option letter"
    )
    assert [turn.row for _, turn in data.questions()] == [0, 1, 2]


def test_longvideobench(tmp_path: Path) -> None:
    data = loaded("longvideobench", tmp_path)
    assert data.split == "val"
    assert facts(data) == [
        ("86CxyhFV9MI", "86CxyhFV9MI_0", "TOS", "B"),
        ("@chef-7304267354", "@chef-7304267354_1", "S2O", "E"),
    ]
    assert [turn.duration_class for _, turn in data.questions()] == ["up to 600 s", "up to 15 s"]
    assert asked(data)[1] == (
        "Question: What is on the table?\nA. bread\nB. rice\nC. soup\nD. tea\nE. milk\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert facts(load_video_set("longvideobench", tmp_path, split="test"))[0][3] == ""
    said = [(sample.media[0].subtitles, sample.media[0].subtitles_start_seconds) for sample in data.samples]
    assert said == [
        (tmp_path / "subtitles/86CxyhFV9MI_en.json", 0),
        (tmp_path / "subtitles/@chef-7304267354.json", 120.5),
    ]
    assert read_subtitles(said[1][0], shift_seconds=-said[1][1]) == (Cue(0.5, 3.5, "Now the milk."),)


def test_videomme_with_and_without_subtitles(tmp_path: Path) -> None:
    """The folder subtitle/ of the published set; two thirds of its videos have none."""
    write_videomme(tmp_path)
    write_lines(tmp_path / "subtitle/abcdefghijk.srt", ["1", "00:00:01,000 --> 00:00:02,000", "Hello."])
    data = load_video_set("videomme", tmp_path)
    assert [sample.media[0].subtitles for sample in data.samples] == [
        tmp_path / "subtitle/abcdefghijk.srt",
        None,
        None,
    ]
    assert "question based on the video. Respond with only" in asked(data)[0]
    assert "question based on the video and the subtitles. Respond with only" in data.prompt_with_subtitles
    assert asked(data)[0].endswith("D. None.\nThe best answer is:")


def test_longvideobench_from_a_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="parquet files need pyarrow, which the extra `eval` brings")
    from pyarrow import Table, parquet

    rows = longvideobench_rows()
    for row in rows:
        candidates = [*row.pop("candidates"), "N/A", "N/A"]
        row.update({f"option{place}": candidates[place] for place in range(5)})
        row["starting_timestamp_for_subtitles"] = float(row["starting_timestamp_for_subtitles"])
    parquet.write_table(Table.from_pylist(rows), tmp_path / "validation-00000-of-00001.parquet")
    copied = load_video_set("longvideobench", tmp_path)
    published = loaded("longvideobench", tmp_path / "json")
    assert [turn for _, turn in copied.questions()] == [turn for _, turn in published.questions()]


def test_mvbench(tmp_path: Path) -> None:
    data = loaded("mvbench", tmp_path)
    found = {sample.name: sample.media[0] for sample in data.samples}
    videos = tmp_path / "video"
    assert {name: (media.path, media.window) for name, media in found.items()} == {
        "star/Charades_v1_480/ZS9XR 11.1-19.6 s": (videos / "star/Charades_v1_480/ZS9XR.mp4", (11.1, 19.6)),
        "perception/videos/video_10017": (videos / "perception/videos/video_10017.mp4", None),
        "clevrer/video_validation/video_10017": (videos / "clevrer/video_validation/video_10017.mp4", None),
        "Moments_in_Time_Raw/videos/yelling/getty-crowd-yelling_7": (
            videos / "Moments_in_Time_Raw/videos/yelling/getty-crowd-yelling_7.mp4",
            None,
        ),
    }
    assert [row[1:] for row in facts(data)] == [
        ("action_sequence_0", "action sequence", "A"),
        ("fine_grained_action_0", "fine grained action", "A"),
        ("moving_count_0", "moving count", "C"),
        ("object_shuffle_0", "object shuffle", "C"),
    ]
    assert asked(data)[3].endswith(
        "Question: Where is the hidden object at the end?\nOptions:\n(A) Under the first object.\n"
        "(B) Under the third object.\n(C) Under the second object.\nOnly give the best option."
    )


def test_mvbench_takes_clips_that_are_cut_already_as_they_are(tmp_path: Path) -> None:
    WRITERS["mvbench"](tmp_path)
    cut = tmp_path / "video/data0613/star/Charades_segment/ZS9XR.mp4"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(b"not opened here")
    media = load_video_set("mvbench", tmp_path).samples[0].media[0]
    assert (media.path, media.window) == (cut, None)
    (tmp_path / "video/perception/videos/video_10017.mp4").unlink()
    # Another task's video of the same name never stands in for it.
    assert load_video_set("mvbench", tmp_path).missing == ("perception/videos/video_10017",)


def test_tempcompass(tmp_path: Path) -> None:
    data = loaded("tempcompass-mc", tmp_path)
    assert [row[1:] for row in facts(data)] == [
        ("1034419625_action_0", "action", "A"),
        ("1034419625_attribute_change_0", "attribute change", "D"),
    ]
    assert asked(data)[0] == (
        "What is the man doing in the video?\nA. dunking a ball\nB. dribbling a ball\n"
        "Please directly give the best option:"
    )
    data = load_video_set("tempcompass-yes-no", tmp_path)
    assert [row[3] for row in facts(data)] == ["A", "B"]
    assert asked(data) == [
        "Is the man dunking?\nPlease answer yes or no:",
        "Is he dribbling?\nPlease answer yes or no:",
    ]
    data = load_video_set("tempcompass-matching", tmp_path)
    assert [row[3] for row in facts(data)] == ["B", "A"]
    assert asked(data)[0] == (
        "Which description fits?\nOption 1: The man is dribbling.\nOption 2: A man is dunking.\n"
        "Please directly give the best option:"
    )
    data = load_video_set("tempcompass-captioning", tmp_path)
    assert (data.is_multiple_choice, facts(data)[0][3]) == (False, "dunking a ball")
    assert asked(data)[0].endswith("Information B: {'subject': 'man'}\nGenerated Caption:")


def test_timescope(tmp_path: Path) -> None:
    data = loaded("timescope", tmp_path)
    assert facts(data) == [("10800_0", "0", "OCR", "E"), ("60_1", "1", "QA", "E"), ("300_2", "2", "temporal", "E")]
    assert asked(data) == [row["input"] for row in timescope_rows()]
    assert [turn.duration_class for _, turn in data.questions()] == ["10800 s", "60 s", "300 s"]


def test_grounding_sets(tmp_path: Path) -> None:
    data = loaded("charades-sta", tmp_path)
    assert (data.is_grounding, data.is_multiple_choice) == (True, False)
    assert [(s.name, turn.question_id, turn.windows, turn.answer) for s, turn in data.questions()] == [
        ("3MSZA", "3MSZA_0", ((24.3, 30.4),), "24.3 - 30.4"),
        ("AMT7R", "AMT7R_1", ((4.3, 12.5),), "4.3 - 12.5"),
        ("3MSZA", "3MSZA_2", ((29.5, 31.0),), "29.5 - 31"),
    ]
    assert "the textual sentence: person turn a light on. Please return its" in asked(data)[0]
    data = loaded("activitynet-captions", tmp_path)
    assert data.annotations == (tmp_path / "captions/val_2.json",)
    assert [(s.name, turn.question_id, turn.windows, turn.question) for s, turn in data.questions()][1:] == [
        ("bXdq2zI1Ms0", "v_bXdq2zI1Ms0_1", ((17.37, 60.81),), "She dances around."),
        ("-cAcA8dO7kA", "v_-cAcA8dO7kA_0", ((0.28, 55.15),), "A weight lifting tutorial is given."),
    ]
    data = loaded("qvhighlights", tmp_path)
    (sample, turn), *_ = data.questions()
    assert (sample.name, turn.question_id, turn.windows) == (
        "NUsG9BgSes0_210.0_360.0",
        "2579",
        ((82.0, 86.0), (100.0, 150.0)),
    )
    assert load_video_set("qvhighlights", tmp_path, split="test").questions()[0][1].question_id == "7"


def test_published_sizes() -> None:
    """Counted in the authors' files: TempCompass, QVHighlights. From cards, papers and others' loaders: the rest."""
    assert published_size("lvbench", "test") == SplitSize(103, 1549)
    assert [published_size("longvideobench", s) for s in ("val", "test")] == [SplitSize(None, n) for n in (1337, 5341)]
    assert published_size("mvbench", "test") == SplitSize(None, 20 * 200)
    forms = ("mc", "yes-no", "matching", "captioning")
    assert [published_size(f"tempcompass-{form}", "test").num_questions for form in forms] == [1580, 2453, 1503, 2004]
    assert published_size("charades-sta", "test") == SplitSize(1334, 3720)
    assert published_size("activitynet-captions", "test") == SplitSize(4885, 17031)
    assert published_size("qvhighlights", "val") == SplitSize(1519, 1550)
    assert {name: default_split(name) for name in ("longvideobench", "qvhighlights", "charades-sta", "mvbench")} == {
        "longvideobench": "val",
        "qvhighlights": "val",
        "charades-sta": "test",
        "mvbench": "test",
    }


@pytest.mark.parametrize("dataset", WRITERS)
def test_check(tmp_path: Path, dataset: str) -> None:
    WRITERS[dataset](tmp_path / "set")
    shown = CliRunner().invoke(cli.app, ["data", "check", dataset, "--root", str(tmp_path / "set")])
    assert (shown.exit_code, f"{dataset} clips" in shown.output) == (1, True), shown.output
    if dataset != "timescope":
        size = published_size(dataset, default_split(dataset))
        assert f"questions, but {size.num_questions} were published" in " ".join(shown.output.split())
    (tmp_path / "empty").mkdir()
    shown = CliRunner().invoke(cli.app, ["data", "check", dataset, "--root", str(tmp_path / "empty")])
    assert (shown.exit_code, "they come from https://" in " ".join(shown.output.split())) == (1, True)


FAULTS = [
    ("lvbench", "video_info.meta.jsonl", ['{"key": "a", "qa": 3}'], r"row 1: 'qa' is 3, but has to be a list of rows"),
    (
        "lvbench",
        "video_info.meta.jsonl",
        ['{"key": "a", "qa": [{"uid": 1, "question": "What?", "answer": "A", "question_type": ["x"]}]}'],
        r"row 1: has 0 options, but has to have 2",
    ),
    (
        "lvbench",
        "video_info.meta.jsonl",
        ['{"key": "a", "qa": [{"uid": 1, "question": "?\\n(A) x\\n(B) y", "answer": "C", "question_type": ["x"]}]}'],
        r"row 1: answer is 'C', but has to be one of A, B",
    ),
    ("charades-sta", "charades_sta_test.txt", ["3MSZA 24.3##person turn"], r"row 1: is .* START END##SENTENCE"),
    ("charades-sta", "charades_sta_test.txt", ["3MSZA 24.3 30.4##"], r"row 1: is '3MSZA"),
    ("activitynet-captions", "val_2.json", ['{"v_a": {"sentences": ["x"], "timestamps": []}}'], r"1 sentences, but"),
    (
        "activitynet-captions",
        "val_2.json",
        ['{"v_a": {"sentences": ["x"], "timestamps": [[1, "2"]]}}'],
        r"a window is \[1, '2'\], but has to be two numbers",
    ),
    ("activitynet-captions", "val_2.json", ['{"v_a": []}'], r"row 1: 'sentences' is None"),
    (
        "qvhighlights",
        "highlight_val_release.jsonl",
        ['{"qid": 1, "query": "x", "vid": "a"}'],
        r"needs .*with_gt\.jsonl",
    ),
    ("tempcompass-mc", "multi-choice.json", ['{"1": []}'], r"1 is \[\], but has to hold named dimensions"),
    (
        "tempcompass-yes-no",
        "yes_no.json",
        ['{"1": {"action": [{"question": "Is it?", "answer": "maybe"}]}}'],
        r"answer is 'maybe', but is none of the options yes, no",
    ),
    (
        "tempcompass-matching",
        "caption_matching.json",
        ['{"1": {"action": [{"question": "Which?\\nA dog.\\nA cat.", "answer": "A cat."}]}}'],
        r"have no labels such as 'Option 1: '",
    ),
    (
        "mvbench",
        "moving_count.json",
        ['[{"video": "v.mp4", "question": "?", "candidates": ["1", "2"], "answer": "3"}]'],
        r"row 1: answer is '3', but is none of the options 1, 2",
    ),
    (
        "mvbench",
        "action_sequence.json",
        ['[{"video": "v.mp4", "question": "?", "candidates": ["1", "2"], "answer": "1", "start": 1}]'],
        r"a window is \[1, None\]",
    ),
    (
        "longvideobench",
        "lvb_val.json",
        ['[{"candidates": ["a", "b"], "correct_choice": 2, "id": 1, "question": "?"}]'],
        r"answer is '2', but has to be a place from 0 to 1",
    ),
]


@pytest.mark.parametrize(("dataset", "name", "lines", "message"), FAULTS)
def test_faults(tmp_path: Path, dataset: str, name: str, lines: list[str], message: str) -> None:
    write_lines(tmp_path / name, lines)
    with pytest.raises(DataError, match=message):
        load_video_set(dataset, tmp_path)


def test_splits_that_a_set_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="qvhighlights has val and test and train"):
        load_video_set("qvhighlights", tmp_path, split="dev")
    with pytest.raises(UsageError, match="did you mean charades-sta"):
        load_video_set("charades-stb", tmp_path)


def test_an_id_that_is_there_twice(tmp_path: Path) -> None:
    WRITERS["timescope"](tmp_path)
    write_lines(tmp_path / "timescope.jsonl", timescope_rows() * 2)
    with pytest.raises(DataError, match="question id 0 is there 2 times"):
        load_video_set("timescope", tmp_path)
