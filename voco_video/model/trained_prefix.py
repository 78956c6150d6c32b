"""Prefixes as a model was trained: what opens the conversation, then frames with the processor's words between them.

    opening   [words] frame 0   [words] frame 1   ...   [words] frame F-1   question

In form ``embeds`` all is one causal sequence, as the library itself would compute it. In form ``kv`` frames were read
one by one; their keys are moved to the same places, and the words are read there: they see the frames before them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from voco_video.model.backbone import CACHE_ARGUMENT, Backbone
from voco_video.model.families import FrameTimes
from voco_video.model.inference import undisturbed
from voco_video.model.kv_layers import TailLayer, library_cache
from voco_video.model.positions import TrainedPlaces, trained_places
from voco_video.model.tokens import Prefix, VocoTokens
from voco_video.options.compression import Form

Answering = Callable[[Form], AbstractContextManager[None]]
"""`VocoModel.answering`."""

_WORDS_PER_PASS = 512  # in form kv; the mask of a pass has a column for every token before


@undisturbed()
def trained_prefix(
    backbone: Backbone,
    answering: Answering,
    tokens: VocoTokens,
    *,
    counts: Tensor,
    times: FrameTimes,
    leads: Sequence[Sequence[int]],
    reads: bool = True,
) -> Prefix:
    """Assemble what the text attends to.

    Args:
        answering: `VocoModel.answering`.
        tokens: of F frames, F at least 1.
        counts: how many of its first tokens each frame is seen with, int64 ``[F]``, 1 to K.
        times: of the frames.
        leads: token ids of the text before each frame, and behind the last, as `Backbone.lead_ids` gives them.
        reads: run the decoder over it; False leaves `Prefix.inputs` to another engine, in form ``embeds`` alone.
    """
    leads, behind = leads[: tokens.num_frames], [i for ids in leads[tokens.num_frames :] for i in ids]
    within = _within(tokens)  # [F, K, C]
    is_seen = torch.arange(tokens.num_voco_tokens) < counts[:, None]  # [F, K]
    spans = within.amax(2).masked_fill(~is_seen, -1).amax(1) + 1  # [F]
    as_trained = backbone.template.as_trained
    assert as_trained is not None
    is_vision = not tokens.can_truncate  # VoCo tokens stand one behind the other, as text does
    offsets = backbone.family.time_positions(times.starts, backbone.hf_model.config) if is_vision else None
    places = trained_places(
        [len(ids) for ids in leads],
        spans.tolist(),
        times=offsets.tolist() if offsets is not None and backbone.family.shares_place else None,
        skips_times=as_trained.variant == "library",
    )
    at = within + places.frames[:, None, None]
    at[..., 0] += places.times[:, None]
    assert reads or tokens.form == "embeds"
    assemble = partial(_from_embeds, reads=reads) if tokens.form == "embeds" else _from_kv
    learned = _learned(backbone)
    last_words = torch.cat([backbone.embed(behind), learned])  # [A, D]
    prefix = assemble(backbone, answering, tokens, is_seen, places, at, leads, last_words)
    ids = _prompt_ids(backbone, leads, counts, is_vision=is_vision)
    placeholders = [backbone.family.vision_token_id(backbone.hf_model.config)] * len(learned)
    return replace(prefix, prompt_ids=(*ids, *behind, *placeholders))


def _prompt_ids(
    backbone: Backbone, leads: Sequence[Sequence[int]], counts: Tensor, *, is_vision: bool
) -> Iterator[int]:
    """Yield the token ids of words and frames, as the library's processor has them: one placeholder a vision token."""
    template, placeholder = backbone.template, backbone.family.vision_token_id(backbone.hf_model.config)
    before = template.frame_before_ids[len(template.context_ids) :] if is_vision else ()
    after = template.frame_after_ids if is_vision else ()
    for lead, count in zip(leads, counts.tolist(), strict=True):
        yield from (*lead, *before, *[placeholder] * (count - len(before) - len(after)), *after)


def usual_times(tokens: VocoTokens) -> FrameTimes:
    """Return the times that frames have where nobody says: their own, else one frame a second."""
    if tokens.seconds is not None:
        return FrameTimes.of(tokens.seconds.numpy())
    return FrameTimes.of(np.arange(tokens.num_frames, dtype=np.float64))


def _within(tokens: VocoTokens) -> Tensor:
    """Return the positions of a frame's tokens from its first one on, int64 ``[F, K, C]``."""
    if tokens.positions is None:
        return torch.arange(tokens.num_voco_tokens)[None, :, None].repeat(tokens.num_frames, 1, 1)
    positions = tokens.positions.cpu().long()
    positions = positions[..., None] if positions.ndim == 2 else positions
    return positions - positions.amin((1, 2), keepdim=True)


def _learned(backbone: Backbone) -> Tensor:
    """Return the learned embeddings behind the last frame, ``[A, D]``; A is 0 for most families."""
    learned = backbone.family.after_embeds(backbone.hf_model)
    return backbone.embed([])[:0] if learned is None else learned.to(backbone.device, backbone.dtype)


def _from_embeds(
    backbone: Backbone,
    answering: Answering,
    tokens: VocoTokens,
    is_seen: Tensor,
    places: TrainedPlaces,
    at: Tensor,
    leads: Sequence[Sequence[int]],
    last_words: Tensor,
    *,
    reads: bool,
) -> Prefix:
    assert tokens.embeds is not None
    frames = tokens.embeds.to(backbone.device, backbone.dtype)  # [F, K, W]
    width, num_axes = frames.shape[2], at.shape[2]
    words = backbone.widened(backbone.embed([i for ids in leads for i in ids]), width).split([len(i) for i in leads])
    vision = torch.full(is_seen.shape, -1)  # [F, K], the frame of each vision token
    vision[:, backbone.template.vision_slice(vision.shape[1])] = torch.arange(len(vision))[:, None]
    pieces, positions, slots, frame_ids, length = [], [], [], [], 0
    for f, lead in enumerate(words):
        seen = is_seen[f]
        pieces += [lead, frames[f][seen.to(frames.device)]]
        in_lead = places.leads[f] + torch.arange(len(lead))
        positions += [in_lead[:, None].expand(-1, num_axes), at[f][seen]]
        frame_ids += [torch.full((len(lead),), -1), vision[f][seen]]
        num_seen, first = int(seen.sum()), length + len(lead)
        slots.append(torch.full(seen.shape, -1).masked_scatter(seen, torch.arange(first, first + num_seen)))
        length = first + num_seen
    pieces.append(backbone.widened(last_words, width))
    positions.append((places.text_start + torch.arange(len(last_words)))[:, None].expand(-1, num_axes))
    frame_ids.append(torch.full((len(last_words),), -1))
    sequence, position_ids = torch.cat(pieces)[None], torch.cat(positions).T  # [1, S, W], [C, S]
    inputs = backbone.decoder_inputs(sequence, None if tokens.can_truncate else torch.cat(frame_ids)[None])
    if num_axes > 1:
        inputs["position_ids"] = position_ids[:, None].to(sequence.device)  # [C, 1, S]
    return read_row(backbone, answering, inputs, places.text_start + len(last_words), torch.stack(slots), reads=reads)


def read_row(
    backbone: Backbone,
    answering: Answering,
    inputs: dict[str, Any],
    text_start: int,
    frame_slots: Tensor,
    *,
    reads: bool = True,
) -> Prefix:
    """Run one row of input embeddings through the decoder, as it answers, and keep what it keeps of them.

    Args:
        inputs: the decoder's, from `Backbone.decoder_inputs`.
        text_start, frame_slots: see `Prefix`.
        reads: False keeps the inputs alone.
    """
    if not reads:
        return Prefix((), text_start, frame_slots, "embeds", inputs=inputs)
    length, num_layers = inputs["inputs_embeds"].shape[1], backbone.text_config.num_hidden_layers
    tails = [TailLayer(length) for _ in range(num_layers)]
    state = library_cache(backbone.text_config)
    with answering("embeds"):
        cache = Cache(layers=list(tails)) if state is None else state
        backbone.decoder(**inputs, use_cache=True, **{CACHE_ARGUMENT: cache})
    layers = tuple((tail.keys, tail.values) for tail in tails) if state is None else ()
    return Prefix(layers, text_start, frame_slots, "embeds", state=state)


def _from_kv(
    backbone: Backbone,
    answering: Answering,
    tokens: VocoTokens,
    is_seen: Tensor,
    places: TrainedPlaces,
    at: Tensor,
    leads: Sequence[Sequence[int]],
    last_words: Tensor,
) -> Prefix:
    keys, values = placed_frames(backbone, tokens, is_seen, at, places.times)
    cache = DynamicCache()
    for layer, device in enumerate(backbone.layer_devices):
        cache.update(keys[layer, None].to(device), values[layer, None].to(device), layer)
    counts = is_seen.sum(1)
    slots = torch.full(is_seen.shape, -1).masked_scatter(is_seen, torch.arange(int(counts.sum())))
    _read_words(backbone, answering, cache, leads, last_words, counts, places)
    kept: list[Any] = list(cache.layers)
    layers = tuple((layer.keys.contiguous(), layer.values.contiguous()) for layer in kept)
    return Prefix(layers, places.text_start + len(last_words), slots)


def placed_frames(
    backbone: Backbone, tokens: VocoTokens, is_seen: Tensor, at: Tensor, times: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Move the keys of frames in form kv to their places; return keys and values of every layer.

    Args:
        is_seen: which tokens to keep, bool ``[F, K]``.
        at: their places, int64 ``[F, K, 1]``.
        times: how much further each frame stands along the axis of time, ``[F]``; this is part of ``at``.

    Returns:
        ``[layers, kv_heads, tokens seen, head_dim]`` each.
    """
    assert tokens.positions is not None
    assert tokens.keys is not None
    assert tokens.values is not None
    axes = backbone.family.rotary_axes(backbone.hf_model.config)
    source, target = tokens.positions.cpu().long()[is_seen], at[is_seen][:, 0]
    if axes is not None:  # a frame moves as a whole, and along the axis of time a little further
        elsewhere = target if times is None else target - times[:, None].expand_as(is_seen)[is_seen]
        source, target = source.expand(3, -1), torch.stack([target, elsewhere, elsewhere])
    keys, values = (tokens_by_layer(backbone, tensor, is_seen) for tensor in (tokens.keys, tokens.values))
    return backbone.moved_keys(keys, source=source, target=target, axes=axes), values


def _read_words(
    backbone: Backbone,
    answering: Answering,
    cache: DynamicCache,
    leads: Sequence[Sequence[int]],
    last_words: Tensor,
    counts: Tensor,
    places: TrainedPlaces,
) -> None:
    """Run all words through the decoder, each with the frames and the words before it.

    The cache holds the frames, and then holds the words behind them: what stands where is said by positions alone.
    """
    embeds = torch.cat([backbone.embed([i for ids in leads for i in ids]), last_words])  # [T, D]
    lengths = torch.tensor([len(ids) for ids in leads])
    starts = torch.cat([places.leads, torch.tensor([places.text_start])])
    lengths = torch.cat([lengths, torch.tensor([len(last_words)])])
    owners = torch.arange(len(starts)).repeat_interleave(lengths)  # [T], the frame that a word stands before
    first = lengths.cumsum(0) - lengths
    positions = starts[owners] + torch.arange(len(owners)) - first[owners]
    frame_of_slot = torch.arange(len(counts)).repeat_interleave(counts)  # [S]
    takes_masks = backbone.text_config._attn_implementation in ("sdpa", "eager")
    decoder = backbone.decoder if takes_masks else backbone.decoder_by("sdpa")
    for start in range(0, len(owners), _WORDS_PER_PASS):
        rows = slice(start, min(start + _WORDS_PER_PASS, len(owners)))
        words = torch.arange(rows.stop)
        is_visible = torch.cat(
            [frame_of_slot < owners[rows, None], words <= torch.arange(rows.start, rows.stop)[:, None]], dim=1
        )
        mask = torch.zeros(is_visible.shape, dtype=torch.float32).masked_fill(~is_visible, float("-inf"))[None, None]
        with answering("kv"):
            decoder(
                inputs_embeds=embeds[None, rows],
                attention_mask=mask.to(backbone.device, backbone.dtype),
                position_ids=positions[None, rows].to(backbone.device),
                use_cache=True,
                **{CACHE_ARGUMENT: cache},
            )


def tokens_by_layer(backbone: Backbone, tensor: Tensor, is_seen: Tensor) -> Tensor:
    """Pick tokens, ``[F, layers, kv_heads, K, head_dim] -> [layers, kv_heads, tokens seen, head_dim]``."""
    seen = tensor.permute(0, 3, 1, 2, 4)[is_seen.to(tensor.device)]  # [tokens seen, layers, kv_heads, head_dim]
    return seen.to(backbone.device, backbone.dtype).permute(1, 2, 0, 3).contiguous()
