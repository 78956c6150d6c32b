"""The samples that a run trains on, by index.

A new source of samples is a class with ``num_samples`` (None if it is endless) and ``sample(index)``; add it to
`open_dataset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from voco_video.compress import compress_batch, frames_of
from voco_video.data.samples import Sample as FileSample
from voco_video.data.samples import Turn
from voco_video.model.stage_clock import StageSeconds
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.compression import CompressOptions, Compressor, Form
from voco_video.shapes.questions import draw_questions
from voco_video.shapes.rendering import render
from voco_video.shapes.samples import MovingShapes, SceneSample
from voco_video.shapes.scene_view import FAMILIES, QuestionAnswer
from voco_video.shapes.world import draw_scene, scene_rng
from voco_video.training.batches import TokenKind, TrainingSample, Visibility
from voco_video.training.config import MOVING_SHAPES, TrainConfig
from voco_video.training.file_samples import CachedConversations, Conversations, read_rows
from voco_video.video.frames import FrameBatch


class SampleSource(Protocol):
    """A source of samples by index, the same on every call."""

    @property
    def num_samples(self) -> int | None:
        """Number of samples; None for an endless stream."""
        ...

    def sample(self, index: int) -> TrainingSample:
        """Sample ``index``.

        Raises:
            VocoVideoError: this sample's media are missing or broken; it is skipped and counted.
        """
        ...


@dataclass(frozen=True)
class MovingShapesStream:
    """Samples of MovingShapes, drawn in memory: images, videos, or videos with a share of images.

    Attributes:
        images, videos: the two streams; one may be None.
        image_fraction: share of images if both are given.
    """

    videos: MovingShapes | None
    images: MovingShapes | None
    image_fraction: float = 0.0
    num_samples: int | None = None

    def of(self, index: int) -> MovingShapes:
        """Return the stream that sample ``index``, 0 or more, comes from."""
        stream = self.videos
        if stream is None or (self.images is not None and _share(index) < self.image_fraction):
            stream = self.images
        assert stream is not None
        return stream

    def sample(self, index: int) -> TrainingSample:
        """Sample ``index``, 0 or more."""
        drawn = self.of(index).sample(index)
        turns = tuple(map(as_turn, drawn.turns))
        return TrainingSample(frames=drawn.frames, turns=turns, pts_seconds=drawn.pts_seconds)


class CompressedFrames:
    """Frames drawn in memory, compressed at the first request: the counterpart of a frame cache for files.

    All vision tokens take 40 times the memory of VoCo tokens and are seldom needed, so they are computed each time.
    """

    def __init__(self, frames: np.ndarray, pts_seconds: npt.NDArray[np.floating] | None, model: VocoModel) -> None:
        self.frames = frames
        self.pts_seconds = np.asarray(np.arange(len(frames)) if pts_seconds is None else pts_seconds, np.float64)
        self.model = model
        self._tokens: dict[Form, VocoTokens] = {}

    @torch.inference_mode()
    def read_tokens(self, kind: TokenKind) -> VocoTokens:
        """Compress the frames, with all of the model's K VoCo tokens."""
        if kind == "full":
            return self._compressed(Compressor("full"), self.model.form_of(Compressor("full")))
        if kind not in self._tokens:
            self._tokens[kind] = self._compressed(Compressor("voco"), kind)
        return self._tokens[kind]

    def _compressed(self, compressor: Compressor, form: Form) -> VocoTokens:
        options = CompressOptions(compressor=str(compressor), form=form)
        pictures = iter([FrameBatch(self.frames, self.pts_seconds)])
        batches = frames_of(self.model, compressor, options, pictures)
        return VocoTokens.cat([compress_batch(self.model, b, compressor, options, StageSeconds()) for b in batches])


class CompressedMovingShapes:
    """MovingShapes for mode ``cached``: each scene is rendered and compressed once, and has new questions each time.

    Args:
        stream: the stream of scenes and conversations.
        model: the model that compresses them.
        num_scenes: number of different scenes; a multiple of the global batch size keeps each on one device.
    """

    num_samples: int | None = None

    def __init__(self, stream: MovingShapesStream, model: VocoModel, *, num_scenes: int) -> None:
        self.stream = stream
        self.model = model
        self.num_scenes = num_scenes
        self._scenes: dict[int, tuple[SceneSample, CompressedFrames]] = {}

    def sample(self, index: int) -> TrainingSample:
        """Conversation ``index`` about scene ``index % num_scenes``."""
        number = index % self.num_scenes
        if number not in self._scenes:
            drawn = self.stream.of(number).sample(number)
            compressed = CompressedFrames(drawn.frames, drawn.pts_seconds, self.model)
            self._scenes[number] = replace(drawn, frames=drawn.frames[:0]), compressed
        drawn, compressed = self._scenes[number]
        turns = self.stream.of(number).turns(drawn, conversation=index)
        return TrainingSample(
            turns=tuple(map(as_turn, turns)), read_tokens=compressed.read_tokens, pts_seconds=drawn.pts_seconds
        )


class CompressedSamples:
    """The samples of a small source, with compressed tokens in place of their frames."""

    def __init__(self, dataset: SampleSource, model: VocoModel) -> None:
        self.num_samples = dataset.num_samples
        self.sample = lru_cache(maxsize=None)(partial(self._sample, dataset, model))

    @staticmethod
    def _sample(dataset: SampleSource, model: VocoModel, index: int) -> TrainingSample:
        sample = dataset.sample(index)
        assert sample.frames is not None
        compressed = CompressedFrames(sample.frames, sample.pts_seconds, model)
        return replace(sample, frames=None, read_tokens=compressed.read_tokens)


def as_turn(question: QuestionAnswer) -> Turn:
    """Convert a MovingShapes question to a turn."""
    return Turn(question.question, question.answer, question_type=question.question_type)


def _share(index: int) -> float:
    """Return a number in [0, 1) for each index; these numbers look random and are evenly spread."""
    return (index * 0.6180339887498949) % 1.0


@dataclass(frozen=True)
class MovingShapesQuestions:
    """Single short questions about held-out scenes, as in a test: one question without earlier turns."""

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
        frames = render(scene, pts_seconds.tolist(), size=self.size)
        return TrainingSample(frames=frames, turns=(as_turn(question),), pts_seconds=pts_seconds)


def open_dataset(config: TrainConfig, model: VocoModel, *, rows: Sequence[FileSample] | None = None) -> SampleSource:
    """Open the training samples of a configuration.

    In mode ``cached`` the videos that are not in the frame cache are compressed first.

    Args:
        rows: those of a data set in files, where the caller has read them already.

    Raises:
        UsageError: no dataset of that name.
        DataError: its annotations cannot be read, or more of its rows than ``max_bad_samples`` are bad.
    """
    if config.dataset != MOVING_SHAPES:
        rows = read_rows(config) if rows is None else rows
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


def open_validation(config: TrainConfig, model: VocoModel) -> SampleSource | None:
    """Open held-out samples of the same kind; None if the dataset has none."""
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
    """A sample with the step that it is trained in."""

    step: int
    sample: TrainingSample


class RunOrder:
    """All samples of a run by position, in the order of training, so that a resumed run continues with the same ones.

    Position p belongs to step ``p // global_batch_size``. A finite dataset is shuffled again in every epoch. Neither
    depends on the number of devices.

    Args:
        dataset: the samples.
        num_steps: optimizer steps of the whole run.
    """

    def __init__(self, dataset: SampleSource, *, num_steps: int, global_batch_size: int, seed: int) -> None:
        self.dataset = dataset
        self.num_steps = num_steps
        self.global_batch_size = global_batch_size
        self.seed = seed

    def __len__(self) -> int:
        return self.num_steps * self.global_batch_size

    def __getitem__(self, position: int) -> Placed:
        return Placed(position // self.global_batch_size, self.dataset.sample(self.index_at(position)))

    def index_at(self, position: int) -> int:
        """Return the index, in the dataset, of the sample at a position of the run."""
        count = self.dataset.num_samples
        if count is None:
            return position
        return int(_permutation(count, self.seed, position // count)[position % count])


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def visibility_at(step: int, config: TrainConfig, *, num_voco_tokens: int) -> Visibility:
    """Draw what the texts of a step see, from the run's seed and the step alone: the same on every device."""
    rng = np.random.default_rng((config.seed, 1, step))
    if rng.random() < config.full_visibility_fraction:
        return Visibility(None)
    choices = config.num_voco_token_choices or (num_voco_tokens,)
    k = int(choices[rng.integers(len(choices))])
    return Visibility(k, config.forms[rng.integers(len(config.forms))])
