"""Samples to a batch: token ids with labels, frames, and how much of them the texts see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from voco_video.data.samples import Turn
from voco_video.data.turns import encode_turns
from voco_video.model.backbone import Backbone
from voco_video.model.tokens import VocoTokens
from voco_video.options.compression import Form

IGNORED = -100
"""The label of a token without loss."""

TokenKind = Literal["kv", "embeds", "full"]
"""The kinds of tokens in a frame cache: VoCo tokens in one form or the other, or all vision tokens (form `kv`)."""


@dataclass(frozen=True)
class TrainingSample:
    """One sample of a source.

    Attributes:
        turns: one conversation about the frames; their types group answers in reports.
        system: its system message; "" for the chat template's own.
        encoded: the result of `encode_turns`, if it is known already.
        frames: uint8 ``[F, H, W, 3]``, fitted to the model's image size; F may be 0, for text alone. None if
            ``read_tokens`` is given.
        read_tokens: in place of frames, a function that reads their tokens from a frame cache.
    """

    turns: tuple[Turn, ...]
    frames: np.ndarray | None = None
    read_tokens: Callable[[TokenKind], VocoTokens] | None = None
    system: str = ""
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
        input_ids, labels: ``[B, T]``, padded on the right; the label is -100 for tokens without loss.
        text_lengths: tokens of each text, without padding, ``[B]``.
        turn_ids: ``[B, T]``, the turn whose answer a labelled token belongs to, -1 elsewhere.
        visibility: the tokens of frames that the texts see.
        pixels: uint8 ``[ΣF, H, W, 3]``; one black frame if no sample has any, since sharded towers need one.
        tokens: in place of pixels, the tokens of each sample's frames that the text sees.
        question_types: for each sample the type of each turn.
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


def make_batch(
    backbone: Backbone, samples: Sequence[TrainingSample], visibility: Visibility, *, max_length: int = 2048
) -> TrainingBatch:
    """Make a batch of samples that all have frames, or all have VoCo tokens."""
    encoded = [
        sample.encoded or encode_turns(backbone, sample.turns, max_length=max_length, system=sample.system)
        for sample in samples
    ]
    longest = max(len(ids) for ids, _ in encoded)
    input_ids = torch.zeros(len(samples), longest, dtype=torch.long)
    turn_ids = torch.full_like(input_ids, -1)
    for row, (ids, owners) in enumerate(encoded):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        turn_ids[row, : len(ids)] = torch.tensor(owners)
    readers = [sample.read_tokens for sample in samples if sample.read_tokens is not None]
    if readers and len(readers) != len(samples):
        raise ValueError("a batch mixes samples from a frame cache with samples from pixels")
    tokens = tuple(visibility.cut(read(visibility.token_kind)) for read in readers)
    frames = [0 if sample.frames is None else len(sample.frames) for sample in samples]
    return TrainingBatch(
        num_frames=tuple(t.num_frames for t in tokens) or tuple(frames),
        input_ids=input_ids,
        labels=torch.where(turn_ids >= 0, input_ids, IGNORED),
        text_lengths=tuple(len(ids) for ids, _ in encoded),
        turn_ids=turn_ids,
        visibility=visibility,
        pixels=None if tokens else _stack(backbone, samples),
        tokens=tokens,
        question_types=tuple(tuple(turn.question_type for turn in sample.turns) for sample in samples),
    )


def _stack(backbone: Backbone, samples: Sequence[TrainingSample]) -> np.ndarray:
    frames = [sample.frames for sample in samples if sample.frames is not None and len(sample.frames)]
    if frames:
        return np.concatenate(frames)
    fit = backbone.images.fit
    return np.zeros((1, fit.height, fit.width, 3), np.uint8)
