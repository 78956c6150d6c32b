from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from voco_video.errors import DataError, UsageError
from voco_video.library.manifest import VideoRow, is_manifest, read_manifest, write_manifest

ROWS = [
    VideoRow("/videos/plain.mp4"),
    VideoRow(
        's3://bucket/the "first", talk.mp4',
        "talk 1",
        start_seconds=1.5,
        end_seconds=20.0,
        status="compressed",
        entry="ab" * 32,
        digest="cd" * 32,
        num_frames=19,
        duration_seconds=31.25,
        size_bytes=12345678901,
        num_attempts=2,
        fingerprint="ef" * 32,
        versions="voco-video 0.1.0, torch 2.13.0",
        stage_seconds={"decode": 0.5, "total": 1.25},
    ),
    VideoRow("/videos/ümläut\n2.mp4", "b", status="failed", error="line 1\nline 2; no frame decodes", num_attempts=1),
]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_was_written_is_read_back_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = write_manifest(ROWS, tmp_path / f"list{suffix}")
    assert read_manifest(path) == ROWS
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_empty_manifest_is_refused_when_read(tmp_path: Path, suffix: str) -> None:
    path = write_manifest([], tmp_path / f"list{suffix}")
    with pytest.raises(DataError, match="has no rows"):
        read_manifest(path)


def test_paths_count_from_the_folder_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uri,id\nclips/a.mp4,\n/else/b.mp4,b\nhttps://host/c.mp4?token=12,\n")
    rows = read_manifest(tmp_path / "list.csv")
    assert [row.uri for row in rows] == [str(tmp_path / "clips/a.mp4"), "/else/b.mp4", "https://host/c.mp4?token=12"]
    assert [row.id for row in rows] == [str(tmp_path / "clips/a.mp4"), "b", "https://host/c.mp4?..."]


def test_a_manifest_at_a_url_names_videos_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    import fsspec

    with fsspec.open("memory://talks/list.jsonl", "w") as file:
        file.write('{"uri": "a.mp4"}\n{"uri": "s3://other/b.mp4"}\n')
    assert [row.uri for row in read_manifest("memory://talks/list.jsonl")] == [
        "memory://talks/a.mp4",
        "s3://other/b.mp4",
    ]
    with fsspec.open("memory://talks/list.jsonl", "w") as file:
        file.write('{"uri": ""}\n')
    with pytest.raises(DataError, match=r"^memory://talks/list.jsonl, row 1: 'uri' is empty"):
        read_manifest("memory://talks/list.jsonl")


def test_windows_make_names_and_other_columns_are_passed_over(tmp_path: Path) -> None:
    lines = [
        {"uri": "/a.mp4", "start": 1, "end": "2.5", "status": "in review", "speaker": "Ann"},
        {"uri": "/a.mp4", "start_seconds": 3, "end_seconds": float("nan")},
        {"uri": "/a.mp4", "end": 4, "start": None},
        {"uri": "/a.mp4", "id": 7},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = read_manifest(tmp_path / "list.jsonl")
    assert [row.id for row in rows] == ["/a.mp4#t=1,2.5", "/a.mp4#t=3", "/a.mp4#t=,4", "7"]
    assert rows[0].status is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"path": "a.mp4"}, "has no 'uri'; .*this one has path"),
        ({"uri": " "}, "'uri' is empty"),
        ({"uri": ["a.mp4"]}, "has to be text"),
        ({"uri": "a.mp4", "start": "soon"}, "'start' is 'soon', but has to be a number"),
        ({"uri": "a.mp4", "start": True}, "'start' is True"),
        ({"uri": "a.mp4", "end": "inf"}, "has to be finite"),
        ({"uri": "a.mp4", "start": 5, "end": 5}, "start 5 is not before end 5"),
        ({"uri": "a.mp4", "entry": "abc"}, "'entry' is 'abc', but has to be 64 hex digits"),
        ({"uri": "a.mp4", "num_frames": 1.5}, "'num_frames' is 1.5, but has to be a whole number"),
        ({"uri": "a.mp4", "id": "same"}, "the id 'same' is that of row 1 already"),
    ],
)
def test_what_cannot_be_right_is_named_by_its_row(tmp_path: Path, line: dict[str, object], message: str) -> None:
    lines = [{"uri": "first.mp4", "id": "same"}, line]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    with pytest.raises(DataError, match=rf"list\.jsonl, row 2: .*{message}"):
        read_manifest(tmp_path / "list.jsonl")


def test_secrets_of_urls_are_not_written(tmp_path: Path) -> None:
    row = VideoRow("https://me:password@host/a.mp4?signature=123456")
    for suffix in (".csv", ".jsonl"):
        text = write_manifest([row], tmp_path / f"list{suffix}").read_text()
        assert "https://host/a.mp4?..." in text
        assert not {word for word in ("password", "123456") if word in text}


def test_what_cannot_be_read_or_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as error:
        read_manifest(tmp_path / "none.csv")
    assert error.value.exit_code == 2
    with pytest.raises(UsageError, match=r"is called \.csv, \.jsonl or \.parquet"):
        read_manifest(tmp_path / "list.txt")
    with pytest.raises(UsageError, match=r"is called"):
        write_manifest(ROWS, tmp_path / "list.json")
    with pytest.raises(UsageError, match="there is no folder"):
        write_manifest(ROWS, tmp_path / "none" / "list.csv")
    with pytest.raises(UsageError, match="written to a file"):
        write_manifest(ROWS, "s3://bucket/list.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        write_manifest(ROWS, tmp_path / "folder.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_manifest(tmp_path / "folder.csv")


def test_a_row_that_failed_has_no_frames() -> None:
    assert ROWS[1].is_compressed
    assert not replace(ROWS[1], status="failed").is_compressed
    assert not ROWS[0].is_compressed
    assert not is_manifest(b"list.csv")
