"""Prefixes in which frames differ in their number of tokens and text stands between them; else see `VocoModel.prefix`.

    [text] frame 0   [text] frame 1   ...   [text] frame F-1   question

In form ``kv`` text between frames is read where it stands: it sees the frames and the text before it, as a question
would. In form ``embeds`` all is one causal sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from voco_video.errors import UsageError
from voco_video.model.backbone import CACHE_ARGUMENT
from voco_video.model.families import FrameTimes
from voco_video.model.inference import undisturbed
from voco_video.model.positions import places_among_text
from voco_video.model.tokens import Prefix, VocoTokens
from voco_video.model.trained_prefix import tokens_by_layer, trained_prefix, usual_times
from voco_video.model.voco import VocoModel

Texts = Mapping[int, Sequence[int]]
"""Token ids of the text before some of the frames, by frame."""


@undisturbed()
def assemble(
    model: VocoModel,
    tokens: VocoTokens,
    *,
    counts: Tensor,
    texts: Texts | None = None,
    times: FrameTimes | None = None,
    reads: bool = True,
) -> Prefix:
    """Assemble what the text attends to, for frames of which each is seen with some of its tokens.

    Args:
        tokens: VoCo tokens of F frames.
        counts: how many of its first tokens each frame is seen with, int64 ``[F]``, 1 to K.
        texts: token ids of the text before a frame; frames without any may be left out. As trained, these are all of
            `Backbone.lead_ids`.
        times: of the frames, for models that are told them; one frame a second where left out.
        reads: run the decoder over it; False leaves `Prefix.inputs` to another engine, in form ``embeds`` alone.

    Returns:
        A prefix whose ``frame_slots`` are ``[F, largest count]``, -1 where a frame is seen with fewer.

    Raises:
        UsageError: a frame has no so many tokens, or the first few mean nothing without the others.
    """
    texts = texts or {}
    for count in sorted(set(counts.tolist())):
        tokens.first(count)  # raises UsageError for a count that the tokens do not have
    if len(counts) != tokens.num_frames:
        raise UsageError(f"counts of {len(counts)} frames do not go with {tokens.num_frames} frames")
    if not len(counts) or not tokens.num_voco_tokens:
        return model.empty_prefix()
    if model.backbone.template.as_trained:
        times = times or usual_times(tokens)
        leads = [texts[f] for f in sorted(texts)] if texts else model.backbone.lead_ids(times)
        return trained_prefix(
            model.backbone, model.answering, tokens, counts=counts, times=times, leads=leads, reads=reads
        )
    if len(set(counts.tolist())) == 1 and not any(texts.values()):
        return model.prefix(tokens, num_voco_tokens=int(counts[0]), reads=reads)
    assert reads or tokens.form == "embeds"
    if tokens.form == "kv":
        return _from_kv(model, tokens, counts, texts)
    return _from_embeds(model, tokens, counts, texts, reads=reads)


def _from_embeds(model: VocoModel, tokens: VocoTokens, counts: Tensor, texts: Texts, *, reads: bool) -> Prefix:
    """Assemble one sequence of embeddings, which the model reads as it reads that of frames alone."""
    assert tokens.embeds is not None
    backbone = model.backbone
    pieces: list[Tensor] = []
    is_frame: list[bool] = []
    for f, count in enumerate(counts.tolist()):
        if texts.get(f):
            pieces.append(backbone.embed(texts[f]))
            is_frame.append(False)
        pieces.append(tokens.embeds[f, :count].to(backbone.device, backbone.dtype))
        is_frame.append(True)
    sequence = VocoTokens(
        "embeds", embeds=torch.cat(pieces)[:, None], can_truncate=False
    )  # every token as a frame of one
    prefix = model.prefix(sequence, reads=reads)
    seen = torch.cat([torch.full((len(p),), flag) for p, flag in zip(pieces, is_frame, strict=True)])
    return replace(prefix, frame_slots=_slots(prefix.frame_slots[:, 0][seen], counts))


def _from_kv(model: VocoModel, tokens: VocoTokens, counts: Tensor, texts: Texts) -> Prefix:
    """Move keys to their places, and compute those of the text between them."""
    assert tokens.positions is not None
    assert tokens.keys is not None
    assert tokens.values is not None
    backbone, num_frames = model.backbone, len(counts)
    lengths = torch.tensor([len(texts.get(f, ())) for f in range(num_frames)])
    places, text_starts, text_start = places_among_text(tokens.positions, counts, lengths)
    is_seen = torch.arange(tokens.num_voco_tokens) < counts[:, None]  # [F, K]
    keys, values = (tokens_by_layer(backbone, t, is_seen) for t in (tokens.keys, tokens.values))
    keys = backbone.moved_keys(keys, source=tokens.positions.cpu()[is_seen], target=places)
    cache, slots, first = DynamicCache(), [], 0
    runs = [f for f in range(num_frames) if lengths[f]]  # a run of frames goes up to the next text
    for start, stop in zip([0, *runs], [*runs, num_frames], strict=True):
        if lengths[start] and start in runs and start != stop:
            _read_text(model, cache, texts[start], int(text_starts[start]))
        last = first + int(counts[start:stop].sum())
        if first < last:
            before = cache.get_seq_length()
            for layer in range(len(keys)):
                cache.update(keys[layer, None, :, first:last], values[layer, None, :, first:last], layer)
            slots.append(torch.arange(before, before + last - first))
        first = last
    kept: list[Any] = list(cache.layers)
    layers = tuple((layer.keys.contiguous(), layer.values.contiguous()) for layer in kept)
    return Prefix(layers, text_start, _slots(torch.cat(slots), counts))


def _read_text(model: VocoModel, cache: DynamicCache, token_ids: Sequence[int], position: int) -> None:
    """Run text through the decoder after what is in the cache, which keeps its keys and values."""
    backbone = model.backbone
    position_ids = torch.arange(position, position + len(token_ids), device=backbone.device)[None]
    embeds = backbone.embed(token_ids)[None]
    with model.answering("kv"):
        backbone.decoder(inputs_embeds=embeds, position_ids=position_ids, use_cache=True, **{CACHE_ARGUMENT: cache})


def _slots(slots: Tensor, counts: Tensor) -> Tensor:
    """Arrange the slots of all tokens seen in a row a frame, ``[F, largest count]``; -1 where it has no more."""
    rows = torch.full((len(counts), int(counts.max())), -1, dtype=torch.long)
    rows[torch.arange(rows.shape[1]) < counts[:, None]] = slots.cpu()
    return rows
