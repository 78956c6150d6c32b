"""Frames among the words of a conversation, as a model was trained: who comes before whom, and at which positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from voco_video.model.backbone import Backbone
from voco_video.model.families import FrameTimes
from voco_video.model.positions import trained_places


@dataclass(frozen=True)
class Interleaved:
    """One sample's F frames and T text tokens.

    Attributes:
        frames: position of each frame's first token, int64 ``[F]``.
        times: how much further each frame stands along the axis of time, int64 ``[F]``.
        text: position of each text token, int64 ``[T]``.
        frames_before: how many frames stand before each text token, int64 ``[T]``.
    """

    frames: Tensor
    times: Tensor
    text: Tensor
    frames_before: Tensor

    def order(self, frame_length: int) -> tuple[Tensor, Tensor]:
        """Return where frames and text stand in one row of all their tokens.

        Args:
            frame_length: tokens of each frame.

        Returns:
            Places of frame tokens, ``[F * frame_length]``, and of text tokens, ``[T]``.
        """
        text = self.frames_before * frame_length + torch.arange(len(self.text))
        is_text = torch.zeros(len(self.frames) * frame_length + len(text), dtype=torch.bool)
        is_text[text] = True
        return (~is_text).nonzero()[:, 0], text


def interleave(
    backbone: Backbone,
    lead_lengths: Sequence[int],
    text_length: int,
    *,
    span: int,
    times: FrameTimes | None = None,
) -> Interleaved:
    """Place a sample's frames and text, as `voco_video.model.trained_prefix` does for asking.

    Args:
        lead_lengths: tokens of text before each frame, ``[F]``; the other text stands behind the last frame.
        text_length: T, these included.
        span: positions that a frame takes.
        times: of the frames, where they are vision tokens, whose positions may depend on it.
    """
    as_trained = backbone.template.as_trained
    assert as_trained is not None
    offsets = None
    if times is not None and backbone.family.shares_place:
        offsets = backbone.family.time_positions(times.starts, backbone.hf_model.config)
    placed = trained_places(
        lead_lengths,
        [span] * len(lead_lengths),
        times=None if offsets is None else offsets.tolist(),
        skips_times=as_trained.variant == "library",
    )
    rest = text_length - sum(lead_lengths)
    starts = torch.cat([placed.leads, torch.tensor([placed.text_start])])
    lengths = torch.tensor([*lead_lengths, rest])
    owners = torch.arange(len(lengths)).repeat_interleave(lengths)  # [T]
    first = lengths.cumsum(0) - lengths
    text = starts[owners] + torch.arange(text_length) - first[owners]
    return Interleaved(placed.frames, placed.times, text, owners)
