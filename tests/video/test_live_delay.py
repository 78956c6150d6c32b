"""What of a source that is still followed another process sees, by the source's own time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.api import load_model
from voco_video.shapes.rendering import render
from voco_video.shapes.world import COLOURS, Scene, ShapeObject

FPS, SIZE = 10, 64
EVENT_SECONDS = (6.3, 8.3)
WRITTEN_SECONDS = EVENT_SECONDS[1] + 5.0
# A grid of one second waits for a frame past the tick. Of MPEG-TS the container and the parser hold back a frame each,
# until the next one shows where they end, and each further thread of the decoder one more.
MOST_HELD_BACK_SECONDS = 1.0 + 6 / FPS
_WAIT_SECONDS = 120.0


def thing(name: str, place: tuple[float, float], when: tuple[float, float]) -> ShapeObject:
    colour, shape = name.split()
    return ShapeObject(colour, shape, "still", 0.115, place, place, *when, COLOURS[colour])


@pytest.fixture
def scene() -> Scene:
    """A blue square all the time, a red star for two seconds."""
    objects = thing("blue square", (0.17, 0.83), (0.0, 60.0)), thing("red star", (0.83, 0.17), EVENT_SECONDS)
    return Scene(objects, 60.0, FPS, (224, 224, 222))


def write_part(scene: Scene, file, *, until_seconds: float):
    """MPEG-TS of the scene's beginning, flushed; the container, still open: nothing says that the video is over."""
    container = av.open(file, "w", format="mpegts", options={"flush_packets": "1"})
    stream = container.add_stream(
        "libx264", rate=FPS, options={"tune": "zerolatency", "preset": "ultrafast", "g": "20"}
    )
    stream.width = stream.height = SIZE
    stream.pix_fmt = "yuv420p"
    for number in range(round(until_seconds * FPS)):
        frame = av.VideoFrame.from_ndarray(render(scene, [number / FPS], size=SIZE)[0], format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, FPS)
        container.mux(stream.encode(frame))
    return container


def wait_for(find: Callable[[], CompressedVideo | None]) -> CompressedVideo:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        if (video := find()) is not None:
            return video
        time.sleep(0.05)
    raise AssertionError("it was never published")


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_what_ended_five_seconds_earlier_is_seen_though_nothing_more_comes(tmp_path: Path, scene: Scene, kind: str):
    """The recorder pauses five seconds of its own time after the event, with the source open."""
    model = load_model("voco-tiny", cache_dir=tmp_path / "cache")
    source = tmp_path / "recording.ts"
    (source.touch if kind == "file" else lambda: os.mkfifo(source))()
    command = [sys.executable, "-c", "from voco_video.cli import main; main()", "compress", source, "--follow"]
    environment = os.environ | {"VOCO_VIDEO_CACHE_DIR": str(tmp_path / "cache")}
    follower = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with open(source, "wb", buffering=0) as file:
            still_open = write_part(scene, file, until_seconds=WRITTEN_SECONDS)

            def published() -> CompressedVideo | None:
                assert follower.poll() is None, "the follower ended"
                for entry in model.cache.entries():
                    if entry.pts_seconds[-1] >= WRITTEN_SECONDS - MOST_HELD_BACK_SECONDS:
                        return model.open(entry.digest)
                return None

            video = wait_for(published)
            assert video.parts[0].entry.is_growing
            pts = video.pts_seconds
            assert ((pts >= EVENT_SECONDS[0]) & (pts < EVENT_SECONDS[1])).sum() == 2, "a frame a second"
            assert np.diff(pts).max() < 1.2
            answer = video.ask("where is the red star?", policy="relevant", max_voco_tokens=64, max_new_tokens=8)
            assert answer.text == "top right"
            assert any(m.start_seconds < EVENT_SECONDS[1] and m.end_seconds > EVENT_SECONDS[0] for m in answer.evidence)
            still_open.close()
    finally:
        follower.kill()
        follower.wait()
