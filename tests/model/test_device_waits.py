"""The loop of compressing keeps a GPU busy: the host waits for it only where a result is needed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.helpers.models import random_pixels, tiny_voco
from tests.helpers.pretend_gpu import PRETEND, Watched
from voco_video.compress import compress_batch
from voco_video.model.in_flight import fetched, one_late
from voco_video.model.stage_clock import StageSeconds
from voco_video.options.compression import CompressOptions, parse_compressor
from voco_video.training.batches import TrainingBatch, Visibility
from voco_video.training.loss import TrainableVoco
from voco_video.video.frames import FrameBatch

FRAMES = FrameBatch(random_pixels(3), np.arange(3.0))


def pretending(model):
    """The model on the pretended GPU, its own buffers included."""
    return copy.deepcopy(model).to(PRETEND)


def watched_pass(model, compressor, form):
    """A second pass: the first brings what stays on the device."""
    options = CompressOptions(compressor=compressor, form=form)
    for _ in range(2):
        with Watched() as seen:
            tokens = compress_batch(model, FRAMES, parse_compressor(compressor), options, StageSeconds())
    assert {t.device.type for n, t in tokens.tensors().items() if n != "positions"} == {PRETEND}
    return seen


@pytest.mark.parametrize(
    ("compressor", "form", "reads"),
    # With embeddings the library looks once whether the row is packed from several; no argument spares it that.
    [("voco", "kv", 0), ("voco", "embeds", 1), ("full", "kv", 0), ("pool:4", "kv", 0), ("full", "embeds", 0)],
)
def test_a_pass_never_waits_for_the_device(compressor, form, reads):
    seen = watched_pass(pretending(tiny_voco()), compressor, form)
    assert seen.reads == reads
    assert not seen.doubles
    assert seen.copies == []


def test_what_is_watched_for_is_seen():
    with Watched() as seen:
        numbers = torch.ones(3).to(PRETEND)
        float(numbers.sum())
        numbers.double()
    assert (seen.reads, len(seen.doubles) > 0, seen.copies) == (1, True, [(3,)])


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_nothing_of_a_question_mixes_places(form):
    """Prefix, question and next tokens, from tokens in main memory as a cache gives them."""
    model = tiny_voco()
    tokens = model.compress(model.vision_tokens(FRAMES.pixels), form=form)
    pretended = pretending(model)
    with Watched() as seen:
        logits, _ = pretended(torch.arange(8, 14, device=PRETEND)[None], prefix=pretended.prefix(tokens))
    assert logits.device.type == PRETEND
    assert not seen.doubles


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_training_step_never_waits_for_the_device(is_cached):
    """Two samples of several lengths, whose texts are padded in every layer."""
    model = tiny_voco()
    tokens = model.compress(model.vision_tokens(FRAMES.pixels))
    input_ids = torch.arange(8, 32).view(2, 12)
    batch = TrainingBatch(
        num_frames=(1, 2),
        input_ids=input_ids,
        labels=input_ids.masked_fill(torch.tensor([[False] * 12, [False] * 9 + [True] * 3]), -100),
        text_lengths=(12, 9),
        turn_ids=torch.zeros_like(input_ids),
        visibility=Visibility(4),
        pixels=None if is_cached else FRAMES.pixels,
        tokens=(tokens[:1], tokens[1:]) if is_cached else (),
    )
    trainable = TrainableVoco(pretending(model)).train()
    for _ in range(2):  # the first brings constants
        with Watched() as seen:
            output = trainable(batch)
            output["loss"].backward()
    assert output["loss"].device.type == PRETEND
    assert not seen.doubles
    assert seen.copies == []
    assert seen.reads == (2 if is_cached else 0)  # the rotary frequencies, by which each sample's keys are moved


# ---------------------------------------------------------------------- one pass late


def test_results_come_in_order_after_the_next_pass_began():
    began, events = [], []

    def passes():
        for number in range(4):
            began.append(number)
            yield number

    for number in one_late(passes()):
        events.append((number, list(began)))
    assert events == [(0, [0, 1]), (1, [0, 1, 2]), (2, [0, 1, 2, 3]), (3, [0, 1, 2, 3])]


def test_what_was_computed_before_an_error_is_kept():
    def passes():
        yield from "ab"
        raise OSError("the file ends here")

    taken = []
    with pytest.raises(OSError, match="ends here"):
        taken.extend(iter_into(taken, one_late(passes())))
    assert taken == ["a", "b"]


def iter_into(taken, items):
    for item in items:
        taken.append(item)
    return []


def test_a_processor_gets_its_tokens_at_once():
    began = []

    def passes():
        for number in range(2):
            began.append(number)
            yield number, number

    first = next(fetched(passes(), torch.device("cpu")))
    assert (first, began) == ((0, 0), [0])


def test_a_batch_in_pinned_memory_is_the_same_batch(monkeypatch):
    """Pinning takes a GPU; here the copy alone, of everything that crosses to one."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    model = tiny_voco()
    tokens = model.compress(model.vision_tokens(FRAMES.pixels))
    ids = torch.zeros(1, 4, dtype=torch.long)
    batch = TrainingBatch((3,), ids, ids, (4,), ids, Visibility(4), pixels=FRAMES.pixels, tokens=(tokens,))
    copied = batch.pin_memory()
    assert len(pinned) == 1 + len(tokens.tensors())
    assert np.array_equal(copied.pixels, batch.pixels)
    assert copied.pixels is not batch.pixels
    for name, tensor in tokens.tensors().items():
        assert torch.equal(copied.tokens[0].tensors()[name], tensor)
