"""One file costs one file: where many are read, those that cannot be are counted and named, and the rest is done."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.bad_files import write_bad_files
from tests.helpers.clips import Clip
from tests.helpers.still_pictures import four_colours, write_picture
from voco_video.api import load_model
from voco_video.data.check import check_dataset
from voco_video.data.registry import load_dataset
from voco_video.data.samples import Media
from voco_video.errors import VideoError, VocoVideoError
from voco_video.evaluate import EvalOptions, evaluate
from voco_video.options.sampling import Sampling
from voco_video.scoring.predictions import read_predictions
from voco_video.shapes.write_dataset import write_dataset
from voco_video.training import TrainConfig
from voco_video.training.file_samples import CachedConversations, Conversations, read_rows
from voco_video.video.reading import open_video, read_frames


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two clips."""
    folder = tmp_path_factory.mktemp("good")
    return [Clip(f"{name}.mp4", num_frames=20).write(folder) for name in ("first", "last")]


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return write_bad_files(tmp_path_factory.mktemp("bad"))


@pytest.fixture(scope="module")
def faults(shared):
    """Given files that are damaged or odd in many ways; some can be read."""
    return sorted(path for path in (shared / "clips" / "faults").iterdir() if path.suffix != ".md")


def test_what_cannot_be_read_is_one_error_that_names_it(bad):
    for kind, path in bad.items():
        with pytest.raises(VideoError) as caught:
            read_frames(path, Sampling(num_frames=1))
        assert str(path) in str(caught.value), kind
        assert "\n" not in str(caught.value), kind


def test_given_files_are_read_or_one_error(faults):
    errors = []
    for path in faults:
        for sampling in (Sampling(), Sampling(num_frames=3), Sampling(keyframes=True)):
            try:
                with open_video(path) as video:
                    assert sum(len(batch) for batch in video.batches(sampling)) > 0
            except VocoVideoError as error:
                errors.append((path.name, str(error)))
    assert all(name in message or "in the video" in message for name, message in errors), errors


def test_compressing_many(run, good, bad):
    code, out, err = run("compress", good[0], *bad.values(), good[1], "--num-frames", "1", "--json")
    assert code == 1
    assert [row["path"] for row in json.loads(out)] == [str(path) for path in good]
    for kind, path in bad.items():
        assert sum(str(path) in line for line in err.splitlines() if line.startswith("error: ")) == 1, kind
    assert f"{len(bad)} of {len(bad) + 2} files failed" in err
    assert "Traceback" not in err


def test_compressing_the_given_files(run, good, faults):
    code, out, err = run("compress", good[0], *faults, good[1], "--num-frames", "2", "--json")
    read = {row["path"] for row in json.loads(out)}
    failed = [path for path in faults if str(path) not in read]
    assert {str(path) for path in good} <= read
    assert code == (1 if failed else 0)
    for path in failed:
        assert any(line.startswith("error: ") and path.name in line for line in err.splitlines()), path.name
    assert "Traceback" not in err


def test_a_window_that_lies_outside_one_video_costs_that_video(run, good, tmp_path):
    long = Clip("long.mp4", num_frames=100).write(tmp_path)
    code, out, err = run("compress", good[0], long, good[1], "--start", "2", "--num-frames", "1", "--json")
    assert (code, [row["path"] for row in json.loads(out)]) == (1, [str(long)])
    assert "2 of 3 files failed" in err
    code, out, err = run("find", good[0], long, good[1], "a number", "--start", "2", "--num-frames", "4", "--json")
    assert (code, {moment["path"] for moment in json.loads(out)["moments"]}) == (1, {str(long)})
    assert "2 of 3 videos failed" in err


def test_searching_many(run, good, bad, tmp_path):
    other = Clip("other.mp4", num_frames=24).write(tmp_path)
    code, out, err = run("find", good[0], *bad.values(), other, "a number", "--num-frames", "2", "--json")
    assert code == 1
    assert {moment["path"] for moment in json.loads(out)["moments"]} == {str(good[0]), str(other)}
    for kind, path in bad.items():
        assert sum(str(path) in line for line in err.splitlines() if line.startswith("error: ")) == 1, kind
    assert f"{len(bad)} of {len(bad) + 2} videos failed" in err
    assert "Traceback" not in err


def test_searching_entries_and_what_is_not_there(run, good, tmp_path):
    entry = json.loads(run("compress", good[0], "--num-frames", "2", "--json")[1])[0]["digest"]
    other = Clip("other.mp4", num_frames=24).write(tmp_path)
    damaged = json.loads(run("compress", other, "--num-frames", "2", "--json")[1])[0]["digest"]
    for tokens in Path(os.environ["VOCO_VIDEO_CACHE_DIR"]).rglob(f"*{damaged[:12]}*/*.safetensors"):
        tokens.write_bytes(tokens.read_bytes()[:40])
    missing = tmp_path / "missing.mp4"
    code, out, err = run("find", entry[:12], damaged[:12], missing, "a number", "--json")
    assert (code, {moment["entry"] for moment in json.loads(out)["moments"]}) == (1, {entry})
    assert "2 of 3 videos failed" in err
    assert sum(line.startswith("error: ") for line in err.splitlines()) == 2
    assert run("find", missing, "a number")[0] == 2


def test_a_folder_or_pattern_without_videos_among_many(run, good, tmp_path):
    (tmp_path / "nothing").mkdir()
    code, out, err = run("compress", tmp_path / "nothing", tmp_path / "*.mkv", *good, "--num-frames", "1", "--json")
    assert (code, len(json.loads(out))) == (1, 2)
    assert "2 of 4 files failed" in err


def rows_about(paths):
    return [
        {"image" if path.suffix != ".mp4" else "video": str(path), "question": f"what is {n}?", "answer": "a clip"}
        for n, path in enumerate(paths)
    ]


@pytest.fixture(scope="module")
def rows(tmp_path_factory, good, bad):
    """A file of questions about good clips, bad ones, and pictures good and cut off."""
    folder = tmp_path_factory.mktemp("rows")
    turned = write_picture(folder / "turned.jpg", four_colours(), orientation=6)
    cut = folder / "cut.png"
    whole = write_picture(folder / "whole.png", four_colours())
    cut.write_bytes(whole.read_bytes()[:-60])
    paths = [good[0], *bad.values(), cut, turned, good[1]]
    (folder / "questions.json").write_text(json.dumps(rows_about(paths)))
    return folder / "questions.json"


def test_checking_data(run, rows, bad):
    code, out, err = run("data", "check", rows, "--open", "--json")
    report = json.loads(out)
    assert code == 1
    assert "Traceback" not in err
    assert report["counts"]["there"] == 3
    assert report["counts"]["missing"] + report["counts"]["broken"] == len(bad) + 1
    for one in report["media"]:
        is_good = Path(one["name"]).name in ("first.mp4", "last.mp4", "turned.jpg")
        assert (one["status"] == "there") == is_good, one
        assert one["status"] != "broken" or one["reason"], one
    plain = check_dataset(str(rows))
    cheap = {Path(one.name).name: one.status for one in plain.media}
    assert {cheap[bad[kind].name] for kind in ("empty", "named pipe", "folder", "device")} <= {"broken", "missing"}


@pytest.mark.parametrize("mode", ["joint", "cached"])
def test_training_rows(rows, bad, tmp_path, mode, caplog):
    config = TrainConfig(
        output_dir=str(tmp_path / "run"),
        stage="video",
        mode=mode,
        dataset=str(rows),
        cache_dir=str(tmp_path / "cache"),
        num_frames=2,
        **({"train_projector": False, "train_voco_embeds": False, "lora_rank": 4} if mode == "cached" else {}),
    )
    model = load_model("voco-tiny").voco
    samples = read_rows(config)
    if mode == "cached":
        dataset = CachedConversations.compress(samples, model, config)
    else:
        dataset = Conversations(samples, config, model.backbone)
    good_rows = {0, len(samples) - 2, len(samples) - 1}
    for index in range(len(samples)):
        dataset.sample(index)
    assert set(dataset.bad) == set(range(len(samples))) - good_rows
    assert len(dataset.bad) == len(bad) + 1
    if mode == "joint":
        turned = dataset.sample(len(samples) - 2).frames
        upright = read_frames(rows.parent / "turned.jpg", fit=model.backbone.images.fit).pixels
        assert (turned == upright).all()
        assert abs(turned[0, 5, 5].astype(int) - (30, 30, 220)).max() < 20, "the lower left corner is now on top"


def test_evaluating(bad, tmp_path, caplog):
    kinds = sorted(bad)
    root = write_dataset(tmp_path / "set", layout="msvd", num_videos=2 * len(kinds), questions_per_video=1, size=64)
    data = load_dataset("msvd", root, split="train")
    samples = list(data.samples)
    for place, kind in enumerate(kinds, start=1):
        samples[place] = replace(samples[place], media=(Media("video", samples[place].name, bad[kind]),))
    wrong = {sample.name for sample in samples[1 : len(kinds) + 1]}
    model = load_model("voco-tiny", dtype="float32", cache_dir=tmp_path / "cache")
    result = evaluate(
        model, replace(data, samples=tuple(samples)), options=EvalOptions(num_frames=1), out=tmp_path / "run"
    )
    assert set(result.undecodable) == wrong
    predictions = read_predictions(result.predictions["k8"])
    assert {p.video for p in predictions if p.status == "undecodable"} == wrong
    assert {p.status for p in predictions if p.video not in wrong} == {"answered"}
    for name in wrong:
        assert f"{name}: " in caplog.text


def test_shown_in_a_harness(bad, tmp_path):
    """Images come as PIL opens them: turned as their EXIF says, and one error where they are cut off."""
    from PIL import Image

    from voco_video.integrations.visuals import Viewer

    model = load_model("voco-tiny", cache_dir=tmp_path / "cache")
    viewer = Viewer(model, Sampling(num_frames=1))
    turned = write_picture(tmp_path / "turned.png", four_colours(), orientation=5)
    with Image.open(turned) as image:
        (shown,) = viewer.look([image]).parts
    (read,) = viewer.look([turned]).parts
    assert all((shown.tokens().tensors()[name] == tensor).all() for name, tensor in read.tokens().tensors().items())
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(write_picture(tmp_path / "whole.jpg", four_colours(480, 640)).read_bytes()[:3000])
    with Image.open(cut) as image, pytest.raises(VideoError, match=r"cut\.jpg"):
        viewer.look([image])
    for path in bad.values():
        with pytest.raises(VideoError):
            viewer.look([path])
