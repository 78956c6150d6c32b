"""Many videos with one model: each its item, failures too; the same as one after the other."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest

import voco_video
from voco_video.errors import ModelError, UsageError, VideoError
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene

QUERY = "the star"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return voco_video.load_model(cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Path]:
    """Two videos, and between them one that is none."""
    folder = tmp_path_factory.mktemp("clips")
    for number, size in enumerate((48, 64)):
        write_clip(demo_scene(), folder / f"{2 * number}.mp4", size=size)
    (folder / "1.mp4").write_text("not a video")
    return sorted(folder.glob("*.mp4"))


def test_each_video_is_an_item_and_as_if_compressed_alone(model, clips, tmp_path):
    alone = voco_video.load_model(cache_dir=tmp_path)
    states = []
    items = list(model.compress_many(iter(clips), num_frames=3, on_progress=states.append))
    assert [item.given for item in items] == clips
    for item in (items[0], items[2]):
        assert item.error is None
        expected = alone.compress(item.given, num_frames=3)
        assert item.video.parts[0].entry.digest == expected.parts[0].entry.digest
        got, wanted = item.video.tokens(), expected.tokens()
        assert np.array_equal(got.embeds.numpy(), wanted.embeds.numpy())
    assert items[1].video is None
    assert isinstance(items[1].error, VideoError)
    assert str(clips[1]) in str(items[1].error)
    assert [state.num_frames for state in states if state.num_frames == 3] == [3, 3]
    again = list(model.compress_many(clips, num_frames=3))
    assert [item.video and item.video.from_cache for item in again] == [True, None, True], "the cache has them"


def test_a_video_is_taken_when_its_turn_comes(model, clips):
    taken = []

    def given():
        for clip in clips:
            taken.append(clip)
            yield clip

    items = model.compress_many(given(), num_frames=2)
    assert taken == []
    next(items)
    assert taken == clips[:1]
    items.close()
    assert taken == clips[:1]


@pytest.mark.parametrize("options", [{"fps": 0.0}, {"fps": 1.0, "num_frames": 3}, {"compressor": "vcoo"}])
def test_an_option_that_cannot_be_right_is_refused_at_once(model, clips, options):
    with pytest.raises(UsageError):
        model.compress_many(clips, **options)


def test_a_window_in_which_one_video_has_nothing_costs_that_one(model, clips):
    items = list(model.compress_many([clips[0], clips[2]], start_seconds=100.0))
    assert [type(item.error) for item in items] == [UsageError, UsageError]


def test_what_the_model_cannot_do_ends_it_only_at_the_first_video(model, clips, monkeypatch):
    def fail(self, video, *rest):
        raise ModelError("this model cannot")

    monkeypatch.setattr(voco_video.VideoModel, "compress_with", fail)
    with pytest.raises(ModelError, match="cannot"):
        list(model.compress_many(clips))
    compress = iter([lambda: None, fail])
    monkeypatch.setattr(
        voco_video.VideoModel, "compress_with", lambda self, video, *rest: next(compress)() if video else fail(self, 0)
    )
    items = list(model.compress_many(["a", ""]))
    assert [type(item.error) for item in items] == [type(None), ModelError]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [_Terminal, io.StringIO])
def test_progress_is_drawn_where_it_is_asked_for_in_a_terminal(model, clips, stream, monkeypatch):
    drawn = {}
    for progress in (True, False):
        monkeypatch.setattr("sys.stderr", stream())
        list(model.compress_many(clips, num_frames=2, progress=progress, force=True))
        drawn[progress] = sys.stderr.getvalue()
    assert drawn[False] == ""
    if stream is _Terminal:
        assert "3/3" in drawn[True]
        assert clips[0].name in drawn[True]
    else:
        assert drawn[True] == ""


def test_find_compresses_what_is_not_compressed_and_finds_the_same(model, clips):
    there = [clips[0], clips[2]]
    compressed = [model.compress(clip) for clip in there]
    expected = [(one.video.parts[0].entry.digest, one.moment) for one in voco_video.find(compressed, QUERY)]
    counted = []
    for given in (there, iter(there), compressed, [compressed[0], str(clips[2])]):
        found = model.find(given, QUERY, on_progress=counted.append)
        assert [(one.video.parts[0].entry.digest, one.moment) for one in found] == expected
    assert counted == [8] * 8


def test_find_in_one_video_however_it_is_given(model, clips):
    expected = model.compress(clips[0]).find(QUERY, num_moments=2)
    with clips[0].open("rb") as file:
        for given in (clips[0], str(clips[0]), clips[0].read_bytes(), file, model.compress(clips[0])):
            assert [one.moment for one in model.find(given, QUERY, num_moments=2)] == expected


def test_find_names_what_cannot_be_searched(model, clips):
    with pytest.raises(VideoError, match=r"1\.mp4"):
        model.find(clips, QUERY)
    failed = []
    found = model.find(clips, QUERY, on_error=lambda video, error: failed.append((video, type(error))))
    assert failed == [(clips[1], VideoError)]
    assert found
    with pytest.raises(UsageError, match="empty"):
        model.find(clips[0], " ")
