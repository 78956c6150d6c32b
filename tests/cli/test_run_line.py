"""What commands say they worked with: the same in the line for people, in JSON and in the cache's entries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from voco_video.checkpoint.finding import find_checkpoint
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene

SAME = ("path", "entry", "model", "compressor", "num_voco_tokens", "form", "sampling", "num_frames", "from_cache")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(demo_scene(), tmp_path_factory.mktemp("clips") / "clip.mp4", size=96)


def test_every_command_says_the_same(run, clip, tmp_path):
    code, out, _ = run("compress", clip, "--num-frames", "4", "--compressor", "pool:4")
    assert code == 0
    assert out.startswith("voco-tiny · pool:4 kv, 6 tokens a frame · 4 frames · compressed in ")
    how = "--num-frames", "4", "--compressor", "pool:4"
    expected = ["voco-tiny", "pool:4", 6, "kv", "4 frames", 4, True]
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    answer = "who?", "--max-new-tokens", "1"
    asked = json.loads(run("ask", copy, *answer, *how, "--start", "2", "--json")[1])
    found = json.loads(run("find", copy, "the star", *how, "--json")[1])
    compressed = json.loads(run("compress", copy, *how, "--json")[1])[0]
    digest = compressed["digest"]
    for facts in (asked, found["videos"][0], compressed):
        assert [facts[name] for name in SAME] == [str(copy), digest, *expected], "the path is the one that was given"
    by_entry = json.loads(run("ask", digest[:12], *answer, "--json")[1])
    assert [by_entry[name] for name in SAME] == [str(clip), digest, *expected]
    line = "voco-tiny · pool:4 kv, 6 tokens a frame · 4 frames · cached\n"
    assert run("ask", copy, *answer, *how)[2].startswith(line)
    assert run("find", copy, "the star", *how)[2].startswith(line)
    assert "copy.mp4" in run("inspect", copy, *how[:2])[1].split("entry")[1], "not the name of its twin"
    entries = json.loads(run("cache", "ls", "--json")[1])["entries"]
    assert [(entry["digest"], entry["model"]) for entry in entries] == [(digest, "voco-tiny")]
    size_bytes = entries[0]["size_bytes"]
    removed = json.loads(run("cache", "rm", digest[:12], "--json")[1])
    assert (removed["removed"], removed["num_failed"]) == ([digest], 0)
    assert removed["freed_bytes"] > size_bytes, "with the manifest"
    pruned = {"removed": [], "num_downloads": 0, "freed_bytes": 0, "dry_run": False}
    assert json.loads(run("cache", "prune", "--json")[1]) == pruned


def test_scores_without_a_learned_scorer_are_only_an_order(run, clip):
    code, out, err = run("find", clip, "the star", "--compressor", "pool:4")
    assert code == 0
    assert "only the order counts" in err
    assert all(line.endswith("–") for line in out.splitlines()[2:] if line)
    moments = json.loads(run("find", clip, "the star", "--compressor", "pool:4", "--json")[1])["moments"]
    assert {moment["is_likely"] for moment in moments} == {None}
    assert not any({"weight", "share"} & set(moment) for moment in moments)


def test_a_single_folder_or_pattern_is_searched_as_the_videos_that_it_stands_for(run, clip, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(clip.read_bytes())
    for given in (tmp_path, f"{tmp_path}/", str(tmp_path / "[ab].mp4")):
        code, out, err = run("find", given, "the star", "--json")
        assert code == 0, err
        assert [video["path"] for video in json.loads(out)["videos"]] == [
            str(tmp_path / "a.mp4"),
            str(tmp_path / "b.mp4"),
        ]
    (tmp_path / "empty").mkdir()
    for given, said in {
        tmp_path / "empty": "no video files in this folder",
        tmp_path / "c*.mp4": "matches no file",
    }.items():
        code, out, err = run("find", given, "the star")
        assert (code, out) == (2, "")
        assert said in err


def test_a_model_in_a_folder_is_called_by_its_folder(run, clip):
    folder = find_checkpoint("voco-tiny")
    _, out, _ = run("compress", clip, "--num-frames", "2", "--model", folder)
    assert out.startswith("assets/voco-tiny · voco K=8 embeds · 2 frames · ")


def test_a_cut_answer_shows_it(run, clip):
    question = "where is the star?"
    _, out, err = run("ask", clip, question, "--max-new-tokens", "1")
    assert out.split("   [")[0].endswith("…")
    assert "--max-new-tokens" in err
    whole, cut = (
        json.loads(run("ask", clip, question, "--max-new-tokens", number, "--json")[1])["answers"][0]
        for number in (9, 1)
    )
    assert (whole["is_cut"], cut["is_cut"]) == (False, True)
    assert whole["answer"].startswith(cut["answer"])
    exact = len(whole["answer"].split())  # words are tokens of voco-tiny; the end is one more
    answer = json.loads(run("ask", clip, question, "--max-new-tokens", exact + 1, "--json")[1])["answers"][0]
    assert (answer["answer"], answer["is_cut"]) == (whole["answer"], False)
    code, out, _ = run("ask", clip, question)
    assert (code, "…" in out) == (0, False)
