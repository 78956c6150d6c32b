"""Commands whose cache is on a store, and those that copy between one and a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene

Run = Callable[..., tuple[int, str, str]]
URL = "memory://bucket-of-commands/frames"
STORE = ("--cache-dir", URL)


@pytest.fixture
def clip(tmp_path: Path) -> Iterator[Path]:
    write_clip(demo_scene(), tmp_path / "clip.mp4", size=96)
    yield tmp_path / "clip.mp4"
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists("/bucket-of-commands"):
        filesystem.rm("/bucket-of-commands", recursive=True)


def test_commands_work_on_a_store_as_in_a_folder(run: Run, clip: Path) -> None:
    code, out, err = run("compress", clip, "--fps", "1", "--name", "shapes", *STORE, "--json")
    assert (code, '"from_cache": false' in out) == (0, True), err
    code, out, err = run("ask", "shapes", "who is green?", *STORE, "--json")
    assert (code, json.loads(out)["from_cache"], json.loads(out)["name"]) == (0, True, "shapes"), err
    (entry,) = json.loads(run("cache", "ls", *STORE, "--json")[1])["entries"]
    assert json.loads(run("cache", "info", "shapes", *STORE, "--json")[1])["directory"].startswith(f"{URL}/entries/")
    assert json.loads(run("cache", "ls", "--json")[1])["entries"] == []  # the default cache is another one

    assert run("cache", "name", "shapes", "forms", *STORE)[0] == 0
    code, out, _ = run("cache", "pull", URL, "forms")
    assert (code, out.splitlines()[-1].startswith("1 copied")) == (0, True)
    assert "1 there already" in run("cache", "push", URL)[1]
    assert "1 same, 0 differs" in run("cache", "verify", "--against", URL)[1]
    planned = json.loads(run("cache", "prune", "--max-size", "1K", "--dry-run", "--json", *STORE)[1])
    assert planned["removed"] == [entry["digest"]]
    assert planned["freed_bytes"] > entry["size_bytes"]
    assert "removed" in run("cache", "rm", "forms", *STORE)[1]
    assert json.loads(run("cache", "ls", *STORE, "--json")[1])["entries"] == []
    assert "1 only here" in run("cache", "verify", "--against", URL)[1]
    assert "copied to the store" in run("cache", "sync", URL)[1]


@pytest.mark.exhaustive
def test_questions_of_the_video_itself_find_the_entry(run: Run, clip: Path) -> None:
    assert run("compress", clip, "--fps", "1", *STORE)[0] == 0
    code, out, err = run("ask", clip, "who is green?", "--fps", "1", *STORE, "--json")
    assert (code, json.loads(out)["from_cache"]) == (0, True), err
    code, out, err = run("find", clip, "a star", "--fps", "1", *STORE)
    assert (code, "cached" in out + err) == (0, True)
    code, out, err = run("inspect", clip, *STORE)
    assert (code, "voco K=8" in out) == (0, True), err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"compress cam.ts --follow --cache-dir {URL}", "a live source cannot be followed into a store"),
        ("ask clip.mp4 q --cache-dir s3://key:verysecret@bucket/p", "must hold no credentials"),
        ("cache ls --cache-dir s3://bucket/p?verysecret", "has no ? and no #"),
        ("cache push folder", "folder: is no URL of a store"),
        (f"cache sync {URL} --cache-dir {URL}", "entries are copied between a folder and"),
        ("cache verify --against nothing", "nothing: is no URL of a store"),
        (f"cache info nothing --cache-dir {URL}", "no cache entry in memory://"),
    ],
)
def test_what_cannot_be_is_refused_before_torch(run: Run, clip: Path, command: str, says: str) -> None:
    (clip.parent / "cam.ts").write_bytes(b"")
    code, out, err = run(*command.split())
    assert (code, out) == (2, "")
    assert says in " ".join(err.split())
    assert "verysecret" not in err
