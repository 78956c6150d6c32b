"""Questions with true answers about MovingShapes scenes.

A question is about one image (the scene at a given time) or about the whole video. Its first word tells its
family, as in MSVD-QA: what, who, how, where, when; yes/no questions and lists are families of their own.
Answers are balanced: the text of a question says nothing about its answer beyond the candidates (tests hold a
text-only guesser against this).

    what     what colour is the star? | what shape is at the top left? | what colour moves?
    who      who is red? | who moves? | who appears first, the star or the cross?
    how      how many shapes are there? | how many red shapes are there? | how many shapes move?
    where    where is the star? | where does the star go? | where does the star start?
    when     when does the star appear, before or after the cross? | when is the star there, early or late?
    yes/no   is there any red star? | is the star red? | does the star move? | does the star go left?

`moving_shapes_stream` adds lists, which state everything that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from voco_video.errors import UsageError
from voco_video.shapes.world import (
    COLOURS,
    PLACES,
    SHAPES,
    Scene,
    ShapeObject,
    demo_scene,  # noqa: F401 (the examples below)
    is_place_clear,
    staggered_pairs,
)

NUMBERS = ("zero", "one", "two", "three", "four")
FAMILIES = ("what", "who", "how", "where", "when", "yes/no")
DIRECTIONS = ("left", "right", "up", "down")

_COLOUR_NAMES = tuple(COLOURS)
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
_YES_NO = ("yes", "no")


@dataclass(frozen=True)
class QuestionAnswer:
    """A question, its true answer, and what a fair table needs to know about it.

    Attributes:
        question: ends in "?", or in "." for lists.
        answer: a word or two; a list's answer is a line.
        question_type: one of FAMILIES, or "list".
        about: what the answer is: "colour", "shape", "place", "number", "motion", "time", "yes/no" or "list".
        candidates: the answers that the text allows, equally likely; empty for lists.
        is_temporal: one frame is not enough.
        needs_order: frames without their order are not enough either; guessing among what they allow is right
            half of the time (direction, before or after).
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
class View:
    """What a question may speak of: the objects seen at one time (an image) or in the whole (a video)."""

    scene: Scene
    seconds: float | None

    @cached_property
    def objects(self) -> tuple[ShapeObject, ...]:
        """Those of the scene, or those that are to be seen at that moment."""
        return self.scene.objects if self.seconds is None else self.scene.visible_at(self.seconds)

    @cached_property
    def placed(self) -> list[tuple[ShapeObject, str]]:
        """Objects that have one undisputed place, with its name."""
        if self.seconds is None:
            return [(o, o.place_at(0.0)) for o in self.objects if not o.is_moving]
        points = [(o, *o.positions([self.seconds])[0].tolist()) for o in self.objects]
        return [(o, o.place_at(self.seconds)) for o, x, y in points if is_place_clear(x, y)]

    @cached_property
    def unique_colours(self) -> list[ShapeObject]:
        """Objects whose colour no other has."""
        colours = [o.colour for o in self.objects]
        return [o for o in self.objects if colours.count(o.colour) == 1]

    @cached_property
    def unique_shapes(self) -> list[ShapeObject]:
        """Objects whose shape no other has."""
        shapes = [o.shape for o in self.objects]
        return [o for o in self.objects if shapes.count(o.shape) == 1]


_Rng = np.random.Generator
_Builder = Callable[[View, _Rng], QuestionAnswer]
_T = TypeVar("_T")


class _NothingToAskError(Exception):
    """The scene has no question of that kind."""


def _pick(rng: _Rng, items: Sequence[_T]) -> _T:
    if not items:
        raise _NothingToAskError
    return items[int(rng.integers(len(items)))]


def _calls(view: View, thing: ShapeObject) -> dict[str, str]:
    """How the object can be called without doubt: way of calling -> words."""
    calls = {}
    if thing in view.unique_shapes:
        calls["shape"] = thing.shape
    if thing in view.unique_colours:
        calls["colour"] = f"{thing.colour} one"
    # The full name last: it is always clear, but in training it never goes with a held-out motion, so
    # questions about time use it only where nothing shorter will do.
    return calls | {"name": thing.name}


def _call(view: View, rng: _Rng, thing: ShapeObject, *, shortest: bool = False) -> str:
    words = list(_calls(view, thing).values())
    if shortest and len(words) > 1:
        words = words[:-1]
    return f"the {words[rng.integers(len(words))]}"


def _call_two(view: View, rng: _Rng, one: ShapeObject, other: ShapeObject) -> tuple[str, str]:
    """Both objects called the same way."""
    calls, other_calls = _calls(view, one), _calls(view, other)
    ways = [way for way in calls if way in other_calls]
    way = ways[rng.integers(max(1, len(ways) - 1))]
    return calls[way], other_calls[way]


# Builders of questions for images and videos. Each draws one question or raises _NothingToAskError.
# Where the answer could be lopsided, it is drawn first and an object that has it is looked for.


def _what_colour(view: View, rng: _Rng) -> QuestionAnswer:
    thing = _pick(rng, view.unique_shapes)
    return QuestionAnswer(f"what colour is the {thing.shape}?", thing.colour, "what", "colour", _COLOUR_NAMES)


def _what_shape(view: View, rng: _Rng) -> QuestionAnswer:
    thing = _pick(rng, view.unique_colours)
    return QuestionAnswer(f"what shape is the {thing.colour} one?", thing.shape, "what", "shape", SHAPES)


def _what_is_at(view: View, rng: _Rng) -> QuestionAnswer:
    thing, place = _pick(rng, view.placed)
    if rng.random() < 0.5:
        return QuestionAnswer(f"what colour is at the {place}?", thing.colour, "what", "colour", _COLOUR_NAMES)
    return QuestionAnswer(f"what shape is at the {place}?", thing.shape, "what", "shape", SHAPES)


def _who_is_colour(view: View, rng: _Rng) -> QuestionAnswer:
    thing = _pick(rng, view.unique_colours)
    return QuestionAnswer(f"who is {thing.colour}?", thing.shape, "who", "shape", SHAPES)


def _who_is_at(view: View, rng: _Rng) -> QuestionAnswer:
    thing, place = _pick(rng, view.placed)
    return QuestionAnswer(f"who is at the {place}?", thing.shape, "who", "shape", SHAPES)


def _how_many(view: View, rng: _Rng) -> QuestionAnswer:
    number = NUMBERS[len(view.objects)]
    # Only an image can be empty, and seldom is.
    candidates = NUMBERS[1:] if view.seconds is None else NUMBERS
    return QuestionAnswer("how many shapes are there?", number, "how", "number", candidates)


def _how_many_of(view: View, rng: _Rng) -> QuestionAnswer:
    """Asked only where zero, one and two can all be true, so that all three are equally likely."""
    counts = {colour: sum(o.colour == colour for o in view.objects) for colour in COLOURS}
    counts |= {shape: sum(o.shape == shape for o in view.objects) for shape in SHAPES}
    if not {1, 2} <= set(counts.values()):
        raise _NothingToAskError
    number = int(rng.integers(3))
    word = _pick(rng, [word for word, count in counts.items() if count == number])
    words = f"{word} shapes" if word in COLOURS else plural(word)
    return QuestionAnswer(f"how many {words} are there?", NUMBERS[number], "how", "number", NUMBERS[:3])


def _where_is(view: View, rng: _Rng) -> QuestionAnswer:
    thing, place = _pick(rng, view.placed)
    return QuestionAnswer(f"where is {_call(view, rng, thing)}?", place, "where", "place", PLACES)


def _is_there(view: View, rng: _Rng) -> QuestionAnswer:
    """The false ones are near misses: one object's colour with another's shape, or one of the two changed."""
    one, other = _pick(rng, view.objects), _pick(rng, view.objects)
    names = {o.name for o in view.objects}
    name = one.name
    is_true = rng.random() < 0.5
    if not is_true:
        name = f"{one.colour} {other.shape}"
        while name in names:
            swapped = rng.random() < 0.5
            colour = one.colour if swapped else _COLOUR_NAMES[rng.integers(len(COLOURS))]
            name = f"{colour} {SHAPES[rng.integers(len(SHAPES))] if swapped else one.shape}"
    return QuestionAnswer(f"is there any {name}?", _YES_NO[not is_true], "yes/no", "yes/no", _YES_NO)


def _is_colour(view: View, rng: _Rng) -> QuestionAnswer:
    thing = _pick(rng, view.unique_shapes)
    is_true, colour = rng.random() < 0.5, thing.colour
    seen = [o.colour for o in view.objects if o.colour != colour]
    if not is_true:
        others = seen if seen and rng.random() < 0.5 else [c for c in COLOURS if c != colour]
        colour = others[rng.integers(len(others))]
    return QuestionAnswer(f"is the {thing.shape} {colour}?", _YES_NO[not is_true], "yes/no", "yes/no", _YES_NO)


def _is_at(view: View, rng: _Rng) -> QuestionAnswer:
    thing, place = _pick(rng, view.placed)
    is_true = rng.random() < 0.5
    if not is_true:
        place = [p for p in PLACES if p != place][rng.integers(len(PLACES) - 1)]
    question = f"is {_call(view, rng, thing)} at the {place}?"
    return QuestionAnswer(question, _YES_NO[not is_true], "yes/no", "yes/no", _YES_NO)


# Builders of questions about time, for videos only.


def _temporal(
    question: str,
    answer: str,
    question_type: str,
    about: str,
    candidates: tuple[str, ...],
    *,
    order: bool = True,
) -> QuestionAnswer:
    return QuestionAnswer(question, answer, question_type, about, candidates, is_temporal=True, needs_order=order)


def _mover(view: View, rng: _Rng) -> ShapeObject:
    return _pick(rng, [o for o in view.objects if o.is_moving])


def _mover_or_not(view: View, rng: _Rng) -> ShapeObject:
    is_moving = rng.random() < 0.5
    return _pick(rng, [o for o in view.objects if o.is_moving == is_moving])


def _only_one(view: View, rng: _Rng) -> tuple[str, ShapeObject]:
    """The one object that moves, or the one that stays, among several."""
    is_moving = rng.random() < 0.5
    those = [o for o in view.objects if o.is_moving == is_moving]
    if len(those) != 1 or len(view.objects) == 1:
        raise _NothingToAskError
    return "moves" if is_moving else "stays", those[0]


def _what_moves(view: View, rng: _Rng) -> QuestionAnswer:
    does, thing = _only_one(view, rng)
    if rng.random() < 0.5:
        return _temporal(f"what colour {does}?", thing.colour, "what", "colour", _COLOUR_NAMES, order=False)
    return _temporal(f"what shape {does}?", thing.shape, "what", "shape", SHAPES, order=False)


def _what_does(view: View, rng: _Rng) -> QuestionAnswer:
    thing = _mover_or_not(view, rng)
    answer = "move" if thing.is_moving else "stay"
    question = f"what does {_call(view, rng, thing, shortest=True)} do?"
    return _temporal(question, answer, "what", "motion", ("move", "stay"), order=False)


def _who_moves(view: View, rng: _Rng) -> QuestionAnswer:
    does, thing = _only_one(view, rng)
    return _temporal(f"who {does}?", thing.shape, "who", "shape", SHAPES, order=False)


def _who_first(view: View, rng: _Rng) -> QuestionAnswer:
    pair = _pick(rng, staggered_pairs(view.scene))
    first, last = _call_two(view, rng, *pair)
    event = ("appears", "disappears")[rng.integers(2)]
    names = (first, last) if rng.random() < 0.5 else (last, first)
    question = f"who {event} first, the {names[0]} or the {names[1]}?"
    # "the red one" is answered by "red".
    candidates = tuple(name.removesuffix(" one") for name in names)
    return _temporal(question, first.removesuffix(" one"), "who", "time", candidates)


def _how_many_move(view: View, rng: _Rng) -> QuestionAnswer:
    number = NUMBERS[sum(o.is_moving for o in view.objects)]
    return _temporal("how many shapes move?", number, "how", "number", NUMBERS[:4], order=False)


def _where_goes(view: View, rng: _Rng) -> QuestionAnswer:
    thing = _mover(view, rng)
    question = f"where does {_call(view, rng, thing, shortest=True)} go?"
    return _temporal(question, thing.motion, "where", "motion", DIRECTIONS)


def _where_ends(view: View, rng: _Rng) -> QuestionAnswer:
    thing = _mover(view, rng)
    starts = rng.random() < 0.5
    place = thing.place_at(thing.appears_seconds if starts else thing.disappears_seconds)
    question = f"where does {_call(view, rng, thing, shortest=True)} {'start' if starts else 'end'}?"
    return _temporal(question, place, "where", "place", PLACES)


def _when_there(view: View, rng: _Rng) -> QuestionAnswer:
    halves = ("early", "late")
    thing = _pick(rng, [o for o in view.objects if time_word(view.scene, o) in halves])
    question = f"when is {_call(view, rng, thing, shortest=True)} there, early or late?"
    return _temporal(question, time_word(view.scene, thing), "when", "time", halves)


def _when_event(view: View, rng: _Rng) -> QuestionAnswer:
    pair = _pick(rng, staggered_pairs(view.scene))
    first, last = _call_two(view, rng, *pair)
    event = ("appear", "disappear")[rng.integers(2)]
    is_before = rng.random() < 0.5
    one, other = (first, last) if is_before else (last, first)
    question = f"when does the {one} {event}, before or after the {other}?"
    return _temporal(question, "before" if is_before else "after", "when", "time", ("before", "after"))


def _does_move(view: View, rng: _Rng) -> QuestionAnswer:
    thing = _mover_or_not(view, rng)
    question = f"does {_call(view, rng, thing, shortest=True)} move?"
    return _temporal(question, _YES_NO[not thing.is_moving], "yes/no", "yes/no", _YES_NO, order=False)


def _does_go(view: View, rng: _Rng) -> QuestionAnswer:
    """The true direction or its opposite: the two that only order tells apart."""
    thing = _mover(view, rng)
    is_true = rng.random() < 0.5
    direction = thing.motion if is_true else _OPPOSITE[thing.motion]
    question = f"does {_call(view, rng, thing, shortest=True)} go {direction}?"
    return _temporal(question, _YES_NO[not is_true], "yes/no", "yes/no", _YES_NO)


_STATIC: dict[str, tuple[_Builder, ...]] = {
    "what": (_what_colour, _what_shape, _what_is_at),
    "who": (_who_is_colour, _who_is_at),
    "how": (_how_many_of,),
    "where": (_where_is,),
    "yes/no": (_is_there, _is_colour, _is_at),
}
_TEMPORAL: dict[str, tuple[_Builder, ...]] = {
    "what": (_what_moves, _what_does),
    "who": (_who_moves, _who_first),
    "where": (_where_goes, _where_ends),
    "when": (_when_there, _when_event),
    "yes/no": (_does_move, _does_go),
}


def draw_questions(
    scene: Scene,
    rng: np.random.Generator,
    *,
    num_questions: int = 10,
    at_seconds: float | None = None,
    temporal_fraction: float = 0.7,
    families: Sequence[str] = FAMILIES,
) -> list[QuestionAnswer]:
    """Short questions about a scene, families in turn, no text twice; fewer where there is no more to ask.

    Args:
        scene: what is asked about.
        rng: decides which questions and which of the possible words.
        num_questions: how many at most.
        at_seconds: ask about the image at that time; None: about the whole video.
        temporal_fraction: share of questions about time, for videos.
        families: which of FAMILIES to ask.

    Raises:
        UsageError: an unknown family.

    >>> rng = np.random.default_rng(0)
    >>> [q.question for q in draw_questions(demo_scene(), rng, num_questions=1, families=["how"])]
    ['how many shapes move?']
    """
    if unknown := set(families) - set(FAMILIES):
        raise UsageError(f"unknown question families {sorted(unknown)}; there are {', '.join(FAMILIES)}")
    view = View(scene, at_seconds)
    if at_seconds is not None:
        temporal_fraction = 0.0
    share = num_questions / len(families) if "how" in families else 0.0
    questions = _count_questions(view, rng, share, temporal_fraction)
    texts = {question.question for question in questions}
    spent: set[_Builder] = set()
    turn: list[str] = []
    for _ in range(8 * num_questions):
        if len(questions) >= num_questions:
            break
        turn = turn or [families[i] for i in rng.permutation(len(families))]
        kinds = _TEMPORAL if rng.random() < temporal_fraction else _STATIC
        try:
            builder = _pick(rng, kinds.get(turn.pop(), ()))
            question = builder(view, rng)
        except _NothingToAskError:
            continue
        if question.question in texts or builder in spent:
            continue
        questions.append(question)
        texts.add(question.question)
        # There are more false than true things to say of a scene: asked until the texts run out, the answers
        # would lean to "no" and "zero".
        if question.question_type in ("yes/no", "how"):
            spent.add(builder)
    return [questions[i] for i in rng.permutation(len(questions))[:num_questions]]


def _count_questions(view: View, rng: _Rng, share: float, temporal_fraction: float) -> list[QuestionAnswer]:
    """The questions that every scene allows, each with a probability that depends on no scene.

    Drawn like the others they would be asked more of small scenes, where there is little else to ask, and
    lean to "one".
    """
    static = [_how_many(view, rng)] if rng.random() < share * (1 - temporal_fraction) else []
    return static + ([_how_many_move(view, rng)] if rng.random() < share * temporal_fraction else [])


def plural(shape: str) -> str:
    """The word for several of a shape.

    >>> plural("star"), plural("cross")
    ('stars', 'crosses')
    """
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def time_word(scene: Scene, thing: ShapeObject) -> str:
    """When a thing is there: "always", "early", "late", or "between" where that is not clear."""
    begin, end = thing.appears_seconds, thing.disappears_seconds
    if end - begin >= scene.duration_seconds:
        return "always"
    middle = (begin + end) / 2 / scene.duration_seconds
    return "early" if middle < 0.42 else "late" if middle > 0.58 else "between"


def demo_questions() -> tuple[QuestionAnswer, ...]:
    """Questions about `demo_scene()` with their true answers, two or more of them about order.

    >>> [question.answer for question in demo_questions()]
    ['blue', 'circle', 'four', 'top left', 'left', 'after', 'triangle', 'square']
    """
    return (
        QuestionAnswer("what colour is the square?", "blue", "what", "colour", _COLOUR_NAMES),
        QuestionAnswer("who is green?", "circle", "who", "shape", SHAPES),
        QuestionAnswer("how many shapes are there?", "four", "how", "number", NUMBERS[1:]),
        QuestionAnswer("where is the star?", "top left", "where", "place", PLACES),
        _temporal("where does the square go?", "left", "where", "motion", DIRECTIONS),
        _temporal(
            "when does the circle appear, before or after the triangle?",
            "after",
            "when",
            "time",
            ("before", "after"),
        ),
        _temporal(
            "who disappears first, the circle or the triangle?",
            "triangle",
            "who",
            "time",
            ("circle", "triangle"),
        ),
        _temporal("who moves?", "square", "who", "shape", SHAPES, order=False),
    )
