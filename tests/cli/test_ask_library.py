"""``voco-video ask MANIFEST``: the same questions to each video of a list."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from voco_video import load_model
from voco_video.library.manifest import VideoRow, read_manifest, write_manifest
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene

QUESTION = "What moves to the left?"


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name in ("a", "b"):
        write_clip(demo_scene(), folder / f"{name}.mp4", size=96 if name == "a" else 64)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_each_video_answers_as_it_does_alone(run, clips, tmp_path):
    alone = {name: json.loads(run("ask", clips / f"{name}.mp4", QUESTION, "--json")[1]) for name in ("a", "b")}
    rows = [VideoRow(str(clips / f"{name}.mp4"), name) for name in ("a", "broken", "b")]
    write_manifest(rows, tmp_path / "list.csv")
    code, out, err = run("ask", tmp_path / "list.csv", QUESTION, "--json")
    said = json.loads(out)["videos"]
    assert code == 1, "one failed"
    assert [video["id"] for video in said] == ["a", "broken", "b"]
    assert said[0]["answers"][0]["answer"] == alone["a"]["answers"][0]["answer"]
    assert said[2]["answers"][0]["answer"] == alone["b"]["answers"][0]["answer"]
    assert "FFmpeg cannot open it" in said[1]["error"]
    assert "broken.mp4: FFmpeg cannot open it" in err
    code, out, _ = run("ask", tmp_path / "list.csv", QUESTION)
    assert out.count("[confidence") == 2


def test_what_compress_wrote_needs_no_video_any_more(run, clips, tmp_path, monkeypatch):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((clips / "a.mp4").read_bytes())
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    command = ["compress", copy, clips / "broken.mp4", "--engine", "shares", "--manifest", tmp_path / "list.jsonl"]
    assert run(*command)[0] == 0
    copy.unlink()
    code, out, err = run("ask", tmp_path / "list.jsonl", QUESTION)
    assert (code, out.count("[confidence")) == (1, 1)
    assert "broken.mp4: FFmpeg cannot open it" in err, "the row's own error"
    rows = read_manifest(tmp_path / "list.jsonl")[:1]
    write_manifest(rows, tmp_path / "list.jsonl")
    assert run("ask", tmp_path / "list.jsonl", QUESTION)[0] == 0
    load_model().cache.remove(rows[0].entry)
    code, _, err = run("ask", tmp_path / "list.jsonl", QUESTION)
    assert (code, "no such file" in err) == (1, True)
    write_manifest([dataclasses.replace(rows[0], uri="https://host/a.mp4?...")], tmp_path / "list.jsonl")
    code, _, err = run("ask", tmp_path / "list.jsonl", QUESTION)
    assert (code, "the secret part is not kept" in " ".join(err.split())) == (1, True)


def test_what_takes_one_video_is_refused(run, clips, tmp_path):
    write_manifest([VideoRow(str(clips / "a.mp4"))], tmp_path / "list.csv")
    for option in ("--chat", "--show-frames"):
        code, _, err = run("ask", tmp_path / "list.csv", QUESTION, option)
        assert (code, "lists many videos; --chat and --show-frames take one" in " ".join(err.split())) == (2, True)
    assert run("ask", tmp_path / "none.csv", QUESTION)[0] == 2
