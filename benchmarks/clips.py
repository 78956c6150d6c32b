"""Clips to measure on: encoded once, every picture different, each with its number in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

HEIGHT, WIDTH, FPS, GOP = 720, 1280, 30, 250
SIZE = 336
CLIPS = Path(tempfile.gettempdir()) / "voco-video-benchmark"
ENCODERS = {
    "h264": ("libx264", {"preset": "veryfast", "crf": "23", "bf": "3", "x264-params": "scenecut=0"}),
    "hevc": ("libx265", {"preset": "superfast", "crf": "26", "x265-params": "open-gop=0:scenecut=0:log-level=none"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "3M", "row-mt": "1"}),
}


class Scene:
    """A camera panning over a textured plane, five textured things moving on it, sensor noise, and the number."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._ground = self._texture(1200, 2600)
        self._things = [(self._texture(160, 220), self._rng.uniform(0, 1, 4)) for _ in range(5)]
        self._noise = [self._rng.integers(0, 7, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(6)]

    def _texture(self, height: int, width: int) -> np.ndarray:
        picture = np.full((height, width, 3), 128, np.float32)
        for cell, strength in ((128, 60), (32, 35), (8, 20), (2, 8)):
            coarse = self._rng.normal(0, strength, (height // cell + 1, width // cell + 1, 3)).astype(np.float32)
            picture += coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width]
        return picture.clip(0, 255).astype(np.uint8)

    def draw(self, number: int) -> np.ndarray:
        """Picture [HEIGHT, WIDTH, 3] of this number."""
        seconds = number / FPS
        y, x = int(200 + 180 * np.sin(seconds * 0.35)), int(600 + 580 * np.sin(seconds * 0.21))
        picture = self._ground[y : y + HEIGHT, x : x + WIDTH].copy()
        for thing, (a, b, c, d) in self._things:
            top = int((HEIGHT - 160) * (0.5 + 0.5 * np.sin(seconds * (0.4 + a) + 6 * b)))
            left = int((WIDTH - 220) * (0.5 + 0.5 * np.sin(seconds * (0.5 + c) + 6 * d)))
            picture[top : top + 160, left : left + 220] = thing
        picture = picture // 8 * 7 + self._noise[number % 6]
        for bit in range(16):
            row, column = divmod(bit, 8)
            picture[row * 40 : row * 40 + 40, column * 160 : column * 160 + 160] = 235 if number >> bit & 1 else 16
        return picture


def read_numbers(pixels: np.ndarray) -> list[int]:
    """The numbers drawn into pictures [n, SIZE, SIZE, 3]."""
    rows = (np.array([20, 60]) * SIZE / HEIGHT).astype(int)
    columns = ((np.arange(8) + 0.5) * SIZE / 8).astype(int)
    bits = pixels[:, rows][:, :, columns, 1] > 128  # [n, 2, 8]
    return (bits.reshape(len(pixels), 16) @ (1 << np.arange(16))).tolist()


def make_clip(folder: Path, codec: str, seconds: int, repeats: int) -> Path:
    """Encode `seconds` once and put them `repeats` times one after the other, without encoding again."""
    import av

    path = folder / f"{codec}_{seconds}s_x{repeats}.{'mkv' if codec == 'vp9' else 'mp4'}"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_stem(path.stem + "_unfinished")
    if repeats == 1:
        encoder, options = ENCODERS[codec]
        scene = Scene()
        with av.open(str(unfinished), "w") as container:
            stream = container.add_stream(encoder, rate=FPS, options={**options, "g": str(GOP)})
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for number in range(seconds * FPS):
                frame = av.VideoFrame.from_ndarray(scene.draw(number), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    else:
        with av.open(str(make_clip(folder, codec, seconds, 1))) as once, av.open(str(unfinished), "w") as container:
            stream = container.add_stream_from_template(once.streams.video[0])
            length = round(seconds / once.streams.video[0].time_base)
            for repeat in range(repeats):
                once.seek(0, stream=once.streams.video[0])
                for packet in once.demux(video=0):
                    if packet.size:
                        packet.pts += repeat * length
                        packet.dts += repeat * length
                        packet.stream = stream
                        container.mux(packet)
    unfinished.rename(path)
    return path
