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

`voco_video.shapes.samples` adds lists, which state everything that is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voco_video.errors import UsageError
from voco_video.shapes.question_builders import (
    STATIC_BUILDERS,
    TEMPORAL_BUILDERS,
    Builder,
    NothingToAskError,
    how_many,
    how_many_move,
    pick,
    temporal_question,
)
from voco_video.shapes.scene_view import DIRECTIONS, FAMILIES, NUMBERS, QuestionAnswer, SceneView
from voco_video.shapes.world import (
    COLOURS,
    PLACES,
    SHAPES,
    Scene,
    demo_scene,  # noqa: F401 (the examples below)
)


def draw_questions(
    scene: Scene,
    rng: np.random.Generator,
    *,
    num_questions: int = 10,
    at_seconds: float | None = None,
    temporal_fraction: float = 0.7,
    families: Sequence[str] = FAMILIES,
) -> list[QuestionAnswer]:
    """Draw short questions about a scene, families in turn and no text twice; fewer if the scene allows no more.

    Args:
        scene: the scene that is asked about.
        rng: decides about questions and their words.
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
    view = SceneView(scene, at_seconds)
    if at_seconds is not None:
        temporal_fraction = 0.0
    share = num_questions / len(families) if "how" in families else 0.0
    questions = _count_questions(view, rng, share, temporal_fraction)
    texts = {question.question for question in questions}
    spent: set[Builder] = set()
    turn: list[str] = []
    for _ in range(8 * num_questions):
        if len(questions) >= num_questions:
            break
        turn = turn or [families[i] for i in rng.permutation(len(families))]
        kinds = TEMPORAL_BUILDERS if rng.random() < temporal_fraction else STATIC_BUILDERS
        try:
            builder = pick(rng, kinds.get(turn.pop(), ()))
            question = builder(view, rng)
        except NothingToAskError:
            continue
        if question.question in texts or builder in spent:
            continue
        questions.append(question)
        texts.add(question.question)
        # More false than true statements fit a scene: without this limit most answers would be "no" and "zero".
        if question.question_type in ("yes/no", "how"):
            spent.add(builder)
    return [questions[i] for i in rng.permutation(len(questions))[:num_questions]]


def _count_questions(
    view: SceneView, rng: np.random.Generator, share: float, temporal_fraction: float
) -> list[QuestionAnswer]:
    """Draw the questions that every scene allows, each with the same probability for every scene.

    Drawn like the others they would be asked more often of small scenes, which allow few other questions, and most
    answers would be "one".
    """
    static = [how_many(view, rng)] if rng.random() < share * (1 - temporal_fraction) else []
    return static + ([how_many_move(view, rng)] if rng.random() < share * temporal_fraction else [])


def demo_questions() -> tuple[QuestionAnswer, ...]:
    """Return questions about `demo_scene()` with their true answers, two or more of them about order.

    >>> [question.answer for question in demo_questions()]
    ['blue', 'circle', 'four', 'top left', 'left', 'after', 'triangle', 'square']
    """
    return (
        QuestionAnswer("what colour is the square?", "blue", "what", "colour", tuple(COLOURS)),
        QuestionAnswer("who is green?", "circle", "who", "shape", SHAPES),
        QuestionAnswer("how many shapes are there?", "four", "how", "number", NUMBERS[1:]),
        QuestionAnswer("where is the star?", "top left", "where", "place", PLACES),
        temporal_question("where does the square go?", "left", "where", "motion", DIRECTIONS),
        temporal_question(
            "when does the circle appear, before or after the triangle?",
            "after",
            "when",
            "time",
            ("before", "after"),
        ),
        temporal_question(
            "who disappears first, the circle or the triangle?",
            "triangle",
            "who",
            "time",
            ("circle", "triangle"),
        ),
        temporal_question("who moves?", "square", "who", "shape", SHAPES, order=False),
    )
