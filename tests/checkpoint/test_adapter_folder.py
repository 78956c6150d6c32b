"""A small adapter beside an unchanged base is the same model as the whole one, and says when its base is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from blake3 import blake3
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from tests.helpers.models import random_pixels
from tests.helpers.tiny_families import EACH_FAMILY, tiny_family
from voco_video.checkpoint.describe import describe_checkpoint
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.errors import ModelError, UsageError
from voco_video.training import TrainConfig, train
from voco_video.training.trainable import choose_trainable, export_model

TEXT = torch.arange(20, 40)[None]


def joint(base: Path, **changes) -> TrainConfig:
    options = {"model": str(base), "lora_rank": 2, "lora_targets": ("q_proj", "v_proj", "down_proj"), "output_dir": "x"}
    return TrainConfig(**options | changes)


def cached(base: Path, **changes) -> TrainConfig:
    frozen = {"mode": "cached", "stage": "video", "train_projector": False, "train_voco_embeds": False}
    return joint(base, **frozen | changes)


def trained_model(config: TrainConfig):
    """A base with everything that a configuration trains changed, as training would."""
    model = load_voco_model(config.model)
    choose_trainable(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def both(config: TrainConfig, folder: Path):
    """The same training exported whole and as an adapter, loaded again."""
    model = trained_model(config)
    whole = export_model(model, folder / "whole", config)
    small = export_model(model, folder / "small", TrainConfig(**{**config.describe(), "export": "adapter"}))
    return load_voco_model(whole), load_voco_model(small)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: blake3(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def logits(model, form: str = "kv") -> torch.Tensor:
    fit = model.backbone.images.fit
    pixels = random_pixels(2, size=max(fit.height, fit.width))[:, : fit.height, : fit.width]
    with torch.inference_mode():
        prefix = model.prefix(model.compress(model.vision_tokens(pixels), form=form))
        return model(TEXT, prefix=prefix)[0]


@pytest.fixture
def base(tmp_path) -> Path:
    return save_voco_model(tiny_family("llava"), tmp_path / "base")


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_the_adapter_is_the_whole_model(tmp_path, name):
    base = save_voco_model(tiny_family(name), tmp_path / "base")
    before = digests(base)
    whole, small = both(joint(base), tmp_path)
    assert small.fingerprint() == whole.fingerprint() != load_voco_model(base).fingerprint()
    assert torch.equal(logits(small), logits(whole))
    assert digests(base) == before
    names = {path.name for path in (tmp_path / "small").iterdir()}
    assert not any(n.startswith(("model", "tokenizer")) or n == "config.json" for n in names)
    sizes = [sum(p.stat().st_size for p in (tmp_path / f).rglob("*.safetensors")) for f in ("small", "whole")]
    assert sizes[0] < 0.5 * sizes[1]


def test_peft_reads_the_lora_too(tmp_path, base):
    from peft import PeftModel

    config = joint(base, train_projector=False)
    _, small = both(config, tmp_path)
    plain = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    peft = PeftModel.from_pretrained(plain, str(tmp_path / "small")).eval()
    with torch.inference_mode():
        expected = small.backbone.hf_model(input_ids=TEXT).logits
        difference = float((peft(input_ids=TEXT).logits - expected).abs().max())
    print(f"peft's own forward with the adapter: {difference:.1e}")
    assert difference < 1e-4
    described = json.loads((tmp_path / "small" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(base.resolve())


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("trained_form", ["kv", "embeds", "both"])
def test_weights_that_answer_alone(tmp_path, base, lora_rank, trained_form):
    whole, small = both(cached(base, lora_rank=lora_rank, form=trained_form), tmp_path)
    form = "embeds" if trained_form == "both" else trained_form
    assert small.answering_form == whole.answering_form == trained_form
    assert small.default_form == whole.default_form == (None if trained_form == "both" else form)
    assert small.fingerprint() == whole.fingerprint() == load_voco_model(base).fingerprint()
    assert torch.equal(logits(small, form), logits(whole, form))
    assert not torch.equal(logits(small, form), logits(load_voco_model(base), form))
    assert {p.name for p in (tmp_path / "small").glob("*.safetensors")} == {"voco.safetensors"}


def test_an_adapter_for_an_adapter(tmp_path, base):
    first = joint(base, export="adapter")
    export_model(trained_model(first), tmp_path / "first", first)
    whole, small = both(cached(tmp_path / "first"), tmp_path)
    assert small.fingerprint() == whole.fingerprint() == load_voco_model(tmp_path / "first").fingerprint()
    assert torch.equal(logits(small), logits(whole))
    assert {Path(f.path).parent.name for f in small.sources} >= {"base", "first", "small"}


def test_training_writes_adapters(tmp_path):
    config = joint(
        Path("voco-tiny"), output_dir=str(tmp_path / "run"), export="adapter", max_steps=2, global_batch_size=2
    )
    result = train(TrainConfig(**{**config.describe(), "per_device_batch_size": 2, "report_to": (), "num_turns": 2}))
    model = load_voco_model(result.last)
    assert model.fingerprint() != load_voco_model("voco-tiny").fingerprint()
    facts = describe_checkpoint(result.last)
    assert (facts.base, facts.num_voco_tokens, facts.trained) == ("voco-tiny", 8, True)
    assert sum(p.stat().st_size for p in result.last.rglob("*.safetensors")) < 1 << 20


def test_a_base_from_the_hub_is_pinned_to_its_commit(tmp_path, base, monkeypatch):
    commit = "3" * 40
    repository = tmp_path / "hub" / "models--someone--llava-tiny"
    shutil.copytree(base, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    config = joint("someone/llava-tiny", export="adapter")
    small = export_model(trained_model(config), tmp_path / "small", config)
    assert json.loads((small / "voco_config.json").read_text())["base"]["name"] == f"someone/llava-tiny@{commit}"
    described = json.loads((small / "adapter_config.json").read_text())  # as peft names a base
    assert (described["base_model_name_or_path"], described["revision"]) == ("someone/llava-tiny", commit)
    (repository / "refs" / "main").write_text("4" * 40)  # the id is another model by now
    assert load_voco_model(small).num_voco_tokens == 4


def test_a_base_that_changed_or_is_gone(tmp_path, base):
    config = joint(base, export="adapter")
    small = export_model(trained_model(config), tmp_path / "small", config)
    shutil.move(base, tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"is an adapter for .*base'.*correct `base` in .*voco_config.json"):
        load_voco_model(small)
    save_voco_model(trained_model(joint(tmp_path / "elsewhere", lora_rank=0)), base)
    with pytest.raises(ModelError, match="whose weights are not what they were in training"):
        load_voco_model(small)
    settings = json.loads((small / "voco_config.json").read_text())
    settings["base"]["name"] = str(tmp_path / "elsewhere")
    (small / "voco_config.json").write_text(json.dumps(settings))
    assert load_voco_model(small).num_voco_tokens == 4


def test_changes_that_fit_no_weight(tmp_path, base):
    config = joint(base, export="adapter")
    small = export_model(trained_model(config), tmp_path / "small", config)
    changed = load_file(small / "changed.safetensors")
    assert all(name.startswith("model.multi_modal_projector") for name in changed)
    other = save_voco_model(tiny_family("internvl"), tmp_path / "other")
    settings = json.loads((small / "voco_config.json").read_text())
    from voco_video.checkpoint.adapter_folder import describe_base

    settings["base"] = {"name": str(other), "digest": describe_base(other).digest}
    (small / "voco_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="does not fit its base"):
        load_voco_model(small)


def test_a_language_model_trained_whole_is_no_adapter(base):
    with pytest.raises(UsageError, match="needs lora_rank above 0"):
        joint(base, lora_rank=0, export="adapter")
    with pytest.raises(UsageError, match="export='nothing' is not one of model, adapter"):
        joint(base, export="nothing")


def test_an_adapter_folder_is_a_checkpoint(tmp_path, base):
    config = joint(base, export="adapter")
    small = export_model(trained_model(config), tmp_path / "small", config)
    assert find_checkpoint(small) == small
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="is not a checkpoint folder"):
        find_checkpoint(tmp_path / "empty")
