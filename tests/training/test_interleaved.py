"""Training with frames among words equals asking: the same texts at the same places, for every family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers.tiny_families import ALL_FAMILIES, EACH_OF_ALL, EMBEDS_ONLY, tiny_family
from voco_video.data.samples import Turn
from voco_video.errors import UsageError
from voco_video.model.families import FrameTimes
from voco_video.model.families.family import AnyShape
from voco_video.model.mixed_prefix import assemble
from voco_video.model.voco import VocoModel
from voco_video.options.compression import CompressOptions, Compressor
from voco_video.training.batches import TrainingSample, Visibility, make_batch
from voco_video.training.config import TrainConfig
from voco_video.training.engine import _check_shapes
from voco_video.training.loss import TrainableVoco
from voco_video.training.samples import CompressedFrames

TURNS = (Turn("what moves?", "a boat"), Turn("and then?", "it stops"))
SEEN = [Visibility(None), Visibility(1), Visibility(3), Visibility(2, "embeds")]


@pytest.fixture(scope="module", params=EACH_OF_ALL)
def family(request) -> str:
    return request.param


def trainable_family(name: str) -> VocoModel:
    model = tiny_family(name, as_trained=True)
    model.backbone.tokenizer.chat_template = model.backbone.tokenizer.chat_template.replace(
        "assistant:", "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    return model


@pytest.fixture(scope="module")
def model(family) -> VocoModel:
    return trainable_family(family)


def samples_of(family: str, *, shapes: tuple[tuple[int, int], ...] = ()) -> list[TrainingSample]:
    """Three pictures at uneven times, one, and text alone."""
    fit = ALL_FAMILIES[family].fit
    generator = np.random.default_rng(3)
    samples = []
    for row, (count, system) in enumerate([(3, ""), (1, "Be brief."), (0, "")]):
        height, width = shapes[row] if shapes else (fit.height, fit.width)
        frames = generator.integers(0, 256, (count, height, width, 3)).astype(np.uint8)
        times = np.array([0.0, 2.5, 9.0])[:count]
        samples.append(TrainingSample(TURNS, frames, system=system, pts_seconds=times, duration_seconds=12.0))
    return samples


@torch.no_grad()
def asked_logits(model: VocoModel, sample: TrainingSample, visibility: Visibility) -> torch.Tensor:
    """The logits that asking gives at every labelled token: prefix from compressed frames, text behind it."""
    alone = make_batch(model.backbone, [sample], visibility)
    before = int((alone.input_ids == -1).sum())
    prefix = model.empty_prefix()
    if len(sample.frames):
        kind = "full" if visibility.num_voco_tokens is None else visibility.form
        tokens = visibility.cut(CompressedFrames(sample.frames, sample.pts_seconds, model).read_tokens(kind))
        times = FrameTimes.of(sample.pts_seconds if tokens.seconds is None else tokens.seconds.numpy(), 12.0)
        counts = torch.full((tokens.num_frames,), tokens.num_voco_tokens)
        leads = dict(enumerate(model.backbone.lead_ids(times, system=sample.system)))
        before += sum(map(len, leads.values()))
        prefix = assemble(model, tokens, counts=counts, texts=leads, times=times)
    logits = model(alone.input_ids[:, before:], prefix=prefix)[0][0, :-1]
    return logits[alone.labels[0, before + 1 :] >= 0]


@torch.no_grad()
def trained_logits(model: VocoModel, samples: list[TrainingSample], visibility: Visibility) -> list[torch.Tensor]:
    attention = model.backbone.text_config._attn_implementation
    batch = make_batch(model.backbone, samples, visibility)
    trainable = TrainableVoco(model)
    vision_tokens = None if batch.pixels is None else model.vision_tokens(batch.pixels)
    answers = trainable.answer_logits(batch, vision_tokens)
    model.backbone.decoder.set_attn_implementation(attention)
    return [answers.logits[answers.rows == row] for row in range(len(samples))]


def skip_what_is_refused(model: VocoModel, family: str, visibility: Visibility) -> None:
    if family in EMBEDS_ONLY and visibility.token_kind == "kv":
        with pytest.raises(UsageError, match="form 'kv' cannot be had from"):
            trained_logits(model, samples_of(family), visibility)
        pytest.skip("refused with the reason")


def tolerance_of(family: str) -> float:
    """Weights changed by 1e-7 of themselves move the logits of the tiny Qwen3.5 by 1e-4, with experts by 5e-4."""
    return {"qwen3_5": 5e-4, "qwen3_5_moe": 2e-3}.get(family, 1e-4)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("visibility", SEEN, ids=lambda v: v.name)
def test_training_sees_what_asking_sees(model, family, visibility):
    skip_what_is_refused(model, family, visibility)
    samples = samples_of(family)
    for sample, trained in zip(samples, trained_logits(model, samples, visibility), strict=True):
        asked = asked_logits(model, sample, visibility)
        assert len(asked) > 10
        assert (trained - asked).abs().max() <= tolerance_of(family)
    others = trained_logits(model, [samples[0], samples[0], samples[2]], visibility)
    assert (others[1] - others[2]).abs().max() > 0.05, "frames change nothing: nothing was compared"


@pytest.mark.exhaustive
@pytest.mark.parametrize("visibility", SEEN, ids=lambda v: v.name)
def test_training_from_compressed_frames_sees_the_same(model, family, visibility):
    skip_what_is_refused(model, family, visibility)
    samples = samples_of(family)[:2]
    cached = [
        TrainingSample(
            s.turns,
            read_tokens=CompressedFrames(s.frames, s.pts_seconds, model).read_tokens,
            system=s.system,
            pts_seconds=s.pts_seconds,
            duration_seconds=12.0,
        )
        for s in samples
    ]
    pairs = zip(trained_logits(model, samples, visibility), trained_logits(model, cached, visibility), strict=True)
    assert max(float((left - right).abs().max()) for left, right in pairs) <= tolerance_of(family)


@pytest.mark.parametrize("family", ["gemma3", "qwen3_5"])
def test_gradients_reach_the_voco_embeddings_through_frames_that_keep_no_keys(family):
    """Fed back through the decoder twice; what is spared in memory by checkpointing changes nothing."""
    gradients = []
    for checkpointing in (False, True):
        model = trainable_family(family).train()
        if checkpointing:
            model.backbone.hf_model.gradient_checkpointing_enable({"use_reentrant": False})
        batch = make_batch(model.backbone, samples_of(family), Visibility(4, "embeds"))
        TrainableVoco(model, distillation_weight=0.5)(batch)["loss"].backward()
        gradients.append(model.voco_embeds.grad)
    assert (gradients[0].abs().amax(1) > 1e-6).all()
    assert torch.allclose(*gradients, atol=1e-4, rtol=1e-3)


def test_frames_of_several_sizes_are_trained_in_one_step():
    model = trainable_family("qwen2_5_vl")
    samples = samples_of("qwen2_5_vl", shapes=((32, 56), (56, 32), (32, 56)))
    together = make_batch(model.backbone, samples, Visibility(2))
    assert len(together.parts) == 2
    trainable = TrainableVoco(model)
    with torch.no_grad():
        joined = trainable(together)
        alone = [trainable(make_batch(model.backbone, [s], Visibility(2))) for s in samples]
    assert (
        int(joined["num_labels"]) == sum(int(out["num_labels"]) for out in alone) == int((together.labels >= 0).sum())
    )
    mean = sum(out["loss"] * out["num_labels"] for out in alone) / joined["num_labels"]
    assert torch.allclose(joined["loss"], mean, atol=1e-5)
    assert sorted(joined["rows"].unique().tolist()) == [0, 1, 2]


def test_pictures_are_merged_as_for_asking():
    model = trainable_family("qwen3_vl")
    batch = make_batch(model.backbone, samples_of("qwen3_vl"), Visibility(1))
    assert batch.num_frames == (2, 1, 0)
    assert len(batch.pixels) == 6
    options = CompressOptions(compressor="full")
    assert model.form_of(Compressor("full"), options.form) == "embeds"
    assert batch.times[0].pictures.tolist() == [[0.0, 2.5], [9.0, 9.0]]


def test_sharded_training_takes_frames_of_one_size(tmp_path):
    config = TrainConfig(output_dir=str(tmp_path), dataset="rows.json", deepspeed="deepspeed/zero3.json")
    with pytest.raises(UsageError, match="per_device_batch_size=16: frames of this model keep the shape"):
        _check_shapes(config, with_any_shape("qwen2_5_vl"))
    _check_shapes(replace(config, per_device_batch_size=1), with_any_shape("qwen2_5_vl"))
    _check_shapes(config, tiny_family("llava", as_trained=True))


def with_any_shape(name: str) -> VocoModel:
    model = tiny_family(name, as_trained=True)
    images = replace(model.backbone.images, any_shape=AnyShape(8, 64, 2048))
    model.backbone = replace(model.backbone, images=images)
    return model
