"""Conversations about MovingShapes scenes, and the endless stream of training samples.

    list the shapes, colour first. | list the motions, shape first. | list the events, colour first.
    list how many are there, colour first.

Lists are the dense turns: together they state everything that the short questions ask. In trials, facts that were only
asked in one-word questions, and never listed, stayed at chance.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from voco_video.errors import UsageError
from voco_video.shapes.questions import draw_questions
from voco_video.shapes.rendering import render
from voco_video.shapes.scene_view import (
    DIRECTIONS,
    FAMILIES,
    NUMBERS,
    QuestionAnswer,
    SceneView,
    plural,
    time_word,
)
from voco_video.shapes.world import (
    COLOURS,
    PLACES,
    SHAPES,
    Floats,
    Frames,
    Scene,
    ShapeObject,
    demo_scene,  # noqa: F401 (the examples below)
    draw_scene,
    scene_rng,
)

COUNTS = "how many are there"
"""The subject of counting lists: every colour or every shape, also those that do not occur."""


def _read(view: SceneView) -> list[tuple[ShapeObject, str]]:
    """Return objects with their places (a mover's first place in a video), in reading order."""
    seconds = view.seconds
    placed = [(o, o.place_at(o.appears_seconds if seconds is None else seconds)) for o in view.objects]
    return sorted(placed, key=lambda pair: PLACES.index(pair[1]))


def draw_lists(
    scene: Scene, rng: np.random.Generator, *, num_lists: int = 2, at_seconds: float | None = None
) -> list[QuestionAnswer]:
    """Draw dense turns: different lists, "colour first" or "shape first" (for an image also "place first").

    Args:
        scene: the scene to list.
        rng: decides which lists.
        num_lists: how many at most (an image has 5, a video 10).
        at_seconds: list the image at that time; None: the whole video.

    >>> for turn in draw_lists(demo_scene(), np.random.default_rng(7), at_seconds=0.0):
    ...     print(turn.question, turn.answer)
    list the shapes, place first. top left purple star, right blue square
    list the shapes, colour first. purple star top left, blue square right
    """
    view = SceneView(scene, at_seconds)
    kinds = [("shapes", first) for first in ("colour", "shape", "place")]
    if at_seconds is None:
        kinds = list(itertools.product(("shapes", "motions", "times", "events"), ("colour", "shape")))
    kinds += [(COUNTS, first) for first in ("colour", "shape")]
    lists = []
    for i in rng.permutation(len(kinds))[:num_lists]:
        what, first = kinds[i]
        answer = ", ".join(_list_items(view, what, first)) or "nothing"
        question = f"list {what if what == COUNTS else f'the {what}'}, {first} first."
        lists.append(QuestionAnswer(question, answer, "list", "list", is_temporal=at_seconds is None))
    return lists


def _list_items(view: SceneView, what: str, first: str) -> list[str]:
    def name(thing: ShapeObject) -> str:
        return f"{thing.shape} {thing.colour}" if first == "shape" else thing.name

    if what == COUNTS:
        # Plurals, as in short questions: from "circle" alone a model never learned what "circles" are.
        if first == "shape":
            shapes = Counter(o.shape for o in view.objects)
            return [f"{plural(shape)} {NUMBERS[shapes[shape]]}" for shape in SHAPES]
        colours = Counter(o.colour for o in view.objects)
        return [f"{colour} {NUMBERS[colours[colour]]}" for colour in COLOURS]
    placed = _read(view)
    if what == "shapes":
        return [f"{place} {name(o)}" if first == "place" else f"{name(o)} {place}" for o, place in placed]
    if what == "motions":
        goes = {o: f"goes {o.motion} to {o.place_at(o.disappears_seconds)}" for o, _ in placed if o.is_moving}
        return [f"{name(o)} at {place} {goes.get(o, 'stays')}" for o, place in placed]
    if what == "times":
        return [f"{name(o)} {time_word(view.scene, o)}" for o, _ in placed]
    # Sorting is stable: objects that are there from the start come first, in reading order.
    comes = [(o.appears_seconds, f"{name(o)} {'appears' if o.appears_seconds else 'there'}") for o, _ in placed]
    leaves = [(o.disappears_seconds, f"{name(o)} disappears") for o, _ in placed]
    goes_on = view.scene.duration_seconds
    return [words for time, words in sorted(comes + leaves, key=lambda event: event[0]) if time < goes_on]


def draw_turns(
    scene: Scene,
    rng: np.random.Generator,
    *,
    num_turns: int = 6,
    dense_fraction: float = 0.25,
    at_seconds: float | None = None,
    temporal_fraction: float = 0.7,
    families: Sequence[str] = FAMILIES,
    by_name_fraction: float = 0.0,
) -> tuple[QuestionAnswer, ...]:
    """Draw one conversation: short questions, then lists (last, since a list would reveal the short answers).

    Args:
        scene: the scene that it is about.
        rng: decides all details.
        num_turns: questions and lists together; fewer if the scene allows no more.
        dense_fraction: average share of lists.
        at_seconds: talk about the image at that time; None: about the whole video.
        temporal_fraction: share of short questions about time, for videos.
        families: families of short questions, in turn; one named twice is asked twice as often.
        by_name_fraction: share of lists that are sorted `by_name`.

    >>> turns = draw_turns(demo_scene(), np.random.default_rng(0), num_turns=4)
    >>> [turn.question_type for turn in turns]
    ['yes/no', 'where', 'how', 'list']
    """
    num_lists = int(dense_fraction * num_turns + rng.random())
    questions = draw_questions(
        scene,
        rng,
        num_questions=num_turns - num_lists,
        at_seconds=at_seconds,
        temporal_fraction=temporal_fraction,
        families=families,
    )
    lists = draw_lists(scene, rng, num_lists=num_lists, at_seconds=at_seconds)
    if by_name_fraction:
        lists = [by_name(turn) if rng.random() < by_name_fraction else turn for turn in lists]
    return (*questions, *lists)


def by_name(turn: QuestionAnswer) -> QuestionAnswer:
    """Sort a list by its objects' names, if each item is one object.

    In reading order each place follows from the one before, so a model that looks up places one by one can write the
    list without ever finding an object by its name.

    >>> asked = "list the shapes, colour first."
    >>> by_name(QuestionAnswer(asked, "blue star top, red cross left", "list", "list")).answer
    'red cross left, blue star top'
    """
    colours, shapes = list(COLOURS), list(SHAPES)
    for first, names, others in (("colour", colours, shapes), ("shape", shapes, colours)):
        is_of_objects = not any(word in turn.question for word in ("events", COUNTS)) and turn.answer != "nothing"
        if turn.question.endswith(f", {first} first.") and is_of_objects:
            items = [item.split(" ") for item in turn.answer.split(", ")]
            items.sort(key=lambda words: (names.index(words[0]), others.index(words[1])))
            question = turn.question.replace(f"{first} first.", f"{first} by {first}.")
            return replace(turn, question=question, answer=", ".join(map(" ".join, items)))
    return turn


@dataclass(frozen=True)
class SceneSample:
    """One training sample: uint8 RGB `frames` [F, H, W, 3] at `pts_seconds` [F], and a conversation."""

    index: int
    scene: Scene
    frames: Frames
    pts_seconds: Floats
    turns: tuple[QuestionAnswer, ...]


@dataclass(frozen=True)
class MovingShapes:
    """The endless stream of training samples, drawn in memory; each can be drawn by its index.

    Attributes:
        stage: "image" (one frame, all objects visible, at any time of their paths) or "video" (`num_frames`
            frames).
        num_frames: frames of a video, in the middles of as many equal parts. Six or more show everything that short
            questions ask, eight or more everything in lists.
        random_phase: move all frames of a video by one random fraction of their spacing, as another way of
            sampling would.
        size: side of the frames in pixels, or (height, width).
        num_turns, dense_fraction, temporal_fraction, families, by_name_fraction: see `draw_turns`.
        empty_fraction: share of images without any object.

    >>> stream = MovingShapes(seed=0, stage="video", num_frames=8)
    >>> stream.sample(1000).frames.shape
    (8, 64, 64, 3)
    >>> next(stream.samples(start=1000)).turns == stream.sample(1000).turns
    True
    """

    seed: int = 0
    split: str = "train"
    stage: str = "video"
    num_frames: int = 8
    random_phase: bool = False
    size: int | tuple[int, int] = 64
    num_turns: int = 6
    dense_fraction: float = 0.25
    temporal_fraction: float = 0.7
    families: tuple[str, ...] = FAMILIES
    by_name_fraction: float = 0.0
    empty_fraction: float = 0.03

    def __post_init__(self) -> None:
        if self.stage not in ("image", "video"):
            raise UsageError(f'stage is {self.stage!r}, but has to be "image" or "video"')
        if self.num_frames < 1 or self.num_turns < 1:
            raise UsageError(f"num_frames {self.num_frames} and num_turns {self.num_turns} have to be 1 or more")

    def sample(self, index: int) -> SceneSample:
        """Draw sample `index` (0 or more), the same on every call."""
        is_image = self.stage == "image"
        scene = draw_scene(self.seed, split=self.split, index=index, always_visible=is_image)
        rng = scene_rng(self.seed, split=self.split, index=index, purpose=1)
        phase = rng.random() if self.random_phase or is_image else 0.5
        num_frames = 1 if is_image else self.num_frames
        pts_seconds = ((np.arange(num_frames) + phase) / num_frames * scene.duration_seconds).astype(np.float32)
        if is_image and rng.random() < self.empty_fraction:
            scene = replace(scene, objects=())
        sample = SceneSample(index, scene, render(scene, pts_seconds, size=self.size), pts_seconds, ())
        return replace(sample, turns=self.turns(sample, conversation=index))

    def turns(self, sample: SceneSample, *, conversation: int) -> tuple[QuestionAnswer, ...]:
        """Draw a conversation about a sample; each number `conversation` (0 or more) gives another one."""
        return draw_turns(
            sample.scene,
            scene_rng(self.seed, split=self.split, index=conversation, purpose=4),
            num_turns=self.num_turns,
            dense_fraction=self.dense_fraction,
            at_seconds=float(sample.pts_seconds[0]) if self.stage == "image" else None,
            temporal_fraction=self.temporal_fraction,
            families=self.families,
            by_name_fraction=self.by_name_fraction,
        )

    def samples(self, *, start: int = 0) -> Iterator[SceneSample]:
        """Yield samples start, start + 1, ... without end."""
        for index in itertools.count(start):
            yield self.sample(index)


def vocabulary() -> tuple[str, ...]:
    """Return every word of every question and answer, sorted, with the marks "?", "," and ".".

    >>> "circle" in vocabulary(), len(vocabulary()) < 100
    (True, True)
    """
    names = " ".join((*COLOURS, *SHAPES, *map(plural, SHAPES), *PLACES, *NUMBERS, *DIRECTIONS))
    return tuple(sorted({*names.split(), *_OTHER_WORDS.split()}))


_OTHER_WORDS = """
    ? , . the one or is are at there any what who how many where when does do colour shape shapes
    move moves stay stays go goes to start end appear appears disappear disappears first before after early
    late yes no list motions times events place always between nothing
"""
