"""Published layouts: what they are read as, and that a converted checkpoint is the same model, token for token."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from tests.helpers.published_layout import VOCO_ID, write_published
from voco_video.answer.generate import generate
from voco_video.checkpoint.convert import convert_checkpoint
from voco_video.checkpoint.describe import describe_checkpoint
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.folder import load_voco_model
from voco_video.errors import ModelError, UsageError
from voco_video.model.compressors import whole_frames
from voco_video.options.answering import AnswerOptions


def answers(model):
    """Greedy answers from two frames, by VoCo tokens where the model has any."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), generator=generator, dtype=torch.uint8).numpy()
    with torch.inference_mode():
        vision_tokens = model.vision_tokens(pixels)
    tokens = model.compress(vision_tokens) if model.num_voco_tokens else whole_frames(model, vision_tokens)
    prompt = model.backbone.conversation_ids([{"role": "user", "content": "What?"}])
    return generate(model, model.prefix(tokens), [prompt], options=AnswerOptions(max_new_tokens=8))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("voco", [False, True], ids=["llava", "voco-llama"])
@pytest.mark.parametrize("with_tower", [False, True], ids=["frozen tower", "own tower"])
def test_a_converted_checkpoint_is_the_same_model(tmp_path, voco, suffix, with_tower):
    original = write_published(tmp_path / "published", voco=voco, suffix=suffix, with_tower=with_tower)
    result = convert_checkpoint(tmp_path / "published", tmp_path / "converted")
    assert (result.num_voco_tokens, result.num_files) == (2 if voco else 0, 2 if with_tower else 3)
    library = AutoModelForImageTextToText.from_pretrained(tmp_path / "converted", dtype="auto")
    weights = library.state_dict()
    assert weights.keys() == original.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in original.state_dict().items())
    models = [load_voco_model(tmp_path / name, dtype="float32") for name in ("published", "converted")]
    assert models[0].fingerprint() == models[1].fingerprint()
    assert models[0].backbone.images == models[1].backbone.images
    assert models[1].backbone.images.fit.mode == "pad"
    assert answers(models[0]) == answers(models[1])
    if voco:
        row = original.get_input_embeddings().weight[VOCO_ID].float()
        assert torch.equal(models[1].voco_embeds, row.expand(2, -1))


def test_the_golden_checkpoint_converts_and_answers_token_for_token(shared, tmp_path):
    folder = shared / "golden" / "official_tiny"
    convert_checkpoint(folder, tmp_path / "converted")
    model = load_voco_model(tmp_path / "converted", dtype="float32")
    assert model.fingerprint() == load_voco_model(folder, dtype="float32").fingerprint()
    cases = load_file(folder / "cases.safetensors")
    error = 0.0
    for i in range(4):
        ids = cases[f"{i}.input_ids"].tolist()
        k = ids.count(32000)
        tokens = model.compress(model.backbone.vision_tokens(cases[f"{i}.pixel_values"][None]), num_voco_tokens=k)
        prefix, text = model.prefix(tokens), ids[3 + k :]
        logits = model(torch.tensor([text]), prefix=prefix)[0][0, -4:]
        error = max(error, (logits - cases[f"{i}.last4_logits"]).abs().max().item())
        options = AnswerOptions(max_new_tokens=10, stop_at_end=False)
        assert generate(model, prefix, [text], options=options)[0][0] == cases[f"{i}.greedy"].tolist()
    print(f"converted golden checkpoint: largest difference of logits {error:.1e}")
    assert error <= 1e-4


def test_the_number_of_voco_tokens_can_be_chosen(tmp_path):
    write_published(tmp_path / "published", voco=True)
    assert convert_checkpoint(tmp_path / "published", tmp_path / "out", num_voco_tokens=5).num_voco_tokens == 5
    assert load_voco_model(tmp_path / "out").num_voco_tokens == 5


def test_a_converted_llava_has_no_voco_tokens_until_some_are_asked_for(tmp_path):
    write_published(tmp_path / "published", voco=False)
    convert_checkpoint(tmp_path / "published", tmp_path / "out")
    for name in ("published", "out"):
        assert load_voco_model(tmp_path / name).num_voco_tokens == 0
        untrained = load_voco_model(tmp_path / name, num_voco_tokens=3)
        assert (untrained.num_voco_tokens, untrained.trained) == (3, False)


def test_a_tower_named_by_its_hub_id_is_found_in_the_local_cache(tmp_path, monkeypatch):
    write_published(tmp_path / "published", voco=False, with_tower=False, tower="someone/clip-tiny")
    hub = tmp_path / "hub"
    snapshot = hub / "models--someone--clip-tiny" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.parent.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    (tmp_path / "published" / "tower").rename(tmp_path / "tower")
    with pytest.raises(ModelError, match="no checkpoint 'someone/clip-tiny'"):
        load_voco_model(tmp_path / "published")
    shutil.move(tmp_path / "tower", snapshot)
    (hub / "models--someone--clip-tiny" / "refs").mkdir()
    (hub / "models--someone--clip-tiny" / "refs" / "main").write_text(snapshot.name)
    assert describe_checkpoint(tmp_path / "published").num_vision_tokens == 16
    assert load_voco_model(tmp_path / "published").backbone.num_vision_tokens == 16


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_in_a_pickle_is_executed(tmp_path):
    write_published(tmp_path / "published", voco=False, suffix=".bin")
    trap = tmp_path / "executed"
    (tmp_path / "published" / "pytorch_model-00001-of-00002.bin").write_bytes(pickle.dumps({"x": _Trap(trap)}))
    for action in (convert_checkpoint, lambda source, _: load_voco_model(source)):
        with pytest.raises(ModelError, match=r"pytorch_model-00001-of-00002\.bin cannot be read as weights"):
            action(tmp_path / "published", tmp_path / "out")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert not trap.exists()


def test_a_tokenizer_that_cannot_be_read_names_what_it_needs(tmp_path):
    write_published(tmp_path / "published", voco=False)
    (tmp_path / "published" / "tokenizer.json").unlink()
    (tmp_path / "published" / "tokenizer.model").write_bytes(b"no tokenizer")
    with pytest.raises(ModelError, match=r"cannot be read: .* Its tokenizer\.model needs two packages: pip install"):
        convert_checkpoint(tmp_path / "published", tmp_path / "out")


def _drop(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()


def _lack(folder):
    path = folder / "model-00001-of-00002.safetensors"
    weights = load_file(path)
    weights.pop(next(name for name in weights if "mlp" in name))
    save_file(weights, path)


def _reshape(folder):
    path = folder / "model-00001-of-00002.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "mlp" in name)
    save_file(weights | {name: torch.zeros(3)}, path)


def _rename(folder):
    path = folder / "model-00001-of-00002.safetensors"
    save_file(load_file(path) | {"head.weight": torch.zeros(3)}, path)


def _linear_projector(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"mm_projector_type": "linear"}))


def _other_type(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "llava"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop, "model-00002-of-00002.safetensors does not exist"),
        (_lack, "1 weights are missing, such as model"),
        (_reshape, r"is \(3,\), expected \("),
        (_rename, "unknown weight 'head.weight'"),
        (_linear_projector, "projector 'linear' is not supported"),
        (_other_type, "model_type 'llava', not 'llava_llama'"),
    ],
)
def test_what_cannot_be_converted_is_named_and_leaves_no_checkpoint(tmp_path, damage, message):
    write_published(tmp_path / "published", voco=False)
    damage(tmp_path / "published")
    with pytest.raises(ModelError, match=message):
        convert_checkpoint(tmp_path / "published", tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_options_that_cannot_be_right(tmp_path):
    write_published(tmp_path / "llava", voco=False)
    write_published(tmp_path / "voco", voco=True)
    with pytest.raises(UsageError, match="num_voco_tokens=2: this is a LLaVA checkpoint without a <voco> token"):
        convert_checkpoint(tmp_path / "llava", tmp_path / "out", num_voco_tokens=2)
    with pytest.raises(UsageError, match="num_voco_tokens=0"):
        convert_checkpoint(tmp_path / "voco", tmp_path / "out", num_voco_tokens=0)
    with pytest.raises(UsageError, match="is there already"):
        convert_checkpoint(tmp_path / "voco", tmp_path / "llava")


# ---------------------------------------------------------------------- the command line


def test_convert_and_models_on_the_command_line(run, tmp_path):
    write_published(tmp_path / "published", voco=True)
    code, out, _ = run("convert", tmp_path / "published", "--out", tmp_path / "out", "--about", "Tiny and random.")
    assert code == 0
    assert "2 VoCo tokens per frame" in out
    code, out, _ = run("models", tmp_path / "published", "--json")
    published = json.loads(out)
    code, out, _ = run("models", tmp_path / "out", "--json")
    converted = json.loads(out)
    assert (published["title"], published["layout"], converted["layout"]) == ("VoCo-LLaMA", "published", "Hugging Face")
    same = ("num_voco_tokens", "trained", "num_vision_tokens", "bytes_per_frame", "dtype", "num_parameters", "tower")
    assert all(published[name] == converted[name] for name in same)
    assert converted["about"] == "Tiny and random."
    code, out, _ = run("models", tmp_path / "out")
    assert "2 per frame, trained" in out
    assert "32 x 32, pad" in out


def test_the_type_of_pickled_weights_is_what_the_configuration_declares(tmp_path):
    write_published(tmp_path / "published", voco=False, suffix=".bin")
    facts = describe_checkpoint(tmp_path / "published")
    assert (facts.title, facts.num_voco_tokens, facts.trained) == ("original LLaVA-1.5", 0, None)
    assert facts.dtype == "bfloat16"


def test_models_lists_what_is_supported(run):
    code, out, _ = run("models")
    assert code == 0
    for model_type in ("llava", "llava_onevision", "smolvlm", "internvl", "qwen2_5_vl", "qwen3_vl", "llava_llama"):
        assert model_type in out
    code, out, _ = run("models", "--json")
    assert {kind["positions"] for kind in json.loads(out)["families"]} == {"1-D", "M-RoPE"}


def test_errors_on_the_command_line_are_one_line(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "config.json").write_text('{"model_type": "no_such_type"}')
    shutil.copytree(find_checkpoint("voco-tiny"), tmp_path / "plain")
    for name in ("voco_config.json", "voco.safetensors", "preprocessor_config.json"):
        (tmp_path / "plain" / name).unlink()
    for arguments, status, message in (
        (("models", tmp_path / "unknown"), 1, "config.json cannot be read"),
        (("models", tmp_path / "plain"), 1, "the image processor in"),
        (("models", "nothing-here"), 2, "no checkpoint 'nothing-here'"),
        (("models", tmp_path / "other"), 1, "model_type 'bert' is not supported"),
        (("convert", tmp_path / "other", "--out", tmp_path / "out"), 1, "model_type 'bert', not 'llava_llama'"),
        (("convert", "voco-tiny", "--out", tmp_path), 1, "model_type 'llava', not 'llava_llama'"),
    ):
        code, _, err = run(*arguments)
        assert code == status
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
