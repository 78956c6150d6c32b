"""Sizes and lengths of time: one syntax for options, environment variables and Python."""

from __future__ import annotations

import pytest

from voco_video.cache import FrameCache
from voco_video.cli.cache import parse_max_size
from voco_video.errors import UsageError
from voco_video.options.sizes import parse_age, parse_size
from voco_video.video.downloads import Downloads

SIZES = [
    ("500M", 500 << 20),
    ("1.5g", 3 << 29),
    ("20GiB", 20 << 30),
    ("20 gib", 20 << 30),
    ("50GB", 50 * 10**9),
    ("500K", 500 << 10),
    ("500kB", 500_000),
    (".5T", 1 << 39),
    ("7", 7),
    ("7B", 7),
    ("0", 0),
    ("9007199254740993", 9007199254740993),
]
NO_SIZES = ["", "lots", "-1", "1e9", "nan", "inf", "5iB", "5X", "K", "1 2", "1,5G", "²", "9999999999T", "0x10"]


@pytest.mark.parametrize(("text", "size_bytes"), SIZES)
def test_every_place_reads_sizes_alike(text, size_bytes, tmp_path, monkeypatch):
    assert parse_size(text, name="max_bytes") == size_bytes
    assert parse_max_size(text) == size_bytes
    assert FrameCache(tmp_path, max_bytes=text).max_bytes == size_bytes
    monkeypatch.setenv("VOCO_VIDEO_CACHE_MAX_BYTES", text)
    monkeypatch.setenv("VOCO_VIDEO_DOWNLOADS_MAX_BYTES", text)
    assert (FrameCache(tmp_path).max_bytes, Downloads().max_bytes) == (size_bytes, size_bytes)


@pytest.mark.parametrize("text", NO_SIZES)
def test_what_is_no_size_is_named_with_its_place(text, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"--max-size '.*'"):
        parse_max_size(text)
    with pytest.raises(UsageError, match="max_bytes="):
        FrameCache(tmp_path, max_bytes=text)
    if text:  # an empty variable is one that is not set
        monkeypatch.setenv("VOCO_VIDEO_CACHE_MAX_BYTES", text)
        with pytest.raises(UsageError, match="VOCO_VIDEO_CACHE_MAX_BYTES="):
            FrameCache(tmp_path)
        monkeypatch.setenv("VOCO_VIDEO_DOWNLOADS_MAX_BYTES", text)
        with pytest.raises(UsageError, match="VOCO_VIDEO_DOWNLOADS_MAX_BYTES="):
            Downloads()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("30d", 2592000), ("2W", 1209600)])
def test_lengths_of_time(text, seconds):
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y", "1d2h", "nan s"])
def test_what_is_no_length_of_time(text):
    with pytest.raises(UsageError, match="older_than="):
        parse_age(text)
