"""The layers against the library's own, which copies all it holds with every token."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from tests.helpers.models import random_pixels, tiny_voco
from voco_video.answer.generate import generate
from voco_video.model import kv_layers
from voco_video.model.kv_layers import GrowingLayer
from voco_video.options.answering import AnswerOptions


def random_states(batch_size: int, length: int):
    return torch.randn(batch_size, 2, length, 8), torch.randn(batch_size, 2, length, 8)


def library_layer(keys, values) -> DynamicLayer:
    layer = DynamicLayer()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer


def assert_same(left, right):
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_growing_is_appending_and_leaves_the_prefix_alone(monkeypatch, batch_size):
    monkeypatch.setattr(kv_layers, "ROOM_TOKENS", 4)  # so that the room is used up twice
    torch.manual_seed(0)
    shared = random_states(1, 5)
    before = [t.clone() for t in shared]
    prefix = [t.expand(batch_size, -1, -1, -1) for t in shared]
    fast, slow = GrowingLayer(*prefix), library_layer(*prefix)
    assert fast.get_seq_length() == 5
    for length in (7, *[1] * 10):
        new = random_states(batch_size, length)
        assert_same(fast.update(*new), slow.update(*new))
        assert fast.get_seq_length() == slow.get_seq_length()
    assert_same(shared, before)


def test_a_step_writes_where_the_last_one_ended():
    layer = GrowingLayer(*random_states(1, 5))
    first = layer.update(*random_states(1, 3))[0]
    assert layer.update(*random_states(1, 1))[0].data_ptr() == first.data_ptr()


@pytest.mark.parametrize("change", ["crop", "repeat", "select"])
def test_what_the_library_does_to_a_cache_is_gone_on_from(change):
    prefix, text, new = random_states(2, 5), random_states(2, 3), random_states(2, 1)
    layers = GrowingLayer(*prefix), library_layer(*prefix)
    for layer in layers:
        layer.update(*text)
        if change == "crop":
            layer.crop(-2)
        elif change == "repeat":
            layer.batch_repeat_interleave(2)
        else:
            layer.batch_select_indices(torch.tensor([1, 0]))
    added = [t.repeat_interleave(2, dim=0) for t in new] if change == "repeat" else new
    assert_same(layers[0].update(*added), layers[1].update(*added))


def test_answers_are_those_from_the_library_s_layers(monkeypatch):
    model = tiny_voco()
    with torch.inference_mode():
        prefix = model.prefix(model.compress(model.vision_tokens(random_pixels(6))))

    def library_cache(self, batch_size=1):
        cache = DynamicCache()
        for keys, values in self.layers:
            cache.layers.append(library_layer(*(t.expand(batch_size, -1, -1, -1) for t in (keys, values))))
        return cache

    prompts, options = [[5, 11, 42], [7, 60, 33, 18]], AnswerOptions(80, stop_at_end=False)
    fast = generate(model, prefix, prompts, options=options)
    monkeypatch.setattr(type(prefix), "to_cache", library_cache)
    slow = generate(model, prefix, prompts, options=options)
    assert [ids for ids, _ in fast] == [ids for ids, _ in slow]
    assert [p for _, p in fast] == pytest.approx([p for _, p in slow], abs=1e-6)
