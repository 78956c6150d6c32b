"""What people name when they mean many videos."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from voco_video.errors import DataError, UsageError, VideoError
from voco_video.library.manifest import VideoRow, write_manifest
from voco_video.library.sources import list_videos


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("talks/b.mp4", "talks/deep/a.MKV", "talks/notes.txt", "c.webm", "talks/[1].mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


@pytest.fixture
def bucket():
    fsspec = pytest.importorskip("fsspec")
    memory, name = fsspec.filesystem("memory"), uuid.uuid4().hex
    for path in ("talks/b.mp4", "talks/deep/a.mkv", "talks/notes.txt", "talks/c.MP4"):
        memory.pipe(f"/{name}/{path}", b"x")
    yield f"memory:///{name}"
    memory.rm(f"/{name}", recursive=True)


def uris(*sources: object, below: object = "") -> list[str]:
    return [row.uri.removeprefix(f"{below}/") for row in list_videos(list(sources))]


def test_files_folders_and_patterns_in_order_and_each_once(folder):
    assert uris(folder / "c.webm", folder / "talks", below=folder) == [
        "c.webm", "talks/[1].mp4", "talks/b.mp4", "talks/deep/a.MKV"
    ]  # fmt: skip
    assert uris(str(folder / "talks" / "*.mp4"), below=folder) == ["talks/[1].mp4", "talks/b.mp4"]
    assert uris(str(folder / "**" / "*.MKV"), folder / "talks" / "deep", below=folder) == ["talks/deep/a.MKV"]
    assert uris(str(folder / "talks" / "[1].mp4"), below=folder) == ["talks/[1].mp4"], "the file of exactly this name"
    assert uris(folder / "none.mp4", below=folder) == ["none.mp4"], "which fails when its turn comes"


def test_relative_paths_become_whole(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert uris("c.webm", "talks", f"{folder}/talks/b.mp4", below=folder)[0] == "c.webm"
    assert len(uris("c.webm", f"{folder}/c.webm")) == 1


def test_prefixes_and_patterns_of_object_stores(bucket):
    assert uris(f"{bucket}/talks/", below=bucket) == ["talks/b.mp4", "talks/c.MP4", "talks/deep/a.mkv"]
    assert uris(f"{bucket}/talks/*.mp4", below=bucket) == ["talks/b.mp4"]
    assert uris(f"{bucket}/talks/b.mp4", below=bucket) == ["talks/b.mp4"]
    for nothing in (f"{bucket}/none/", f"{bucket}/talks/*.avi"):
        with pytest.raises(VideoError, match="no videos there") as error:
            list_videos(nothing)
        assert error.value.exit_code == 2
    assert uris("https://host/folder/") == ["https://host/folder/"], "the web has no folders"


def test_a_store_that_is_not_known_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="as a URL it cannot be opened"):
        list_videos("no-such-store://bucket/talks/")


def test_manifests_and_rows_name_videos_and_nothing_that_came_of_them(folder):
    rows = [VideoRow(str(folder / "c.webm"), "c", 1.0, 2.0, status="failed", error="once"), VideoRow("s3://b/a.mp4")]
    write_manifest(rows, folder / "list.csv")
    expected = [VideoRow(str(folder / "c.webm"), "c", 1.0, 2.0), VideoRow("s3://b/a.mp4")]
    assert list_videos(folder / "list.csv") == expected
    assert list_videos(rows) == expected
    assert len(list_videos([folder / "list.csv", folder / "c.webm"])) == 3, "the whole video is another row"
    with pytest.raises(UsageError, match="the id 'c' is that of two videos"):
        list_videos([folder / "list.csv", VideoRow("other.mp4", "c")])
    with pytest.raises(DataError, match="no such file"):
        list_videos(folder / "none.csv")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "give one source or more"),
        (["talks/deep/*.avi"], "matches no file"),
        ([b"bytes"], "a bytes is no source of videos"),
        ([7], "a int is no source of videos"),
    ],
)
def test_what_stands_for_no_video_is_refused(folder, monkeypatch, sources, message):
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match=message):
        list_videos(sources)
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match="no video files in this folder"):
        list_videos("empty")
