"""MovingShapes' test questions, and whether a model answers them: what the benchmarks of answers have in common.

Per question the answer counts when greedy decoding gives it word for word; that is measured without generating, as
"every token of the true answer, its end included, is the likeliest one".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from voco_video.data.samples import Turn
from voco_video.data.turns import encode_turns
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel
from voco_video.shapes.questions import draw_questions
from voco_video.shapes.rendering import render
from voco_video.shapes.scene_view import QuestionAnswer
from voco_video.shapes.world import Scene, draw_scene, scene_rng

NUM_FRAMES = 8


@dataclass(frozen=True)
class Case:
    """One test scene: when it is looked at, and what is asked about it.

    Attributes:
        scene: what is drawn.
        pts_seconds: times of its frames, ``[F]``.
        questions: with their true answers.
        shuffle: an order of the frames drawn at random, ``[F]``.
    """

    scene: Scene
    pts_seconds: np.ndarray
    questions: tuple[QuestionAnswer, ...]
    shuffle: np.ndarray

    def pixels(self, size: int) -> np.ndarray:
        """Its frames, uint8 ``[F, size, size, 3]``."""
        return render(self.scene, self.pts_seconds, size=size)


@dataclass(frozen=True)
class Outcome:
    """One question of one scene under one condition."""

    scene: int
    family: str
    is_right: bool
    chance: float


def draw_case(index: int, *, seed: int, stage: str, temporal_fraction: float) -> Case:
    """Test scene ``index``, the same on every call; one frame of it in stage ``image``, else `NUM_FRAMES`."""
    is_image = stage == "image"
    scene = draw_scene(seed, split="test", index=index, always_visible=is_image)
    rng = scene_rng(seed, split="test", index=index, purpose=5)
    count = 1 if is_image else NUM_FRAMES
    phase = rng.random() if is_image else 0.5
    pts_seconds = (np.arange(count) + phase) / count * scene.duration_seconds
    at_seconds = float(pts_seconds[0]) if is_image else None
    questions = draw_questions(scene, rng, num_questions=6, at_seconds=at_seconds, temporal_fraction=temporal_fraction)
    return Case(scene, pts_seconds, tuple(questions), rng.permutation(count))


def family(question: QuestionAnswer) -> str:
    """Family of a question; those that need the order of frames stand apart."""
    if question.needs_order:
        return {"motion": "direction", "time": "order"}.get(question.about, f"{question.question_type} (order)")
    return f"{question.question_type} (time)" if question.is_temporal else question.question_type


@torch.inference_mode()
def is_right(model: VocoModel, prefix: Prefix, questions: Sequence[QuestionAnswer]) -> list[bool]:
    """Whether greedy decoding answers each question word for word."""
    encoded = [encode_turns(model.backbone, [Turn(q.question, q.answer)], max_length=512) for q in questions]
    longest = max(len(ids) for ids, _ in encoded)
    input_ids = torch.zeros(len(encoded), longest, dtype=torch.long)
    labelled = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, (ids, owners) in enumerate(encoded):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labelled[row, : len(ids)] = torch.tensor(owners) >= 0
    predicted = model(input_ids, prefix=prefix)[0][:, :-1].argmax(-1).cpu()  # [B, T - 1]
    wrong = (predicted != input_ids[:, 1:]) & labelled[:, 1:]
    return [not row for row in wrong.any(1).tolist()]


def outcomes_of(model: VocoModel, prefix: Prefix, case: Case, *, scene: int) -> list[Outcome]:
    """What a model makes of a case's questions from what a prefix shows it."""
    right = is_right(model, prefix, case.questions)
    return [Outcome(scene, family(q), r, q.chance) for q, r in zip(case.questions, right, strict=True)]


def accuracy(outcomes: Sequence[Outcome]) -> float:
    """Share of right answers."""
    return float(np.mean([o.is_right for o in outcomes])) if outcomes else float("nan")


def by_family(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Accuracy per question family, and over all."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.family].append(outcome)
    return {"all": accuracy(outcomes)} | {name: accuracy(groups[name]) for name in sorted(groups)}


def retention(table: Mapping[str, Sequence[Outcome]], name: str, *, num_resamples: int = 2000) -> dict[str, float]:
    """Retention rate of a row between rows ``none`` and ``full``, with its 95 % bootstrap interval over scenes.

    Not a number where ``full`` is no better than ``none``; resamples of that kind are left out of the interval.

    Source: VoCo-LLaMA (arXiv:2406.12275), section 4.2.
    """
    scenes = sorted({o.scene for o in table["full"]})
    place = {scene: i for i, scene in enumerate(scenes)}
    sums = {n: np.zeros(len(scenes)) for n in ("none", "full", name)}
    for key, values in sums.items():
        for outcome in table[key]:
            values[place[outcome.scene]] += outcome.is_right
    draws = np.random.default_rng(0).integers(len(scenes), size=(num_resamples, len(scenes)))

    def rate(picked: np.ndarray) -> np.ndarray:
        none, full, this = (sums[n][picked].sum(-1) for n in ("none", "full", name))
        return np.where(full > none, (this - none) / np.where(full > none, full - none, 1), np.nan)

    low, high = np.nanpercentile(rate(draws), [2.5, 97.5])
    return {"rate": float(rate(np.arange(len(scenes)))), "low": float(low), "high": float(high)}
