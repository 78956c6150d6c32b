"""Videos of what MovingShapes are not: FFmpeg's test patterns, plain colours, noise, drawings, screens with text.

Some are meant to be hard: a large circle on white, a diagram, shapes on a dark ground.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.clips import Scene as TexturedScene
from voco_video.files.atomic_write import written_aside

HEIGHT, WIDTH, FPS, NUM_FRAMES = 240, 320, 5, 30
PATTERNS = (
    *("testsrc", "testsrc2", "rgbtestsrc", "yuvtestsrc", "smptebars", "pal75bars", "mandelbrot", "sierpinski"),
    *("gradients", "life", "cellauto"),
)
COLOURS = ("black", "gray", "red", "green", "blue", "yellow", "purple")
Draw = Callable[[ImageDraw.ImageDraw, int], None]


def make_others(folder: Path, *, most: int = 100) -> list[Path]:
    """Write all of them, or the first few; those that are there already are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    patterns = {name: _pattern(name, f"s={WIDTH}x{HEIGHT}") for name in PATTERNS}
    colours = {f"plain-{name}": _pattern("color", f"c={name}:s={WIDTH}x{HEIGHT}") for name in COLOURS}
    drawings = {f"drawn-{name}": _drawn(draw) for name, draw in DRAWINGS.items()}
    pictures = {"noise": _noise(), "coarse-noise": _noise(cell=40), "textures": _textures()}
    every = patterns | colours | drawings | pictures
    return [_write(folder, name, frames) for name, frames in list(every.items())[:most]]


def _write(folder: Path, name: str, frames: Iterator[np.ndarray]) -> Path:
    path = folder / f"{name}.mp4"
    if path.exists():
        return path
    with written_aside(path) as aside, av.open(str(aside), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "20"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _pattern(source: str, settings: str) -> Iterator[np.ndarray]:
    graph = av.filter.Graph()
    first, sink = graph.add(source, f"{settings}:r={FPS}"), graph.add("buffersink")
    first.link_to(sink)
    graph.configure()
    for _ in range(NUM_FRAMES):
        yield graph.pull().to_ndarray(format="rgb24")


def _drawn(draw: Draw) -> Iterator[np.ndarray]:
    for number in range(NUM_FRAMES):
        picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
        draw(ImageDraw.Draw(picture), number)
        yield np.asarray(picture)


def _noise(cell: int = 1) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for _ in range(NUM_FRAMES):
        coarse = rng.integers(0, 256, (HEIGHT // cell, WIDTH // cell, 3), np.uint8)
        yield np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def _textures() -> Iterator[np.ndarray]:
    scene = TexturedScene()
    for number in range(NUM_FRAMES):
        yield np.asarray(Image.fromarray(scene.draw(6 * number)).resize((WIDTH, HEIGHT)))


# ---------------------------------------------------------------------- drawings


def _text(draw: ImageDraw.ImageDraw, lines: list[str], *, size: int, fill: str, top: int = 4) -> None:
    for row, line in enumerate(lines):
        draw.text((8, top + row * round(size * 1.3)), line, fill=fill, font=ImageFont.load_default(size))


def _slides(draw: ImageDraw.ImageDraw, number: int) -> None:
    draw.rectangle([0, 0, WIDTH, 34], fill=(30, 60, 140))
    _text(draw, [f"Results {number // 10}"], size=18, fill="white")
    _text(draw, [f"- point {k + number // 10}: up by {3 * k} %" for k in range(7)], size=15, fill="black", top=50)


def _terminal(draw: ImageDraw.ImageDraw, number: int) -> None:
    draw.rectangle([0, 0, WIDTH, HEIGHT], fill="black")
    _text(draw, [f"$ make test_{number + k} ... ok {k * number}" for k in range(14)], size=12, fill="lime")


def _editor(draw: ImageDraw.ImageDraw, number: int) -> None:
    _text(draw, [f"{k + number:3d} def f{k}(x): return x + {number}" for k in range(15)], size=12, fill="dimgray")


def _title(draw: ImageDraw.ImageDraw, number: int) -> None:
    _text(draw, ["THE END"], size=52, fill="black", top=90)


def _cartoon(draw: ImageDraw.ImageDraw, number: int) -> None:
    draw.rectangle([0, 0, WIDTH, 150], fill=(120, 190, 250))
    draw.rectangle([0, 150, WIDTH, HEIGHT], fill=(90, 180, 80))
    draw.ellipse([240, 20, 290, 70], fill=(250, 220, 60))
    x = 20 + 6 * number
    draw.rectangle([x, 120, x + 60, 180], fill=(200, 80, 60))
    draw.polygon([(x - 8, 120), (x + 68, 120), (x + 30, 80)], fill=(120, 50, 40))
    draw.ellipse([160, 110, 200, 150], fill=(255, 210, 170))


def _face(draw: ImageDraw.ImageDraw, number: int) -> None:
    draw.ellipse([60, 20, 260, 220], fill=(255, 220, 60))
    for x in (110, 190):
        draw.ellipse([x, 80, x + 20, 110], fill="black")
    draw.arc([110, 100, 210, 180], 20, 160, fill="black", width=6)


def _stick_figure(draw: ImageDraw.ImageDraw, number: int) -> None:
    x = 60 + 5 * number
    draw.ellipse([x - 15, 60, x + 15, 90], outline="black", width=3)
    for line in ([x, 90, x, 160], [x - 30, 110, x + 30, 114], [x, 160, x - 20, 210], [x, 160, x + 20, 210]):
        draw.line(line, fill="black", width=3)


def _bars(draw: ImageDraw.ImageDraw, number: int) -> None:
    draw.line([30, 10, 30, 210, 310, 210], fill="black", width=2)
    for k in range(8):
        draw.rectangle([45 + 32 * k, 180 - 20 * ((7 * k + number) % 8), 65 + 32 * k, 210], fill=(40, 90, 200))


def _curve(draw: ImageDraw.ImageDraw, number: int) -> None:
    draw.line([30, 10, 30, 210, 310, 210], fill="black", width=2)
    points = [(30 + k, 120 - 60 * float(np.sin(k / 30 + number / 5))) for k in range(280)]
    draw.line(points, fill="red", width=2)


def _chessboard(draw: ImageDraw.ImageDraw, number: int) -> None:
    for row in range(8):
        for column in range(8):
            x, y = 40 + 30 * column, 30 * row
            fill = ((240, 217, 181), (181, 136, 99))[(row + column) % 2]
            draw.rectangle([x, y, x + 30, y + 30], fill=fill)


def _stripes(draw: ImageDraw.ImageDraw, number: int) -> None:
    for x in range(0, WIDTH, 20):
        draw.rectangle([x + number % 20, 0, x + 10 + number % 20, HEIGHT], fill=(30, 30, 30))


def _dots(draw: ImageDraw.ImageDraw, number: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        x, y, *colour = (int(n) for n in (rng.integers(WIDTH), rng.integers(HEIGHT), *rng.integers(0, 255, 3)))
        draw.ellipse([x - 8 + number, y - 8, x + 8 + number, y + 8], fill=tuple(colour))


def _dark_ground(draw: ImageDraw.ImageDraw, number: int) -> None:
    draw.rectangle([0, 0, WIDTH, HEIGHT], fill=(20, 20, 30))
    draw.ellipse([100 + number, 80, 160 + number, 140], fill=(215, 35, 40))
    draw.rectangle([200, 150, 250, 200], fill=(245, 215, 40))


def _large_circle(draw: ImageDraw.ImageDraw, number: int) -> None:
    draw.ellipse([60, 20, 260, 220], fill=(215, 35, 40))


def _flag(draw: ImageDraw.ImageDraw, number: int) -> None:
    for row, colour in enumerate(("black", "red", "gold")):
        draw.rectangle([0, 80 * row, WIDTH, 80 * row + 80], fill=colour)


DRAWINGS: dict[str, Draw] = {
    function.__name__.strip("_").replace("_", "-"): function
    for function in (
        *(_slides, _terminal, _editor, _title, _cartoon, _face, _stick_figure, _bars, _curve, _chessboard),
        *(_stripes, _dots, _dark_ground, _large_circle, _flag),
    )
}
