"""What a run trains on: samples by index, from wherever they come.

A new source is a class with ``__len__`` (None for an endless one) and ``sample(index)``; add it to `open_dataset`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np

from voco_video.backbone import Backbone
from voco_video.data.moving_shapes import COLOURS, SHAPES, draw_scene, scene_rng
from voco_video.data.moving_shapes_qa import MovingShapes, QuestionAnswer, Sample, draw_lists, draw_questions
from voco_video.data.rendering import render
from voco_video.errors import UsageError
from voco_video.model import VocoModel
from voco_video.training.batches import TrainingSample, Turn, Visibility
from voco_video.training.config import TrainConfig
from voco_video.training.conversations import CachedConversations, Conversations, read_rows

MOVING_SHAPES = "moving-shapes"


class Dataset(Protocol):
    """Samples by index, the same on every call."""

    @property
    def num_samples(self) -> int | None:
        """How many there are; None for an endless stream."""
        ...

    def sample(self, index: int) -> TrainingSample:
        """Sample ``index``.

        Raises:
            VocoVideoError: this sample's media are missing or broken; it is skipped and counted.
        """
        ...


@dataclass(frozen=True)
class MovingShapesStream:
    """MovingShapes, drawn in memory: images, videos, or videos with a share of images.

    Attributes:
        images, videos: the two streams; one may be left out.
        image_fraction: share of images where both are there.
        families: families of short questions, in turn; empty for the stream's own conversations.
        by_name_fraction: share of lists told `by_name`; with families only.
    """

    videos: MovingShapes | None
    images: MovingShapes | None
    image_fraction: float = 0.0
    families: tuple[str, ...] = ()
    by_name_fraction: float = 0.0
    num_samples: int | None = None

    def sample(self, index: int) -> TrainingSample:
        """Sample ``index``, 0 or more."""
        stream = self.videos
        if stream is None or (self.images is not None and _share(index) < self.image_fraction):
            stream = self.images
        assert stream is not None
        drawn = stream.sample(index)
        turns = drawn.turns if not self.families else self._turns(stream, drawn)
        return TrainingSample(frames=drawn.frames, turns=tuple(map(as_turn, turns)))

    def _turns(self, stream: MovingShapes, drawn: Sample) -> tuple[QuestionAnswer, ...]:
        """Another conversation about the same scene, of the chosen families."""
        rng = scene_rng(stream.seed, split=stream.split, index=drawn.index, purpose=4)
        at_seconds = float(drawn.pts_seconds[0]) if stream.stage == "image" else None
        num_lists = int(stream.dense_fraction * stream.num_turns + rng.random())
        questions = draw_questions(
            drawn.scene,
            rng,
            num_questions=stream.num_turns - num_lists,
            at_seconds=at_seconds,
            temporal_fraction=stream.temporal_fraction,
            families=self.families,
        )
        lists = draw_lists(drawn.scene, rng, num_lists=num_lists, at_seconds=at_seconds)
        return (*questions, *(by_name(one) if rng.random() < self.by_name_fraction else one for one in lists))


def as_turn(question: QuestionAnswer) -> Turn:
    """A MovingShapes question as a turn."""
    return Turn(question.question, question.answer, question.question_type)


def by_name(turn: QuestionAnswer) -> QuestionAnswer:
    """The same list in the order of its objects' names, where it has one object an item.

    In reading order each place follows from the one before, and a model that looks everything up by place tells the
    list rightly without ever finding an object by what it is.

    >>> asked = "list the shapes, colour first."
    >>> by_name(QuestionAnswer(asked, "blue star top, red cross left", "list", "list")).answer
    'red cross left, blue star top'
    """
    colours, shapes = list(COLOURS), list(SHAPES)
    for first, names, others in (("colour", colours, shapes), ("shape", shapes, colours)):
        if turn.question.endswith(f", {first} first.") and "events" not in turn.question and turn.answer != "nothing":
            items = [item.split(" ") for item in turn.answer.split(", ")]
            items.sort(key=lambda words: (names.index(words[0]), others.index(words[1])))
            question = turn.question.replace(f"{first} first.", f"{first} by {first}.")
            return replace(turn, question=question, answer=", ".join(map(" ".join, items)))
    return turn


def _share(index: int) -> float:
    """A number in [0, 1) per index that looks random and spreads evenly."""
    return (index * 0.6180339887498949) % 1.0


@dataclass(frozen=True)
class MovingShapesQuestions:
    """Single short questions about held-back scenes, as they are asked in a test: one question, no earlier turns."""

    seed: int
    split: str
    stage: str
    num_frames: int
    size: tuple[int, int]
    num_samples: int | None = None

    def sample(self, index: int) -> TrainingSample:
        """One scene and one question about it, families in turn."""
        is_image = self.stage == "image"
        rng = scene_rng(self.seed, split=self.split, index=index, purpose=3)
        scene = draw_scene(self.seed, split=self.split, index=index, always_visible=is_image)
        phase = rng.random() if is_image else 0.5
        count = 1 if is_image else self.num_frames
        pts_seconds = (np.arange(count) + phase) / count * scene.duration_seconds
        questions = draw_questions(scene, rng, num_questions=6, at_seconds=float(pts_seconds[0]) if is_image else None)
        question = questions[index % len(questions)]
        return TrainingSample(frames=render(scene, pts_seconds.tolist(), size=self.size), turns=(as_turn(question),))


def open_dataset(config: TrainConfig, model: VocoModel) -> Dataset:
    """The training samples that a configuration names.

    In mode ``cached`` the videos that the frame cache lacks are compressed first.

    Raises:
        UsageError: no dataset of that name, or one that has no videos to keep in a frame cache.
        DataError: its annotations cannot be read.
    """
    if config.dataset != MOVING_SHAPES:
        rows = read_rows(config)
        if config.mode == "cached":
            return CachedConversations.compress(rows, model, config)
        return Conversations(rows, config, model.backbone)
    if config.mode == "cached":
        raise UsageError(f"dataset {config.dataset!r} has no files to cache; mode 'cached' needs videos on disk")
    fit = model.backbone.images.fit
    images = MovingShapes(
        seed=config.data_seed,
        stage="image",
        size=(fit.height, fit.width),
        num_turns=config.num_turns,
        dense_fraction=config.dense_fraction,
        temporal_fraction=config.temporal_fraction,
    )
    if config.stage == "image":
        return MovingShapesStream(None, images, 1.0, config.question_families, config.by_name_fraction)
    videos = replace(images, stage="video", num_frames=config.num_frames, random_phase=True)
    return MovingShapesStream(videos, images, config.image_fraction, config.question_families, config.by_name_fraction)


def open_validation(config: TrainConfig, backbone: Backbone) -> Dataset | None:
    """Held-back samples of the same kind, or None where the dataset has none."""
    if config.dataset != MOVING_SHAPES or not config.eval_steps:
        return None
    fit = backbone.images.fit
    return MovingShapesQuestions(
        seed=config.data_seed,
        split="val",
        stage=config.stage,
        num_frames=config.num_frames,
        size=(fit.height, fit.width),
        num_samples=config.eval_samples,
    )


@dataclass(frozen=True)
class Placed:
    """A sample at its place in a run."""

    step: int
    sample: TrainingSample


class RunOrder:
    """Every sample of a run, in the order it is trained on, by position: what a resumed run needs to go on exactly.

    Position p belongs to step ``p // global_batch_size``; a finite dataset is shuffled anew in every epoch. Neither
    depends on the number of devices.

    Args:
        dataset: the samples.
        num_steps: optimizer steps of the whole run.
    """

    def __init__(self, dataset: Dataset, *, num_steps: int, global_batch_size: int, seed: int) -> None:
        self.dataset = dataset
        self.num_steps = num_steps
        self.global_batch_size = global_batch_size
        self.seed = seed

    def __len__(self) -> int:
        return self.num_steps * self.global_batch_size

    def __getitem__(self, position: int) -> Placed:
        return Placed(position // self.global_batch_size, self.dataset.sample(self.index_at(position)))

    def index_at(self, position: int) -> int:
        """Which sample of the dataset stands at a position of the run."""
        count = self.dataset.num_samples
        if count is None:
            return position
        return int(_permutation(count, self.seed, position // count)[position % count])


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def visibility_at(step: int, config: TrainConfig, *, num_voco_tokens: int) -> Visibility:
    """What the texts of a step see: drawn from the run's seed and the step alone, the same on every device."""
    rng = np.random.default_rng((config.seed, 1, step))
    if rng.random() < config.full_visibility_fraction:
        return Visibility(None)
    choices = config.num_voco_token_choices or (num_voco_tokens,)
    return Visibility(int(choices[rng.integers(len(choices))]))
