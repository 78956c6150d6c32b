"""MovingShapes on disk: the genuine files' layouts, resumed runs, nothing half-written."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from voco_video.errors import UsageError
from voco_video.shapes import write_dataset as writing
from voco_video.shapes.rendering import render
from voco_video.shapes.world import draw_scene
from voco_video.shapes.write_dataset import LAYOUTS, write_dataset

NUM_VIDEOS, SIZE = 6, 32


def write(directory: Path, layout: str, **options: Any) -> Path:
    return write_dataset(directory, layout=layout, num_videos=NUM_VIDEOS, seed=3, size=SIZE, **options)


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def form(row: dict[str, Any]) -> list[tuple[str, type]]:
    """Field names in their order, with types."""
    return [(name, type(value)) for name, value in row.items()]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("sets")
    return {layout: write(directory / layout, layout) for layout in LAYOUTS}


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


# --- the layouts, against the genuine files


def test_msvd_questions(sets: dict[str, Path]) -> None:
    rows = {split: load(sets["msvd"] / f"{split}_qa.json") for split in ("train", "val", "test")}
    # The published split files: {"answer", "id", "question", "video_id"}, ids and videos running on.
    kinds = [("answer", str), ("id", int), ("question", str), ("video_id", int)]
    every_row = [row for split in rows.values() for row in split]
    assert all(form(row) == kinds for row in every_row)
    assert [row["id"] for row in every_row] == list(range(len(every_row)))
    videos = [sorted({row["video_id"] for row in rows[split]}) for split in rows]
    assert list(itertools.chain(*videos)) == list(range(1, NUM_VIDEOS + 1))
    first_words = {row["question"].split()[0] for row in every_row}
    assert first_words <= {"what", "who", "how", "where", "when"}


def test_msvd_mapping_and_videos(sets: dict[str, Path], shared: Path) -> None:
    text = (sets["msvd"] / "youtube_mapping.txt").read_bytes()
    genuine = (shared / "annotations/msvd-qa/youtube_mapping.txt").read_bytes()
    for content in (text, genuine):
        lines = content.split(b"\r\n")
        assert content.count(b"\n") == len(lines) - 1
        assert [line.split(b" ")[1] for line in lines] == [b"vid%d" % n for n in range(1, len(lines) + 1)]
    names = [line.split(" ")[0] for line in text.decode().split("\r\n")]
    assert {path.name for path in (sets["msvd"] / "YouTubeClips").iterdir()} == {f"{n}.avi" for n in names}


def test_msrvtt_questions(sets: dict[str, Path], shared: Path) -> None:
    genuine = load(shared / "annotations/msrvtt-qa/val_qa.rebuilt_from_igvlm.json")
    rows = {split: load(sets["msrvtt"] / f"{split}_qa.json") for split in ("train", "val", "test")}
    for split, folder in (("train", "TrainValVideo"), ("val", "TrainValVideo"), ("test", "TestVideo")):
        assert {tuple(form(row)) for row in rows[split]} == {tuple(form(genuine[0]))}
        assert all((sets["msrvtt"] / folder / f"video{r['video_id']}.mp4").is_file() for r in rows[split])
    assert rows["train"][0]["video_id"] == rows["train"][0]["id"] == 0
    with (shared / "annotations/msrvtt-qa/hqga_val.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert {"question", "answer"} <= set(first)
    assert rows["val"][0]["question"].endswith("?") == genuine[0]["question"].endswith("?")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_activitynet_questions(sets: dict[str, Path], shared: Path, split: str) -> None:
    genuine = [load(shared / f"annotations/activitynet-qa/{split}_{kind}.json") for kind in "qa"]
    ours = [load(sets["activitynet"] / f"{split}_{kind}.json") for kind in "qa"]
    for theirs, rows in zip(genuine, ours, strict=True):
        assert {tuple(form(row)) for row in rows} == {tuple(form(theirs[0]))}
    types = {row["type"] for row in genuine[1]}
    for questions, answers in (genuine, ours):
        assert [row["question_id"] for row in questions] == [row["question_id"] for row in answers]
        ids = sorted(row["question_id"] for row in questions)
        names = {row["video_name"] for row in questions}
        assert ids == sorted(f"v_{name}_{number}" for name in names for number in range(1, 11))
        assert not any(row["question"].endswith("?") for row in questions[:50])
        assert {row["type"] for row in answers} <= types
    clips = {path.name for path in (sets["activitynet"] / "videos").iterdir()}
    assert {f"v_{row['video_name']}.mp4" for row in ours[0]} <= clips


@pytest.mark.parametrize("media", ["video", "image"])
def test_llava_conversations(tmp_path: Path, shared: Path, media: str) -> None:
    genuine = load(shared / "annotations/instruct/quoted_rows.json")["llava_mix665k_row1"]["row"]
    out = write(tmp_path / "set", "llava", media=media, questions_per_video=4)
    for split in ("train", "val", "test"):
        for row in load(out / f"{split}.json"):
            assert [name.replace(media, "image") for name in row] == list(genuine)
            assert (out / row[media]).is_file()
            turns = row["conversations"]
            assert form(turns[0]) == form(genuine["conversations"][0])
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
            starts = [turn["value"].startswith(f"<{media}>\n") for turn in turns]
            assert starts == [True] + [False] * (len(turns) - 1)


def test_llava_image_shows_what_is_told(tmp_path: Path) -> None:
    out = write(tmp_path / "set", "llava", media="image", questions_per_video=8)
    numbers = ("zero", "one", "two", "three", "four")
    for index, row in enumerate(load(out / "train.json")):
        scene = draw_scene(3, split="train", index=index, always_visible=True)
        pixels = np.asarray(Image.open(out / row["image"]))
        if not any(o.is_moving for o in scene.objects):
            assert np.array_equal(pixels, render(scene, [0.0], size=SIZE)[0])
        turns = [turn["value"].removeprefix("<image>\n") for turn in row["conversations"]]
        told = dict(zip(turns[::2], turns[1::2], strict=True))
        assert told["how many shapes are there?"] == numbers[len(scene.objects)]


# --- one run after another


def test_same_arguments_give_the_same_bytes(sets: dict[str, Path], tmp_path: Path) -> None:
    assert files_of(write(tmp_path / "again", "activitynet")) == files_of(sets["activitynet"])


def test_stopped_run_goes_on_and_keeps_its_clips(
    sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"

    def stop_after_three(done: int, total: int) -> None:
        assert total == NUM_VIDEOS
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(out, "msvd", progress=stop_after_three)
    assert not out.exists()
    with pytest.raises(UsageError, match="other settings"):
        write_dataset(out, layout="msvd", num_videos=NUM_VIDEOS, seed=4, size=SIZE)
    written = []
    write_clip = writing.write_clip

    def counting(scene: Any, path: Path, **options: Any) -> Path:
        written.append(path)
        return write_clip(scene, path, **options)

    monkeypatch.setattr(writing, "write_clip", counting)
    write(out, "msvd")
    assert len(written) == NUM_VIDEOS - 3
    assert files_of(out) == files_of(sets["msvd"])
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_finished_set_is_left_alone_and_another_one_refused(sets: dict[str, Path], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sets["llava"].rglob("*")}
    assert write(sets["llava"], "llava") == sets["llava"]
    assert before == {path: path.stat().st_mtime_ns for path in sets["llava"].rglob("*")}
    with pytest.raises(UsageError, match="not this data set"):
        write(sets["llava"], "msvd")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not this data set"):
        write(tmp_path, "msvd")


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "coco"},
        {"num_videos": 2},
        {"questions_per_video": 0},
        {"seed": -1},
        {"media": "image"},
        {"size": 31},
    ],
    ids=lambda options: next(iter(options)),
)
def test_impossible_arguments_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    arguments = {"layout": "msvd", "num_videos": 3, "size": SIZE} | options
    with pytest.raises(UsageError):
        write_dataset(tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()
