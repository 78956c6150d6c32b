"""A worker makes a row of whatever happens, and tells what may pass from what will not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.clips import Clip
from tests.helpers.file_server import serve_files
from voco_video.cluster.pieces import Job, Piece
from voco_video.cluster.worker import Worker
from voco_video.library.manifest import VideoRow
from voco_video.options.compression import CompressOptions
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling
from voco_video.video.transfers import MAX_FAILURES


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return Clip("clip.mp4", num_frames=30).write(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> Worker:
    cache_dir = str(tmp_path_factory.mktemp("cache"))
    return Worker(Job("voco-tiny", LoadOptions(), Sampling(fps=5), CompressOptions(), cache_dir))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("voco_video.video.transfers.FIRST_WAIT_SECONDS", 0.0)
    with serve_files() as files:
        yield files


def test_a_server_that_fails_may_do_better_later_and_a_missing_file_will_not(worker, server, clip):
    url = server.put("/clip.mp4", clip.read_bytes(), statuses=[503] * MAX_FAILURES)
    outcome = worker.run(Piece(0, VideoRow(f"{url}?token=hunter2hunter2")))
    assert outcome.may_pass
    assert "503" in outcome.error
    assert "hunter2" not in outcome.error
    assert worker.run(Piece(0, VideoRow(url))).row.status == "compressed"
    missing = worker.run(Piece(0, VideoRow(f"{server.url}/none.mp4")))
    assert not missing.may_pass
    assert "no such file on the server" in missing.error


def test_a_store_that_cannot_be_reached_may_be_there_later(worker, monkeypatch):
    memory = pytest.importorskip("fsspec.implementations.memory")

    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("the network is gone")

    monkeypatch.setattr(memory.MemoryFileSystem, "info", fails)
    outcome = worker.run(Piece(0, VideoRow("memory://bucket/a.mp4")))
    assert outcome.may_pass
    assert "the network is gone" in outcome.error


def test_damage_options_and_mistakes_of_ours_are_errors_that_stay(worker, clip, tmp_path, monkeypatch):
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 1000)
    broken = worker.run(Piece(0, VideoRow(str(tmp_path / "broken.mp4"))))
    beyond = worker.run(Piece(0, VideoRow(str(clip), start_seconds=100.0)))
    monkeypatch.setattr("voco_video.cluster.worker.cut", lambda *_: 1 / 0)
    ours = worker.run(Piece(0, VideoRow(str(clip))))
    assert "ZeroDivisionError" in ours.error
    assert "holds nothing of this video" in beyond.error
    for outcome in (broken, beyond, ours):
        assert outcome.error.startswith(("/", str(clip))) or str(clip) in outcome.error
        assert (outcome.may_pass, outcome.concerns_all, outcome.row) == (False, False, None)


def test_a_compressor_that_the_model_lacks_concerns_all(clip, tmp_path, monkeypatch):
    from voco_video.errors import ModelError

    worker = Worker(Job("voco-tiny", LoadOptions(), Sampling(), CompressOptions(), str(tmp_path / "cache")))

    def refuses(*_: object, **__: object) -> None:
        raise ModelError("out of memory with a single frame")

    monkeypatch.setattr(type(worker._model), "compress_with", refuses)
    assert worker.run(Piece(0, VideoRow(str(clip)))).concerns_all
