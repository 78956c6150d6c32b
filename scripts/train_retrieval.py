"""Teach a model to find frames in its caches, on MovingShapes: minutes on one core. Its own weights stay as they are.

    python scripts/train_retrieval.py [--model voco-tiny] [--num-frames 10000] [--steps 3000] [--out FOLDER]

Writes retrieval.safetensors into the model's folder (or OUT). A frame is right for a question when one of the things
that the question names is in it. Only compressing weights are used, so it outlives training of answering weights.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from voco_video.answer.frame_scorer import FrameScorer, Retriever, question_states, token_features
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.folder import load_voco_model
from voco_video.model.voco import VocoModel
from voco_video.options.compression import Form
from voco_video.shapes.rendering import render
from voco_video.shapes.world import COLOURS, PLACES, SHAPES, draw_scene, scene_rng

ABOUT_ONE = (
    "where is the {}?",
    "where does the {} go?",
    "where does the {} start?",
    "where does the {} end?",
    "when does the {} appear?",
    "when is the {} there, early or late?",
    "what does the {} do?",
    "does the {} move?",
    "is the {} at the top left?",
    "the {}",
    "{}",
)
ABOUT_TWO = (
    "who appears first, the {} or the {}?",
    "who disappears first, the {} or the {}?",
    "when does the {} appear, before or after the {}?",
    "when does the {} disappear, before or after the {}?",
)
ABOUT_SHAPE = ("what colour is the {}?", "is the {} red?", "how many {}s are there?")
ABOUT_COLOUR = ("who is {}?", "what shape is the {} one?", "how many {} shapes are there?")
ABOUT_NAME = ("is there any {}?", "where is the {}?")
ABOUT_PLACE = ("what colour is at the {}?", "who is at the {}?", "what shape is at the {}?")


@dataclass(frozen=True)
class Haystack:
    """Frames as a cache keeps them, and what is in each.

    Attributes:
        features: by form, ``[F, K, W]``.
        shows: for every word or name which frames it is true of, bool ``[F]``.
    """

    features: dict[Form, Tensor]
    shows: dict[str, Tensor]


def make_haystack(model: VocoModel, *, split: str, num_frames: int, seed: int = 7) -> Haystack:
    """Scenes at one frame a second, at a random phase, through the compressor."""
    size = model.backbone.images.fit.height
    kept: dict[Form, list[Tensor]] = {form: [] for form in get_args(Form)}
    where: dict[str, list[int]] = defaultdict(list)
    count = index = 0
    while count < num_frames:
        scene = draw_scene(seed, split=split, index=index)
        times = np.arange(int(scene.duration_seconds)) + scene_rng(seed, split=split, index=index, purpose=9).random()
        with torch.inference_mode():
            vision_tokens = model.vision_tokens(render(scene, times, size=size))
            for form, features in kept.items():
                features.append(token_features(model.compress(vision_tokens, form=form)).clone())
        for t in times.tolist():
            for thing in scene.visible_at(t):
                for word in (thing.name, thing.shape, thing.colour, thing.place_at(t)):
                    where[word].append(count)
            count += 1
        index += 1
    shows = {
        word: torch.zeros(count, dtype=torch.bool).index_fill(0, torch.tensor(w), True) for word, w in where.items()
    }
    return Haystack({form: torch.cat(features) for form, features in kept.items()}, shows)


def draw_question(rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """A question and the words or names it is about."""

    def pick(items: tuple[str, ...]) -> str:
        return items[rng.integers(len(items))]

    colours = tuple(COLOURS)
    name, other = (f"{pick(colours)} {pick(SHAPES)}" for _ in range(2))
    kind = rng.random()
    if kind < 0.35:
        called, about = [(name, name), (f"{pick(colours)} one", ""), (pick(SHAPES),) * 2][
            rng.choice(3, p=(0.6, 0.2, 0.2))
        ]
        return pick(ABOUT_ONE).format(called), (about or called.removesuffix(" one"),)
    if kind < 0.65:
        return pick(ABOUT_TWO).format(name, other), (name, other)
    if kind < 0.75:
        return pick(ABOUT_NAME).format(name), (name,)
    words, templates = [(SHAPES, ABOUT_SHAPE), (colours, ABOUT_COLOUR), (PLACES, ABOUT_PLACE)][rng.integers(3)]
    word = pick(words)
    return pick(templates).format(word), (word,)


@dataclass(frozen=True)
class Questions:
    """Hidden states of questions, padded on the left: ``[Q, T, D]`` with a mask ``[Q, T]``; the answers ``[Q, F]``."""

    texts: list[str]
    about: list[tuple[str, ...]]
    hidden: Tensor
    mask: Tensor

    def right(self, haystack: Haystack) -> Tensor:
        """Which frames are right for which question, bool ``[Q, F]``."""
        nowhere = torch.zeros_like(next(iter(haystack.shows.values())))
        return torch.stack([torch.stack([haystack.shows.get(w, nowhere) for w in ws]).any(0) for ws in self.about])


def make_questions(model: VocoModel, *, num_questions: int, seed: int) -> Questions:
    """Random ones, read by the model."""
    rng = np.random.default_rng(seed)
    drawn = [draw_question(rng) for _ in range(num_questions)]
    states = [question_states(model, text) for text, _ in drawn]
    longest = max(map(len, states))
    padded = [nn.functional.pad(s, (0, 0, longest - len(s), 0)) for s in states]
    mask = torch.arange(longest) >= longest - torch.tensor([len(s) for s in states])[:, None]
    return Questions([text for text, _ in drawn], [about for _, about in drawn], torch.stack(padded), mask)


def train(haystack: Haystack, questions: Questions, form: Form, *, steps: int, seed: int = 0) -> FrameScorer:
    """Cross-entropy of "is it in this frame" over random pairs; every frame with its first 1, 2, 4 or all tokens."""
    torch.manual_seed(seed)
    features, right = haystack.features[form], questions.right(haystack)
    scorer = FrameScorer(questions.hidden.shape[-1], features.shape[-1])
    known = questions.hidden[questions.mask]
    for name, rows in (("question", known), ("frame", features.flatten(0, 1))):
        getattr(scorer, f"{name}_mean").copy_(rows.mean(0))
        getattr(scorer, f"{name}_scale").copy_(rows.std(0) + 1e-3)
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    started = time.perf_counter()
    for step in range(steps):
        q, f = torch.randint(len(right), (32,)), torch.randint(len(features), (128,))
        k = features.shape[1] if torch.rand(()) < 0.6 else min(features.shape[1], 2 ** int(torch.randint(3, ())))
        longest = int(questions.mask[q].sum(1).max())
        queries, gates = scorer.question(questions.hidden[q, -longest:])
        gates = gates.masked_fill(~questions.mask[q, -longest:, None], float("-inf"))
        scores = scorer(queries, gates, features[f, :k])
        loss = nn.functional.binary_cross_entropy_with_logits(scores, right[q][:, f].float())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 249:
            print(f"{form} step {step + 1}: loss {loss:.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    return scorer.eval()


@torch.inference_mode()
def found(scorer: FrameScorer, haystack: Haystack, questions: Questions, form: Form, *, num_voco_tokens: int) -> dict:
    """Share of right frames that stand among the first four, counted against all wrong ones, by what is asked."""
    right, features = questions.right(haystack), haystack.features[form][:, :num_voco_tokens]
    hits: dict[str, list[float]] = defaultdict(list)
    for i, about in enumerate(questions.about):
        queries, gates = scorer.question(questions.hidden[i : i + 1][:, questions.mask[i]])
        scores = torch.cat([scorer(queries, gates, part)[0] for part in features.split(500)])
        wrong = scores[~right[i]].sort(descending=True).values
        if right[i].any() and len(wrong) > 4:
            kind = "two" if len(about) == 2 else "name" if " " in about[0] and about[0] not in PLACES else "word"
            hits[kind] += (scores[right[i]] > wrong[3]).float().tolist()
    return {kind: round(float(np.mean(rows)), 3) for kind, rows in sorted(hits.items())}


def main() -> None:
    """Make, train, measure on the test split, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="voco-tiny")
    parser.add_argument("--num-frames", type=int, default=10000)
    parser.add_argument("--num-questions", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--forms", nargs="+", default=["embeds", "kv"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    model = load_voco_model(arguments.model, dtype="float32")
    haystack = make_haystack(model, split="train", num_frames=arguments.num_frames)
    test = make_haystack(model, split="test", num_frames=max(100, arguments.num_frames // 4))
    questions = make_questions(model, num_questions=arguments.num_questions, seed=0)
    test_questions = make_questions(model, num_questions=200, seed=1)
    out = arguments.out or find_checkpoint(arguments.model)
    out.mkdir(parents=True, exist_ok=True)
    scorers = {}
    for form in arguments.forms:
        scorers[form] = train(haystack, questions, form, steps=arguments.steps)
        for k in (1, 4, model.num_voco_tokens):
            print(
                f"{form} K={k}, test: {found(scorers[form], test, test_questions, form, num_voco_tokens=k)}", flush=True
            )
        print(f"written to {Retriever(scorers, model.fingerprint()).save(out)}", flush=True)


if __name__ == "__main__":
    main()
