"""Whatever a video may be given as is read as the file of the same content is."""

from __future__ import annotations

import base64
import gzip
import io
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from tests.helpers.clips import Clip, read_numbers, truncate
from tests.helpers.file_server import serve_files
from voco_video import Sampling, open_video, probe, read_frames
from voco_video.errors import UsageError, VideoError
from voco_video.files.urls import is_url, short_name, shown_name
from voco_video.video.sources import local_video

NUMBERS = list(range(0, 50, 25))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return Clip("clip.mp4", num_frames=50, options={"g": "10"}).write(tmp_path_factory.mktemp("clips"))


def numbers_of(video) -> list[int]:
    return read_numbers(read_frames(video, Sampling(fps=1)).pixels)


class Unseekable(io.RawIOBase):
    """Gives bytes once, a few at a time, as a socket does."""

    def __init__(self, data: bytes) -> None:
        self._left = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self._left.readinto(memoryview(buffer)[:1000])


def test_every_way_to_give_a_video_gives_its_frames(clip):
    data = clip.read_bytes()
    ways = [clip, str(clip), clip.as_uri(), f"file://localhost{clip}", f"file:{clip}", data, bytearray(data)]
    ways += [
        memoryview(data),
        io.BytesIO(data),
        Unseekable(data),
        f"data:video/mp4;base64,{base64.b64encode(data).decode()}",
    ]
    ways += [f"data:,{quote(data)}", f"DATA:video/mp4;charset=x;BASE64,{quote(base64.encodebytes(data))}"]
    for video in ways:
        assert numbers_of(video) == NUMBERS, str(video)[:40]
    with open(clip, "rb") as file, gzip.open(_zipped(clip), "rb") as packed, tempfile.NamedTemporaryFile() as named:
        named.write(data)
        named.seek(0)
        for video in (file, packed, named, os.fdopen(os.dup(file.fileno()), "rb", 0)):
            assert numbers_of(video) == NUMBERS, video
    with serve_files() as server:
        assert numbers_of(server.put("/clip.mp4", data)) == NUMBERS


def _zipped(clip: Path) -> Path:
    path = clip.with_suffix(".gz")
    path.write_bytes(gzip.compress(clip.read_bytes()))
    return path


def test_an_open_file_is_read_from_where_it_stands_and_set_back(clip):
    file = io.BytesIO(b"header" + clip.read_bytes())
    for _ in range(2):
        file.seek(6)
        assert numbers_of(file) == NUMBERS
        assert file.tell() == 6
    file.seek(0, os.SEEK_END)
    with pytest.raises(VideoError, match=r"nothing follows where it stands, at byte \d+; set it back with seek\(0\)"):
        probe(file)
    with open(clip, "rb") as on_disk, local_video(on_disk) as local:
        assert local.path == clip, "nothing is copied"
    with open(clip, "rb") as on_disk:
        on_disk.seek(10)
        with local_video(on_disk) as local:
            assert local.path.read_bytes() == clip.read_bytes()[10:]


def test_a_file_that_was_replaced_after_it_was_opened_is_read_as_it_was(clip, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes())
    with open(path, "rb") as file:
        path.unlink()
        path.write_bytes(b"another file")
        assert numbers_of(file) == NUMBERS


def test_what_was_copied_goes_when_the_video_is_closed(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_video(clip.read_bytes()) as video:
        assert list(tmp_path.iterdir())
        assert [len(batch) for batch in video.batches(Sampling(fps=1))] == [2]
    assert not list(tmp_path.iterdir())
    for bad in (b"no video", b""):
        with pytest.raises(VideoError, match=rf"{len(bad)} bytes: "):
            probe(bad)
    assert not list(tmp_path.iterdir())


def test_errors_and_facts_name_a_video_as_it_was_given(clip, tmp_path):
    with serve_files() as server:
        url = server.put("/broken.mp4", truncate(clip, tmp_path / "broken.mp4", 0.3).read_bytes())
        with pytest.raises(VideoError, match=rf"^{server.url}/broken.mp4[?]...: FFmpeg cannot open it") as caught:
            probe(f"{url}?token=hunter2")
        assert "hunter2" not in str(caught.value)
        assert "downloads" not in str(caught.value)
        server.put("/clip.mp4", clip.read_bytes())
        assert probe(f"{server.url}/clip.mp4?token=hunter2").path == f"{server.url}/clip.mp4?..."
        with pytest.raises(VideoError, match=r"/empty.mp4: the file is empty"):
            probe(server.put("/empty.mp4", b""))
    missing = (tmp_path / "missing file.mp4").as_uri()
    with pytest.raises(VideoError, match=rf"^{missing}: no such file"):
        probe(missing)
    with pytest.raises(VideoError, match="is a directory"):
        probe(tmp_path.as_uri())
    assert probe(clip).path == clip


def test_a_file_comes_before_a_url_of_the_same_name(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.mp4", "http:x", "data:x.mp4", "file:x.mp4", "s3::x", "100%25.mp4"):
        Path(name).write_bytes(clip.read_bytes())
        assert not is_url(name)
        assert numbers_of(name) == NUMBERS, name
    Path("http:/host").mkdir(parents=True)
    Path("http:/host/a.mp4").write_bytes(clip.read_bytes())
    assert numbers_of("http://host/a.mp4") == NUMBERS
    with pytest.raises(VideoError, match=r"x:y.mp4: no such file"):
        probe("x:y.mp4")


def test_file_urls_are_decoded(clip, tmp_path):
    path = tmp_path / "ein füß 100%?#.mp4"
    path.write_bytes(clip.read_bytes())
    assert numbers_of(path.as_uri()) == NUMBERS
    raw = os.fsencode(tmp_path) + b"/\xff.mp4"
    with open(raw, "wb") as file:
        file.write(clip.read_bytes())
    assert numbers_of(f"file://{tmp_path}/%FF.mp4") == NUMBERS


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ("file://host/a.mp4", "another machine, 'host'"),
        ("file:a.mp4", "whole path"),
        ("file:///a.mp4?x", "%3F"),
        ("file:///a%00.mp4", "zero character"),
        ("file://[/a.mp4", "not a whole URL"),
        ("data:video/mp4;base64", "no comma"),
        ("data:video/mp4;base64,A", "not base64"),
        ("data:video/mp4;base64,AA*A", "not base64"),
        (Path("http://host/a.mp4"), "give a URL as text"),
        (None, "a NoneType is no video"),
        (7, "a int is no video"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"voco_video.Pictures\(pictures, fps=25\)"),
        ([np.zeros((4, 4, 3), np.uint8)], "voco_video.Pictures"),
        (io.StringIO("text"), "open it with 'rb'"),
    ],
)
def test_what_can_be_no_video_is_said(video, message):
    with pytest.raises(UsageError, match=message):
        probe(video)


def test_closed_and_failing_files_are_said(clip, tmp_path):
    closed = open(clip, "rb")  # noqa: SIM115
    closed.close()
    with pytest.raises(UsageError, match=r"clip.mp4: the file is closed"):
        probe(closed)
    with open(tmp_path / "written", "wb") as written, pytest.raises(UsageError, match="written: cannot be read"):
        probe(written)

    class Failing(Unseekable):
        def readinto(self, buffer) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(VideoError, match=r"a Failing: cannot be copied to .*Input/output error"):
        probe(Failing(b""))


def test_names_for_people():
    url = "s3://key:hunter2@bucket/films/my%20clip.mp4?versionId=hunter2#t=1"
    assert shown_name(url) == "s3://bucket/films/my%20clip.mp4?..."
    assert short_name(url) == short_name(shown_name(url)) == "my clip.mp4"
    assert shown_name("zip://in.mp4::https://me:hunter2@host/a.zip?x") == "zip://in.mp4::https://host/a.zip?..."
    assert short_name("https://host") == "host"
    assert shown_name(Path("a/b.mp4")) == "a/b.mp4"
