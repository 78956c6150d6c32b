"""Long MovingShapes videos with needles: shapes of two seconds that are nowhere else. Encoded once, then reused.

    hay   hay   [ scene with a needle ]   hay   hay   hay   [ scene with a needle ]   hay ...

A haystack is test scenes one after the other, on one background, without the shapes that are needles. A needle stands
in a scene of its own, in a cell that nothing else comes near, at one frame a second in exactly two frames. Names
(colour and shape) of the needles of a set are all different.

Haystacks of different lengths hold the same needles in the same scenes at the same depths. All that differs is how much
hay is between them, so lengths are compared on the same questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from blake3 import blake3

from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import COLOURS, PLACES, SHAPES, Scene, ShapeObject, draw_scene, place_name

FPS, SIZE = 1, 64
NEEDLE_SECONDS = 2.0
BEFORE_SECONDS, AFTER_SECONDS = 3, 3  # of a needle's scene, around the needle
GAP_SECONDS = 12  # from needle to needle, so that none is another one's neighbour
NEEDLES_PER_SET = 20  # of 48 names; those are missing in the hay
_CELLS = (0.17, 0.5, 0.83)


@dataclass(frozen=True)
class Needle:
    """One event.

    Attributes:
        group: needles of one group, one at each depth, are in the same video whatever its length.
        depth: where in the video it was wanted, 0 to 1.
        name: colour and shape.
        place: one of nine.
        start_seconds: when it appears; it disappears `NEEDLE_SECONDS` later.
    """

    group: int
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
    """An encoded video and its needles, by group and then in time order."""

    path: Path
    num_seconds: int
    needles: tuple[Needle, ...]


@dataclass(frozen=True)
class _NeedleScene:
    """What surrounds a needle, in seconds from its appearance."""

    group: int
    depth: float
    needle: ShapeObject
    others: tuple[ShapeObject, ...]


def make_haystacks(
    folder: Path, *, num_seconds: int, depths: tuple[float, ...], needles_per_depth: int, seed: int
) -> list[Haystack]:
    """As few videos as hold so many needles at each depth without crowding, and with hay of other names.

    The same arguments give the same videos; those that are there already are not made again.
    """
    per_set = max(1, NEEDLES_PER_SET // len(depths))
    per_video = min(per_set, max(1, int(num_seconds / (len(depths) + 1) / GAP_SECONDS)))
    haystacks = []
    for first in range(0, needles_per_depth, per_set):
        scenes = _needle_scenes(depths, range(first, min(first + per_set, needles_per_depth)), seed=seed)
        names = {s.needle.name for s in scenes}
        groups = sorted({s.group for s in scenes})
        for at in range(0, len(groups), per_video):
            here = groups[at : at + per_video]
            inside = [s for s in scenes if s.group in here]
            starts = [_start(s.depth, here.index(s.group), len(here), num_seconds) for s in inside]
            haystacks.append(_make(folder, num_seconds, inside, names, starts=starts, seed=1000 * seed + groups[at]))
    return haystacks


def make_repeats(folder: Path, *, num_seconds: int, times: tuple[int, ...], num_names: int, seed: int) -> Haystack:
    """A video in which `num_names` needles appear for each number of times, evenly spread, each time somewhere else.

    The appearances of a name make a group.
    """
    rng = np.random.default_rng((seed, num_seconds))
    counts = [count for count in times for _ in range(num_names)]
    names = _names(len(counts), rng)
    appearances = [(group, name) for group, (name, count) in enumerate(zip(names, counts)) for _ in range(count)]
    scenes, starts = [], []
    for place, i in enumerate(rng.permutation(len(appearances))):
        group, name = appearances[i]
        depth = (place + 0.5) / len(appearances)
        others = _surroundings(seed, place, names)
        needle = _needle_object(name, others, rng)
        scenes.append(_NeedleScene(group, depth, needle, tuple(others)))
        starts.append(_start(depth, 0, 1, num_seconds))
    return _make(folder, num_seconds, scenes, set(names), starts=starts, seed=1000 * seed)


def _names(count: int, rng: np.random.Generator) -> list[str]:
    """So many different colours and shapes."""
    every = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    return [every[i] for i in rng.permutation(len(every))[:count]]


def _surroundings(seed: int, index: int, without: Sequence[str]) -> list[ShapeObject]:
    """A test scene without those names, its times counted from where a needle appears."""
    scene = draw_scene(1000 + seed, split="test", index=index)
    moved = [_moved(o, -BEFORE_SECONDS) for o in scene.objects if o.name not in without]
    return _within(moved, -BEFORE_SECONDS, NEEDLE_SECONDS + AFTER_SECONDS)


def _needle_scenes(depths: tuple[float, ...], groups: range, *, seed: int) -> list[_NeedleScene]:
    """The needles of a set: one a group and depth, each in a test scene without any of their names."""
    rng = np.random.default_rng((seed, groups.start))
    names = _names(len(depths) * len(groups), rng)
    scenes, unused = [], list(names)
    for group in groups:
        for i, depth in enumerate(depths):
            others = _surroundings(seed, group * len(depths) + i, names)
            needle = _needle_object(unused.pop(), others, rng)
            scenes.append(_NeedleScene(group, depth, needle, tuple(others)))
    return scenes


def _make(
    folder: Path, num_seconds: int, scenes: list[_NeedleScene], names: set[str], *, starts: list[float], seed: int
) -> Haystack:
    whole, needles = _assembled(num_seconds, scenes, names, starts=starts, fps=FPS, seed=seed)
    # Named after what it shows: when the generator changes, clips it made before show something else.
    path = folder / f"haystack_{num_seconds}s_{blake3(repr(whole).encode()).hexdigest()[:16]}.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_clip(whole, path, size=SIZE)
    return Haystack(path, num_seconds, tuple(needles))


def _assembled(
    num_seconds: int, scenes: list[_NeedleScene], names: set[str], *, starts: Sequence[float], fps: int, seed: int
) -> tuple[Scene, list[Needle]]:
    """Scenes of needles that appear at those times, and hay between them."""
    objects, needles = [], []
    for scene, start in zip(scenes, starts, strict=True):
        objects += [_moved(o, start) for o in (*scene.others, scene.needle)]
        place = place_name(*scene.needle.start)
        needles.append(Needle(scene.group, scene.depth, scene.needle.name, place, start))
    hay = _hay(num_seconds, sorted(starts), names, seed)
    return Scene((*hay, *_within(objects, 0, num_seconds)), float(num_seconds), fps, (224, 224, 222)), needles


def needle_scene(
    num_seconds: int, starts_seconds: Sequence[float], *, fps: int, seed: int
) -> tuple[Scene, list[Needle]]:
    """A haystack as a scene, and a needle for each of the times at which one is wanted."""
    rng = np.random.default_rng(seed)
    names = _names(len(starts_seconds), rng)
    scenes = []
    for number, (name, start) in enumerate(zip(names, starts_seconds, strict=True)):
        others = _surroundings(seed, number, names)
        needle = _needle_object(name, others, rng)
        scenes.append(_NeedleScene(number, start / num_seconds, needle, tuple(others)))
    return _assembled(num_seconds, scenes, set(names), starts=starts_seconds, fps=fps, seed=seed)


def _start(depth: float, number: int, per_depth: int, num_seconds: int) -> float:
    """Whole seconds around a depth, `GAP_SECONDS` apart."""
    middle = depth * (num_seconds - NEEDLE_SECONDS)
    start = round(middle + (number - (per_depth - 1) / 2) * GAP_SECONDS)
    return float(min(max(start, 0), num_seconds - int(NEEDLE_SECONDS)))


def _hay(num_seconds: int, needle_starts: list[float], without: set[str], seed: int) -> list[ShapeObject]:
    """Objects of test scenes one after the other, cut off where a needle's scene begins and going on after it."""
    objects: list[ShapeObject] = []
    begin, index = 0.0, 0
    for start in (*needle_starts, num_seconds + BEFORE_SECONDS):
        while begin < start - BEFORE_SECONDS:
            scene = draw_scene(seed, split="test", index=index)
            others = [_moved(o, begin) for o in scene.objects if o.name not in without]
            objects += _within(others, begin, start - BEFORE_SECONDS)
            begin += scene.duration_seconds
            index += 1
        begin = start + NEEDLE_SECONDS + AFTER_SECONDS
    return objects


def _moved(thing: ShapeObject, seconds: float) -> ShapeObject:
    """The same object so much later."""
    times = {name: getattr(thing, name) + seconds for name in ("appears_seconds", "disappears_seconds")}
    return replace(thing, **times)


def _within(objects: list[ShapeObject], start: float, stop: float) -> list[ShapeObject]:
    """What is there between two times: objects that are cut off are where they were until then."""
    cut = []
    for thing in objects:
        times = max(thing.appears_seconds, start), min(thing.disappears_seconds, stop)
        if times[0] < times[1]:
            first, last = (tuple(float(v) for v in place) for place in thing.positions(times))
            cut.append(replace(thing, start=first, end=last, appears_seconds=times[0], disappears_seconds=times[1]))
    return cut


def _needle_object(name: str, others: list[ShapeObject], rng: np.random.Generator) -> ShapeObject:
    """A shape in a cell that no other one comes near while it is there; those in the way leave where all are taken."""
    around = [o for o in others if o.appears_seconds < NEEDLE_SECONDS and o.disappears_seconds > 0]
    while True:
        cells = [(x, y) for y in _CELLS for x in _CELLS if _is_free(x, y, around)]
        if cells:
            break
        others.remove(around.pop())
    x, y = cells[rng.integers(len(cells))]
    colour, shape = name.split()
    return ShapeObject(colour, shape, "still", 0.115, (x, y), (x, y), 0.0, NEEDLE_SECONDS, COLOURS[colour])


def _is_free(x: float, y: float, around: list[ShapeObject]) -> bool:
    times = np.linspace(0, NEEDLE_SECONDS, 9)
    return all(np.abs(o.positions(times) - np.float32([x, y])).max(1).min() > 0.27 for o in around)


def num_places() -> int:
    """Answers that a question may have, for the accuracy of guessing."""
    return len(PLACES)
