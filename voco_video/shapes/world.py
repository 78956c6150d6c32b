"""MovingShapes: short scenes of coloured shapes that move, appear and disappear.

A scene is a few lines of numbers; it becomes pixels only when `render` or `write_clip` is called. Scene
`index` of a `split` depends on `(seed, split, index)` alone, so any sample can be drawn again without those
before it.

Coordinates are those of a unit square, x to the right and y down. Objects sit in, or slide between, the cells
of a 3 x 3 grid whose places have names ("top left", "centre", ...). Every object owns the cells of its whole
path, so nothing is ever hidden behind something else.

Two facts are built in for honest measurements:

- The world looks the same backwards, with left/right, up/down and before/after exchanged. Without the order
  of frames, or from the middle frame alone, questions about these can only be guessed.
- A sixth of colour x shape x axis of motion is held out of "train" and "val" (`is_held_out`); every "test"
  scene has at least one such object.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voco_video.errors import UsageError

Frames: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "green": (35, 150, 60),
    "blue": (40, 75, 215),
    "yellow": (245, 215, 40),
    "purple": (135, 50, 175),
    "orange": (245, 130, 25),
    "cyan": (40, 200, 220),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
MOTIONS = ("still", "left", "right", "up", "down")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
SPLITS = ("train", "val", "test")

_AXIS = {"still": 0, "left": 1, "right": 1, "up": 2, "down": 2}

# Grid lines 0.33 apart, radius at most 0.13, jitter at most 0.03: neighbours keep 0.01 between them and the
# border.
_CELL_CENTRES = (0.17, 0.5, 0.83)
_CELL_EDGES = (0.335, 0.665)
_JITTER = 0.03
_RADIUS = (0.10, 0.13)

# Times are fractions of the scene. Of 6 evenly spaced frames one lies in any gap of 0.18 and shows who is
# first, of 8 one lies between any two events, and three lie in a span of 0.4 and show a direction.
_SPAN = (0.40, 0.55)
_MIN_ORDER_GAP = 0.18
_MIN_EVENT_GAP = 0.13

# How many objects, and how many of them move: each row and each column sums to 8, so that both are uniform, and all
# that can go together does.
_COUNTS = tuple(
    (num_objects, num_moving)
    for num_objects, weights in {1: (4, 4, 0, 0), 2: (2, 2, 4, 0), 3: (1, 1, 2, 4), 4: (1, 1, 2, 4)}.items()
    for num_moving, weight in enumerate(weights)
    for _ in range(weight)
)


@dataclass(frozen=True)
class ShapeObject:
    """One shape: its kind and colour, its straight path at constant speed, and the time it is visible.

    Places are (x, y) in the unit square, `radius` in the same unit. The object is at `start` when it appears,
    at `end` when it disappears, and visible while `appears_seconds <= t < disappears_seconds`.
    """

    colour: str
    shape: str
    motion: str
    radius: float
    start: tuple[float, float]
    end: tuple[float, float]
    appears_seconds: float
    disappears_seconds: float
    rgb: tuple[int, int, int]

    @property
    def name(self) -> str:
        """Colour and shape, which no two objects of a scene share.

        >>> demo_scene().objects[0].name
        'purple star'
        """
        return f"{self.colour} {self.shape}"

    @property
    def is_moving(self) -> bool:
        """Whether the object changes its place."""
        return self.motion != "still"

    def is_visible(self, seconds: float) -> bool:
        """Check whether the object is visible at that time."""
        return self.appears_seconds <= seconds < self.disappears_seconds

    def positions(self, pts_seconds: Sequence[float] | NDArray[np.floating]) -> Floats:
        """Compute centres (x, y) at the given times, visible or not: [F] seconds -> [F, 2]."""
        elapsed = np.asarray(pts_seconds, np.float32) - np.float32(self.appears_seconds)  # [F]
        progress = np.clip(elapsed / (self.disappears_seconds - self.appears_seconds), 0, 1)
        start, end = np.asarray(self.start, np.float32), np.asarray(self.end, np.float32)
        return start + progress[:, None] * (end - start)  # [F, 2]

    def place_at(self, seconds: float) -> str:
        """Return the name of the object's grid cell at that time, one of PLACES.

        >>> demo_scene().objects[1].place_at(0.0)
        'right'
        """
        x, y = self.positions([seconds])[0]
        return place_name(float(x), float(y))


@dataclass(frozen=True)
class Scene:
    """Objects on a plain background for `duration_seconds`; `write_clip` makes `fps` frames a second."""

    objects: tuple[ShapeObject, ...]
    duration_seconds: float
    fps: int
    background_rgb: tuple[int, int, int]

    @property
    def num_frames(self) -> int:
        """Number of frames of the clip."""
        return round(self.duration_seconds * self.fps)

    def visible_at(self, seconds: float) -> tuple[ShapeObject, ...]:
        """Return the objects that are visible at that time.

        >>> [o.name for o in demo_scene().visible_at(0.0)]
        ['purple star', 'blue square']
        """
        return tuple(o for o in self.objects if o.is_visible(seconds))


def place_name(x: float, y: float) -> str:
    """Return the name of the grid cell that contains a point of the unit square.

    >>> place_name(0.1, 0.1), place_name(0.5, 0.5), place_name(0.9, 0.5)
    ('top left', 'centre', 'right')
    """
    column, row = (sum(value > edge for edge in _CELL_EDGES) for value in (x, y))
    return PLACES[3 * row + column]


def is_place_clear(x: float, y: float, *, margin: float = 0.05) -> bool:
    """Check that a point is far enough from the grid's inner lines for its place to be clear."""
    return all(abs(value - edge) >= margin for value in (x, y) for edge in _CELL_EDGES)


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """Check whether this combination occurs in test scenes only.

    For each of the three axes (still, left/right, up/down) every colour misses one shape in training, and no
    colour-shape pair misses two axes: all pairs of attributes are seen in training, some triples are not.
    Opposite directions are held out together, or the name of an object would give its direction away.

    >>> is_held_out("red", "circle", "still"), is_held_out("red", "circle", "left")
    (True, False)
    """
    return (list(COLOURS).index(colour) + 2 * _AXIS[motion]) % len(SHAPES) == SHAPES.index(shape)


def scene_rng(seed: int, *, split: str, index: int, purpose: int = 0) -> np.random.Generator:
    """Make the generator of sample `index`; different splits, indices and purposes never share random numbers.

    Raises:
        UsageError: unknown split, or a negative seed or index.
    """
    if split not in SPLITS:
        raise UsageError(f"split is {split!r}, but has to be one of {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise UsageError(f"seed {seed} and index {index} have to be 0 or more")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index, purpose)))


def draw_scene(seed: int, *, split: str = "train", index: int = 0, always_visible: bool = False) -> Scene:
    """Draw scene `index` of a split, the same on every call.

    Args:
        seed: the world's seed, 0 or more.
        split: "train", "val" or "test"; the last has held-out combinations in every scene.
        index: which scene, 0 or more, without limit.
        always_visible: keep every object from beginning to end (for single images, where counts should be
            uniform).

    Raises:
        UsageError: unknown split, or a negative seed or index.

    >>> draw_scene(7, split="val", index=3) == draw_scene(7, split="val", index=3)
    True
    """
    rng = scene_rng(seed, split=split, index=index)
    num_objects, num_moving = _COUNTS[rng.integers(len(_COUNTS))]
    paths = _draw_paths(rng, num_objects, num_moving)
    names = _draw_names(rng, [motion for motion, _, _ in paths], split)
    spans = [(0.0, 1.0)] * num_objects if always_visible else _draw_spans(rng, num_objects)
    duration_seconds = float(rng.integers(6, 9))
    objects = []
    for (colour, shape), (motion, first, last), (begin, end) in zip(names, paths, spans, strict=True):
        dx, dy = rng.uniform(-_JITTER, _JITTER, 2).tolist()
        objects.append(
            ShapeObject(
                colour=colour,
                shape=shape,
                motion=motion,
                radius=float(rng.uniform(*_RADIUS)),
                start=(_CELL_CENTRES[first % 3] + dx, _CELL_CENTRES[first // 3] + dy),
                end=(_CELL_CENTRES[last % 3] + dx, _CELL_CENTRES[last // 3] + dy),
                appears_seconds=begin * duration_seconds,
                disappears_seconds=end * duration_seconds,
                rgb=_vary(rng, COLOURS[colour], 10),
            )
        )
    grey = int(rng.integers(205, 241))
    return Scene(tuple(objects), duration_seconds, fps=10, background_rgb=_vary(rng, (grey, grey, grey), 6))


def _vary(rng: np.random.Generator, rgb: tuple[int, int, int], amount: int) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.add(rgb, rng.integers(-amount, amount + 1, 3)), 0, 255).tolist()
    return red, green, blue


def _paths_of(motion: str) -> list[tuple[int, int, frozenset[int]]]:
    """List (first cell, last cell, cells passed) of every path in a direction."""
    step = {"still": 0, "left": -1, "right": 1, "up": -3, "down": 3}[motion]
    if step == 0:
        return [(cell, cell, frozenset([cell])) for cell in range(9)]
    line = [range(3 * row, 3 * row + 3) for row in range(3)] if abs(step) == 1 else [range(c, 9, 3) for c in range(3)]
    ways = [list(cells) if step > 0 else list(cells)[::-1] for cells in line]
    spans = ((0, 1), (1, 2), (0, 2))
    return [(way[a], way[b], frozenset(way[a : b + 1])) for way in ways for a, b in spans]


_PATHS = {motion: _paths_of(motion) for motion in MOTIONS}


def _draw_paths(rng: np.random.Generator, num_objects: int, num_moving: int) -> list[tuple[str, int, int]]:
    """Draw (motion, first cell, last cell) of each object, in random order, without a cell on two paths."""
    while True:
        motions = [MOTIONS[1 + rng.integers(4)] for _ in range(num_moving)] + ["still"] * (num_objects - num_moving)
        taken: frozenset[int] = frozenset()
        paths = []
        for motion in motions:
            free = [path for path in _PATHS[motion] if not path[2] & taken]
            if not free:
                break
            first, last, cells = free[rng.integers(len(free))]
            taken |= cells
            paths.append((motion, first, last))
        if len(paths) == num_objects:
            return [paths[i] for i in rng.permutation(num_objects)]


def _draw_names(rng: np.random.Generator, motions: list[str], split: str) -> list[tuple[str, str]]:
    """Draw a distinct (colour, shape) for each object; three in five share one of the two with an earlier object."""
    colours = list(COLOURS)
    names: list[tuple[str, str]] = []
    held_out_at = int(rng.integers(len(motions))) if split == "test" else -1
    while len(names) < len(motions):
        colour, shape = colours[rng.integers(len(colours))], SHAPES[rng.integers(len(SHAPES))]
        shared = rng.random()
        if names and shared < 0.6:
            other = names[rng.integers(len(names))]
            colour, shape = (other[0], shape) if shared < 0.3 else (colour, other[1])
        held_out = is_held_out(colour, shape, motions[len(names)])
        if (colour, shape) in names or (held_out and split != "test"):
            continue
        if len(names) == held_out_at and not held_out:
            continue
        names.append((colour, shape))
    return names


def _draw_spans(rng: np.random.Generator, num_objects: int) -> list[tuple[float, float]]:
    """Draw when each object is visible, in fractions of the scene.

    A quarter of the scenes show all objects throughout. In the others two objects appear and disappear one after the
    other (which is as likely backwards), and sometimes a third one appears late or disappears early.
    """
    spans = [(0.0, 1.0)] * num_objects
    if rng.random() < 0.25:
        return spans
    order = rng.permutation(num_objects)
    has_third = num_objects >= 3 and rng.random() < 0.4
    while True:
        timed = [_draw_span(rng) for _ in range(min(2, num_objects))]
        if has_third:
            moment = float(rng.uniform(0.3, 0.7))
            timed.append((0.0, moment) if rng.random() < 0.5 else (moment, 1.0))
        events = sorted(time for span in timed for time in span if 0 < time < 1)
        is_clear = all(b - a >= _MIN_EVENT_GAP for a, b in itertools.pairwise(events))
        if is_clear and (num_objects == 1 or _is_staggered(*timed[:2])):
            break
    for i, span in zip(order, timed, strict=False):
        spans[i] = span
    return spans


def _draw_span(rng: np.random.Generator) -> tuple[float, float]:
    length = rng.uniform(*_SPAN)
    begin = rng.uniform(0.04, 0.96 - length)
    return float(begin), float(begin + length)


def _is_staggered(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Check that one both appears and disappears clearly before the other, so that time reversal exchanges them."""
    early, late = sorted((one, other))
    return late[0] - early[0] >= _MIN_ORDER_GAP and late[1] - early[1] >= _MIN_ORDER_GAP


def staggered_pairs(scene: Scene) -> list[tuple[ShapeObject, ShapeObject]]:
    """Return pairs (early, late) of objects of which the first appears and disappears clearly before the second."""
    timed = [o for o in scene.objects if o.appears_seconds > 0 and o.disappears_seconds < scene.duration_seconds]
    timed.sort(key=lambda o: o.appears_seconds)
    spans = [(o.appears_seconds / scene.duration_seconds, o.disappears_seconds / scene.duration_seconds) for o in timed]
    pairs = [(i, j) for i in range(len(timed)) for j in range(i + 1, len(timed))]
    return [(timed[i], timed[j]) for i, j in pairs if _is_staggered(spans[i], spans[j])]


def demo_scene() -> Scene:
    """Return the fixed scene of `voco-video demo`: 8 s; one shape moves, one disappears as another appears.

    >>> [f"{o.name} {o.motion}" for o in demo_scene().objects]
    ['purple star still', 'blue square left', 'red triangle still', 'green circle still']
    """
    cells = ((0.17, 0.17), (0.83, 0.5), (0.17, 0.5), (0.83, 0.17), (0.5, 0.83))
    top_left, right, left, top_right, bottom = cells

    def thing(colour: str, shape: str, start: tuple[float, float], when: tuple[float, float]) -> ShapeObject:
        return ShapeObject(colour, shape, "still", 0.125, start, start, *when, COLOURS[colour])

    objects = (
        thing("purple", "star", top_left, (0.0, 8.0)),
        replace(thing("blue", "square", right, (0.0, 8.0)), motion="left", end=left),
        thing("red", "triangle", top_right, (0.8, 4.6)),
        thing("green", "circle", bottom, (3.2, 7.4)),
    )
    return Scene(objects, duration_seconds=8.0, fps=10, background_rgb=(226, 224, 220))
