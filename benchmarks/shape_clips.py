"""MovingShapes as people may bring it: in many codecs, qualities and sizes, turned, long; the same on every call.

    python -m benchmarks.shape_clips FOLDER --split train --num-clips 400 [--seed 3]

Clips that are there already are not made again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from voco_video.files.atomic_write import written_aside
from voco_video.shapes.rendering import render
from voco_video.shapes.world import Scene, draw_scene


@dataclass(frozen=True)
class Encoding:
    """A codec with a quality."""

    name: str
    codec: str
    suffix: str
    options: dict[str, str] = field(default_factory=dict)
    pixel_format: str = "yuv420p"
    fps: int | None = None
    min_side: int = 16
    max_side: int = 1280


def _quantised(scale: int) -> dict[str, str]:
    return {"flags": "+qscale", "global_quality": str(118 * scale)}


_FAST, _VP9 = {"preset": "veryfast"}, {"b": "0", "deadline": "realtime", "cpu-used": "8"}
_X265 = _FAST | {"x265-params": "log-level=none"}
ENCODINGS = (
    *(Encoding(f"h264-crf{crf}", "libx264", "mp4", _FAST | {"crf": str(crf)}) for crf in (18, 28, 36, 44)),
    *(Encoding(f"hevc-crf{crf}", "libx265", "mp4", _X265 | {"crf": str(crf)}, min_side=64) for crf in (28, 40)),
    *(Encoding(f"vp9-crf{crf}", "libvpx-vp9", "webm", _VP9 | {"crf": str(crf)}) for crf in (32, 50)),
    *(Encoding(f"mpeg4-q{q}", "mpeg4", "avi", _quantised(q)) for q in (3, 12, 25)),
    *(Encoding(f"mpeg2-q{q}", "mpeg2video", "mpg", _quantised(q), fps=25) for q in (5, 20)),
    *(Encoding(f"mjpeg-q{q}", "mjpeg", "avi", _quantised(q), "yuvj420p") for q in (3, 15)),
    Encoding("gif", "gif", "gif", pixel_format="rgb8", max_side=480),
    Encoding("ffv1", "ffv1", "mkv"),
)
SIZES = ((48, 48), (64, 64), (96, 96), (128, 176), (240, 240), (240, 320), (320, 240), (360, 640), (480, 480))
LARGE = (720, 1280)


def make_clips(folder: Path, *, split: str, num_clips: int, seed: int) -> list[Path]:
    """Write clip 0 to ``num_clips`` of a split; which scene, encoding, size and turn depends on its number alone."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_make(folder, split, seed, index) for index in range(num_clips)]


def _make(folder: Path, split: str, seed: int, index: int) -> Path:
    rng = np.random.default_rng((seed, index))
    encoding = ENCODINGS[rng.integers(len(ENCODINGS))]
    sizes = SIZES if rng.random() < 0.97 else (LARGE, *SIZES[-1:])
    fitting = [size for size in sizes if encoding.min_side <= min(size) and max(size) <= encoding.max_side]
    size = fitting[rng.integers(len(fitting))]
    num_turns = int(rng.integers(1, 4)) if size[0] == size[1] and rng.random() < 0.3 else 0
    num_scenes = 8 if rng.random() < 0.05 else 1  # a minute of it
    always_visible = bool(rng.random() < 0.1)
    path = folder / (
        f"{split}-{seed}-{index:05d}-{encoding.name}-{size[1]}x{size[0]}"
        f"{f'-turned{90 * num_turns}' if num_turns else ''}{'-long' if num_scenes > 1 else ''}.{encoding.suffix}"
    )
    if not path.exists():
        scenes = [
            draw_scene(seed, split=split, index=index + 100_000 * part, always_visible=always_visible)
            for part in range(num_scenes)
        ]
        _write(path, scenes, encoding, size, num_turns)
    return path


def _write(path: Path, scenes: list[Scene], encoding: Encoding, size: tuple[int, int], num_turns: int) -> None:
    with written_aside(path) as aside, av.open(str(aside), "w") as container:
        fps = encoding.fps or scenes[0].fps
        stream = container.add_stream(encoding.codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, encoding.pixel_format
        stream.codec_context.thread_count = 1
        stream.options = dict(encoding.options)
        number = 0
        for scene in (replace(scene, fps=fps) for scene in scenes):
            times = np.arange(scene.num_frames, dtype=np.float32) / fps
            for first in range(0, len(times), 16):
                for pixels in render(scene, times[first : first + 16], size=size):
                    turned = np.ascontiguousarray(np.rot90(pixels, num_turns))
                    frame = av.VideoFrame.from_ndarray(turned, format="rgb24")
                    frame.pts, frame.time_base = number, Fraction(1, fps)
                    container.mux(stream.encode(frame))
                    number += 1
        container.mux(stream.encode())


def main() -> None:
    """Make clips as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--num-clips", type=int, default=400)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    clips = make_clips(arguments.folder, split=arguments.split, num_clips=arguments.num_clips, seed=arguments.seed)
    print(f"{len(clips)} clips in {arguments.folder}")


if __name__ == "__main__":
    main()
