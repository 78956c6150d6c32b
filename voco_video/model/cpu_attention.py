"""Attention of 16-bit frames on a processor: plain products, in blocks whose scores stay in its cache.

On processors with AVX-512 and no AMX, SDPA's own kernel for bfloat16 takes two to three times as long
(`benchmarks.speed.attention`), a quarter of the time of compressing whole frames. With AMX it is the other way round
(1.6 to 2.9 times as fast as these blocks), so `is_faster_than_sdpa` asks the machine. Registered through the library's
public interface as `BLOCKED`; whatever it is not made for (a mask, cached keys, gradients, other types and devices)
goes to SDPA.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

BLOCKED = "blocked"
ROWS_PER_BLOCK = 256  # of queries; causal blocks leave out the keys behind them
SCORES_PER_BLOCK = 2**19  # 1 MiB in 16 bit


def has_bfloat16() -> bool:
    """Tell whether this processor computes in bfloat16, rather than in another type by way of conversions."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_amx() -> bool:
    """Tell whether products of matrices run on AMX tiles here.

    ``ONEDNN_MAX_CPU_ISA`` can switch them off; only its values that name AMX, and its default, leave them on.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    is_on = limit in ("", "ALL", "DEFAULT") or "AMX" in limit
    return is_on and bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def is_faster_than_sdpa() -> bool:
    """Tell whether `attention` is the faster way in bfloat16 on this processor; always the same on one machine."""
    return has_bfloat16() and not has_amx()


def attention(query: Tensor, key: Tensor, value: Tensor, *, scaling: float, is_causal: bool) -> Tensor:
    """Compute the softmax of the scaled products of queries and keys, times values.

    Args:
        query: ``[B, heads, L, head_dim]``; key and value ``[B, kv_heads, L, head_dim]``.
        is_causal: whether each query sees only keys up to its own place.

    Returns:
        ``[B, L, heads, head_dim]``.
    """
    length, groups = query.shape[2], query.shape[1] // key.shape[1]
    queries = (query * scaling).unflatten(1, (-1, groups)).flatten(0, 1)  # [B * kv_heads, groups, L, head_dim]
    keys, values = key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1)
    later = query.new_full((length, length), float("-inf")).triu_(1) if is_causal else None
    result = query.new_empty(queries.shape)
    heads_per_block = max(1, SCORES_PER_BLOCK // (groups * min(ROWS_PER_BLOCK, length) * length))
    for first in range(0, len(queries), heads_per_block):
        heads = slice(first, first + heads_per_block)
        for start in range(0, length, ROWS_PER_BLOCK):
            rows = slice(start, min(start + ROWS_PER_BLOCK, length))
            seen = rows.stop if later is not None else length
            block = queries[heads, :, rows]
            scores = torch.bmm(block.flatten(1, 2), keys[heads, :, :seen]).view(*block.shape[:3], seen)
            if later is not None:
                scores += later[rows, :seen]
            weights = scores.softmax(-1).flatten(1, 2)
            result[heads, :, rows] = torch.bmm(weights, values[heads, :seen]).view_as(block)
    return result.view_as(query).transpose(1, 2)


def _blocked(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Run `attention` as the library calls it, where it supports the arguments; SDPA elsewhere."""
    is_made_for = query.device.type == "cpu" and query.dtype == torch.bfloat16 and not dropout
    needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    length = query.shape[2]
    if not is_made_for or needs_gradient or attention_mask is not None or key.shape[2] != length or length == 1:
        options = {"scaling": scaling, "dropout": dropout, "is_causal": is_causal, **kwargs}
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attention(query, key, value, scaling=scaling, is_causal=causal), None


AttentionInterface.register(BLOCKED, _blocked)
AttentionMaskInterface.register(BLOCKED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
