"""Where each token stands: the compact layout of frames, and moving cached keys to a new place. Pure functions.

Rotary attention depends only on differences of positions, so a frame can be compressed once at a canonical place and
moved later. Frames overlap in position (they never attend to each other), so a frame costs ``k`` positions of context,
not ``N``:

    frame f's vision tokens   f*k + 0 ... f*k + P-1        P = length of the frame sequence before its VoCo tokens
    frame f's VoCo tokens     P + f*k + 0 ... P + f*k + k-1
    text                      P + F*k, ...
"""

from __future__ import annotations

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
        """The position of the first token of frame ``frame_index``."""
        return frame_index * self.num_voco_tokens

    def voco_positions(self) -> Tensor:
        """Positions of all VoCo tokens in frame order, int64 ``[F * k]``."""
        return self.frame_length + torch.arange(self.num_frames * self.num_voco_tokens)

    @property
    def text_start(self) -> int:
        """The position of the first text token."""
        return self.frame_length + self.num_frames * self.num_voco_tokens


def rotary_angles(positions: Tensor, inv_freq: Tensor) -> Tensor:
    """The angles a rotary embedding turns by at ``positions`` ``[T]``, float64 ``[T, rotary_dim / 2]``.

    The product is rounded to float32 first because that is what the models do; at position 30 000 the rounding is
    worth 1e-3 rad, and only by repeating it does a moved key equal a recomputed one.
    """
    # On the CPU: the table is tiny, and not every device has float64.
    return (positions.cpu().float()[:, None] * inv_freq.cpu().float()).double()


def rotate_keys(keys: Tensor, *, source: Tensor, target: Tensor, inv_freq: Tensor) -> Tensor:
    """Move rotary keys from the positions they were computed at to new ones.

    Args:
        keys: ``[..., T, head_dim]``, already rotated for ``source``.
        source, target: integer positions ``[T]``.
        inv_freq: ``[rotary_dim / 2]``, the model's inverse frequencies; dimensions past ``rotary_dim`` pass unchanged.

    Returns:
        Keys as the model would have computed them at ``target``, same shape and dtype. The rotation is done in float32.

    Source: RoFormer (arXiv:2104.09864), equation 34, in the half-split arrangement of the Llama family.
    """
    angles = rotary_angles(target, inv_freq) - rotary_angles(source, inv_freq)  # [T, R/2]
    if not angles.any():
        return keys
    cos, sin = angles.cos().float().to(keys.device), angles.sin().float().to(keys.device)
    half = inv_freq.shape[0]
    first, second, rest = keys.float().split([half, half, keys.shape[-1] - 2 * half], dim=-1)
    moved = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)  # [..., T, head_dim]
    return moved.to(keys.dtype)
