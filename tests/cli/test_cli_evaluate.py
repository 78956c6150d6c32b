"""``voco-video eval`` as a user meets it: what it prints, exit codes, errors in one line, and real MSVD clips."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import pytest
from typer.testing import CliRunner

from tests.helpers.choice_sets import write_egoschema, write_nextqa
from tests.helpers.shapes_as_sets import CHOICES, GROUNDING, happenings, questions, write_clips
from voco_video import cli
from voco_video.errors import UsageError
from voco_video.evaluate.options import parse_budgets
from voco_video.library.manifest import VideoRow, write_manifest
from voco_video.scoring.predictions import read_predictions, read_run_info
from voco_video.shapes.write_dataset import write_dataset

CHOICE_WRITERS = {"egoschema": write_egoschema, "nextqa": partial(write_nextqa, split="test")}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "shapes"
    return write_dataset(folder, layout="msvd", num_videos=12, questions_per_video=6, size=64)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


@pytest.fixture
def run(run: Run, monkeypatch, cache_dir) -> Run:
    """The program, with one frame cache for all tests of this file."""
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", str(cache_dir))
    return run


def test_evaluate_twice(run, shapes, tmp_path, monkeypatch):
    arguments = ["eval", "msvd", "--root", shapes, "--num-voco-tokens", "8,1", "--rank-vocabulary", "10"]
    code, first, err = run(*arguments)
    assert code == 0, err
    folder = Path("runs/eval/msvd-test-voco-tiny")
    written = {path.name for path in folder.iterdir()}
    suffixes = ("jsonl", "basis.json", "run.json", "scores.json", "scores.md", "scores.png")
    assert written == {f"predictions-{k}.{suffix}" for k in ("k1", "k8") for suffix in suffixes} | {
        f"sweep.{suffix}" for suffix in ("json", "md", "png")
    } | {"frames"}
    report = (folder / "predictions-k8.scores.md").read_text()
    pictures = sorted((folder / "frames").iterdir())
    assert report.count("<img src=") == report.count("confidence ") == min(10, len(pictures)) > 1
    assert all(f'<img src="frames/{picture.name}"' in report for picture in pictures)
    assert "4 of its " in report
    files = contents(folder)
    info = read_run_info(folder / "predictions-k8.jsonl")
    assert info["command"].startswith("voco-video eval msvd --root ")
    assert (info["model"], info["seed"], info["settings"]["rank_vocabulary"]) == ("voco-tiny", 0, 10)
    monkeypatch.setattr("voco_video.answer.generate.generate", None)
    monkeypatch.setattr("av.open", None)
    code, second, err = run(*arguments)
    assert code == 0, err
    assert contents(folder) == files
    said = re.search(r"voco K=[18,]+ embeds · (\d+) questions on (\d+) videos of msvd test · .* · (\d+) cached", err)
    assert said, err
    num_rows = len(read_predictions(folder / "predictions-k8.jsonl"))
    assert (int(said[1]), said[3]) == (num_rows, said[2]), "every video is in the cache by now"
    assert second == first
    assert [line for line in first.splitlines() if line.startswith("msvd")] == ["msvd test, k8", "msvd test, k1"]
    note = "The model: voco-tiny knows nothing but MovingShapes"
    for expected in ("exact match %", "top-10 %", f"predictions: {folder}/predictions-k8.jsonl", note):
        assert expected in first


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_manifest_lists_the_videos(run, shapes, tmp_path):
    arguments = ["eval", "msvd", "--annotations", shapes / "test_qa.json", "--limit", "4"]
    assert run(*arguments, "--root", shapes, "--out", "folder")[0] == 0
    clips = sorted((shapes / "YouTubeClips").glob("*"))
    write_manifest([VideoRow(str(clip)) for clip in clips], tmp_path / "clips.csv")
    code, _, err = run(*arguments, "--root", tmp_path / "clips.csv", "--out", "listed")
    assert code == 0, err
    predictions = [read_predictions(tmp_path / out / "predictions-k8.jsonl") for out in ("folder", "listed")]
    assert predictions[0] == predictions[1]
    write_manifest([VideoRow("s3://bucket/a.mp4")], tmp_path / "clips.csv")
    code, _, err = run(*arguments, "--root", tmp_path / "clips.csv", "--out", "none")
    assert (code, "row 1: 's3://bucket/a.mp4' is a URL, and evaluation reads files" in " ".join(err.split())) == (
        1,
        True,
    )


def written_set(root: Path, dataset: str) -> tuple[Path, tuple[object, ...]]:
    """A small copy of a set, as it is published; gives its folder, and the options that it is evaluated with."""
    if dataset in CHOICE_WRITERS:
        return CHOICE_WRITERS[dataset](root), ("--answer-by", "likelihood")
    if dataset not in {*CHOICES, *GROUNDING}:
        return write_dataset(root, layout=dataset, num_videos=8, size=64), ()
    clips = write_clips(root / "clips")
    if dataset in CHOICES:
        CHOICES[dataset](root / "rows", questions(clips)[:10])
        way = "letter" if dataset == "tempcompass-captioning" else "likelihood"
    else:
        GROUNDING[dataset](root / "rows", happenings(clips))
        way = "find"
    place = root / "rows" if dataset == "mvbench" else clips
    return place, ("--annotations", root / "rows", "--answer-by", way)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dataset", [*CHOICE_WRITERS, "msrvtt", "activitynet", *CHOICES, *GROUNDING])
def test_a_second_evaluation_decodes_nothing_and_gives_the_same_bytes(run, tmp_path, monkeypatch, dataset):
    """Into the same folder, where all is done, and into another one, where all is answered again from the cache."""
    root, options = written_set(tmp_path / "set", dataset)
    arguments = ("eval", dataset, "--root", root, "--num-frames", "2", "--max-new-tokens", "4", *options)
    opened, really_open = [], av.open
    monkeypatch.setattr("av.open", lambda *a, **k: opened.append(a[0]) or really_open(*a, **k))
    code, _, err = run(*arguments, "--out", "here")
    assert code == 0, err
    assert opened, "videos are opened by this function, and by no other"
    files = contents(Path("here"))
    assert any(name.startswith("frames/") for name in files)
    monkeypatch.setattr("av.open", None)
    code, _, err = run(*arguments, "--out", "here")
    assert code == 0, err
    assert contents(Path("here")) == files
    for path in (Path("here") / "frames").iterdir():  # which alone needs frames that the cache does not keep
        (Path("there/frames") / path.name).parent.mkdir(parents=True, exist_ok=True)
        (Path("there/frames") / path.name).write_bytes(path.read_bytes())
    code, _, err = run(*arguments, "--out", "there")
    assert code == 0, err
    again = contents(Path("there"))
    for kind in (".basis.json", "predictions-k8.jsonl"):
        assert {n: c for n, c in again.items() if n.endswith(kind)} == {
            n: c for n, c in files.items() if n.endswith(kind)
        }


def test_json_has_the_same_scores(run, shapes):
    arguments = ["eval", "msvd", "--root", shapes, "--out", "here"]
    code, shown, err = run(*arguments)
    assert code == 0, err
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    exact = facts["scores"]["k8"]["overall"]["metrics"]["exact_match"]
    predictions = read_predictions(Path(facts["predictions"]["k8"]))
    assert exact["value"] == sum(p.prediction == p.answer for p in predictions) / len(predictions)
    assert f"{100 * exact['value']:.2f} [{100 * exact['low']:.2f}, {100 * exact['high']:.2f}]" in shown


def test_the_vocabulary_lies_beside_the_annotations(run, shapes, tmp_path):
    code, _, err = run(
        *("eval", "msvd", "--root", shapes, "--annotations", shapes / "test_qa.json", "--out", "a"),
        *("--rank-vocabulary", "5", "--limit", "2"),
    )
    assert code == 0, err
    (tmp_path / "test_qa.json").write_bytes((shapes / "test_qa.json").read_bytes())
    code, _, err = run(
        *("eval", "msvd", "--root", shapes / "YouTubeClips", "--annotations", tmp_path, "--out", "b"),
        *("--rank-vocabulary", "5", "--limit", "2"),
    )
    assert (code, "no annotations of the train split" in err) == (1, True), err


def test_ctrl_c_says_how_to_go_on(run, shapes, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("voco_video.api.CompressedVideo.ask", stop)
    code, out, err = run("eval", "msvd", "--root", shapes, "--out", "stopped")
    assert (code, out) == (130, "")
    assert "stopped keeps what is answered: the same command goes on from there" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--root", "none"], 2, "none: no such folder"),
        (["--root", "{empty}"], 1, "no annotations of the test split"),
        (["--num-voco-tokens", "1,x"], 2, "--num-voco-tokens 1,x"),
        (["--num-voco-tokens", "9"], 2, "--num-voco-tokens 9"),
        (["--num-voco-tokens", "1", "--compressor", "none"], 2, "--num-voco-tokens 1"),
        (["--compressor", "zip"], 2, "--compressor zip"),
        (["--limit", "0"], 2, "--limit 0"),
        (["--num-frames", "4", "--fps", "1"], 2, "--num-frames 4"),
        (["--prompt", "what?"], 2, "--prompt 'what?'"),
        (["--num-workers", "0"], 2, "--num-workers 0"),
        (["--rank-vocabulary", "-1"], 2, "-1"),
        (["--split", "exam"], 2, "exam"),
        (["--model", "nobody/nothing"], 1, "nobody/nothing"),
    ],
)
def test_a_users_mistake_is_one_clear_line(run, shapes, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    given = [argument.format(empty=tmp_path / "empty") for argument in arguments]
    root = [] if "--root" in given else ["--root", str(shapes)]
    got, out, err = run("eval", "msvd", *root, *given)
    assert (got, message in err, "Traceback" in err, out) == (code, True, False, ""), err
    assert not (tmp_path / "runs").exists()


def test_other_settings_in_the_same_folder_are_refused(run, shapes):
    assert run("eval", "msvd", "--root", shapes, "--out", "here", "--limit", "3")[0] == 0
    code, _, err = run("eval", "msvd", "--root", shapes, "--out", "here", "--limit", "4")
    assert code == 2
    assert "limit 3 instead of 4" in err
    assert "choose another place with --out" in err


def test_torchrun_and_workers_exclude_each_other(run, shapes, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    code, _, err = run("eval", "msvd", "--root", shapes, "--num-workers", "2")
    assert (code, "torchrun has started the processes already" in err) == (2, True)


@pytest.mark.parametrize(("text", "budgets"), [("8", (8,)), ("1, 2,4", (1, 2, 4))])
def test_budgets(text, budgets):
    assert parse_budgets(text) == budgets


@pytest.mark.parametrize("text", ["", "0", "1,", "-1", "1;2", "²"])
def test_budgets_that_are_none(text):
    with pytest.raises(UsageError, match="num_voco_tokens="):
        parse_budgets(text)


def test_help_has_examples():
    shown = CliRunner().invoke(cli.app, ["eval", "--help"])
    assert shown.exit_code == 0
    assert "voco-video eval msvd --root" in shown.output.split("Examples:")[1]


@pytest.mark.exhaustive
def test_real_msvd_clips_with_their_official_questions(run, shared, tmp_path):
    """The very command of a user who has one of the split's 504 videos."""
    arguments = [
        *("eval", "msvd", "--root", shared / "clips" / "msvd", "--annotations", shared / "annotations" / "msvd-qa"),
        *("--num-frames", "4", "--num-voco-tokens", "1", "--max-new-tokens", "4", "--out", "real"),
    ]
    code, shown, err = run(*arguments)
    assert code == 0, err
    predictions = read_predictions(Path("real/predictions-k1.jsonl"))
    clips = {clip["file"]: clip for clip in json.loads((shared / "clips" / "MANIFEST.json").read_text())["clips"]}
    official = clips["msvd/rlQ2kW-FvMk_66_79.mp4"]["official_msvd_qa"]
    there = {p.question_id: p for p in predictions if p.status == "answered"}
    assert {i: (p.question, p.answer) for i, p in there.items()} == {
        one["qid"]: (f"{one['question']}?", one["answer"]) for one in official if one["split"] == "test"
    }
    assert {p.video for p in there.values()} == {"rlQ2kW-FvMk_66_79"}
    assert len(predictions) == 13157
    assert {p.status for p in predictions if p.question_id not in there} == {"missing"}
    assert len(read_run_info(Path("real/predictions-k1.jsonl"))["missing"]) == 503
    assert "13131 of 13157 questions are unanswered and count as wrong" in shown
    assert "missing videos: 503 (" in shown
    code, shown, err = run(*arguments, "--skip-missing")
    assert code == 0, err
    assert "13131 of 13157 questions are unanswered and left out" in shown
    assert "count as wrong" not in shown
