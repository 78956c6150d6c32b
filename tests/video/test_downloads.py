"""The folder of downloads: bounded, shared, and never the reason for a traceback."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest

from tests.helpers.file_server import serve_files
from tests.helpers.full_disks import small_ext4
from voco_video.errors import UsageError, VideoError
from voco_video.video.downloads import Downloads
from voco_video.video.sources import local_video

BODY = bytes(range(256)) * 20_000


@pytest.fixture
def server():
    with serve_files() as files:
        yield files


@pytest.fixture
def downloads(tmp_path) -> Downloads:
    return Downloads(tmp_path / "downloads")


def fetched(url: str, downloads: Downloads) -> bytes:
    with local_video(url, downloads=downloads) as local:
        return local.path.read_bytes()


def test_there_is_no_room(server, tmp_path):
    with small_ext4(tmp_path) as disk:
        small = Downloads(disk / "downloads")
        with pytest.raises(VideoError, match="there is room for"):
            fetched(server.put("/clip.mp4", BODY * 3), small)
        with pytest.raises(VideoError, match="No space left"):
            fetched(server.put("/clip.mp4", BODY * 3, has_length=False), small)
        assert not list(small.folder.glob("*.part"))
        assert fetched(server.put("/clip.mp4", BODY[:1000]), small) == BODY[:1000], "the next one fits"


def test_a_folder_that_cannot_be_used(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(VideoError, match=r"cannot be kept in .*--cache-dir"):
        fetched(server.put("/clip.mp4", BODY), Downloads(tmp_path / "file" / "downloads"))


def test_the_files_unused_longest_go_first(server, tmp_path):
    downloads = Downloads(tmp_path, max_bytes=2_500)
    urls = [server.put(f"/{n}.mp4", bytes([n]) * 1000, etag=f'"{n}"') for n in range(3)]
    for number in (0, 1, 0, 2):
        fetched(urls[number], downloads)
    assert sorted(path.read_bytes()[0] for path in downloads.files()) == [0, 2]
    assert len(list(tmp_path.glob("*.json"))) == 2, "what was known of it is gone too"
    with local_video(urls[0], downloads=downloads) as local:
        assert fetched(server.put("/3.mp4", b"\3" * 5000), downloads)
        assert local.path.exists(), "a file that is being read stays"
        assert downloads.prune(0) == 1
    assert [path.read_bytes()[0] for path in downloads.files()] == [0]
    fetched(urls[1], Downloads(tmp_path, max_bytes=0))
    assert [path.read_bytes()[0] for path in downloads.files()] == [1], "the one used last stays"


def test_two_urls_of_one_content_keep_it_once(server, downloads):
    for url in (server.put("/a.mp4", BODY, etag='"a"'), server.put("/b.mp4", BODY, etag='"b"')) * 2:
        assert fetched(url, downloads) == BODY
    assert len(downloads.files()) == 1
    assert server.statuses == [200, 200, 304, 304]


def test_several_processes_and_threads_fetch_one_url_once(server, downloads):
    url = server.put("/clip.mp4", BODY, etag='"1"')
    same: list[bool] = []
    threads = [threading.Thread(target=lambda: same.append(fetched(url, downloads) == BODY)) for _ in range(4)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_check, args=(url, downloads.folder)) for _ in range(2)]
    for worker in [*processes, *threads]:
        worker.start()
    for worker in [*processes, *threads]:
        worker.join(60)
    assert same == [True] * 4
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(server.statuses) == [200] + [304] * 5


def _check(url: str, folder: Path) -> None:
    assert fetched(url, Downloads(folder)) == BODY


def test_a_limit_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("VOCO_VIDEO_DOWNLOADS_MAX_BYTES", "10 G!")
    with pytest.raises(UsageError, match="VOCO_VIDEO_DOWNLOADS_MAX_BYTES='10 G!' is no size"):
        Downloads()
    monkeypatch.setenv("VOCO_VIDEO_DOWNLOADS_MAX_BYTES", "5K")
    assert Downloads().max_bytes == 5 << 10
