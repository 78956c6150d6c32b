"""Samples to a batch: token ids with labels, frames, and how much of them the texts see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_video.data.samples import Turn
from voco_video.data.turns import encode_turns
from voco_video.model.backbone import Backbone
from voco_video.model.families import FrameTimes
from voco_video.model.tokens import VocoTokens
from voco_video.options.compression import Form
from voco_video.video.frames import FrameBatch, FrameGroups

IGNORED = -100
"""The label of a token without loss."""

LEARNED = -1
"""The id that stands for a learned embedding which is no token's."""

TokenKind = Literal["kv", "embeds", "full"]
"""The kinds of tokens in a frame cache: VoCo tokens in one form or the other, or all vision tokens."""


@dataclass(frozen=True)
class TrainingSample:
    """One sample of a source.

    Attributes:
        turns: one conversation about the frames; their types group answers in reports.
        system: its system message; "" for the chat template's own.
        encoded: the result of `encode_turns`, if it is known already.
        frames: uint8 ``[F, H, W, 3]``, fitted to the model's image size; F may be 0, for text alone. None if
            ``read_tokens`` is given.
        pts_seconds: the time of each of them, ``[F]``; one a second when None.
        duration_seconds: of the video that they come from, where that is known.
        read_tokens: in place of frames, a function that reads their tokens from a frame cache.
    """

    turns: tuple[Turn, ...]
    frames: np.ndarray | None = None
    read_tokens: Callable[[TokenKind], VocoTokens] | None = None
    system: str = ""
    pts_seconds: npt.NDArray[np.floating] | None = None
    duration_seconds: float | None = None
    encoded: tuple[list[int], list[int]] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Visibility:
    """The tokens of each frame that the text of a batch sees.

    Attributes:
        num_voco_tokens: k VoCo tokens; None: all tokens but VoCo tokens.
        form: form of the VoCo tokens.

    >>> Visibility(2).name, Visibility(1, "embeds").name, Visibility(None).name
    ('k=2', 'k=1, embeds', 'full')
    """

    num_voco_tokens: int | None
    form: Form = "kv"

    @property
    def name(self) -> str:
        """The name in logs."""
        if self.num_voco_tokens is None:
            return "full"
        return f"k={self.num_voco_tokens}" + (f", {self.form}" if self.form != "kv" else "")

    @property
    def token_kind(self) -> TokenKind:
        """The kind of tokens that a frame cache has to hold."""
        return "full" if self.num_voco_tokens is None else self.form

    def cut(self, tokens: VocoTokens) -> VocoTokens:
        """Cut a cache's tokens to those that the text sees."""
        return tokens if self.num_voco_tokens is None else tokens.first(self.num_voco_tokens)


@dataclass(frozen=True)
class TrainingBatch:
    """B samples, ready for `TrainableVoco`.

    Attributes:
        num_frames: frames of each sample, ``[B]``.
        input_ids, labels: ``[B, T]``, padded on the right; the label is -100 for tokens without loss. -1 stands for a
            learned embedding that is no token's.
        text_lengths: tokens of each text, without padding, ``[B]``.
        turn_ids: ``[B, T]``, the turn whose answer a labelled token belongs to, -1 elsewhere.
        visibility: the tokens of frames that the texts see.
        pixels: uint8 ``[ΣF, H, W, 3]``; one black frame if no sample has any, since sharded towers need one.
        tokens: in place of pixels, the tokens of each sample's frames that the text sees.
        question_types: for each sample the type of each turn.
        lead_lengths: for models that read frames among words, the tokens before each frame of each sample: a text
            begins with all of these, and the rest stands behind the last frame. Empty with frames first.
        times: of each sample's frames, for such models.
        parts: where samples differ in the size of their frames, batches of one size each. Of the other fields only
            ``labels``, flat, and ``question_types`` are then of all samples.
    """

    num_frames: tuple[int, ...]
    input_ids: Tensor
    labels: Tensor
    text_lengths: tuple[int, ...]
    turn_ids: Tensor
    visibility: Visibility
    pixels: np.ndarray | None = None
    tokens: tuple[VocoTokens, ...] = field(default=(), repr=False)
    question_types: tuple[tuple[str, ...], ...] = ()
    lead_lengths: tuple[tuple[int, ...], ...] = ()
    times: tuple[FrameTimes, ...] = field(default=(), repr=False)
    parts: tuple[TrainingBatch, ...] = field(default=(), repr=False)

    def pin_memory(self) -> TrainingBatch:
        """Return the batch with pixels and cached tokens in pinned memory, from which a GPU copies while it computes.

        The library's data loader calls this, in a thread of its own.
        """
        return replace(
            self,
            pixels=None if self.pixels is None else torch.from_numpy(self.pixels).pin_memory().numpy(),
            tokens=tuple(tokens.pin_memory() for tokens in self.tokens),
            parts=tuple(part.pin_memory() for part in self.parts),
        )


def make_batch(
    backbone: Backbone, samples: Sequence[TrainingSample], visibility: Visibility, *, max_length: int = 2048
) -> TrainingBatch:
    """Make a batch of samples that all have frames, or all have VoCo tokens."""
    shapes = {sample.frames.shape[1:] for sample in samples if sample.frames is not None and len(sample.frames)}
    if len(shapes) > 1:
        groups = [[s for s in samples if _shape(s, default=min(shapes)) == shape] for shape in sorted(shapes)]
        parts = tuple(make_batch(backbone, group, visibility, max_length=max_length) for group in groups)
        return replace(
            parts[0],
            parts=parts,
            labels=torch.cat([part.labels.flatten() for part in parts]),
            question_types=tuple(types for part in parts for types in part.question_types),
        )
    readers = [sample.read_tokens for sample in samples if sample.read_tokens is not None]
    if readers and len(readers) != len(samples):
        raise ValueError("a batch mixes samples from a frame cache with samples from pixels")
    tokens = tuple(visibility.cut(read(visibility.token_kind)) for read in readers)
    times = [_times(backbone, sample, tokens[row] if tokens else None) for row, sample in enumerate(samples)]
    texts = [_text(backbone, s, t, max_length=max_length) for s, t in zip(samples, times, strict=True)]
    longest = max(len(text.ids) for text in texts)
    input_ids = torch.zeros(len(samples), longest, dtype=torch.long)
    turn_ids = torch.full_like(input_ids, -1)
    for row, text in enumerate(texts):
        input_ids[row, : len(text.ids)] = torch.tensor(text.ids)
        turn_ids[row, : len(text.ids)] = torch.tensor(text.owners)
    return TrainingBatch(
        num_frames=tuple(t.num_frames for t in tokens) or tuple(map(len, times)),
        input_ids=input_ids,
        labels=torch.where(turn_ids >= 0, input_ids, IGNORED),
        text_lengths=tuple(len(text.ids) for text in texts),
        turn_ids=turn_ids,
        visibility=visibility,
        pixels=None if tokens else _stack(backbone, samples),
        tokens=tokens,
        question_types=tuple(tuple(turn.question_type for turn in sample.turns) for sample in samples),
        lead_lengths=tuple(text.lead_lengths for text in texts) if backbone.template.as_trained else (),
        times=tuple(times) if backbone.template.as_trained else (),
    )


@dataclass(frozen=True)
class _Text:
    """A sample's token ids, the turn that each belongs to (-1: none), and how many stand before each frame."""

    ids: list[int]
    owners: list[int]
    lead_lengths: tuple[int, ...] = ()


def _text(backbone: Backbone, sample: TrainingSample, times: FrameTimes, *, max_length: int) -> _Text:
    has_frames = len(times) > 0
    ids, owners = sample.encoded or encode_turns(
        backbone, sample.turns, max_length=max_length, system=sample.system, has_frames=has_frames
    )
    if backbone.template.as_trained is None or not has_frames:
        return _Text(ids, owners)
    leads = backbone.lead_ids(times, system=sample.system)
    learned = backbone.family.after_embeds(backbone.hf_model)
    before = [token for lead in leads for token in lead] + [LEARNED] * (0 if learned is None else len(learned))
    return _Text([*before, *ids], [-1] * len(before) + owners, tuple(map(len, leads[: len(times)])))


def _times(backbone: Backbone, sample: TrainingSample, tokens: VocoTokens | None) -> FrameTimes:
    """Return when a sample's frames are seen; they are groups of pictures for a tower that merges some."""
    if tokens is not None and tokens.seconds is not None:
        return FrameTimes.of(tokens.seconds.numpy(), sample.duration_seconds)
    count = tokens.num_frames if tokens is not None else 0 if sample.frames is None else len(sample.frames)
    seconds = np.arange(count) if sample.pts_seconds is None else sample.pts_seconds
    seconds = np.asarray(seconds, np.float64)
    size = backbone.template.pictures_per_frame
    if tokens is None and size > 1 and count:
        seconds = FrameGroups.of(FrameBatch(np.empty((count, 0, 0, 3), np.uint8), seconds), size).seconds
    return FrameTimes.of(seconds, sample.duration_seconds)


def _shape(sample: TrainingSample, *, default: tuple[int, ...]) -> tuple[int, ...]:
    has_frames = sample.frames is not None and len(sample.frames) > 0
    return sample.frames.shape[1:] if has_frames else default  # type: ignore[union-attr]


def _stack(backbone: Backbone, samples: Sequence[TrainingSample]) -> np.ndarray:
    """Return the pictures of all samples' frames, the last one repeated where a sample's do not fill its last frame."""
    size = backbone.template.pictures_per_frame
    frames = [sample.frames for sample in samples if sample.frames is not None and len(sample.frames)]
    if frames:
        return np.concatenate([np.concatenate([f, *[f[-1:]] * (-len(f) % size)]) for f in frames])
    fit = backbone.images.fit
    return np.zeros((size, fit.height, fit.width, 3), np.uint8)
