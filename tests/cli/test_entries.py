"""Entries of the cache on the command line: named, listed, removed, followed; and the one rule of exit codes."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.helpers.clips import Clip
from voco_video.api import VideoModel, load_model
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.errors import CacheError, ModelError, UsageError
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene

BRIEF = ("--max-new-tokens", "1", "--anyway")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_clip(demo_scene(), folder / "clip.mp4", size=96)
    Clip("rec.ts", options={"g": "12", "preset": "ultrafast"}, num_frames=75).write(folder)
    return folder


@pytest.fixture
def clip(made, tmp_path) -> Path:
    return Path(shutil.copy(made / "clip.mp4", tmp_path / "clip.mp4"))


@pytest.fixture
def recording(made, tmp_path) -> Path:
    return Path(shutil.copy(made / "rec.ts", tmp_path / "rec.ts"))


@pytest.fixture
def model(run) -> VideoModel:
    return load_model("voco-tiny")


@pytest.fixture
def ask(run):
    """What `ask --json` says of an entry or a video."""

    def call(given, *options) -> dict:
        code, out, err = run("ask", given, "who moves?", *BRIEF, "--json", *options)
        assert code == 0, err
        return json.loads(out)

    return call


def entries(run, *options) -> list[dict]:
    code, out, err = run("cache", "ls", "--json", *options)
    assert code == 0, err
    return json.loads(out)["entries"]


def test_a_name_is_taken_by_every_command(run, ask, clip, model):
    made = json.loads(run("compress", clip, "--num-frames", "2", "--name", "flower", "--json")[1])[0]
    assert made["name"] == "flower"
    assert (ask("flower")["entry"], ask("flower")["name"]) == (made["digest"], "flower")
    found = json.loads(run("find", "flower", "a star", "--json")[1])
    assert found["videos"][0]["entry"] == made["digest"]
    assert json.loads(run("cache", "info", "flower", "--json")[1])["digest"] == made["digest"]
    assert "1 ok" in run("cache", "verify", "flower")[1]
    assert model.open("flower").num_frames == 2
    assert run("compress", clip, "--num-frames", "2", "--name", "flower")[0] == 0, "it has that name already"
    code, _, err = run("compress", clip, "--num-frames", "3", "--name", "flower")
    assert (code, f"--name flower is the name of entry {made['digest'][:12]} already" in err) == (2, True)
    assert len(entries(run)) == 1, "refused before it was compressed"
    with pytest.raises(UsageError, match="is the name of entry"):
        model.compress(clip, num_frames=3, name="flower")
    assert run("cache", "name", "flower", "rose") == (0, f"{made['digest'][:12]} is named rose\n", "")
    assert model.compress(clip, num_frames=3, name="flower").num_frames == 3
    assert {entry["name"] for entry in entries(run)} == {"flower", "rose"}
    assert json.loads(run("cache", "name", "rose", "--remove", "--json")[1])["earlier_name"] == "rose"
    assert sorted(str(entry["name"]) for entry in entries(run)) == ["None", "flower"]


def test_a_video_that_is_gone_is_asked_by_its_path(run, ask, clip, model, tmp_path):
    digest = ask(clip, "--num-frames", "2")["entry"]
    clip.unlink()
    for given in (clip, "clip.mp4", "./clip.mp4"):
        facts = ask(given)
        assert (facts["entry"], facts["path"], facts["from_cache"]) == (digest, str(given), True)
    assert model.open("clip.mp4").num_frames == 2
    assert "clip.mp4 (gone)" in run("cache", "ls")[1]
    assert entries(run)[0]["source_is_gone"] is True
    assert run("ask", "clip.mp4", "who?", "--fps", "2")[0] == 2, "it cannot be sampled again"
    run("compress", write_clip(demo_scene(), tmp_path / "clip.mp4", size=96), "--num-frames", "3")
    clip.unlink()
    code, _, err = run("ask", "clip.mp4", "who?")
    assert (code, "2 cache entries are of clip.mp4; give the digest of one" in err) == (2, True)


def test_entries_of_another_model_are_not_opened(run, clip, model, tmp_path):
    other = shutil.copytree(find_checkpoint("voco-tiny"), tmp_path / "other")
    shutil.rmtree(other / "answer_adapter", ignore_errors=True)
    run("compress", clip, "--num-frames", "2", "--name", "flower", "--compressor", "pool:4")
    clip.unlink()
    entry = next(Path(os.environ["VOCO_VIDEO_CACHE_DIR"]).glob("*/*/manifest.json"))
    assert model.open("clip.mp4").num_frames == 2
    content = json.loads(entry.read_text())
    content["key"]["model_fingerprint"] = "ab" * 32  # which only the look-up reads: the entry is damaged by it
    entry.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"flower: entry .* was compressed by another model \(voco-tiny\)"):
        model.open("flower")


def test_removing_by_path_by_name_and_by_digest(run, clip, tmp_path):
    copy = Path(shutil.copy(clip, tmp_path / "copy.mp4"))
    for frames, name in ((2, "two"), (3, "three"), (4, "four")):
        run("compress", clip, "--num-frames", frames, "--name", name)
    sizes = {entry["name"]: entry["size_bytes"] for entry in entries(run)}
    removed = json.loads(run("cache", "rm", "two", "--json")[1])
    assert (len(removed["removed"]), removed["freed_bytes"] > sizes["two"]) == (1, True)
    code, out, err = run("cache", "rm", "none.mp4", copy, "nowhere")
    assert (code, out.count("removed "), err.count("error: ")) == (1, 2, 2), "all entries of the video, by its bytes"
    assert "(three, clip.mp4, voco-tiny, voco K=8 embeds, 3 frames), " in out
    assert entries(run) == []
    assert run("cache", "rm", copy)[0] == 2
    assert clip.exists()


def test_a_beginning_that_several_digests_have_removes_nothing(run, clip):
    digest = json.loads(run("compress", clip, "--num-frames", "2", "--json")[1])[0]["digest"]
    twin = Path(os.environ["VOCO_VIDEO_CACHE_DIR"]) / digest[:2] / (digest[:6] + "0" * 58)
    twin.mkdir()
    code, _, err = run("cache", "rm", digest[:6])
    assert (code, "2 cache entries start with" in err, twin.exists()) == (2, True, True)
    assert run("cache", "rm", digest[:7])[0] == 0


def test_listing_some_in_some_order(run, clip, recording):
    run("compress", clip, "--num-frames", "4", "--name", "b")
    run("compress", clip, "--num-frames", "2", "--compressor", "full", "--form", "kv", "--name", "A")
    run("compress", recording, "--num-frames", "3")
    frames = {"used": [3, 2, 4], "size": [2, 4, 3], "frames": [4, 3, 2], "name": [2, 4, 3]}
    for sort, expected in frames.items():
        assert [entry["num_frames"] for entry in entries(run, "--sort", sort)] == expected, sort
    assert [Path(entry["source"]).name for entry in entries(run, "--sort", "video")] == ["clip.mp4"] * 2 + ["rec.ts"]
    assert {entry["num_frames"] for entry in entries(run, "--video", clip)} == {2, 4}
    assert len(entries(run, "--model", "voco-tiny")) == 3
    assert entries(run, "--model", "smolvlm2-500m") == []
    assert entries(run, "--older-than", "1h") == []
    old = next(entry for entry in entries(run) if entry["num_frames"] == 3)["digest"]
    manifest = Path(os.environ["VOCO_VIDEO_CACHE_DIR"]) / old[:2] / old / "manifest.json"
    os.utime(manifest, (time.time() - 7200, time.time() - 7200))
    assert [entry["digest"] for entry in entries(run, "--older-than", "1h")] == [old]
    _, out, _ = run("cache", "ls")
    header, *rows = out.splitlines()
    for column in ("entry", "name", "video", "frames", "sampling", "kept", "size", "used", "model"):
        assert column in header
    assert any("full kv  " in row and "voco-tiny" in row for row in rows)
    assert any("2 h" in row and "rec.ts" in row for row in rows)


def test_a_dry_run_of_pruning_says_what_pruning_frees(run, clip):
    for frames in (2, 3):
        run("compress", clip, "--num-frames", frames)
    code, plan, _ = run("cache", "prune", "--max-size", "0", "--dry-run")
    assert (code, len(entries(run))) == (0, 2)
    planned = json.loads(run("cache", "prune", "--max-size", "0", "--dry-run", "--json")[1])
    assert planned["dry_run"]
    code, out, _ = run("cache", "prune", "--max-size", "0")
    assert plan.replace("would be removed", "removed") == out
    assert (code, entries(run), out.count("clip.mp4")) == (0, [], 2)
    assert planned["freed_bytes"] > 0
    assert json.loads(run("cache", "prune", "--json")[1])["freed_bytes"] == 0


def test_a_recording_that_is_followed_is_asked_by_its_path(run, ask, recording, model):
    with model.open_stream(recording, name="door", fps=2) as stream:
        while not next(stream).num_published_frames:
            pass
        for given in (recording, "rec.ts", "door"):
            facts = ask(given)
            assert (facts["entry"], facts["name"], facts["is_growing"]) == (stream.key.digest, "door", True)
            assert facts["path"] == str(given if given != "door" else recording)
        found = json.loads(run("find", ".", "a number", "--json")[1])
        assert [video["entry"] for video in found["videos"]] == [stream.key.digest], "a folder, with it inside"
        assert len(entries(run)) == 1, "no second one was made"
        code, _, err = run("ask", recording, "who?", "--fps", "4")
        assert (code, "rec.ts is an entry of the cache, made while the file grows" in err) == (2, True)
        assert run("cache", "rm", "door")[0] == 1, "it is being written"
    assert ask(recording)["entry"] != stream.key.digest, "nobody follows it now, so its bytes count"


def test_a_recording_of_which_nothing_is_published_yet_gets_no_entry_of_its_own(run, ask, recording, model):
    with model.open_stream(recording, name="door", fps=2) as stream:
        says = f"error: {recording} is being followed, and nothing of it can be read yet; ask again in a moment\n"
        assert run("ask", recording, "who?") == (1, "", says)
        code, _, err = run("find", "rec.ts", "a number")
        assert (code, "rec.ts is being followed, and nothing" in err) == (1, True), err
        assert len(model.cache.labels()) <= 1, "the followed one alone"
        while not next(stream).num_published_frames:
            pass
        assert ask(recording)["entry"] == stream.key.digest
    assert ask(recording)["entry"] != stream.key.digest, "nobody follows it now, so its bytes count"


def follow(run, recording, *options) -> dict:
    code, out, err = run("compress", recording, "--follow", "--idle-seconds", 0.2, "--json", *options)
    assert code == 0, err
    return json.loads(out)


def test_the_entry_of_a_live_source_keeps_to_its_name(run, recording):
    first = follow(run, recording, "--name", "door")
    names = ("name", "model", "compressor", "num_voco_tokens", "form", "sampling", "path", "num_frames", "is_growing")
    assert [first[name] for name in names] == [
        "door",
        "voco-tiny",
        "voco",
        8,
        "embeds",
        "1 fps",
        str(recording),
        3,
        False,
    ]
    assert follow(run, recording, "--name", "door")["digest"] == first["digest"]
    run("cache", "name", "door", "yard")
    assert follow(run, recording, "--name", "yard")["digest"] == first["digest"], "the renamed one goes on"
    second = follow(run, recording, "--name", "door")
    assert (second["digest"] != first["digest"], second["name"]) == (True, "door")
    assert follow(run, recording, "--name", "door")["digest"] == second["digest"]
    code, _, err = run("compress", recording, "--follow", "--name", "yard", "--fps", "4")
    assert (code, "--name yard is the name of entry" in err, "--force drops it" in err) == (2, True, True)
    third = follow(run, recording, "--name", "yard", "--fps", "4", "--force")
    assert {entry["digest"]: entry["name"] for entry in entries(run)} == {
        second["digest"]: "door",
        third["digest"]: "yard",
    }
    code, _, err = run("compress", recording, "--follow", "--name", "a/b")
    assert (code, "--name a/b looks like a path" in err) == (2, True)
    _, out, err = run("compress", recording, "--follow", "--idle-seconds", 0.2, "--name", "door")
    assert out.startswith("voco-tiny · voco K=8 embeds · 3 frames at 1 fps · ")
    assert "voco-video ask door" in err


def test_words_without_quotes_are_one_question(run, clip):
    code, out, err = run("ask", clip, "where", "is", "the", "star?", *BRIEF)
    assert (code, ">" in out) == (0, False)
    assert "taken as one question, 'where is the star?'" in err
    assert json.loads(run("ask", clip, "who", "moves", *BRIEF, "--json")[1])["answers"][0]["question"] == "who moves"


def test_work_that_fails_is_no_misuse(run, clip, tmp_path, model):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "bad.json").write_text("{")
    digest = json.loads(run("compress", clip, "--num-frames", "2", "--json")[1])[0]["digest"]
    next(Path(os.environ["VOCO_VIDEO_CACHE_DIR"]).glob(f"*/{digest}/*.safetensors")).write_bytes(b"")
    for code, *line in [
        (1, "compress", "broken.mp4"),
        (1, "ask", "broken.mp4", "who?"),
        (1, "inspect", "broken.mp4"),
        (1, "compress", clip, "none.mp4", "--num-frames", "3"),
        (1, "find", clip, "none.mp4", "a star", "--num-frames", "3"),
        (1, "cache", "verify", digest),
        (1, "ask", digest, "who?"),
        (1, "score", "bad.json"),
        (1, "train", "own-clips", "--set", "dataset=bad.json", "--set", "media_dir=."),
        (1, "ask", clip, "who?", "--model", "nobody/nothing"),
        (2, "compress", clip, "--cache-dir", clip),
        (2, "ask", clip, "--questions", "none.txt"),
        (2, "data", "check", "none.json"),
        (2, "data", "check", "msvd", "--root", "none"),
        (2, "data", "check", "msdv"),
        (2, "models", "./none"),
        (2, "push", "none", "me/mine"),
    ]:
        got, _, err = run(*line)
        assert (got, "error: " in err or got == 1, "Traceback" in err) == (code, True, False), (line, err)


def test_a_card_as_json(run, tmp_path):
    folder = shutil.copytree(find_checkpoint("voco-tiny"), tmp_path / "mine")
    code, out, err = run("card", folder, "--json")
    assert code == 0, err
    card = folder / "README.md"
    assert json.loads(out) == {"checkpoint": str(folder), "card": str(card), "reports": []}
    assert card.read_text().startswith("---")


def test_opening_what_is_not_there_in_python(model):
    with pytest.raises(CacheError, match="has the name 'flower'"):
        model.open("flower")
