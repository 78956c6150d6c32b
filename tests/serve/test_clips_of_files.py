"""Clips copied out of files: each begins at a keyframe at or before what was asked for, in every container."""

from __future__ import annotations

import av
import pytest

from tests.helpers.clips import Clip
from voco_video.serve.media_files import write_clip
from voco_video.video.reading import probe


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv"])
def test_a_clip_begins_at_or_before_its_start(tmp_path, name):
    """MPEG-TS has no index, and its reader's guess may lie behind what was asked for."""
    path = Clip(name, num_frames=100, rate=10, options={"g": "40"}).write(tmp_path)
    info = probe(path)
    with av.open(str(path)) as file:
        keys = [float(p.pts * p.time_base) for p in file.demux(video=0) if p.is_keyframe and p.pts is not None]
    assert len(keys) >= 3
    for start in (info.first_pts_seconds, keys[1] - 0.2, keys[1], keys[1] + 0.3, info.end_seconds - 0.2):
        begins = write_clip(path, name, start, info.end_seconds + 1, tmp_path / "clip.mp4")
        assert begins == pytest.approx(max(key for key in keys if key <= start + 1e-3), abs=2e-3)
        clip = probe(tmp_path / "clip.mp4")
        assert clip.duration_seconds == pytest.approx(info.end_seconds - begins, abs=0.02)
