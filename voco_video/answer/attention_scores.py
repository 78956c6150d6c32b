"""Training-free scores of frames, for models without a learned scorer.

A frame's score is the attention of the question's last token to the frame as if the frame stood alone before the
question: its logarithm, averaged over heads and over all layers but the first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from voco_video.answer.frame_scorer import question_ids
from voco_video.model.backbone import CACHE_ARGUMENT
from voco_video.model.inference import undisturbed
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.compression import Form

_RECORDING = "voco_recorded_queries"


def _recorded(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
    """Run SDPA, and append the last token's scaled queries to the list that the caller passed."""
    recorded = kwargs.pop("recorded", None)
    if recorded is not None:
        recorded.append(query[0, :, -1] * kwargs["scaling"])
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **kwargs)


AttentionInterface.register(_RECORDING, _recorded)
AttentionMaskInterface.register(_RECORDING, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@undisturbed()
def last_token_queries(model: VocoModel, question: str, *, position: int, form: Form) -> Tensor:
    """Compute the queries of a question's last token, rotated and scaled, ``[layers, heads, head_dim]``.

    Args:
        position: of the question's first token.
        form: of the frames that are scored.
    """
    prompt = question_ids(model, question)
    recorded: list[Tensor] = []
    position_ids = torch.arange(position, position + len(prompt), device=model.backbone.device)[None]
    embeds = model.backbone.embed(prompt)[None]
    decoder = model.backbone.decoder_by(_RECORDING)
    with model.answering(form):
        decoder(inputs_embeds=embeds, position_ids=position_ids, use_cache=False, recorded=recorded)
    return torch.stack(recorded).float()


def attention_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Compute the logarithm of attention, up to a constant, from one token to each frame, ``[F]``.

    The mean is over all heads and all layers but the first, whose keys say little about frames.

    Args:
        queries: ``[layers, heads, head_dim]``, scaled.
        keys: ``[F, layers, kv_heads, K, head_dim]``.
    """
    groups = queries.shape[1] // keys.shape[2]
    grouped = queries.unflatten(1, (keys.shape[2], groups))  # [layers, kv_heads, groups, head_dim]
    products = torch.einsum("lhgd,flhkd->flhgk", grouped, keys.float()).logsumexp(-1).flatten(2)  # [F, layers, heads]
    return products[:, min(1, products.shape[1] - 1) :].mean((1, 2))


@undisturbed()
def frame_keys(model: VocoModel, tokens: VocoTokens) -> tuple[Tensor, int]:
    """Return the keys of frames, each alone, ``[F, layers, kv_heads, K, head_dim]``, and the text's first position."""
    if tokens.form == "kv":
        assert tokens.keys is not None
        assert tokens.positions is not None
        return tokens.keys.to(model.backbone.device), int(tokens.positions.max()) + 1
    assert tokens.embeds is not None
    backbone = model.backbone
    before = backbone.embed(backbone.template.context_ids or backbone.template.frame_before_ids)
    start = len(before)
    embeds = tokens.embeds.to(before.device, before.dtype)  # [F, K, W]
    opening = backbone.widened(before, embeds.shape[2]).expand(len(embeds), -1, -1)
    inputs = backbone.decoder_inputs(torch.cat([opening, embeds], dim=1))  # [F, start + K, W]
    end = start + embeds.shape[1]
    if tokens.positions is not None:
        within = tokens.positions.to(before.device).long()  # [F, K, C]
        plain = torch.arange(start, device=before.device)[None, :, None].expand(len(within), -1, within.shape[2])
        inputs["position_ids"] = torch.cat([plain, start + within], dim=1).permute(2, 0, 1)  # [C, F, start + K]
        end = start + int(within.max()) + 1
    with model.answering("embeds"):
        cache = backbone.decoder(**inputs, use_cache=True)[CACHE_ARGUMENT]
    keys = torch.stack([layer.keys[:, :, start:] for layer in cache.layers], dim=1)
    return keys, end
