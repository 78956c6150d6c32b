"""Choosing a compressor where none is named: the learned one where there is one, else as many tokens as fit.

    voco       where it is trained
    full       where all frames fit the model's context with all of their vision tokens
    pool:k     else, with the largest k for which all frames fit

The choice depends on the model, the options and the number of frames alone, and is made before an entry's key is. So
``auto`` and the name of what it chooses share their entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from voco_video.model.compressors import pooled_shape
from voco_video.model.inference import undisturbed
from voco_video.model.voco import VocoModel
from voco_video.options.compression import AUTO, CompressOptions, Compressor, parse_compressor

TEXT_ROOM_TOKENS = 1024  # positions of the context left to question and answer; at most a quarter of it
LIVE_TOKENS = 16  # of a frame, at most, where it is not known how many frames will come


@dataclass(frozen=True)
class Choice:
    """A compressor and why it was chosen, in one line; no reason where it was named, or is the learned one."""

    compressor: Compressor
    reason: str = ""


def context_budget(context_length: int | None, *, frame_length: int) -> int | None:
    """Compute how many tokens of frames the model's context has room for; None if it has no limit.

    Args:
        context_length: positions that the model was trained on.
        frame_length: positions before the first kept token.

    >>> context_budget(4096, frame_length=578)
    2494
    """
    if context_length is None:
        return None
    return max(1, context_length - frame_length - min(TEXT_ROOM_TOKENS, context_length // 4))


def settled(model: VocoModel, name: str, *, num_voco_tokens: int | None = None) -> Compressor | None:
    """Return the compressor of a name; None where ``auto`` depends on the number of frames.

    Args:
        num_voco_tokens: k that was asked for, which only the learned compressor makes.
    """
    if name != AUTO:
        return parse_compressor(name)
    is_learned = model.num_voco_tokens > 0 and model.trained
    return Compressor("voco") if is_learned or num_voco_tokens is not None else None


def with_compressor(
    model: VocoModel, options: CompressOptions, count_frames: Callable[[CompressOptions], int | None]
) -> tuple[CompressOptions, str]:
    """Replace ``auto`` by the compressor that it stands for.

    Args:
        count_frames: the number of frames to be compressed, counted only where the choice depends on it; it is called
            with options that `choose` may name. None where nobody knows.

    Returns:
        The options with a compressor, and why that one.
    """
    named = settled(model, options.compressor, num_voco_tokens=options.num_voco_tokens)
    choice = choose(model, options, count_frames(options)) if named is None else Choice(named)
    return replace(options, compressor=str(choice.compressor)), choice.reason


def choose(model: VocoModel, options: CompressOptions, num_frames: int | None) -> Choice:
    """Choose among the compressors that need no training.

    Args:
        num_frames: F; None for a source that is still being made.
    """
    candidates = untrained_compressors(model)
    if num_frames is None:
        small = (one for one in candidates if one.num_tokens is not None and one.num_tokens <= LIVE_TOKENS)
        found = next(small)
        return Choice(found, f"compressor {found}: nobody knows how many frames a live source will have")
    form = options.form_for(model.default_form)
    room = context_budget(model.backbone.context_length, frame_length=_first_position(model, options))
    for one in candidates:
        tokens = num_frames * tokens_per_frame(model, one, is_kv=form == "kv")
        if room is None or tokens <= room:
            which = "all their" if one.name == "full" else f"{one.num_tokens}"
            return Choice(one, f"compressor {one}: {num_frames} frames fit the context with {which} vision tokens each")
    return Choice(
        candidates[-1],
        f"compressor {candidates[-1]}: {num_frames} frames do not fit the context even so, and a question sees some of "
        "them; take fewer (--num-frames, --fps)",
    )


def untrained_compressors(model: VocoModel) -> list[Compressor]:
    """List the compressors among which ``auto`` chooses where none is trained, those that keep most first."""
    grid = model.backbone.vision_grid
    pooled = [k for k in range(grid[0] * grid[1] - 1, 0, -1) if pooled_shape(grid, k)]
    return [Compressor("full"), *(Compressor("pool", k) for k in pooled or (1,))]


@undisturbed()
def tokens_per_frame(model: VocoModel, compressor: Compressor, *, is_kv: bool) -> int:
    """Count the tokens that ``full`` or ``pool:k`` keeps of a frame, with those that open and close it."""
    grid = model.backbone.vision_grid
    count = grid[0] * grid[1] if compressor.num_tokens is None else compressor.num_tokens
    one_token = torch.zeros(1, 1, model.backbone.hidden_size, dtype=model.backbone.dtype, device=model.backbone.device)
    around = model.frame_sequence(one_token, 0).shape[1] - 1
    return count + around - (0 if is_kv else len(model.backbone.template.frame_before_ids))


def _first_position(model: VocoModel, options: CompressOptions) -> int:
    """Return the position of the first token that is kept of the first frame."""
    is_kv = options.form_for(model.default_form) == "kv"
    return 0 if is_kv else len(model.backbone.template.frame_before_ids)
