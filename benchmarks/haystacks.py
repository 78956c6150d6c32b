"""Long MovingShapes videos with needles: shapes of two seconds that are nowhere else. Encoded once, then reused.

A haystack is test scenes one after the other, on one background, without the shapes that are needles. A needle stands
in a cell that nothing else comes near; names (colour and shape) of needles are all different. One frame a second, so a
needle is seen in exactly two frames, and nothing but the video's length is out of the ordinary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from blake3 import blake3

from voco_video.data.moving_shapes import COLOURS, PLACES, SHAPES, Scene, ShapeObject, draw_scene, place_name
from voco_video.data.rendering import write_clip

FPS, SIZE = 1, 64
NEEDLE_SECONDS = 2.0
GAP_SECONDS = 12  # between needles, so that none is another one's neighbour
_CELLS = (0.17, 0.5, 0.83)


@dataclass(frozen=True)
class Needle:
    """One event.

    Attributes:
        depth: where in the video it was wanted, 0 to 1.
        name: colour and shape.
        place: one of nine.
        start_seconds: when it appears; it disappears `NEEDLE_SECONDS` later.
    """

    depth: float
    name: str
    place: str
    start_seconds: float

    @property
    def question(self) -> str:
        """Asks for the place."""
        return f"where is the {self.name}?"


@dataclass(frozen=True)
class Haystack:
    """An encoded video and its needles in time order."""

    path: Path
    num_seconds: int
    needles: tuple[Needle, ...]


def make_haystacks(
    folder: Path, *, num_seconds: int, depths: tuple[float, ...], needles_per_depth: int, seed: int
) -> list[Haystack]:
    """As few videos as hold so many needles at each depth without crowding.

    The same arguments give the same videos; those that are there already are not made again.
    """
    per_depth = max(1, int(num_seconds / (len(depths) + 1) / GAP_SECONDS))
    counts = [min(per_depth, needles_per_depth - done) for done in range(0, needles_per_depth, per_depth)]
    return [_make(folder, num_seconds, depths, count, seed=1000 * seed + number) for number, count in enumerate(counts)]


def _make(folder: Path, num_seconds: int, depths: tuple[float, ...], per_depth: int, *, seed: int) -> Haystack:
    places = [(depth, _start(depth, j, per_depth, num_seconds)) for depth in depths for j in range(per_depth)]
    scene, needles = needle_scene(num_seconds, [start for _, start in places], fps=FPS, seed=seed)
    needles = [replace(needle, depth=depth) for needle, (depth, _) in zip(needles, places, strict=True)]
    # Named after what it shows: when the generator changes, clips it made before show something else.
    path = folder / f"haystack_{num_seconds}s_{blake3(repr(scene).encode()).hexdigest()[:16]}.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_clip(scene, path, size=SIZE)
    return Haystack(path, num_seconds, tuple(sorted(needles, key=lambda n: n.start_seconds)))


def needle_scene(
    num_seconds: int, starts_seconds: Sequence[float], *, fps: int, seed: int
) -> tuple[Scene, list[Needle]]:
    """A haystack as a scene, and a needle for each of the times at which one is wanted."""
    rng = np.random.default_rng(seed)
    every = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    names = [every[i] for i in rng.permutation(len(every))[: len(starts_seconds)]]
    hay = _scenes(num_seconds, set(names), seed)
    objects = [_needle_object(name, start, hay, rng) for name, start in zip(names, starts_seconds, strict=True)]
    needles = [
        Needle(start / num_seconds, thing.name, place_name(*thing.start), start)
        for thing, start in zip(objects, starts_seconds, strict=True)
    ]
    return Scene((*hay, *objects), float(num_seconds), fps, (224, 224, 222)), needles


def _start(depth: float, number: int, per_depth: int, num_seconds: int) -> float:
    """Whole seconds around a depth, `GAP_SECONDS` apart."""
    middle = depth * (num_seconds - NEEDLE_SECONDS)
    start = round(middle + (number - (per_depth - 1) / 2) * GAP_SECONDS)
    return float(min(max(start, 0), num_seconds - int(NEEDLE_SECONDS)))


def _scenes(num_seconds: int, without: set[str], seed: int) -> list[ShapeObject]:
    """What the haystack is made of: objects of test scenes, moved to where each scene begins."""
    objects: list[ShapeObject] = []
    begin, index = 0.0, 0
    while begin < num_seconds:
        scene = draw_scene(seed, split="test", index=index)
        objects += [
            replace(o, appears_seconds=begin + o.appears_seconds, disappears_seconds=begin + o.disappears_seconds)
            for o in scene.objects
            if o.name not in without
        ]
        begin += scene.duration_seconds
        index += 1
    return objects


def _needle_object(name: str, start: float, hay: list[ShapeObject], rng: np.random.Generator) -> ShapeObject:
    """A shape in a cell that no other one comes near while it is there; those in the way leave where all are taken."""
    end = start + NEEDLE_SECONDS
    around = [o for o in hay if o.appears_seconds < end and o.disappears_seconds > start]
    while True:
        cells = [(x, y) for y in _CELLS for x in _CELLS if _is_free(x, y, around, start, end)]
        if cells:
            break
        hay.remove(around.pop())
    x, y = cells[rng.integers(len(cells))]
    colour, shape = name.split()
    return ShapeObject(colour, shape, "still", 0.115, (x, y), (x, y), start, end, COLOURS[colour])


def _is_free(x: float, y: float, around: list[ShapeObject], start: float, end: float) -> bool:
    times = np.linspace(start, end, 9)
    return all(np.abs(o.positions(times) - np.float32([x, y])).max(1).min() > 0.27 for o in around)


def num_places() -> int:
    """Answers that a question may have, for the accuracy of guessing."""
    return len(PLACES)
