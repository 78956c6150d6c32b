"""Builders of questions about a scene, by family; each draws one question with its true answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from voco_video.shapes.scene_view import DIRECTIONS, NUMBERS, QuestionAnswer, SceneView, plural, time_word
from voco_video.shapes.world import COLOURS, PLACES, SHAPES, ShapeObject, staggered_pairs

_COLOUR_NAMES = tuple(COLOURS)
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
_Rng = np.random.Generator
Builder = Callable[[SceneView, _Rng], QuestionAnswer]
_T = TypeVar("_T")


class NothingToAskError(Exception):
    """A scene without any question of the kind that was to be drawn."""


def pick(rng: _Rng, items: Sequence[_T]) -> _T:
    """Draw one of some items.

    Raises:
        NothingToAskError: there are none.
    """
    if not items:
        raise NothingToAskError
    return items[int(rng.integers(len(items)))]


def _calls(view: SceneView, thing: ShapeObject) -> dict[str, str]:
    """Return the words that name only this object, by the kind of name."""
    calls = {}
    if thing in view.unique_shapes:
        calls["shape"] = thing.shape
    if thing in view.unique_colours:
        calls["colour"] = f"{thing.colour} one"
    # The full name is last: it is always clear, but in training it never occurs with a held-out motion, so questions
    # about time use it only if no shorter name is clear.
    return calls | {"name": thing.name}


def _call(view: SceneView, rng: _Rng, thing: ShapeObject, *, shortest: bool = False) -> str:
    words = list(_calls(view, thing).values())
    if shortest and len(words) > 1:
        words = words[:-1]
    return f"the {words[rng.integers(len(words))]}"


def _call_two(view: SceneView, rng: _Rng, one: ShapeObject, other: ShapeObject) -> tuple[str, str]:
    """Name both objects by the same kind of name."""
    calls, other_calls = _calls(view, one), _calls(view, other)
    ways = [way for way in calls if way in other_calls]
    way = ways[rng.integers(max(1, len(ways) - 1))]
    return calls[way], other_calls[way]


def _yes_no(question: str, is_true: bool, *, is_temporal: bool = False, needs_order: bool = False) -> QuestionAnswer:
    answers = ("yes", "no")
    return QuestionAnswer(
        question, answers[not is_true], "yes/no", "yes/no", answers, is_temporal=is_temporal, needs_order=needs_order
    )


# Builders of questions for images and videos. Each draws one question or raises NothingToAskError.
# Where one answer would be commoner than others, the answer is drawn first, then an object that fits it.


def _what_colour(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing = pick(rng, view.unique_shapes)
    return QuestionAnswer(f"what colour is the {thing.shape}?", thing.colour, "what", "colour", _COLOUR_NAMES)


def _what_shape(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing = pick(rng, view.unique_colours)
    return QuestionAnswer(f"what shape is the {thing.colour} one?", thing.shape, "what", "shape", SHAPES)


def _what_is_at(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing, place = pick(rng, view.placed)
    if rng.random() < 0.5:
        return QuestionAnswer(f"what colour is at the {place}?", thing.colour, "what", "colour", _COLOUR_NAMES)
    return QuestionAnswer(f"what shape is at the {place}?", thing.shape, "what", "shape", SHAPES)


def _who_is_colour(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing = pick(rng, view.unique_colours)
    return QuestionAnswer(f"who is {thing.colour}?", thing.shape, "who", "shape", SHAPES)


def _who_is_at(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing, place = pick(rng, view.placed)
    return QuestionAnswer(f"who is at the {place}?", thing.shape, "who", "shape", SHAPES)


def how_many(view: SceneView, rng: _Rng) -> QuestionAnswer:
    """Ask how many objects there are."""
    number = NUMBERS[len(view.objects)]
    # Only an image can be empty, and seldom is.
    candidates = NUMBERS[1:] if view.seconds is None else NUMBERS
    return QuestionAnswer("how many shapes are there?", number, "how", "number", candidates)


def _how_many_of(view: SceneView, rng: _Rng) -> QuestionAnswer:
    """Ask how many there are of a colour or shape, if zero, one and two all occur: then they are equally likely."""
    counts = {colour: sum(o.colour == colour for o in view.objects) for colour in COLOURS}
    counts |= {shape: sum(o.shape == shape for o in view.objects) for shape in SHAPES}
    if not {1, 2} <= set(counts.values()):
        raise NothingToAskError
    number = int(rng.integers(3))
    word = pick(rng, [word for word, count in counts.items() if count == number])
    words = f"{word} shapes" if word in COLOURS else plural(word)
    return QuestionAnswer(f"how many {words} are there?", NUMBERS[number], "how", "number", NUMBERS[:3])


def _where_is(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing, place = pick(rng, view.placed)
    return QuestionAnswer(f"where is {_call(view, rng, thing)}?", place, "where", "place", PLACES)


def _is_there(view: SceneView, rng: _Rng) -> QuestionAnswer:
    """Ask for an object; absent ones are near misses: another object's shape, or one attribute changed."""
    one, other = pick(rng, view.objects), pick(rng, view.objects)
    names = {o.name for o in view.objects}
    name = one.name
    is_true = rng.random() < 0.5
    if not is_true:
        name = f"{one.colour} {other.shape}"
        while name in names:
            swapped = rng.random() < 0.5
            colour = one.colour if swapped else _COLOUR_NAMES[rng.integers(len(COLOURS))]
            name = f"{colour} {SHAPES[rng.integers(len(SHAPES))] if swapped else one.shape}"
    return _yes_no(f"is there any {name}?", is_true)


def _is_colour(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing = pick(rng, view.unique_shapes)
    is_true, colour = rng.random() < 0.5, thing.colour
    seen = [o.colour for o in view.objects if o.colour != colour]
    if not is_true:
        others = seen if seen and rng.random() < 0.5 else [c for c in COLOURS if c != colour]
        colour = others[rng.integers(len(others))]
    return _yes_no(f"is the {thing.shape} {colour}?", is_true)


def _is_at(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing, place = pick(rng, view.placed)
    is_true = rng.random() < 0.5
    if not is_true:
        place = [p for p in PLACES if p != place][rng.integers(len(PLACES) - 1)]
    question = f"is {_call(view, rng, thing)} at the {place}?"
    return _yes_no(question, is_true)


# Builders of questions about time, for videos only.


def temporal_question(
    question: str, answer: str, question_type: str, about: str, candidates: tuple[str, ...], *, order: bool = True
) -> QuestionAnswer:
    """Make a question about time; ``order``: whether it takes the order of frames to answer."""
    return QuestionAnswer(question, answer, question_type, about, candidates, is_temporal=True, needs_order=order)


def _mover(view: SceneView, rng: _Rng) -> ShapeObject:
    return pick(rng, [o for o in view.objects if o.is_moving])


def _mover_or_not(view: SceneView, rng: _Rng) -> ShapeObject:
    is_moving = rng.random() < 0.5
    return pick(rng, [o for o in view.objects if o.is_moving == is_moving])


def _only_one(view: SceneView, rng: _Rng) -> tuple[str, ShapeObject]:
    """Return the only object of several that moves, or the only one that stays."""
    is_moving = rng.random() < 0.5
    things = [o for o in view.objects if o.is_moving == is_moving]
    if len(things) != 1 or len(view.objects) == 1:
        raise NothingToAskError
    return "moves" if is_moving else "stays", things[0]


def _what_moves(view: SceneView, rng: _Rng) -> QuestionAnswer:
    does, thing = _only_one(view, rng)
    if rng.random() < 0.5:
        return temporal_question(f"what colour {does}?", thing.colour, "what", "colour", _COLOUR_NAMES, order=False)
    return temporal_question(f"what shape {does}?", thing.shape, "what", "shape", SHAPES, order=False)


def _what_does(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing = _mover_or_not(view, rng)
    answer = "move" if thing.is_moving else "stay"
    question = f"what does {_call(view, rng, thing, shortest=True)} do?"
    return temporal_question(question, answer, "what", "motion", ("move", "stay"), order=False)


def _who_moves(view: SceneView, rng: _Rng) -> QuestionAnswer:
    does, thing = _only_one(view, rng)
    return temporal_question(f"who {does}?", thing.shape, "who", "shape", SHAPES, order=False)


def _who_first(view: SceneView, rng: _Rng) -> QuestionAnswer:
    pair = pick(rng, staggered_pairs(view.scene))
    first, last = _call_two(view, rng, *pair)
    event = ("appears", "disappears")[rng.integers(2)]
    names = (first, last) if rng.random() < 0.5 else (last, first)
    question = f"who {event} first, the {names[0]} or the {names[1]}?"
    # "the red one" is answered by "red".
    candidates = tuple(name.removesuffix(" one") for name in names)
    return temporal_question(question, first.removesuffix(" one"), "who", "time", candidates)


def how_many_move(view: SceneView, rng: _Rng) -> QuestionAnswer:
    """Ask how many objects move."""
    number = NUMBERS[sum(o.is_moving for o in view.objects)]
    return temporal_question("how many shapes move?", number, "how", "number", NUMBERS[:4], order=False)


def _where_goes(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing = _mover(view, rng)
    question = f"where does {_call(view, rng, thing, shortest=True)} go?"
    return temporal_question(question, thing.motion, "where", "motion", DIRECTIONS)


def _where_ends(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing = _mover(view, rng)
    starts = rng.random() < 0.5
    place = thing.place_at(thing.appears_seconds if starts else thing.disappears_seconds)
    question = f"where does {_call(view, rng, thing, shortest=True)} {'start' if starts else 'end'}?"
    return temporal_question(question, place, "where", "place", PLACES)


def _when_there(view: SceneView, rng: _Rng) -> QuestionAnswer:
    halves = ("early", "late")
    thing = pick(rng, [o for o in view.objects if time_word(view.scene, o) in halves])
    question = f"when is {_call(view, rng, thing, shortest=True)} there, early or late?"
    return temporal_question(question, time_word(view.scene, thing), "when", "time", halves)


def _when_event(view: SceneView, rng: _Rng) -> QuestionAnswer:
    pair = pick(rng, staggered_pairs(view.scene))
    first, last = _call_two(view, rng, *pair)
    event = ("appear", "disappear")[rng.integers(2)]
    is_before = rng.random() < 0.5
    one, other = (first, last) if is_before else (last, first)
    question = f"when does the {one} {event}, before or after the {other}?"
    return temporal_question(question, "before" if is_before else "after", "when", "time", ("before", "after"))


def _does_move(view: SceneView, rng: _Rng) -> QuestionAnswer:
    thing = _mover_or_not(view, rng)
    question = f"does {_call(view, rng, thing, shortest=True)} move?"
    return _yes_no(question, thing.is_moving, is_temporal=True)


def _does_go(view: SceneView, rng: _Rng) -> QuestionAnswer:
    """Ask for the true direction or its opposite, which only the order of frames tells apart."""
    thing = _mover(view, rng)
    is_true = rng.random() < 0.5
    direction = thing.motion if is_true else _OPPOSITE[thing.motion]
    question = f"does {_call(view, rng, thing, shortest=True)} go {direction}?"
    return _yes_no(question, is_true, is_temporal=True, needs_order=True)


STATIC_BUILDERS: dict[str, tuple[Builder, ...]] = {
    "what": (_what_colour, _what_shape, _what_is_at),
    "who": (_who_is_colour, _who_is_at),
    "how": (_how_many_of,),
    "where": (_where_is,),
    "yes/no": (_is_there, _is_colour, _is_at),
}
TEMPORAL_BUILDERS: dict[str, tuple[Builder, ...]] = {
    "what": (_what_moves, _what_does),
    "who": (_who_moves, _who_first),
    "where": (_where_goes, _where_ends),
    "when": (_when_there, _when_event),
    "yes/no": (_does_move, _does_go),
}
