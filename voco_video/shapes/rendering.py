"""MovingShapes scenes as pixels: frames at any times and sizes, and H.264 clips."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from voco_video.errors import UsageError
from voco_video.files.atomic_write import written_aside
from voco_video.shapes.world import Floats, Frames, Scene, ShapeObject, demo_scene  # noqa: F401 (examples below)


def render(scene: Scene, pts_seconds: Sequence[float] | Floats, *, size: int | tuple[int, int] = 64) -> Frames:
    """Render the scene's frames at the given times, anti-aliased.

    Args:
        scene: what to draw.
        pts_seconds: F times, in any order.
        size: side in pixels, or (height, width). In a frame that is not square the scene fills the square in
            the middle, undistorted.

    Returns:
        uint8 RGB, [F, height, width, 3].

    >>> render(demo_scene(), [0.0, 4.0], size=(48, 64)).shape
    (2, 48, 64, 3)
    """
    height, width = (size, size) if isinstance(size, int) else size
    pts = np.asarray(pts_seconds, np.float32)
    frames = np.empty((len(pts), height, width, 3), np.uint8)
    frames[:] = scene.background_rgb
    for thing in scene.objects:
        shown = np.flatnonzero((thing.appears_seconds <= pts) & (pts < thing.disappears_seconds))
        if len(shown):
            _paint(frames, shown, thing, thing.positions(pts[shown]))
    return frames


def _paint(frames: Frames, shown: NDArray[np.intp], thing: ShapeObject, positions: Floats) -> None:
    """Blend one object into frames[shown]; only the window around it is computed."""
    _, height, width, _ = frames.shape
    side = min(height, width)
    corner = np.asarray([(width - side) / 2, (height - side) / 2], np.float32)
    # A still object is computed once and broadcast over its frames.
    places = positions if thing.is_moving else positions[:1]
    centres = corner + places * side  # [G, 2] pixels, G = number of shown frames or 1
    radius = thing.radius * side
    window = min(side, math.ceil(2 * radius) + 3)
    begin = np.clip(np.rint(centres - window / 2), 0, (width - window, height - window)).astype(np.intp)  # [G, 2]
    xs, ys = (begin[:, axis, None] + np.arange(window) for axis in (0, 1))  # [G, window]
    u = ((xs + np.float32(0.5) - centres[:, :1]) / radius).astype(np.float32)[:, None, :]
    v = ((ys + np.float32(0.5) - centres[:, 1:]) / radius).astype(np.float32)[:, :, None]
    alpha = np.clip(0.5 - _DISTANCES[thing.shape](u, v) * np.float32(radius), 0, 1)[..., None]  # [G, Y, X, 1]
    index = shown[:, None, None], ys[:, :, None], xs[:, None, :]
    behind = frames[index]  # [shown, window, window, 3]
    colour = np.asarray(thing.rgb, np.float32)
    frames[index] = (behind + alpha * (colour - behind) + np.float32(0.5)).astype(np.uint8)


# Signed distances to the outlines in radii, negative inside: u [..., 1, X], v [..., Y, 1] ->
# [..., Y, X]. Sizes are chosen to give the shapes similar areas within a circle of about one radius.


def _circle(u: Floats, v: Floats) -> Floats:
    return np.sqrt(u * u + v * v) - np.float32(0.9)


def _square(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.8)


def _triangle(u: Floats, v: Floats) -> Floats:
    flank = np.float32(0.879) * np.abs(u) - np.float32(0.477) * (v + np.float32(1))
    return np.maximum(flank, v - np.float32(0.8))


def _cross(u: Floats, v: Floats) -> Floats:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(u, v) - np.float32(0.32), np.maximum(u, v) - np.float32(0.98))


def _diamond(u: Floats, v: Floats) -> Floats:
    return (np.abs(u) + np.abs(v) - np.float32(1)) * np.float32(math.sqrt(0.5))


def _star(u: Floats, v: Floats) -> Floats:
    # Fold the ten mirror-image wedges onto one, where the outline is a single line from a tip to a notch.
    wedge, tip, notch = np.float32(math.pi / 5), 1.05, 0.52
    angle = np.abs((np.arctan2(u, -v) + wedge) % (2 * wedge) - wedge)
    distance = np.sqrt(u * u + v * v)
    normal = np.array([notch * math.sin(wedge), tip - notch * math.cos(wedge)], np.float32)
    normal /= np.hypot(*normal)
    return normal[0] * (distance * np.cos(angle) - np.float32(tip)) + normal[1] * distance * np.sin(angle)


_DISTANCES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "diamond": _diamond,
}


def write_clip(scene: Scene, path: str | os.PathLike[str], *, size: int | tuple[int, int] = 240) -> Path:
    """Write the scene as an H.264 clip (yuv420p, `scene.fps` frames a second), under `path` once it is whole.

    Args:
        scene: what to draw; `scene.fps` and `scene.duration_seconds` decide the number of frames.
        path: ends in the container's suffix, such as ".mp4", ".mkv" or ".avi". An existing file is replaced.
        size: side in pixels, or (height, width); even numbers.

    Raises:
        UsageError: odd sides.

    >>> write_clip(demo_scene(), "demo.mp4").name  # doctest: +SKIP
    'demo.mp4'
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height % 2 or width % 2 or min(height, width) < 16:
        raise UsageError(f"a clip of {width}x{height} cannot be H.264 yuv420p: use even sides of 16 or more")
    path = Path(path)
    with written_aside(path) as aside, av.open(str(aside), "w") as container:
        stream = container.add_stream("libx264", rate=scene.fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # x264's output depends on its number of threads; one thread makes the file the same everywhere.
        stream.codec_context.thread_count = 1
        # Without B-frames also containers that keep no presentation times, such as AVI, hold it rightly.
        stream.options = {"crf": "18", "preset": "veryfast", "g": str(4 * scene.fps), "bf": "0"}
        if min(height, width) < 48:
            # The macroblock tree of pictures two macroblocks wide differs in 1 of 100 encodings of the same frames.
            stream.options |= {"x264-params": "mbtree=0"}
        for first in range(0, scene.num_frames, 16):
            numbers = range(first, min(first + 16, scene.num_frames))
            pts_seconds = [number / scene.fps for number in numbers]
            for number, pixels in zip(numbers, render(scene, pts_seconds, size=(height, width)), strict=True):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, scene.fps)
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
