"""A video is found in the cache however it is given, and pictures in memory give the tokens of their file."""

from __future__ import annotations

import base64
import dataclasses
import io
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest

from tests.helpers.clips import Clip
from tests.helpers.file_server import serve_files
from voco_video import Fit, FrameCache, Pictures, Sampling, load_model, read_frames
from voco_video.answer.pictures import attention_strip
from voco_video.errors import VideoError
from voco_video.stored_tokens import read_tokens
from voco_video.video.reading import Video

SECRET = "hunter2hunter2"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return Clip("clip.mp4", num_frames=40, options={"g": "10"}).write(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def loaded():
    return load_model()


@pytest.fixture
def model(loaded, tmp_path):
    return dataclasses.replace(loaded, cache=FrameCache(tmp_path / "cache"))


@pytest.fixture
def server():
    with serve_files() as files:
        yield files


def test_the_same_content_is_the_same_entry_however_it_is_given(model, clip, server, monkeypatch):
    data = clip.read_bytes()
    url = f"{server.put('/clip.mp4', data, etag='1')}?token={SECRET}"
    memory = fsspec.filesystem("memory")
    name = uuid.uuid4().hex
    memory.pipe(f"/{name}/clip.mp4", data)
    first = model.compress(url)
    assert not first.from_cache
    assert first.parts[0].entry.facts["source"] == f"{server.url}/clip.mp4?..." == first.result.source
    monkeypatch.setattr(Video, "batches", lambda *_, **__: pytest.fail("nothing is decoded again"))
    ways = [clip, clip.as_uri(), url, data, io.BytesIO(data), f"memory://{name}/clip.mp4"]
    for video in [*ways, f"data:video/mp4;base64,{base64.b64encode(data).decode()}"]:
        again = model.compress(video)
        assert again.from_cache
        assert again.parts[0].entry.digest == first.parts[0].entry.digest
    with open(clip, "rb") as file:
        assert model.compress(file).from_cache
    assert server.statuses == [200, 304]
    memory.rm(f"/{name}", recursive=True)


def test_a_url_whose_content_changed_never_gives_the_old_entry(model, clip, server, tmp_path):
    other = Clip("other.mp4", num_frames=40, first_number=100).write(tmp_path)
    url = server.put("/clip.mp4", clip.read_bytes(), etag='"1"')
    first = model.compress(url)
    server.put("/clip.mp4", other.read_bytes(), etag='"2"')
    second = model.compress(url)
    assert not second.from_cache
    assert model.compress(other).parts[0].entry.digest == second.parts[0].entry.digest
    assert second.parts[0].entry.digest != first.parts[0].entry.digest
    del server.files["/clip.mp4"]
    with pytest.raises(VideoError, match="no such file on the server"):
        model.compress(url)


def test_no_secret_of_a_url_is_kept_on_disk(model, clip, server, tmp_path):
    server.put("/clip.mp4", clip.read_bytes(), etag='"1"', user=f"me:{SECRET}")
    host = server.url.removeprefix("http://")
    model.compress(f"http://me:{SECRET}@{host}/clip.mp4?signature={SECRET}")
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) >= 4
    for path in kept:
        assert SECRET not in str(path)
        assert SECRET.encode() not in path.read_bytes(), path
    assert b"me:" not in b"".join(path.read_bytes() for path in kept if path.suffix == ".json")


def test_progress_tells_the_bytes_and_then_the_frames(model, clip, server):
    size = clip.stat().st_size
    reports = []
    model.compress(server.put("/clip.mp4", clip.read_bytes()), fps=4, on_progress=reports.append)
    assert [(r.num_bytes, r.total_bytes) for r in reports if r.num_bytes is not None] == [(size, size)]
    assert reports[0].num_bytes == size
    assert (reports[-1].num_frames, reports[-1].total_frames) == (7, 7)


@pytest.mark.parametrize(
    "sampling",
    [
        {"timestamps": (0.1, 0.1, 1.5)},
        pytest.param({"fps": 4}, marks=pytest.mark.exhaustive),
        pytest.param({"num_frames": 5}, marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_pictures_give_the_tokens_of_their_file(model, tmp_path, sampling):
    path = Clip("rgb.mov", codec="png", pixel_format="rgb24", num_frames=40).write(tmp_path)
    frames = read_frames(path, Sampling(fps=1000))
    pictures = Pictures(frames.pixels, pts_seconds=frames.pts_seconds)
    of_file, of_pictures = model.compress(path, **sampling), model.compress(pictures, **sampling)
    assert not of_pictures.from_cache
    assert of_pictures.parts[0].entry.key.video_digest != of_file.parts[0].entry.key.video_digest
    assert np.array_equal(of_file.pts_seconds, of_pictures.pts_seconds)
    tokens = read_tokens(of_pictures.parts[0].entry).tensors()
    for name, tensor in read_tokens(of_file.parts[0].entry).tensors().items():
        assert tensor.equal(tokens[name]), name
    again = model.compress(Pictures(list(frames.pixels), pts_seconds=list(frames.pts_seconds)), **sampling)
    assert again.from_cache
    assert again.ask("who moves?").text == of_file.ask("who moves?").text


def test_an_interrupted_run_over_pictures_goes_on(model, clip):
    frames = read_frames(clip, Sampling(fps=1000), fit=Fit(64, 64))
    pictures = Pictures(frames.pixels, pts_seconds=frames.pts_seconds)

    def stop(progress):
        if progress.num_frames >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.compress(pictures, fps=8, batch_size=4, on_progress=stop)
    video = model.compress(pictures, fps=8, batch_size=4)
    assert video.result.num_resumed_frames == 8
    resumed = read_tokens(video.parts[0].entry).tensors()
    whole = model.compress(pictures, fps=8, batch_size=4, force=True)
    for name, tensor in read_tokens(whole.parts[0].entry).tensors().items():
        assert tensor.equal(resumed[name]), name
    assert np.array_equal(video.pts_seconds, whole.pts_seconds)


def test_a_strip_is_drawn_from_whatever_the_video_was_given_as(model, clip):
    data = clip.read_bytes()
    answer = model.compress(data, fps=2).ask("who moves?", with_attention=True)
    drawn, of_bytes, empty = (
        np.asarray(attention_strip(answer, source=source))
        for source in (clip, io.BytesIO(data), clip.with_name("gone"))
    )
    assert np.array_equal(drawn, of_bytes)
    assert not np.array_equal(drawn, empty)
