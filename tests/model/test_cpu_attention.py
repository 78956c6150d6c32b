"""Blocked attention is attention: against SDPA in float32, alone and through whole models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.helpers.tiny_families import EACH_FAMILY, FAMILIES, tiny_family
from voco_video.checkpoint.loading import resolve_attention
from voco_video.model import cpu_attention
from voco_video.model.cpu_attention import BLOCKED
from voco_video.options.loading import LoadOptions


def tensors(*, heads: int = 6, kv_heads: int = 2, length: int = 70, dtype: torch.dtype = torch.bfloat16):
    """Queries, keys and values as projections leave them: ``[B, heads, L, head_dim]``, not contiguous."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, length, h, 16, generator=generator).to(dtype).transpose(1, 2)
        for h in (heads, kv_heads, kv_heads)
    ]


def exact(query, key, value, *, is_causal):
    """The library's own, in float32."""
    module = SimpleNamespace(is_causal=is_causal, num_key_value_groups=query.shape[1] // key.shape[1])
    halves = [t.float() for t in (query, key, value)]
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, *halves, None, scaling=0.3)[0]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize(("rows", "scores"), [(256, 2**19), (32, 2**12), (7, 1), (70, 2**14), (1, 2**19)])
def test_any_blocks_give_the_same(monkeypatch, is_causal, kv_heads, rows, scores):
    monkeypatch.setattr(cpu_attention, "ROWS_PER_BLOCK", rows)
    monkeypatch.setattr(cpu_attention, "SCORES_PER_BLOCK", scores)
    single = tensors(kv_heads=kv_heads, dtype=torch.float32)
    found = cpu_attention.attention(*single, scaling=0.3, is_causal=is_causal)
    torch.testing.assert_close(found, exact(*single, is_causal=is_causal), atol=1e-5, rtol=1e-5)
    half = tensors(kv_heads=kv_heads)
    found = cpu_attention.attention(*half, scaling=0.3, is_causal=is_causal)
    assert found.dtype == torch.bfloat16
    difference = found.float() - exact(*half, is_causal=is_causal)
    assert difference.norm() < 1e-2 * exact(*half, is_causal=is_causal).norm()


@pytest.mark.parametrize("case", ["float32", "mask", "cached keys", "one query", "gradient", "dropout"])
def test_what_it_is_not_made_for_goes_to_sdpa(monkeypatch, case):
    monkeypatch.setattr(cpu_attention, "attention", lambda *_, **__: pytest.fail("not SDPA"))
    query, key, value = tensors(dtype=torch.float32 if case == "float32" else torch.bfloat16)
    mask = torch.zeros(3, 1, 70, 70, dtype=query.dtype) if case == "mask" else None
    if case in ("cached keys", "one query"):
        query = query[:, :, -1 if case == "one query" else -5 :]
    if case == "one query":
        key, value = key[:, :, -1:], value[:, :, -1:]
    query.requires_grad_(case == "gradient")
    module = SimpleNamespace(is_causal=True, num_key_value_groups=3, training=False)
    options = {"scaling": 0.3, "dropout": 0.5 if case == "dropout" else 0.0}
    torch.manual_seed(1)
    found = ALL_ATTENTION_FUNCTIONS[BLOCKED](module, query, key, value, mask, **options)[0]
    torch.manual_seed(1)
    assert torch.equal(found, ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **options)[0])


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_every_family_compresses_as_well_with_it(monkeypatch, family):
    model, fit = tiny_family(family), FAMILIES[family].fit
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, fit.height, fit.width, 3), generator=generator, dtype=torch.uint8).numpy()

    def values(dtype: torch.dtype, attention: str) -> torch.Tensor:
        model.to(dtype).backbone.hf_model.set_attn_implementation(attention)
        with torch.inference_mode():
            return model.compress(model.vision_tokens(pixels)).values.float()

    lengths, plain = set(), cpu_attention.attention
    monkeypatch.setattr(
        cpu_attention, "attention", lambda q, *rest, **how: (lengths.add(q.shape[2]), plain(q, *rest, **how))[1]
    )
    single = values(torch.float32, "sdpa")
    errors = {name: (values(torch.bfloat16, name) - single).norm() / single.norm() for name in ("sdpa", BLOCKED)}
    assert len(lengths) >= 2, "vision tower and decoder"
    assert errors[BLOCKED] < max(0.02, 1.5 * errors["sdpa"])


def test_chosen_in_bfloat16_on_processors_where_it_is_faster(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(cpu_attention, "has_bfloat16", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve_attention(LoadOptions(device="cpu", dtype="bfloat16")) == BLOCKED
    assert resolve_attention(LoadOptions(device="cpu", dtype="float32")) == "sdpa"
    assert resolve_attention(LoadOptions(device="cpu", dtype="bfloat16", attn_implementation="eager")) == "eager"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert resolve_attention(LoadOptions(device="cpu", dtype="bfloat16")) == "sdpa"
    assert resolve_attention(LoadOptions(device="cpu", dtype="bfloat16", attn_implementation=BLOCKED)) == BLOCKED
    for limit, chosen in {
        "AVX512_CORE_BF16": BLOCKED,
        "AVX2": BLOCKED,
        "AVX512_CORE_AMX": "sdpa",
        "ALL": "sdpa",
    }.items():
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert resolve_attention(LoadOptions(device="cpu", dtype="bfloat16")) == chosen
    monkeypatch.setattr(cpu_attention, "has_bfloat16", lambda: False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert resolve_attention(LoadOptions(device="cpu", dtype="bfloat16")) == "sdpa"
