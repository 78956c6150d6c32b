"""`voco-video find` over manifests, many videos and the whole cache, and `voco-video index`."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

import voco_video
from voco_video.cli import app
from voco_video.library.manifest import VideoRow, write_manifest
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene

QUERY = "the star"
NUM_CLIPS = 4


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(NUM_CLIPS):
        scene = dataclasses.replace(draw_scene(3, split="test", index=number), duration_seconds=1.0)
        write_clip(scene, folder / f"{number:02}.mp4", size=48)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def videos(clips, cache):
    model = voco_video.load_model(cache_dir=cache)
    return [model.compress(path) for path in sorted(clips.glob("*.mp4"))]


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def moments(result) -> list[tuple]:
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["moments"]
    return [(one["entry"], one["start_seconds"], one["score"]) for one in found]


def test_folder_manifest_and_cache_find_what_every_entry_has(clips, cache, videos, tmp_path, monkeypatch):
    monkeypatch.setattr("voco_video.cli.find.FEWEST_VIDEOS", NUM_CLIPS)
    every = voco_video.find(videos, QUERY)
    expected = [(one.video.parts[0].entry.digest, one.moment.start_seconds, one.moment.score) for one in every]
    where = ("--cache-dir", cache, "--json")
    assert moments(run("find", clips, QUERY, *where)) == expected
    entries = [video.parts[0].entry for video in videos]
    rows = [VideoRow(str(path), entry=one.digest) for path, one in zip(sorted(clips.glob("*.mp4")), entries)]
    rows[2] = dataclasses.replace(rows[2], entry=None)  # not compressed, as far as the manifest knows
    rows.append(VideoRow("gone.mp4", error="no such file"))
    manifest = write_manifest(rows, tmp_path / "clips.csv")
    result = run("find", manifest, QUERY, "--cache-dir", cache, "--json", "--out", tmp_path / "found.png")
    assert result.exit_code == 1, "a row failed"
    assert [one["entry"] for one in json.loads(result.stdout)["moments"]] == [digest for digest, *_ in expected]
    assert "gone.mp4: no such file" in result.stderr
    assert f"1 of {NUM_CLIPS + 1} videos failed" in result.stderr
    assert (tmp_path / "found.png").exists()
    facts = json.loads(run("find", "--all", QUERY, *where).stdout)
    assert {one["entry"] for one in facts["moments"]} >= {expected[0][0]}
    assert facts["library"]["num_videos"] == NUM_CLIPS
    assert facts["library"]["num_added"] == 0
    shown = run("find", "--all", "--approximate", QUERY, "--cache-dir", cache)
    assert f"{NUM_CLIPS} videos" in shown.stderr
    assert "--approximate" in shown.stderr


def test_the_index_can_be_looked_at_and_made_again(cache, videos):
    where = ("--cache-dir", cache, "--json")
    assert json.loads(run("index", "build", *where).stdout)["num_indexed"] == NUM_CLIPS
    (kind,) = json.loads(run("index", "status", *where).stdout)["kinds"]
    assert (kind["form"], kind["num_voco_tokens"], kind["num_entries"]) == ("embeds", 8, NUM_CLIPS)
    facts = json.loads(run("index", "rebuild", *where).stdout)
    assert facts == {"num_indexed": NUM_CLIPS, "num_added": NUM_CLIPS, "unindexed": {}, "failed": {}}
    assert "embeds K=8" in run("index", "status", "--cache-dir", cache).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--all", "clip.mp4", QUERY], "leave out clip.mp4"),
        (["--all", " "], "the query is empty"),
        (["--all", "clips.csv"], "is a manifest, and no query"),
        (["--all", QUERY, "--start", "3"], "a library is searched whole"),
        (["--all", QUERY, "--fps", "3"], "--fps"),
        (["--all", QUERY, "--cache-dir", "nowhere"], "nowhere"),
        (["clips.csv", "clip.mp4", QUERY], "clip.mp4 stands beside a manifest"),
        (["nowhere.parquet", QUERY], "nowhere.parquet"),
    ],
)
def test_what_cannot_be_searched_is_refused(arguments, message):
    result = run("find", *arguments)
    error = str(result.exception) + result.output
    assert message in error
    assert getattr(result.exception, "exit_code", result.exit_code) == 2
