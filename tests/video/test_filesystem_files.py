"""Files of fsspec's filesystems: copied once, again when changed, whole or with one clear error."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
import uuid
import zipfile

import fsspec
import pytest

from voco_video.errors import UsageError, VideoError
from voco_video.video import transfers
from voco_video.video.downloads import Downloads
from voco_video.video.sources import local_video

BODY = bytes(range(256)) * 20_000  # 5 MB: several blocks
SECRET = "hunter2hunter2"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(transfers, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def downloads(tmp_path) -> Downloads:
    return Downloads(tmp_path / "downloads")


@pytest.fixture
def memory():
    """A folder of fsspec's filesystem in memory."""
    filesystem, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    filesystem.mkdir(folder)
    yield filesystem, folder
    filesystem.rm(folder, recursive=True)


def fetched(url: str, downloads: Downloads) -> bytes:
    with local_video(url, downloads=downloads) as local:
        return local.path.read_bytes()


def test_an_fsspec_file_is_copied_once_and_again_when_it_changes(memory, downloads, monkeypatch):
    filesystem, folder = memory
    url = f"memory:/{folder}/clip.mp4"
    filesystem.pipe(f"{folder}/clip.mp4", BODY)
    reports: list[tuple[int, int | None]] = []
    for _ in range(2):
        with local_video(url, downloads=downloads, on_download=lambda *report: reports.append(report)) as local:
            assert local.path.read_bytes() == BODY
    assert reports[-1] == (len(BODY), len(BODY))
    assert len(reports) == 5, "one copy of five blocks"
    filesystem.pipe(f"{folder}/clip.mp4", BODY[::-1])
    assert fetched(url, downloads) == BODY[::-1]


def test_an_fsspec_file_that_fails_on_the_way_is_taken_up_there(memory, downloads, monkeypatch):
    filesystem, folder = memory
    filesystem.pipe(f"{folder}/clip.mp4", BODY)
    places = []

    class Failing(io.BytesIO):
        def read(self, size=-1):
            if len(places) in (2, 4):
                places.append(None)
                raise ConnectionError("cut")
            places.append(self.tell())
            return super().read(size)

    monkeypatch.setattr(type(filesystem), "open", lambda *arguments, **options: Failing(BODY))
    assert fetched(f"memory:/{folder}/clip.mp4", downloads) == BODY
    block = 1 << 20
    assert places == [0, block, None, 2 * block, None, 3 * block, 4 * block, len(BODY)], "nothing is read twice"


def test_what_fsspec_cannot_give_is_one_clear_error(memory, downloads, monkeypatch):
    _, folder = memory
    with pytest.raises(VideoError, match=r"missing.mp4: no such file"):
        fetched(f"memory:/{folder}/missing.mp4", downloads)
    with pytest.raises(VideoError, match="is a folder"):
        fetched(f"memory:/{folder}", downloads)
    with pytest.raises(UsageError, match=r"foo://host/a.mp4: no file has this name.*foo"):
        fetched(f"foo://me:{SECRET}@host/a.mp4", downloads)
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(UsageError, match=r"s3://bucket/a.mp4\?...: .*s3fs"):
            fetched(f"s3://bucket/a.mp4?token={SECRET}", downloads)
    with pytest.raises(VideoError, match=r"ftp://127.0.0.1:1/a.mp4: cannot be reached .*refused"):
        fetched(f"ftp://me:{SECRET}@127.0.0.1:1/a.mp4", downloads)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UsageError, match=re.escape("pip install 'voco-video[sources]'")):
        fetched("memory://a.mp4", downloads)


def test_files_inside_others_and_local_ones_are_read_through_fsspec(tmp_path, downloads):
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.writestr("in/clip.mp4", BODY)
    url = f"zip://in/clip.mp4::file://{tmp_path}/clips.zip"
    assert fetched(url, downloads) == BODY
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.writestr("in/clip.mp4", BODY[::-1])
    assert fetched(url, downloads) == BODY[::-1]
    (tmp_path / "a%20b.mp4").write_bytes(BODY)
    with local_video(f"local://{tmp_path}/a%20b.mp4", downloads=downloads) as local:
        assert local.path == tmp_path / "a%20b.mp4", "nothing is copied"
