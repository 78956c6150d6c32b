"""Where each token stands: the compact layout of frames, and moving cached keys to a new place. Pure functions.

Rotary attention depends only on differences of positions, so a frame can be compressed once at a canonical place and
moved later. Frames overlap in position (they never attend to each other), so a frame costs ``k`` positions of context,
not ``N``:

    frame f's vision tokens   f*k + 0 ... f*k + P-1        P = length of the frame sequence before its VoCo tokens
    frame f's VoCo tokens     P + f*k + 0 ... P + f*k + k-1
    text                      P + F*k, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CompactLayout:
    """Positions of ``num_frames`` frames with ``num_voco_tokens`` VoCo tokens each, followed by text.

    >>> layout = CompactLayout(frame_length=578, num_voco_tokens=2, num_frames=3)
    >>> layout.voco_positions().tolist()
    [578, 579, 580, 581, 582, 583]
    >>> layout.text_start
    584
    """

    frame_length: int
    """P: positions before a frame's first VoCo token (BOS + vision tokens + newline)."""
    num_voco_tokens: int
    """k: VoCo tokens used per frame."""
    num_frames: int
    """F."""

    def frame_start(self, frame_index: int) -> int:
        """Return the position of the first token of frame ``frame_index``."""
        return frame_index * self.num_voco_tokens

    def voco_positions(self) -> Tensor:
        """Return the positions of all VoCo tokens in frame order, int64 ``[F * k]``."""
        return self.frame_length + torch.arange(self.num_frames * self.num_voco_tokens)

    @property
    def text_start(self) -> int:
        """The position of the first text token."""
        return self.frame_length + self.num_frames * self.num_voco_tokens


def frame_positions(vision: Tensor, *, before: int, length: int) -> Tensor:
    """Compute the positions of one frame's sequence where vision tokens have several coordinates.

    Text stands at equal coordinates, and goes on behind the largest one before it: for a picture of 4 x 7 vision
    tokens in between, 7 further.

    Args:
        vision: positions of vision tokens, counted from the first, int64 ``[C, N]``.
        before: tokens before them.
        length: L, tokens in all.

    Returns:
        int64 ``[C, L]``.

    >>> frame_positions(torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]), before=1, length=6).tolist()
    [[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]]
    """
    after = length - before - vision.shape[1]
    first = torch.arange(before)
    last = before + int(vision.max()) + 1 + torch.arange(after)
    return torch.cat([first.expand(len(vision), -1), before + vision, last.expand(len(vision), -1)], dim=1)


def compact_positions(source: Tensor) -> tuple[Tensor, int]:
    """Place the kept tokens of F frames, and the text after them: the compact layout, whatever a frame keeps.

    A frame moves as a whole. Where it keeps k tokens in a row, this is `CompactLayout`; where it keeps vision tokens of
    several coordinates, their largest, it takes as many positions as those span.

    Args:
        source: positions that kept tokens were computed at, integers ``[F, k]``.

    Returns:
        Their places, int64 ``[F * k]``, and the position of the first text token.

    >>> compact_positions(torch.tensor([[18, 19], [18, 19], [18, 19]]))
    (tensor([18, 19, 20, 21, 22, 23]), 24)
    """
    source = source.cpu().long()
    within = source - source.amin(1, keepdim=True)  # [F, k]
    layout = CompactLayout(int(source.amin(1).max()), int(within.max()) + 1, len(source))
    starts = layout.frame_length + torch.arange(len(source)) * layout.num_voco_tokens
    return (starts[:, None] + within).flatten(), layout.text_start


def places_among_text(source: Tensor, counts: Tensor, text_lengths: Tensor) -> tuple[Tensor, Tensor, int]:
    """Lay frames out compactly that keep different numbers of tokens and have text between them.

    Args:
        source: positions that kept tokens were computed at, integers ``[F, K]``.
        counts: how many of its first tokens each frame is seen with, int64 ``[F]``.
        text_lengths: tokens of text that stand before each frame, int64 ``[F]``.

    Returns:
        Places of the tokens that are seen, int64 ``[sum of counts]``; the position of each frame's text, ``[F]``; and
        the position of the first text token after all frames.

    >>> source = torch.tensor([[18, 19], [18, 19], [18, 19]])
    >>> places_among_text(source, torch.tensor([2, 1, 2]), torch.tensor([0, 3, 0]))
    (tensor([18, 19, 23, 24, 25]), tensor([18, 20, 24]), 26)
    """
    source = source.cpu().long()
    within = source - source.amin(1, keepdim=True)  # [F, K]
    is_seen = torch.arange(source.shape[1]) < counts[:, None]
    spans = within.masked_fill(~is_seen, -1).amax(1) + 1  # [F]
    ends = int(source.amin(1).max()) + (text_lengths + spans).cumsum(0)
    frame_starts = ends - spans
    return (frame_starts[:, None] + within)[is_seen], frame_starts - text_lengths, int(ends[-1])


@dataclass(frozen=True)
class TrainedPlaces:
    """Positions of frames with text between them, as a model was trained.

    Attributes:
        leads: of the first token of the text before each frame, int64 ``[F]``.
        frames: of each frame's first token, int64 ``[F]``.
        times: how much further each frame stands along the axis of time, int64 ``[F]``.
        text_start: of the first token behind all frames.
    """

    leads: Tensor
    frames: Tensor
    times: Tensor
    text_start: int


def trained_places(
    lead_lengths: Sequence[int], spans: Sequence[int], *, times: Sequence[int] | None = None, skips_times: bool = False
) -> TrainedPlaces:
    """Place frames one behind the other; or, with times, all at the same rows and columns until text comes between.

    Args:
        lead_lengths: tokens of text before each frame, ``[F]``.
        spans: positions that each frame takes, ``[F]``.
        times: how far each frame stands from the first along the axis of time, ``[F]``; None without that axis.
        skips_times: text goes on behind rows and columns, even if frames reach further along the axis of time.

    >>> trained_places([3, 0, 0], [4, 4, 4]).frames
    tensor([ 3,  7, 11])
    >>> placed = trained_places([3, 0, 0], [4, 4, 4], times=[0, 2, 6])
    >>> placed.frames.tolist(), placed.times.tolist(), placed.text_start
    ([3, 3, 3], [0, 2, 6], 10)
    >>> trained_places([3, 0, 0], [4, 4, 4], times=[0, 2, 6], skips_times=True).text_start
    7
    """
    leads, frames, offsets = [], [], []
    end = reach = first_time = 0  # where text would go on; the first position that nothing has reached
    for f, (length, span) in enumerate(zip(lead_lengths, spans, strict=True)):
        if times is None or length or not f:
            leads.append(end)
            end += length
            start, first_time = end, times[f] if times else 0
        else:
            leads.append(end)
        offset = times[f] - first_time if times else 0
        frames.append(start)
        offsets.append(offset)
        reach = max(reach, start + offset + 1, start + span)
        end = max(end, start + span) if skips_times else reach
    placed = torch.tensor([leads, frames, offsets], dtype=torch.long)  # [3, F]
    return TrainedPlaces(placed[0], placed[1], placed[2], end)


def rotary_angles(positions: Tensor, inv_freq: Tensor) -> Tensor:
    """Compute the angles of a rotary embedding at ``positions`` ``[T]``, float64 ``[T, rotary_dim / 2]``.

    The product is rounded to float32 first because that is what the models do; at position 30 000 the rounding is
    worth 1e-3 rad, and only by repeating it does a moved key equal a recomputed one.
    """
    # On the CPU: the table is tiny, and not every device has float64.
    return (positions.cpu().float()[:, None] * inv_freq.cpu().float()).double()


def rotate_keys(
    keys: Tensor,
    *,
    source: Tensor,
    target: Tensor,
    inv_freq: Tensor,
    axes: Tensor | None = None,
    turns_neighbours: bool = False,
) -> Tensor:
    """Move rotary keys from the positions they were computed at to new ones.

    Args:
        keys: ``[..., T, head_dim]``, already rotated for ``source``.
        source, target: integer positions ``[T]``, or ``[C, T]`` with C coordinates.
        inv_freq: ``[rotary_dim / 2]``, the model's inverse frequencies; dimensions past ``rotary_dim`` pass unchanged.
        axes: the coordinate that each frequency turns by, int64 ``[rotary_dim / 2]``; needed for C > 1.
        turns_neighbours: a frequency turns two numbers side by side, and not one of each half.

    Returns:
        Keys as the model would have computed them at ``target``, same shape and dtype. The rotation is done in float32.

    Source: RoFormer (arXiv:2104.09864), equation 34; the Llama family has it in the half-split arrangement.
    """
    inv_freq = inv_freq.cpu()  # once: from a GPU the host waits for it
    if source.ndim == 1:
        angles = rotary_angles(target, inv_freq) - rotary_angles(source, inv_freq)  # [T, R/2]
    else:
        assert axes is not None
        moves = [rotary_angles(t, inv_freq) - rotary_angles(s, inv_freq) for s, t in zip(source, target, strict=True)]
        angles = torch.stack(moves)[axes.cpu(), :, torch.arange(len(axes))].T  # [T, R/2]
    if not angles.any():
        return keys
    cos, sin = (t.float().to(keys.device, non_blocking=True) for t in (angles.cos(), angles.sin()))
    half = inv_freq.shape[0]
    if turns_neighbours:
        first, second = keys.float()[..., : 2 * half].unflatten(-1, (half, 2)).unbind(-1)
        pairs = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)  # [..., T, R/2, 2]
        return torch.cat([pairs.flatten(-2), keys.float()[..., 2 * half :]], dim=-1).to(keys.dtype)
    first, second, rest = keys.float().split([half, half, keys.shape[-1] - 2 * half], dim=-1)
    moved = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)  # [..., T, head_dim]
    return moved.to(keys.dtype)
