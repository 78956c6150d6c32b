"""`voco-video data synth` and `data check`: output, exit codes, and what the report holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.helpers.clips import truncate
from voco_video.cli.data import app
from voco_video.data.check import check_dataset, why_broken
from voco_video.data.registry import load_dataset
from voco_video.errors import DataError, UsageError
from voco_video.shapes.write_dataset import write_dataset


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def msvd(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "msvd", layout="msvd", num_videos=10, seed=1, size=32, questions_per_video=4)


# --- synth


@pytest.mark.parametrize("layout", ["msvd", "msrvtt", "activitynet"])
def test_synth_writes_what_check_finds_complete(tmp_path: Path, layout: str) -> None:
    out = tmp_path / "set"
    written = run("synth", "--out", out, "--format", layout, "--num-videos", 4, "--seed", 2, "--size", 32)
    assert (written.exit_code, written.output) == (0, f"4 videos in {out}, format {layout}, seed 2\n")
    for split, num_videos in (("train", 2), ("val", 1), ("test", 1)):
        checked = run("check", layout, "--root", out, "--split", split, "--open")
        assert checked.exit_code == 0
        assert f"{layout} {split} in {out}: complete" in checked.output
        assert f"{num_videos} videos, {10 * num_videos} questions" in checked.output


def test_synth_of_images_is_what_the_same_call_in_python_gives(tmp_path: Path) -> None:
    options = ("--format", "llava", "--num-videos", 3, "--size", 32, "--media", "image", "--questions-per-video", 4)
    written = run("synth", "--out", tmp_path / "one", *options, "--json")
    assert json.loads(written.output)["path"] == str(tmp_path / "one")
    other = write_dataset(tmp_path / "two", layout="llava", num_videos=3, size=32, media="image", questions_per_video=4)
    for path in (p for p in other.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "one" / path.relative_to(other)).read_bytes()
    checked = run("check", tmp_path / "one/train.json", "--open", "--list")
    assert checked.exit_code == 0
    assert "there images/train_000000.png (4 questions)" in checked.output
    assert "1 conversations, 4 questions" in checked.output


def test_synth_refuses_what_cannot_be(tmp_path: Path, msvd: Path) -> None:
    assert isinstance(run("synth", "--out", msvd, "--format", "llava", "--num-videos", 10).exception, UsageError)
    few = run("synth", "--out", tmp_path / "few", "--format", "msvd", "--num-videos", 2)
    assert isinstance(few.exception, UsageError)
    for options in (("--format", "coco"), ("--format", "msvd", "--media", "film")):
        assert isinstance(run("synth", "--out", tmp_path / "coco", *options, "--num-videos", 3).exception, UsageError)


# --- check


def test_missing_and_broken_clips_are_told_one_by_one(msvd: Path) -> None:
    clips = [sample.media[0].path for sample in load_dataset("msvd", msvd, split="train").samples]
    clips[0].unlink()
    clips[1].write_bytes(b"")
    truncate(clips[2], clips[2], 0.1)
    plain, opened = (
        run("check", "msvd", "--root", msvd, "--split", "train"),
        check_dataset("msvd", msvd, split="train", open_media=True),
    )
    assert plain.exit_code == 1
    assert "not complete" in plain.output
    assert f"missing {clips[0].stem} (4 questions)" in plain.output
    assert f"broken {clips[1].stem} (4 questions): {clips[1]}: the file is empty" in plain.output
    assert clips[2].stem not in plain.output
    assert "voco-video data synth --out DIR --format msvd --num-videos 10 --seed 1" in plain.output
    assert [one.status for one in opened.media[:4]] == ["missing", "broken", "broken", "there"]
    assert opened.media[2].reason
    assert not opened.is_complete
    assert run("check", "msvd", "--root", msvd).exit_code == 0


def test_json_and_list_tell_every_video(msvd: Path) -> None:
    answer = run("check", "msvd", "--root", msvd, "--split", "train", "--json")
    report = json.loads(answer.output)
    assert (answer.exit_code, report["is_complete"]) == (0, True)
    assert report["counts"] == {"there": 6, "missing": 0, "broken": 0}
    assert report["annotations"] == [str(msvd / "train_qa.json")]
    assert (report["published"], report["num_questions"]) == (None, 24)
    listed = run("check", "msvd", "--root", msvd, "--split", "train", "--list").output
    for one in report["media"]:
        assert f"there {one['name']} (4 questions): {msvd}/YouTubeClips/{one['name']}.avi" in listed


def test_progress_counts_every_file(msvd: Path) -> None:
    seen: list[tuple[int, int]] = []
    check_dataset("msvd", msvd, split="train", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 6) for number in range(1, 7)]


def test_genuine_annotations_with_one_clip(shared: Path) -> None:
    annotations = shared / "annotations/msvd-qa"
    arguments = ("check", "msvd", "--root", shared / "clips", "--annotations", annotations)
    answer = run(*arguments, "--json")
    report = json.loads(answer.output)
    assert (answer.exit_code, report["counts"]) == (1, {"there": 1, "missing": 503, "broken": 0})
    assert report["published"] == {"num_samples": 504, "num_questions": 13157}
    assert report["problems"] == []
    missing = {one["name"]: one["origin"] for one in report["media"] if one["status"] == "missing"}
    assert missing["jv-eV6jR3Qw_7_12"] == "https://www.youtube.com/watch?v=jv-eV6jR3Qw, seconds 7 to 12"
    text = run(*arguments).output
    assert "504 videos of 504, 13157 questions of 13157" in text
    assert "YouTubeClips.tar" in text
    assert "and 493 more; --list shows them all" in text
    assert len(run(*arguments, "--list").output.splitlines()) > 504


def test_activitynet_origin_and_wrong_size(shared: Path, tmp_path: Path) -> None:
    for kind in "qa":
        rows = json.loads((shared / f"annotations/activitynet-qa/test_{kind}.json").read_text())
        (tmp_path / f"test_{kind}.json").write_text(json.dumps(rows[:100]))
    report = check_dataset("activitynet", tmp_path)
    assert [problem for problem in report.problems if "100 questions, but 8000 were published" in problem]
    assert report.media[0].origin == "https://www.youtube.com/watch?v=1QIUV7WYKXg"


def test_msrvtt_origin_comes_from_its_own_list(tmp_path: Path, shared: Path) -> None:
    quoted = json.loads((shared / "annotations/instruct/quoted_rows.json").read_text())
    videos = [quoted["msrvtt_videodatainfo_video0"]["row"]]
    (tmp_path / "train_val_videodatainfo.json").write_text(json.dumps({"videos": videos}))
    row = {"answer": "car", "category_id": 9, "id": 0, "question": "what drives?", "video_id": 0}
    (tmp_path / "train_qa.json").write_text(json.dumps([row]))
    (one,) = check_dataset("msrvtt", tmp_path, split="train").media
    assert one.origin == "https://www.youtube.com/watch?v=9lZi22qLlEo, seconds 137.72 to 149.44"
    (tmp_path / "train_val_videodatainfo.json").write_text("{}")
    with pytest.raises(DataError, match="train_val_videodatainfo"):
        check_dataset("msrvtt", tmp_path, split="train")


def test_absent_annotations_are_part_of_the_report(tmp_path: Path) -> None:
    answer = run("check", "msvd", "--root", tmp_path)
    assert answer.exit_code == 1
    assert "annotations: none (published at https://github.com/xudejing/video-question-answering)" in answer.output
    assert f"{tmp_path} has no annotations of the test split (looked for test_qa.json" in answer.output


def test_llava_mix665k_by_folder(tmp_path: Path) -> None:
    answer = run("check", "llava-mix665k", "--root", tmp_path)
    assert answer.exit_code == 1
    assert "huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K" in answer.output
    for folder in ("coco/train2017", "gqa/images", "textvqa/train_images", "vg/VG_100K", "vg/VG_100K_2"):
        assert f"{tmp_path}/{folder} is empty or not there; it comes from http" in answer.output
    data = tmp_path / "playground/data"
    (data / "coco/train2017").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(data / "coco/train2017/1.jpg")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]
    names = ["coco/train2017/1.jpg", "coco/train2017/2.jpg", "gqa/images/3.jpg", "gqa/images/3.jpg"]
    rows = [{"id": "1", "image": name, "conversations": turns} for name in names]
    (data / "llava_v1_5_mix665k.json").write_text(json.dumps(rows))
    for root in (tmp_path, data):
        report = check_dataset("llava-mix665k", root, open_media=True)
        assert [(g.name, g.num_there, g.num_missing) for g in report.groups] == [
            ("coco/train2017", 1, 1),
            ("gqa/images", 0, 1),
        ]
        assert [one.num_questions for one in report.media] == [1, 1, 2]
        assert report.problems[0] == "the annotations hold 4 conversations, but 665298 were published"
        assert not any("coco" in problem for problem in report.problems)


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    assert isinstance(run("check", "tgif").exception, UsageError)
    assert "no such folder" in str(run("check", "msvd", "--root", tmp_path / "nowhere").exception)
    assert "rows.json" in str(run("check", tmp_path / "rows.json").exception)
    assert isinstance(
        run("check", tmp_path / "rows.json", "--annotations", tmp_path, "--root", tmp_path).exception, UsageError
    )
    assert "split is 'dev', but msvd has train and val and test" in str(
        run("check", "msvd", "--split", "dev").exception
    )


def test_why_broken_tells_images_and_videos(tmp_path: Path, msvd: Path) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (64, 64), "red").save(image)
    clip = next((msvd / "YouTubeClips").iterdir())
    assert [why_broken(image, "image", open_media=True), why_broken(clip, "video", open_media=True)] == ["", ""]
    assert why_broken(Path(__file__), "image", open_media=True)
    truncate(image, image, 0.6)
    assert why_broken(image, "image", open_media=False) == ""
    assert why_broken(image, "image", open_media=True)


def test_the_former_name_of_the_format_still_works(tmp_path):
    options = ("--num-videos", 10, "--size", 32, "--json")
    made = run("synth", "--out", tmp_path / "new", "--format", "msvd", *options)
    former = run("synth", "--out", tmp_path / "old", "--layout", "msvd", *options)
    assert json.loads(made.stdout)["format"] == json.loads(former.stdout)["format"] == "msvd"
    assert "--layout msvd still works" in former.stderr
    assert not made.stderr
    for given in ((), ("--format", "msvd", "--layout", "msvd"), ("--format", "coco")):
        assert isinstance(run("synth", "--out", tmp_path / "no", *given, "--num-videos", 10).exception, UsageError)
