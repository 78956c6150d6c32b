"""What each token of a row sees, where vision tokens see all of their own frame and not only what is before them.

Everything else is causal. Layers with a sliding window see no further back than that; a vision token sees all of its
frame behind it, however large. That is how the library combines them for Gemma 3 (transformers 5.24).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from voco_video.errors import UsageError

WINDOW = "sliding_attention"


def masks_of_frames(text_config: Any, frames: Tensor, *, dtype: torch.dtype) -> dict[str, Tensor]:
    """Make the attention masks of a row for each kind of a decoder's layers, ``[B, 1, T, T]``.

    Args:
        frames: the frame that each vision token belongs to, int64 ``[B, T]``; -1 for other tokens.
        dtype: of the row, for attention that adds its mask.

    Raises:
        UsageError: the attention implementation takes no such masks.
    """
    places = torch.arange(frames.shape[1], device=frames.device)
    distance = places[:, None] - places  # [T, T], how far back a row's token has to look
    is_same = (frames[:, :, None] == frames[:, None]) & (frames >= 0)[:, :, None]
    seen = (distance >= 0) | is_same  # [B, T, T]
    masks = {}
    for kind in sorted(set(text_config.layer_types)):
        within = seen & (distance < text_config.sliding_window) if kind == WINDOW else seen
        masks[kind] = _as_taken(text_config._attn_implementation, within[:, None], dtype)
    return masks


def _as_taken(implementation: str, seen: Tensor, dtype: torch.dtype) -> Tensor:
    if implementation == "eager":  # adds what it is given
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
    if implementation.startswith(("flash", "flex")):
        raise UsageError(f"attention {implementation!r} cannot let vision tokens see those behind them; use 'sdpa'")
    return seen
