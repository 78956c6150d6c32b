"""Long videos in windows: joined, they give the bytes of the entry that an uncut run makes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.clips import Clip, damage
from voco_video import FrameCache, Sampling, VideoModel
from voco_video.cache import CacheEntry
from voco_video.cluster.pieces import Cut
from voco_video.cluster.windows import UnfitWindowsError, check_unchanged, cut, join, window_ends
from voco_video.errors import VideoError
from voco_video.options.compression import CompressOptions
from voco_video.video.sources import local_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return Clip("long.mp4", num_frames=110, options={"g": "24"}).write(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def loaded():
    from voco_video import load_model

    return load_model()


@pytest.fixture
def model(loaded, tmp_path) -> VideoModel:
    return dataclasses.replace(loaded, cache=FrameCache(tmp_path / "cut"))


def bytes_of(entry: CacheEntry) -> dict[str, bytes]:
    """Every file of an entry; the manifest without its time stamp and its checksum, which covers that."""
    files = {path.name: path.read_bytes() for path in sorted(entry.directory.iterdir())}
    manifest = json.loads(files.pop("manifest.json"))
    for name in ("created_unix_seconds", "checksum", "blake3"):
        manifest.pop(name, None)
    return {**files, "manifest": json.dumps(manifest, sort_keys=True).encode()}


def in_windows(model: VideoModel, clip: Path, sampling: Sampling, options: CompressOptions, seconds: float) -> Cut:
    """Cut a video and compress its windows, the last one first."""
    with local_video(clip) as local:
        found = cut(model, local, sampling, options, seconds)
    assert found is not None
    for window in reversed(found.windows):
        with local_video(clip) as local:
            model.compress_with(check_unchanged(local, found), sampling, found.options, window=window)
    return found


WAYS = [
    pytest.param(Sampling(fps=25), CompressOptions(batch_size=16), 1.0, marks=pytest.mark.exhaustive),
    (Sampling(fps=10, start_seconds=1.5), CompressOptions(batch_size=5, storage="int8"), 0.8),
    pytest.param(Sampling(fps=25), CompressOptions(batch_size=7, form="embeds"), 0.9, marks=pytest.mark.exhaustive),
    pytest.param(Sampling(fps=25), CompressOptions(compressor="pool:4"), 1.5, marks=pytest.mark.exhaustive),
    pytest.param(Sampling(num_frames=100), CompressOptions(batch_size=30), 0.5, marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("sampling", "options", "seconds"), WAYS)
def test_joined_windows_are_the_entry_of_an_uncut_run_byte_for_byte(model, clip, tmp_path, sampling, options, seconds):
    found = in_windows(model, clip, sampling, options, seconds)
    assert len(found.windows) > 2
    entry, missing = join(model, found, sampling)
    assert entry is not None
    assert not missing
    uncut = dataclasses.replace(model, cache=FrameCache(tmp_path / "uncut"))
    expected = uncut.compress_with(clip, sampling, options).parts[0].entry
    assert bytes_of(entry) == bytes_of(expected)
    assert entry.num_frames == expected.num_frames
    assert [one.digest for one in model.cache.entries()] == [entry.digest], "windows are dropped"


def test_windows_are_nobodys_entry_and_a_missing_one_is_named(model, clip):
    sampling, options = Sampling(fps=25), CompressOptions()
    found = in_windows(model, clip, sampling, options, 1.0)
    assert model.cache.candidates(str(clip)) == []
    model.cache.remove(model.cache.entries()[0].digest)
    entry, missing = join(model, found, sampling)
    assert entry is None
    assert len(missing) == 1
    assert missing[0] in found.windows


def test_joining_goes_on_where_it_was_interrupted(model, clip, tmp_path, monkeypatch):
    sampling, options = Sampling(fps=25), CompressOptions()
    found = in_windows(model, clip, sampling, options, 1.0)
    from voco_video.cache.writer import EntryWriter

    append, num_appended = EntryWriter.append, 0

    def dies(self, tensors, pts_seconds):
        nonlocal num_appended
        num_appended += 1
        if num_appended == 4:
            raise KeyboardInterrupt
        append(self, tensors, pts_seconds)

    monkeypatch.setattr(EntryWriter, "append", dies)
    with pytest.raises(KeyboardInterrupt):
        join(model, found, sampling)
    monkeypatch.undo()
    entry, _ = join(model, found, sampling)
    assert entry is not None
    uncut = dataclasses.replace(model, cache=FrameCache(tmp_path / "uncut"))
    expected = uncut.compress_with(clip, sampling, options).parts[0].entry
    for name in ("embeds", "keys", "values"):
        if name in expected.tensors:
            assert entry.read()[name].equal(expected.read()[name])
    assert np.array_equal(entry.pts_seconds, expected.pts_seconds)


def test_windows_of_a_damaged_video_are_not_joined(model, clip, tmp_path):
    broken = damage(clip, tmp_path / "broken.mp4", start=0.4, stop=0.6, num_bytes=4000)
    sampling, options = Sampling(fps=25), CompressOptions()
    found = in_windows(model, broken, sampling, options, 1.0)
    num_undecodable = model.compress_with(broken, sampling, options).parts[0].entry.facts["num_undecodable_frames"]
    assert num_undecodable, "the damage hits"
    model.cache.remove(model.open(str(broken)).parts[0].entry.digest)
    with pytest.raises(UnfitWindowsError):
        join(model, found, sampling)
    assert model.cache.entries() == []


def test_a_video_that_changes_meanwhile_is_noticed(model, clip, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    sampling, options = Sampling(fps=25), CompressOptions()
    with local_video(copy) as local:
        found = cut(model, local, sampling, options, 1.0)
    copy.write_bytes(clip.read_bytes() + b"more")
    assert found is not None
    with local_video(copy) as local, pytest.raises(VideoError, match="changed while it was compressed"):
        check_unchanged(local, found)


@pytest.mark.parametrize(
    ("sampling", "options", "seconds"),
    [
        (Sampling(fps=25), CompressOptions(), 100.0),
        (Sampling(fps=25), CompressOptions(), float("inf")),
        (Sampling(fps=25), CompressOptions(batch_size="auto"), 1.0),
        (Sampling(num_frames=8), CompressOptions(), 1.0),
        (Sampling(timestamps=(1.0, 1.0, 4.0)), CompressOptions(batch_size=1), 1.0),
        (Sampling(fps=25), CompressOptions(compressor="none"), 1.0),
    ],
)
def test_what_is_short_or_has_few_frames_or_batches_of_any_size_stays_whole(model, clip, sampling, options, seconds):
    with local_video(clip) as local:
        assert cut(model, local, sampling, options, seconds) is None


def test_a_video_that_is_there_is_not_cut(model, clip):
    sampling, options = Sampling(fps=5), CompressOptions(batch_size=4)
    model.compress_with(clip, sampling, options)
    with local_video(clip) as local:
        assert cut(model, local, sampling, options, 1.0) is None
        assert cut(model, local, sampling, dataclasses.replace(options, force=True), 1.0) is not None


def test_windows_end_where_batches_do_and_cover_everything():
    rng = np.random.default_rng(0)
    for _ in range(300):
        num = int(rng.integers(1, 400))
        plan = np.sort(rng.uniform(0, 500, num))
        keyframes = np.sort(rng.uniform(0, 500, int(rng.integers(0, 60))))
        batch, seconds = int(rng.integers(1, 40)), float(rng.uniform(1, 300))
        ends = window_ends(plan, keyframes, batch, seconds)
        assert ends[-1] == num
        assert all(end % batch == 0 for end in ends[:-1])
        assert ends == sorted(set(ends))


def test_a_cut_beside_a_keyframe_is_preferred():
    plan = np.arange(1000.0)
    ends = window_ends(plan, np.arange(0, 1000, 50.0), 10, 200)
    assert all(end % 50 == 0 for end in ends)
    assert len(ends) == 5
