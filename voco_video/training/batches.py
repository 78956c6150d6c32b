"""Conversations to token ids with labels, and samples to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from voco_video.backbone import Backbone
from voco_video.data.samples import Turn
from voco_video.errors import ModelError, UsageError
from voco_video.model import Form, VocoTokens

IGNORED = -100
"""The label of a token without loss."""


Kept = Literal["kv", "embeds", "full"]
"""What a frame cache may hold of a frame: VoCo tokens in one form or the other, or all vision tokens (form `kv`)."""


@dataclass(frozen=True)
class TrainingSample:
    """What a dataset gives for one index.

    Attributes:
        turns: one conversation about the frames; their types group answers in reports.
        frames: uint8 ``[F, H, W, 3]``, fitted to the model's image size; F may be 0, for text alone. None where
            ``read_tokens`` is given.
        read_tokens: in place of frames, what reads them from a frame cache.
    """

    turns: tuple[Turn, ...]
    frames: np.ndarray | None = None
    read_tokens: Callable[[Kept], VocoTokens] | None = None


@dataclass(frozen=True)
class Visibility:
    """What the text of a batch may see of each frame.

    Attributes:
        num_voco_tokens: k VoCo tokens, or (None) everything but VoCo tokens.
        form: how it sees VoCo tokens.

    >>> Visibility(2).name, Visibility(1, "embeds").name, Visibility(None).name
    ('k=2', 'k=1, embeds', 'full')
    """

    num_voco_tokens: int | None
    form: Form = "kv"

    @property
    def name(self) -> str:
        """As logs call it."""
        if self.num_voco_tokens is None:
            return "full"
        return f"k={self.num_voco_tokens}" + (f", {self.form}" if self.form != "kv" else "")

    @property
    def kept(self) -> Kept:
        """What a frame cache has to hold for it."""
        return "full" if self.num_voco_tokens is None else self.form

    def cut(self, tokens: VocoTokens) -> VocoTokens:
        """As much of what a cache holds as text may see."""
        return tokens if self.num_voco_tokens is None else tokens.first(self.num_voco_tokens)


@dataclass(frozen=True)
class Batch:
    """B samples, ready for `TrainableVoco`.

    Attributes:
        num_frames: frames of each sample, ``[B]``.
        input_ids, labels: ``[B, T]``, padded on the right; -100 where no loss is wanted.
        text_lengths: tokens of each text, without padding, ``[B]``.
        turn_ids: ``[B, T]``, which turn's answer a labelled token belongs to, -1 elsewhere.
        visibility: what the texts see.
        pixels: uint8 ``[ΣF, H, W, 3]``; one black frame where no sample has any, for the sake of sharded towers.
        tokens: in place of pixels, what text sees of each sample's frames.
        question_types: per sample the type of each turn.
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


def encode_turns(backbone: Backbone, turns: Sequence[Turn], *, max_length: int) -> tuple[list[int], list[int]]:
    """A conversation as token ids, and for each token the turn whose answer it is part of (-1: none).

    The ids are what `Backbone.conversation_ids` gives for the same conversation; an answer includes the end token
    that the chat template writes after it. Turns that do not fit in ``max_length`` tokens are left out whole.

    Raises:
        ModelError: the chat template does not append turns one after the other, so answers cannot be found in it.
        UsageError: not even the first turn fits.
    """
    text, spans = _joined(backbone, turns) or _rendered(backbone, turns)
    encoded = backbone.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    before = backbone.template.text_before_ids
    ids, owners = list(before), [-1] * len(before)
    for token_id, (_, end) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
        ids.append(token_id)
        owners.append(next((i for i, (first, last) in enumerate(spans) if first < end <= last), -1))
    return _cut(ids, owners, max_length)


Spans = list[tuple[int, int]]
"""Of each turn's answer the first character, and the one after its end token."""


def _rendered(backbone: Backbone, turns: Sequence[Turn]) -> tuple[str, Spans]:
    """A conversation's text and where its answers are, by the chat template turn after turn."""
    messages: list[dict[str, str]] = []
    spans: Spans = []
    text = ""
    for turn in turns:
        messages.append({"role": "user", "content": turn.question})
        asked = _render(backbone, messages, open_end=True)
        messages.append({"role": "assistant", "content": turn.answer})
        answered = _render(backbone, messages, open_end=False)
        if not (asked.startswith(text) and answered.startswith(asked)):
            raise ModelError("the chat template changes earlier turns when others follow, so it cannot be trained on")
        spans.append((len(asked), len(answered)))
        text = answered
    return text, spans


def _joined(backbone: Backbone, turns: Sequence[Turn]) -> tuple[str, Spans] | None:
    """The same from what the template writes around any turn, with one rendering to confirm it; None where it differs.

    Rendering turn after turn took a third of a training step of voco-tiny.
    """
    around = _around_turns(backbone)
    if around is None or not turns:
        return None
    text, spans = "", []
    for number, turn in enumerate(turns):
        before, between, after = around[min(number, 1)]
        asked = f"{text}{before}{turn.question}{between}"
        text = f"{asked}{turn.answer}{after}"
        spans.append((len(asked), len(text)))
    messages = [
        message
        for turn in turns
        for message in ({"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer})
    ]
    return (text, spans) if text == _render(backbone, messages, open_end=False) else None


_around: WeakKeyDictionary[Any, tuple[str | None, list[list[str]] | None]] = WeakKeyDictionary()


def _around_turns(backbone: Backbone) -> list[list[str]] | None:
    """What stands before a question, between it and its answer, and after that, in a first turn and in later ones."""
    template, pieces = _around.get(backbone.tokenizer, (None, None))
    if pieces is None or template != backbone.chat_template:
        turns = [Turn(f"{number}question{number}", f"{number}answer{number}") for number in (1, 2)]
        text, spans = _rendered(backbone, turns)
        starts = (0, spans[0][1])
        parts = [text[start:stop].split(t.question) for start, (_, stop), t in zip(starts, spans, turns, strict=True)]
        pieces = [[p[0], *p[-1].split(t.answer)] for p, t in zip(parts, turns, strict=True)]
        _around[backbone.tokenizer] = (backbone.chat_template, pieces)
    return pieces if all(len(piece) == 3 for piece in pieces) else None


def _render(backbone: Backbone, messages: list[dict[str, str]], *, open_end: bool) -> str:
    text: str = backbone.tokenizer.apply_chat_template(
        messages, chat_template=backbone.chat_template, add_generation_prompt=open_end, tokenize=False
    )
    return text


def _cut(ids: list[int], owners: list[int], max_length: int) -> tuple[list[int], list[int]]:
    if len(ids) <= max_length:
        return ids, owners
    whole = owners[max_length]  # the turn that the limit cuts, or a question after it
    last = max((i for i in range(max_length) if owners[i] >= 0 and owners[i] != whole), default=-1)
    if last < 0:
        raise UsageError(f"max_length={max_length}: the first turn alone has more tokens; raise it")
    return ids[: last + 1], owners[: last + 1]


def make_batch(
    backbone: Backbone, samples: Sequence[TrainingSample], visibility: Visibility, *, max_length: int = 2048
) -> Batch:
    """Samples to a batch; all have frames, or all have VoCo tokens."""
    encoded = [encode_turns(backbone, sample.turns, max_length=max_length) for sample in samples]
    longest = max(len(ids) for ids, _ in encoded)
    input_ids = torch.zeros(len(samples), longest, dtype=torch.long)
    turn_ids = torch.full_like(input_ids, -1)
    for row, (ids, owners) in enumerate(encoded):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        turn_ids[row, : len(ids)] = torch.tensor(owners)
    readers = [sample.read_tokens for sample in samples if sample.read_tokens is not None]
    if readers and len(readers) != len(samples):
        raise ValueError("a batch mixes samples from a frame cache with samples from pixels")
    tokens = tuple(visibility.cut(read(visibility.kept)) for read in readers)
    frames = [0 if sample.frames is None else len(sample.frames) for sample in samples]
    return Batch(
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
