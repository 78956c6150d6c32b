"""Questions with answers, and the view of a scene that they are about."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from voco_video.shapes.world import Scene, ShapeObject, is_place_clear

NUMBERS = ("zero", "one", "two", "three", "four")
FAMILIES = ("what", "who", "how", "where", "when", "yes/no")
DIRECTIONS = ("left", "right", "up", "down")


@dataclass(frozen=True)
class QuestionAnswer:
    """A question, its true answer, and the facts that a fair table of results needs.

    Attributes:
        question: ends in "?", or in "." for lists.
        answer: a word or two; a list's answer is a line.
        question_type: one of FAMILIES, or "list".
        about: kind of answer: "colour", "shape", "place", "number", "motion", "time", "yes/no" or "list".
        candidates: the answers that fit the text, equally likely; empty for lists.
        is_temporal: whether it takes more than one frame to answer.
        needs_order: whether it also takes the order of frames: without it a guess is right half of the time
            (direction, before or after).
    """

    question: str
    answer: str
    question_type: str
    about: str
    candidates: tuple[str, ...] = ()
    is_temporal: bool = False
    needs_order: bool = False

    @property
    def chance(self) -> float:
        """The accuracy of guessing from the text alone (0 for lists)."""
        return 1 / len(self.candidates) if self.candidates else 0.0


@dataclass(frozen=True)
class SceneView:
    """The objects that a question may be about: those seen at one time (an image) or in a whole video."""

    scene: Scene
    seconds: float | None

    @cached_property
    def objects(self) -> tuple[ShapeObject, ...]:
        """All objects of the scene, or those visible at that time."""
        return self.scene.objects if self.seconds is None else self.scene.visible_at(self.seconds)

    @cached_property
    def placed(self) -> list[tuple[ShapeObject, str]]:
        """Objects whose place is clear, with its name."""
        if self.seconds is None:
            return [(o, o.place_at(0.0)) for o in self.objects if not o.is_moving]
        points = [(o, *o.positions([self.seconds])[0].tolist()) for o in self.objects]
        return [(o, o.place_at(self.seconds)) for o, x, y in points if is_place_clear(x, y)]

    @cached_property
    def unique_colours(self) -> list[ShapeObject]:
        """Objects whose colour no other object has."""
        colours = [o.colour for o in self.objects]
        return [o for o in self.objects if colours.count(o.colour) == 1]

    @cached_property
    def unique_shapes(self) -> list[ShapeObject]:
        """Objects whose shape no other object has."""
        shapes = [o.shape for o in self.objects]
        return [o for o in self.objects if shapes.count(o.shape) == 1]


def plural(shape: str) -> str:
    """Return the plural of a shape's name.

    >>> plural("star"), plural("cross")
    ('stars', 'crosses')
    """
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def time_word(scene: Scene, thing: ShapeObject) -> str:
    """Say when an object is there: "always", "early", "late", or "between" if that is not clear."""
    begin, end = thing.appears_seconds, thing.disappears_seconds
    if end - begin >= scene.duration_seconds:
        return "always"
    middle = (begin + end) / 2 / scene.duration_seconds
    return "early" if middle < 0.42 else "late" if middle > 0.58 else "between"
