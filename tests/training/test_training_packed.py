"""The packed training pass against the two-pass path and the dense-mask oracle: logits, loss and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.helpers.models import one_masked_pass, random_pixels, tiny_voco
from voco_video.model.compressors import whole_frames
from voco_video.model.tokens import VocoTokens
from voco_video.training.batches import TrainingBatch, Visibility
from voco_video.training.loss import TrainableVoco
from voco_video.training.packed_attention import PackedLayout

TEXT_LENGTH = 9


def make_batch(num_frames, visibility, *, seed=0, text_length=TEXT_LENGTH) -> TrainingBatch:
    """Random texts of different lengths, labels on their later halves."""
    generator = torch.Generator().manual_seed(seed)
    size = (len(num_frames), text_length)
    input_ids = torch.randint(3, 96, size, generator=generator)
    turn_ids = torch.full(size, -1)
    for row in range(len(num_frames)):
        turn_ids[row, 4 : text_length - row] = 0  # later rows are shorter, the rest is padding
    return TrainingBatch(
        num_frames=tuple(num_frames),
        input_ids=input_ids,
        labels=torch.where(turn_ids >= 0, input_ids, -100),
        text_lengths=tuple(text_length - row for row in range(len(num_frames))),
        turn_ids=turn_ids,
        visibility=visibility,
        pixels=random_pixels(max(1, sum(num_frames))),
    )


def two_pass_loss(model, batch, vision_tokens, *, form="kv", num_voco_tokens):
    """The slow, obvious way: the one-masked-pass oracle's arithmetic per sample, with gradients."""
    losses, first = [], 0
    for row, count in enumerate(batch.num_frames):
        logits = oracle_logits(model, vision_tokens[first : first + count], batch.input_ids[row], num_voco_tokens, form)
        labels = batch.labels[row, 1:]
        losses.append(nn.functional.cross_entropy(logits[:-1], labels, ignore_index=-100, reduction="sum"))
        first += count
    return sum(losses) / (batch.labels[:, 1:] != -100).sum()


def oracle_logits(model, vision_tokens, text_ids, num_voco_tokens, form="kv"):
    if form == "embeds" and num_voco_tokens is not None:
        hidden = model.backbone.decoder(
            inputs_embeds=model.frame_sequence(vision_tokens, num_voco_tokens), use_cache=False
        ).last_hidden_state[:, -num_voco_tokens:]
        row = torch.cat([model.backbone.embed([1]), hidden.flatten(0, 1), model.backbone.embed(text_ids)])[None]
        out = model.backbone.decoder(inputs_embeds=row, use_cache=False).last_hidden_state
        return model.backbone.logits(out)[0, -len(text_ids) :]
    if num_voco_tokens is not None:
        return one_masked_pass.__wrapped__(model, vision_tokens, text_ids, num_voco_tokens)
    return full_visibility_logits(model, vision_tokens, text_ids)


def full_visibility_logits(model, vision_tokens, text_ids):
    """Every frame in its own block, text over all of all frames, written out with a dense mask."""
    frames = model.frame_sequence(vision_tokens, 1)[:, :-1]  # [F, P, D]
    num_frames, length, _ = frames.shape
    start, total = num_frames * length, num_frames * length + len(text_ids)
    mask = torch.zeros(total, total, dtype=torch.bool)
    for f in range(num_frames):
        block = slice(f * length, (f + 1) * length)
        mask[block, block] = torch.ones(length, length, dtype=torch.bool).tril()
    mask[start:] = torch.ones(total, total, dtype=torch.bool).tril()[start:]
    hidden = model.backbone.decoder(
        inputs_embeds=torch.cat([frames.flatten(0, 1), model.backbone.embed(text_ids)])[None],
        attention_mask=mask[None, None],
        position_ids=torch.arange(total)[None],
        use_cache=False,
    ).last_hidden_state
    return model.backbone.logits(hidden)[0, start:]


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


CASES = [
    pytest.param([3, 3], 2, "kv", id="kv"),
    pytest.param([3, 1, 2], 4, "kv", id="kv-ragged"),
    pytest.param([2, 0], 1, "kv", id="kv-text-alone"),
    pytest.param([2, 1], None, "kv", id="full"),
    pytest.param([3, 1, 2], 2, "embeds", id="embeds-ragged"),
]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient-checkpointing"])
@pytest.mark.parametrize(("num_frames", "k", "form"), CASES)
def test_packed_pass_equals_the_dense_mask_in_loss_and_gradients(num_frames, k, form, checkpointing):
    model = tiny_voco()
    batch = make_batch(num_frames, Visibility(k, form))
    oracle = two_pass_loss_with_text_alone(model, batch, form, k)
    oracle.backward()
    expected = gradients(model)
    model.zero_grad()

    trainable = TrainableVoco(model).train()
    if checkpointing:
        model.backbone.decoder.gradient_checkpointing_enable({"use_reentrant": False})
    out = trainable(batch)
    out["loss"].backward()
    got = gradients(model)
    print(f"loss difference {float((out['loss'] - oracle).detach().abs()):.1e}")
    assert float(out["loss"].detach()) == pytest.approx(float(oracle.detach()), abs=1e-5)
    for name, gradient in expected.items():
        scale = gradient.abs().max().clamp_min(1e-3)  # some gradients are zero but for rounding
        assert float((got[name] - gradient).abs().max() / scale) < 1e-4, name


def two_pass_loss_with_text_alone(model, batch, form, k):
    vision_tokens = model.vision_tokens(batch.pixels)
    if 0 not in batch.num_frames:
        return two_pass_loss(model, batch, vision_tokens, form=form, num_voco_tokens=k)
    total, first = 0.0, 0
    for row, count in enumerate(batch.num_frames):
        if count:
            logits = oracle_logits(model, vision_tokens[first : first + count], batch.input_ids[row], k, form)
        else:
            logits = model.backbone.hf_model(input_ids=batch.input_ids[row : row + 1]).logits[0]
        total = total + nn.functional.cross_entropy(
            logits[:-1], batch.labels[row, 1:], ignore_index=-100, reduction="sum"
        )
        first += count
    return total / (batch.labels[:, 1:] != -100).sum()


@pytest.mark.parametrize("form", ["kv", "embeds"])
@pytest.mark.parametrize("k", [1, 3, 4])
def test_packed_pass_equals_compress_prefix_forward(form, k):
    model = tiny_voco()
    batch = make_batch([3, 1, 2], Visibility(k, form))
    vision_tokens = model.vision_tokens(batch.pixels).detach()
    answers = TrainableVoco(model).answer_logits(batch, vision_tokens)
    first = 0
    for row, count in enumerate(batch.num_frames):
        tokens = model.compress(vision_tokens[first : first + count], num_voco_tokens=k, form=form)
        logits, _ = model(batch.input_ids[row : row + 1], prefix=model.prefix(tokens))
        wanted = batch.labels[row, 1:] != -100
        error = (answers.logits[answers.rows == row] - logits[0, :-1][wanted]).abs().max()
        assert error < 1e-4
        first += count


@pytest.mark.parametrize("visibility", [Visibility(2), Visibility(2, "embeds"), Visibility(None)])
def test_cached_frames_give_the_same_logits_as_pixels(visibility):
    model = tiny_voco()
    batch = make_batch([3, 1, 2], visibility)
    vision_tokens = model.vision_tokens(batch.pixels).detach()
    trainable = TrainableVoco(model)
    expected = trainable.answer_logits(batch, vision_tokens).logits
    if visibility.token_kind == "full":
        whole = whole_frames(model, vision_tokens)
    else:
        whole = visibility.cut(model.compress(vision_tokens, form=visibility.form))
    cached = TrainingBatch(
        num_frames=batch.num_frames,
        input_ids=batch.input_ids,
        labels=batch.labels,
        text_lengths=batch.text_lengths,
        turn_ids=batch.turn_ids,
        visibility=batch.visibility,
        tokens=(whole[0:3], whole[3:4], whole[4:6]),
    )
    assert isinstance(cached.tokens[0], VocoTokens)
    logits = trainable.answer_logits(cached, None).logits
    assert (logits - expected).abs().max() < 1e-4
    logits.sum().backward()  # prefixes come out of inference mode; the text's weights must still get gradients
    assert model.backbone.hf_model.get_output_embeddings().weight.grad.abs().sum() > 0


def test_gradients_reach_the_compressor_and_its_embeddings():
    model = tiny_voco()
    out = TrainableVoco(model)(make_batch([2, 2], Visibility(2)))
    out["loss"].backward()
    assert model.voco_embeds.grad[:2].abs().min(dim=-1).values.max() > 0
    assert model.voco_embeds.grad[2:].abs().max() == 0
    tower = model.backbone.hf_model.model.vision_tower
    assert max(float(p.grad.abs().max()) for p in tower.parameters() if p.grad is not None) > 0


def test_full_visibility_gives_every_parameter_a_gradient():
    """Reducers of several processes wait for the gradient of every parameter that trains."""
    model = tiny_voco()
    TrainableVoco(model)(make_batch([1, 0], Visibility(None)))["loss"].backward()
    assert model.voco_embeds.grad is not None
    assert model.voco_embeds.grad.abs().max() == 0


def test_distillation_is_zero_against_itself_and_positive_otherwise():
    model = tiny_voco()
    batch = make_batch([2, 1], Visibility(2))
    plain, distilled = (float(TrainableVoco(model, distillation_weight=w)(batch)["loss"]) for w in (0.0, 1.0))
    vision_tokens = model.vision_tokens(batch.pixels).detach()
    trainable = TrainableVoco(model)
    student = trainable.answer_logits(batch, vision_tokens).logits.log_softmax(-1)
    teacher = trainable._packed(batch, vision_tokens, num_voco_tokens=None).logits.log_softmax(-1)
    divergence = (teacher.exp() * (teacher - student)).sum() / len(student)
    assert distilled - plain == pytest.approx(float(divergence), rel=1e-3)
    assert divergence > 0


def test_layout_written_out():
    layout = PackedLayout(num_frames=(2, 1), frame_length=5, kept=2, text_lengths=(2, 1))
    assert layout.position_ids()[0].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 7, 8, 5]
    assert layout.slot_index().tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    assert layout.text_index().tolist() == [0, 1, 2, 2]
    assert layout.text_places().tolist() == [0, 1, 2]
    assert layout.text_mask()[1, 0].tolist() == [
        [True, True, False, False, True, False],
        [True, True, False, False, True, True],
    ]


def test_cost_grows_linearly_with_frames():
    """No tensor of the attention is as long as the row in two directions: scores are per frame and per text."""
    layouts = [PackedLayout(num_frames=(n,), frame_length=20, kept=2, text_lengths=(8,)) for n in (4, 8, 16)]
    assert [layout.text_mask().numel() for layout in layouts] == [8 * (8 + 8), 8 * (16 + 8), 8 * (32 + 8)]
    assert [layout.position_ids().numel() for layout in layouts] == [4 * 20 + 8, 8 * 20 + 8, 16 * 20 + 8]
