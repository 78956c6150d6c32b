"""The compressor family: what is kept of a frame, and how it becomes tokens that a frame cache can hold.

    voco      the model's own VoCo tokens: the product
    full      every vision token: no compression, the upper bound
    pool:k    vision tokens averaged over their grid to k: needs no training, so it serves any checkpoint
    none      nothing: the text alone, the lower bound

All four go through the same cache, prefix and answer. ``full`` and ``pool:k`` keep a frame's vision tokens and the
tokens right around them: in form ``kv`` their keys and values, each frame a causal sequence of its own behind the words
that open a conversation; in form ``embeds`` their input embeddings, for one sequence of words and frames in which later
frames see earlier ones: as the model was trained. Of those only all tokens of a frame mean anything, never the first
few. With frames first (`PromptTemplate`) form ``kv`` keeps the opening tokens with every frame as well.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from voco_video.errors import ModelError, UsageError
from voco_video.model.inference import undisturbed
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.compression import Compressor, Form

MAX_CELL_STRETCH = 2.0  # `pool` averages over cells whose longer side is less than this many times their shorter one


def check_compressor(
    model: VocoModel, compressor: Compressor, *, num_voco_tokens: int | None = None, form: Form = "kv"
) -> None:
    """Refuse what cannot work with a model before any frame is decoded for it.

    Args:
        num_voco_tokens: k that ``voco`` was asked for.
        form: what is to be kept of each token.

    Raises:
        UsageError: k or the form does not go with this compressor and model, or vision tokens cannot be pooled so.
        ModelError: the checkpoint has no VoCo tokens.
    """
    compressor.check_budget(num_voco_tokens)
    if compressor.sees_frames:
        model.check_form(form)
    if compressor.name == "voco":
        model.checked_budget(num_voco_tokens)
        return
    backbone = model.backbone
    if compressor.num_tokens is not None:
        checked_pooled_shape(backbone.vision_grid, compressor.num_tokens)
    keeps_embeds = compressor.sees_frames and form == "embeds" and backbone.template.as_trained is None
    if keeps_embeds and backbone.family.needs_embeds:
        raise UsageError(
            f"compressor {str(compressor)!r}: {backbone.family.title} reads vision tokens only among words, as it was "
            "trained, and this checkpoint has no such layout; add a tokenizer with a chat template"
        )
    if keeps_embeds and backbone.family.vision_positions(backbone.vision_grid) is not None:
        raise UsageError(
            f"compressor {str(compressor)!r} with form 'embeds': this model places vision tokens by row and column, "
            "which embeddings do not carry; use form 'kv'"
        )


def compress_frames(
    model: VocoModel,
    vision_tokens: Tensor,
    compressor: Compressor,
    *,
    num_voco_tokens: int | None = None,
    form: Form = "kv",
    grid: tuple[int, int] | None = None,
) -> VocoTokens:
    """Compress a batch of frames to what a compressor keeps of them.

    Args:
        vision_tokens: ``[F, N, W]``, as `VocoModel.vision_tokens` gives them.
        grid: rows and columns that they stand in; the largest that the model's frames have when None.
        num_voco_tokens: k of ``voco``, at most the model's K (the default).
        form: what to keep of each token.

    Raises:
        UsageError, ModelError: see `check_compressor`.

    >>> frames = model.vision_tokens(pixels)                                            # doctest: +SKIP
    >>> compress_frames(model, frames, parse_compressor("pool:4")).num_voco_tokens      # doctest: +SKIP
    6
    """
    check_compressor(model, compressor, num_voco_tokens=num_voco_tokens, form=form)
    grid = grid or model.backbone.vision_grid
    if compressor.name == "voco":
        return model.compress(vision_tokens, num_voco_tokens=num_voco_tokens, form=form, grid=grid)
    if not compressor.sees_frames:
        return no_tokens(model, len(vision_tokens))
    if compressor.num_tokens is not None:
        shape = checked_pooled_shape(grid, compressor.num_tokens)
        return whole_frames(model, average_pooled(vision_tokens, grid, shape), grid=shape, form=form)
    return whole_frames(model, vision_tokens, grid=grid, form=form)


@undisturbed()
def whole_frames(
    model: VocoModel, vision_tokens: Tensor, *, grid: tuple[int, int] | None = None, form: Form = "kv"
) -> VocoTokens:
    """Keep every token of every frame: its L = P positions in form ``kv``, all but those before V_1 in ``embeds``.

    Args:
        vision_tokens: ``[F, N, W]``.
        grid: rows and columns that they stand in; the tower's own when None.
        form: with frames first, ``embeds`` is for models whose positions are plain.
    """
    sequence = model.frame_sequence(vision_tokens, 0)  # [F, P, W]
    template, length = model.backbone.template, sequence.shape[1]
    start = len(template.context_ids)
    if form == "kv":
        kept = model.keys_and_values(sequence, num_kept=length - start, grid=grid)
        return replace(kept, can_truncate=False)
    if template.as_trained is None:
        start = len(template.frame_before_ids)  # the prefix begins with these, once for all frames
    positions = model.backbone.frame_positions(length, grid=grid)[:, start:].T.int()  # [K, C]
    return VocoTokens(
        "embeds",
        positions=None if positions.shape[1] == 1 else (positions - start).repeat(len(sequence), 1, 1),
        embeds=sequence[:, start:].clone(),
        can_truncate=False,
    )


def no_tokens(model: VocoModel, num_frames: int) -> VocoTokens:
    """Make frames of which nothing is kept; an empty entry is always stored as ``embeds``."""
    nothing = torch.empty(num_frames, 0, model.backbone.hidden_size, dtype=model.backbone.dtype)
    return VocoTokens("embeds", embeds=nothing, can_truncate=False)


# ---------------------------------------------------------------------- pooling


def average_pooled(vision_tokens: Tensor, grid: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Average vision tokens over cells of their grid, ``[F, N, W] -> [F, k, W]``, row by row.

    Args:
        grid: rows and columns that the N tokens stand in.
        shape: rows and columns of the k cells; where they do not divide the grid evenly, cells overlap.

    Raises:
        ModelError: the tokens are no such grid.
    """
    num_tokens = vision_tokens.shape[1]
    if num_tokens != grid[0] * grid[1]:
        raise ModelError(
            f"a frame of this model has {num_tokens} vision tokens, which are no grid of {grid[0]} x {grid[1]} and "
            "cannot be pooled; use compressor 'full'"
        )
    picture = vision_tokens.transpose(1, 2).unflatten(2, grid)  # [F, W, rows, columns]
    return nn.functional.adaptive_avg_pool2d(picture, shape).flatten(2).transpose(1, 2)  # [F, k, W]


def pooled_shape(grid: tuple[int, int], num_tokens: int) -> tuple[int, int] | None:
    """Choose rows and columns of ``num_tokens`` cells, nearly square; None where all would be too long.

    >>> pooled_shape((24, 24), 4), pooled_shape((24, 24), 3), pooled_shape((12, 24), 2)
    ((2, 2), None, (1, 2))
    """

    def stretch(shape: tuple[int, int]) -> float:
        cell = (grid[0] / shape[0], grid[1] / shape[1])
        return max(cell) / min(cell)

    rows = [r for r in range(1, min(grid[0], num_tokens) + 1) if num_tokens % r == 0 and num_tokens // r <= grid[1]]
    best = min(((r, num_tokens // r) for r in rows), key=stretch, default=None)
    return best if best and (num_tokens == 1 or stretch(best) < MAX_CELL_STRETCH) else None


def checked_pooled_shape(grid: tuple[int, int], num_tokens: int) -> tuple[int, int]:
    """Return `pooled_shape`, or raise an error that says which numbers are possible.

    Raises:
        UsageError: this one is not.
    """
    shape = pooled_shape(grid, num_tokens)
    if shape is not None:
        return shape
    possible = [k for k in range(1, grid[0] * grid[1] + 1) if pooled_shape(grid, k)]
    nearest = sorted(sorted(possible, key=lambda k: abs(k - num_tokens))[:2])
    listed = ", ".join(map(str, possible[:8])) + (f", ... {possible[-1]}" if len(possible) > 8 else "")
    raise UsageError(
        f"compressor 'pool:{num_tokens}': {grid[0]} x {grid[1]} vision tokens cannot be averaged to {num_tokens} in "
        f"nearly square cells; the nearest possible: {' and '.join(f'pool:{k}' for k in nearest)} (of {listed})"
    )
