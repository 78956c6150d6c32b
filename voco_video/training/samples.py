"""What a run trains on: samples by index, from wherever they come.

A new source is a class with ``__len__`` (None for an endless one) and ``sample(index)``; add it to `open_dataset`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Protocol

import numpy as np
import torch

from voco_video.data.samples import Turn
from voco_video.model.compressors import whole_frames
from voco_video.model.tokens import Form, VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.shapes.questions import FAMILIES, QuestionAnswer, draw_questions
from voco_video.shapes.rendering import render
from voco_video.shapes.samples import MovingShapes, Sample
from voco_video.shapes.world import draw_scene, scene_rng
from voco_video.training.batches import Kept, TrainingSample, Visibility
from voco_video.training.config import TrainConfig
from voco_video.training.file_samples import CachedConversations, Conversations, read_rows

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
    """

    videos: MovingShapes | None
    images: MovingShapes | None
    image_fraction: float = 0.0
    num_samples: int | None = None

    def of(self, index: int) -> MovingShapes:
        """The stream that sample ``index``, 0 or more, comes from."""
        stream = self.videos
        if stream is None or (self.images is not None and _share(index) < self.image_fraction):
            stream = self.images
        assert stream is not None
        return stream

    def sample(self, index: int) -> TrainingSample:
        """Sample ``index``, 0 or more."""
        drawn = self.of(index).sample(index)
        return TrainingSample(frames=drawn.frames, turns=tuple(map(as_turn, drawn.turns)))


class CompressedFrames:
    """Frames that were drawn in memory, compressed when first asked for: what a frame cache is to files.

    All their vision tokens take 40 times the room of VoCo tokens and are seldom asked for, so those are made anew.
    """

    def __init__(self, frames: np.ndarray, model: VocoModel) -> None:
        self.frames = frames
        self.model = model
        self._kept: dict[Form, VocoTokens] = {}

    @torch.inference_mode()
    def read_tokens(self, kept: Kept) -> VocoTokens:
        """What is kept of the frames, with as many VoCo tokens as the model has."""
        if kept == "full":
            return whole_frames(self.model, self.model.vision_tokens(self.frames))
        if kept not in self._kept:
            self._kept[kept] = self.model.compress(self.model.vision_tokens(self.frames), form=kept)
        return self._kept[kept]


class CompressedMovingShapes:
    """MovingShapes for mode ``cached``: each scene is rendered and compressed once, and asked anew every time.

    Args:
        stream: where scenes and conversations come from.
        model: compresses them.
        num_scenes: different scenes; a multiple of the global batch size keeps each on one device.
    """

    num_samples: int | None = None

    def __init__(self, stream: MovingShapesStream, model: VocoModel, *, num_scenes: int) -> None:
        self.stream = stream
        self.model = model
        self.num_scenes = num_scenes
        self._scenes: dict[int, tuple[Sample, CompressedFrames]] = {}

    def sample(self, index: int) -> TrainingSample:
        """Conversation ``index`` about scene ``index % num_scenes``."""
        number = index % self.num_scenes
        if number not in self._scenes:
            drawn = self.stream.of(number).sample(number)
            self._scenes[number] = (replace(drawn, frames=drawn.frames[:0]), CompressedFrames(drawn.frames, self.model))
        drawn, compressed = self._scenes[number]
        turns = self.stream.of(number).turns(drawn, conversation=index)
        return TrainingSample(turns=tuple(map(as_turn, turns)), read_tokens=compressed.read_tokens)


class CompressedSamples:
    """A small dataset's samples with what a cache would hold in place of their frames."""

    def __init__(self, dataset: Dataset, model: VocoModel) -> None:
        self.num_samples = dataset.num_samples
        self.sample = lru_cache(maxsize=None)(partial(self._sample, dataset, model))

    @staticmethod
    def _sample(dataset: Dataset, model: VocoModel, index: int) -> TrainingSample:
        sample = dataset.sample(index)
        assert sample.frames is not None
        return replace(sample, frames=None, read_tokens=CompressedFrames(sample.frames, model).read_tokens)


def as_turn(question: QuestionAnswer) -> Turn:
    """A MovingShapes question as a turn."""
    return Turn(question.question, question.answer, question_type=question.question_type)


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
        UsageError: no dataset of that name.
        DataError: its annotations cannot be read, or more of its rows than ``max_bad_samples`` are bad.
    """
    if config.dataset != MOVING_SHAPES:
        rows = read_rows(config)
        if config.mode == "cached":
            return CachedConversations.compress(rows, model, config)
        conversations = Conversations(rows, config, model.backbone)
        conversations.check_limit()
        return conversations
    fit = model.backbone.images.fit
    images = MovingShapes(
        seed=config.data_seed,
        stage="image",
        size=(fit.height, fit.width),
        num_turns=config.num_turns,
        dense_fraction=config.dense_fraction,
        temporal_fraction=config.temporal_fraction,
        families=config.question_families or FAMILIES,
        by_name_fraction=config.by_name_fraction,
    )
    if config.stage == "image":
        return MovingShapesStream(None, images)
    videos = replace(images, stage="video", num_frames=config.num_frames, random_phase=True)
    stream = MovingShapesStream(videos, images, config.image_fraction)
    if config.mode == "joint":
        return stream
    return CompressedMovingShapes(stream, model, num_scenes=config.num_scenes)


def open_validation(config: TrainConfig, model: VocoModel) -> Dataset | None:
    """Held-back samples of the same kind, or None where the dataset has none."""
    if config.dataset != MOVING_SHAPES or not config.eval_steps:
        return None
    fit = model.backbone.images.fit
    questions = MovingShapesQuestions(
        seed=config.data_seed,
        split="val",
        stage=config.stage,
        num_frames=config.num_frames,
        size=(fit.height, fit.width),
        num_samples=config.eval_samples,
    )
    return CompressedSamples(questions, model) if config.mode == "cached" else questions


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
    k = int(choices[rng.integers(len(choices))])
    return Visibility(k, config.forms[rng.integers(len(config.forms))])
