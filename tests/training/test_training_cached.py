"""Training on cached frames: only the cache is read, and existing caches stay valid."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from voco_video import compress as compress_module
from voco_video.cache import FrameCache
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.compress import compress_video
from voco_video.errors import DataError, UsageError
from voco_video.model.adapters import adapted_layers, adapter_settings, adapter_weights, adapters_off, remove_adapters
from voco_video.model.compressors import whole_frames
from voco_video.model.voco import VocoModel
from voco_video.options import loading
from voco_video.options.sampling import Sampling
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene
from voco_video.shapes.write_dataset import write_dataset
from voco_video.stored_tokens import read_tokens
from voco_video.training import TrainConfig, train
from voco_video.training.file_samples import Conversations, read_rows
from voco_video.training.samples import open_dataset


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips and a file of conversations about them, one row in the short layout."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for index in range(3):
        write_clip(draw_scene(0, index=index), folder / f"{index}.mp4", size=64)
        turns = [
            {"from": "human", "value": "<video>\nhow many shapes are there?"},
            {"from": "gpt", "value": "two"},
            {"from": "human", "value": "what moves?"},
            {"from": "gpt", "value": "star"},
        ]
        rows.append({"id": str(index), "video": f"{index}.mp4", "conversations": turns})
    rows.append({"video": "0.mp4", "question": "where is the star?", "answer": "top left"})
    (folder / "questions.json").write_text(json.dumps(rows))
    return folder


def cached_run(tmp_path, clips, **changes) -> TrainConfig:
    options = {
        "output_dir": str(tmp_path / "run"),
        "stage": "video",
        "mode": "cached",
        "dataset": str(clips / "questions.json"),
        "cache_dir": str(tmp_path / "cache"),
        "num_frames": 3,
        "train_projector": False,
        "train_voco_embeds": False,
        "lora_rank": 4,
        "learning_rate": 1e-2,
        "num_voco_token_choices": (1, 2),
        "max_steps": 6,
        "global_batch_size": 4,
        "per_device_batch_size": 4,
        "log_steps": 1,
        "save_steps": 1,
        "report_to": (),
    }
    return TrainConfig(**options | changes)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> str:
    """voco-tiny without the answering weights it comes with."""
    model = load_voco_model("voco-tiny")
    remove_adapters(model.backbone.decoder)
    return str(save_voco_model(model, tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize(
    ("form", "lora_rank"),
    [
        ("kv", 4),
        ("embeds", 0),
        *(pytest.param(*pair, marks=pytest.mark.exhaustive) for pair in (("kv", 0), ("embeds", 4))),
    ],
)
def test_cached_mode_reads_the_frame_cache_alone_and_leaves_it_valid(
    tmp_path, clips, plain, monkeypatch, form, lora_rank
):
    config = cached_run(tmp_path, clips, model=plain, form=form, lora_rank=lora_rank)
    base = load_voco_model(plain)
    cache, sampling = FrameCache(config.cache_dir), Sampling(num_frames=3)
    options = compress_module.CompressOptions(form=form)
    for index in range(3):
        compress_video(base, clips / f"{index}.mp4", cache=cache, sampling=sampling, options=options)

    def forbidden(*_, **__):
        raise AssertionError("cached mode opened a video or ran the vision tower")

    with monkeypatch.context() as patch:
        patch.setattr(compress_module, "open_video", forbidden)
        patch.setattr(VocoModel, "vision_tokens", forbidden)
        result = train(config)

    trained = load_voco_model(result.last)
    assert trained.fingerprint() == base.fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(compress_module, "open_video", forbidden)
        found = compress_video(trained, clips / "0.mp4", cache=cache, sampling=sampling, options=options)
    assert found.from_cache

    tokens = read_tokens(found.entry)
    text = torch.tensor([[5, 11, 42, 7, 60]])
    with torch.inference_mode():
        answered, before = (model(text, prefix=model.prefix(tokens))[0] for model in (trained, base))
        assert (answered - before).abs().max() > 1e-3, "the adapters answer"
        with adapters_off(trained.backbone.decoder):
            assert torch.equal(trained(text, prefix=trained.prefix(tokens))[0], before)
        pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
        compressed = [m.compress(m.vision_tokens(pixels), form=form).tensors() for m in (trained, base)]
        other = {"kv": "embeds", "embeds": "kv"}[form]
        compressed_other = base.compress(base.vision_tokens(pixels), form=other)
        answers = [m(text, prefix=m.prefix(compressed_other))[0] for m in (trained, base)]
        assert torch.equal(*answers), "frames of the other form are answered from as before"
    assert all(torch.equal(compressed[0][name], compressed[1][name]) for name in compressed[0]), "they do not compress"
    assert adapted_layers(trained), "compressing put them back"


def test_joint_mode_trains_on_the_same_files(tmp_path, clips):
    config = cached_run(
        tmp_path, clips, mode="joint", lora_rank=0, train_projector=True, train_voco_embeds=True, max_steps=2
    )
    assert np.isfinite(train(config).loss)


def test_cached_mode_has_nothing_to_distil_from(tmp_path, clips):
    with pytest.raises(UsageError, match="set distillation_weight to 0"):
        cached_run(tmp_path, clips, distillation_weight=0.5)


@pytest.mark.exhaustive
def test_one_set_of_answering_weights_reads_both_forms_and_all_vision_tokens(tmp_path, clips, plain, monkeypatch):
    options = {"model": plain, "form": "both", "full_visibility_fraction": 0.3, "lora_rank": 0, "max_steps": 12}
    config = cached_run(tmp_path, clips, **options)
    result = train(config)
    log = json.loads((result.last.parent / "log.json").read_text())
    seen = {name for line in log for name in line if name.startswith("loss_")}
    assert seen == {"loss_full", "loss_k=1", "loss_k=2", "loss_k=1, embeds", "loss_k=2, embeds"}
    assert len(FrameCache(config.cache_dir).entries()) == 3 * 3, "three clips, kept in three ways"
    with monkeypatch.context() as patch:
        patch.setattr(compress_module, "open_video", None)
        again = train(cached_run(tmp_path, clips, **options | {"output_dir": str(tmp_path / "again")}))
    trained, base = load_voco_model(again.last), load_voco_model(plain)
    assert trained.answering_form == "both"
    text = torch.tensor([[5, 11, 42, 7, 60]])
    with torch.inference_mode():
        frames = base.vision_tokens(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
        kept = [base.compress(frames, form="kv"), base.compress(frames, form="embeds"), whole_frames(base, frames)]
        for tokens in kept:
            answers = [model(text, prefix=model.prefix(tokens))[0] for model in (trained, base)]
            assert (answers[0] - answers[1]).abs().max() > 1e-3
    first = cached_run(tmp_path, clips, model=plain, form="embeds", lora_rank=0, output_dir=str(tmp_path / "embeds"))
    further = train(first).last
    options |= {"model": str(further), "learning_rate": 0.0, "max_steps": 1, "output_dir": str(tmp_path / "further")}
    both = load_voco_model(train(cached_run(tmp_path, clips, **options)).last)
    weights = [adapter_weights(model.backbone.decoder) for model in (both, load_voco_model(further))]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]), "goes on from one form"


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_weights_train_in_float32_beside_16_bit_ones(tmp_path, clips, plain, monkeypatch, lora_rank):
    """A step of 1e-4 of a weight is less than bfloat16 can tell."""
    monkeypatch.setattr(loading, "resolve_dtype", lambda dtype, device: torch.bfloat16)  # as on a GPU
    base = load_voco_model(plain)
    config = cached_run(tmp_path, clips, model=plain, lora_rank=lora_rank, learning_rate=1e-6, max_steps=2)
    train(config)
    first, second = (load_file(tmp_path / "run" / f"checkpoint-{step}" / "trained.safetensors") for step in (1, 2))
    assert all(tensor.dtype == torch.float32 for tensor in first.values())
    moved = [float((first[name] - second[name]).abs().max()) for name in first]
    assert 0 < max(moved) < 1e-5
    assert load_voco_model(tmp_path / "run" / "last").fingerprint() == base.fingerprint()


@pytest.mark.exhaustive
def test_answering_weights_are_trained_further_or_left_out(tmp_path, clips, plain, caplog):
    """What one cached run has learned the next begins with; a joint run begins with the compressing weights."""
    first = train(cached_run(tmp_path, clips, model=plain, lora_rank=0, output_dir=str(tmp_path / "first"))).last
    second = train(
        cached_run(tmp_path, clips, model=str(first), lora_rank=0, learning_rate=0.0, output_dir=str(tmp_path / "2"))
    ).last
    third = save_voco_model(load_voco_model(second), tmp_path / "copy")
    weights = [adapter_weights(load_voco_model(folder).backbone.decoder) for folder in (first, second, third)]
    assert all(torch.equal(one[name], weights[0][name]) for one in weights for name in weights[0])
    assert {load_voco_model(folder).fingerprint() for folder in (first, third)} == {
        load_voco_model(plain).fingerprint()
    }
    other = cached_run(tmp_path, clips, model=str(first), lora_rank=4, max_steps=1, output_dir=str(tmp_path / "3"))
    assert adapter_settings(load_voco_model(train(other).last).backbone.decoder)["rank"] == 4
    assert "answering weights (lora_rank 0, form kv), which are left out" in caplog.text
    caplog.clear()
    joint = cached_run(tmp_path, clips, model=str(first), mode="joint", lora_rank=0, max_steps=1)
    assert not adapted_layers(load_voco_model(train(joint).last))
    assert "which are left out" in caplog.text


def test_moving_shapes_are_compressed_once_and_asked_anew(tmp_path, plain, monkeypatch):
    config = cached_run(tmp_path, tmp_path, model=plain, dataset="moving-shapes", num_scenes=3, image_fraction=0.4)
    model = load_voco_model(plain)
    dataset = open_dataset(config, model)
    first = [dataset.sample(index) for index in range(3)]
    for sample in first:
        sample.read_tokens("kv")
    monkeypatch.setattr(VocoModel, "compress", None)
    again = [dataset.sample(index) for index in range(3, 6)]
    for one, other in zip(first, again, strict=True):
        assert one.read_tokens("kv") is other.read_tokens("kv")
        assert one.turns != other.turns
    assert {sample.read_tokens("kv").num_frames for sample in first} == {1, 3}


def test_moving_shapes_train_from_memory(tmp_path, plain):
    config = cached_run(
        tmp_path, tmp_path, model=plain, dataset="moving-shapes", lora_rank=0, max_steps=2, eval_steps=2, eval_samples=4
    )
    result = train(config)
    assert np.isfinite(result.loss)
    assert set(result.accuracy) == {"k=1", "k=2"}
    assert load_voco_model(result.last).fingerprint() == load_voco_model(plain).fingerprint()


def test_conversations_and_question_sets_become_rows(tmp_path, clips):
    rows = read_rows(cached_run(tmp_path, clips))
    assert len(rows) == 4
    assert [turn.question for turn in rows[0].turns] == ["how many shapes are there?", "what moves?"]
    assert rows[3].turns[0].answer == "top left"
    assert {media.path for row in rows for media in row.media} == {clips / f"{i}.mp4" for i in range(3)}
    msvd = write_dataset(tmp_path / "msvd", layout="msvd", num_videos=4, seed=0)
    rows = read_rows(cached_run(tmp_path, clips, dataset="msvd", media_dir=str(msvd), num_turns=3))
    assert max(len(row.turns) for row in rows) == 3, "a video's questions come a few to a conversation"


def test_missing_files_are_counted_and_skipped_up_to_a_limit(tmp_path, clips):
    rows = json.loads((clips / "questions.json").read_text())
    rows[1]["video"] = "gone.mp4"
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    config = cached_run(tmp_path, clips, dataset=str(tmp_path / "rows.json"), media_dir=str(clips))
    dataset = Conversations(read_rows(config), config, load_voco_model("voco-tiny").backbone)
    assert dataset.sample(1).turns == dataset.sample(2).turns, "the next good row takes its place"
    assert list(dataset.bad) == [1]
    strict = Conversations(dataset.rows, cached_run(tmp_path, clips, max_bad_samples=0), load_voco_model().backbone)
    with pytest.raises(DataError, match=r"gone.mp4.*data check"):
        strict.sample(1)
