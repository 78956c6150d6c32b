"""Loading: weights stream from shards to where they belong, and what cannot be loaded is said before it is tried."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from tests.helpers import peak_memory
from tests.helpers.tiny_families import EACH_OF_ALL, tiny_family
from voco_video import cli
from voco_video.api import VideoModel
from voco_video.cache import FrameCache
from voco_video.checkpoint.files import stored_weights, weight_files
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.checkpoint.loading import resolve_attention
from voco_video.errors import ModelError, UsageError
from voco_video.model.backbone import Backbone
from voco_video.model.families import ImageSettings, PromptTemplate
from voco_video.model.voco import VocoModel
from voco_video.options.loading import LoadOptions
from voco_video.video.scaling import Fit

HAS_PROC = Path("/proc/self/clear_refs").exists()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A bfloat16 checkpoint of about 200 MB in six shards."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    tower = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=2000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=8
    )
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_index=1999)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    images = ImageSettings(Fit(32, 32, "stretch"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    voco = VocoModel(Backbone(model, None, images, PromptTemplate((1,), ())), torch.randn(2, 1024))
    folder = tmp_path_factory.mktemp("sharded")
    save_voco_model(voco, folder, max_shard_size="40MB")
    assert len(weight_files(folder)) == 6
    return folder


def measure(folder: Path, dtype: str) -> dict[str, float]:
    command = [sys.executable, peak_memory.__file__, str(folder), dtype]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.exhaustive
@pytest.mark.skipif(not HAS_PROC, reason="no /proc/self/clear_refs to measure a peak of memory with")
@pytest.mark.parametrize(
    "dtype", ["bfloat16", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("float32", "float16"))]
)
def test_loading_takes_the_model_and_at_most_a_shard_more(sharded, dtype):
    shard = max(path.stat().st_size for path in weight_files(sharded))
    measured = measure(sharded, dtype)
    extra = measured["peak"] - measured["model"]
    print(f"{dtype}: model {measured['model'] / 2**20:.0f} MiB, {extra / shard:+.2f} shards of {shard >> 20} MiB more")
    assert extra < 1.2 * shard
    stored = sum(float(t.double().sum()) for path in weight_files(sharded) for t in load_file(path).values())
    voco = float(load_file(sharded / "voco.safetensors")["voco_embeds"].double().sum())
    assert measured["checksum"] == pytest.approx(stored + voco, rel=1e-3, abs=0.5)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", EACH_OF_ALL)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_weight_is_the_one_on_the_disk(tmp_path, name, dtype):
    save_voco_model(tiny_family(name).to(torch.bfloat16), tmp_path, max_shard_size="20KB")
    model = load_voco_model(tmp_path, dtype=dtype).backbone.hf_model
    files = weight_files(tmp_path)
    assert len(files) > 1
    library = type(model).from_pretrained(tmp_path, dtype=getattr(torch, dtype))
    expected = dict(library.named_parameters())
    assert dict(model.named_parameters()).keys() == expected.keys()
    for weight, tensor in model.named_parameters():
        assert torch.equal(tensor, expected[weight]), weight
    for buffer, tensor in model.named_buffers():  # tables that no file holds
        assert torch.equal(tensor, dict(library.named_buffers())[buffer]), buffer
    assert model.generation_config.to_dict() == library.generation_config.to_dict()


def test_save_pretrained_is_an_ordinary_folder(tmp_path):
    model = VideoModel(tiny_family("llava"), FrameCache(tmp_path / "cache"))
    folder = model.save_pretrained(tmp_path / "saved")
    assert VideoModel.from_pretrained(folder, cache_dir=tmp_path / "cache").fingerprint == model.fingerprint
    library = AutoModelForImageTextToText.from_pretrained(folder)
    ours = model.voco.backbone.hf_model.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in library.state_dict().items())


def test_pickled_weights_are_read_one_by_one_too(tmp_path):
    save_voco_model(tiny_family("llava"), tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    expected = load_voco_model(tmp_path, dtype="bfloat16").fingerprint()
    (tmp_path / "model.safetensors").unlink()
    assert load_voco_model(tmp_path, dtype="bfloat16").fingerprint() == expected


def test_a_weight_that_is_kept_as_it_is_stays_a_view_of_the_file(tmp_path):
    save_file({"w": torch.ones(4, dtype=torch.bfloat16), "x": torch.ones(4)}, tmp_path / "model.safetensors")
    weights = stored_weights([tmp_path / "model.safetensors"], dtype=torch.bfloat16)
    assert weights["w"].mapped is not None
    assert weights["x"].mapped is None
    assert torch.equal(weights["w"][...], torch.ones(4, dtype=torch.bfloat16))
    assert torch.equal(weights["x"][1:], torch.ones(3))


def test_a_missing_weight_is_an_error_not_random_numbers(tmp_path):
    save_voco_model(tiny_family("llava"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if name.endswith("gate_proj.weight"))
    save_file({n: t for n, t in weights.items() if n != gone}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing weights.*gate_proj"):
        load_voco_model(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    save_voco_model(tiny_family("llava"), tmp_path, max_shard_size="20KB")
    damaged = weight_files(tmp_path)[1]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ModelError, match=damaged.name):
        load_voco_model(tmp_path)


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device_map": "everywhere"}, "device_map='everywhere' is not one of auto"),
        ({"device_map": "auto", "device": "cpu"}, "give one of them"),
        ({"device_map": {"model": "cpu", "lm_head": "disk"}}, "left on the disk"),
        ({"weight_bits": 5}, "weight_bits=5 is not one of 4, 8, 16"),
        ({"weight_bits": 4, "device": "cpu"}, "needs an NVIDIA GPU, and the device is cpu"),
        ({"weight_bits": 8, "device": "cpu"}, "needs an NVIDIA GPU"),
        ({"attn_implementation": "magic"}, "attn_implementation='magic' is not one of auto, sdpa"),
        ({"dtype": "int8"}, "dtype='int8' is not one of"),
    ],
)
def test_options_that_cannot_be_right(options, says):
    with pytest.raises(UsageError, match=says):
        load_voco_model("voco-tiny", **options)


def test_the_command_line_refuses_bits_without_a_gpu(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["voco-video", "compress", __file__, "--weight-bits", "4", "--device", "cpu"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err


def test_attention_is_sdpa_where_there_is_no_gpu():
    assert resolve_attention(LoadOptions(device="cpu")) == "sdpa"
    assert resolve_attention(LoadOptions(device="cpu", attn_implementation="eager")) == "eager"


@pytest.mark.parametrize(
    "device_map",
    ["auto", "sequential", {"": "cpu"}, dict.fromkeys(("model.vision_tower", "model.multi_modal_projector"), "cpu")],
    ids=str,
)
def test_a_device_map_changes_places_and_nothing_else(device_map):
    if torch.cuda.is_available():
        pytest.skip("places are compared on a machine without GPUs")
    if isinstance(device_map, dict) and "" not in device_map:
        device_map = device_map | {"model.language_model": "cpu", "lm_head": "cpu"}
    spread = load_voco_model("voco-tiny", device_map=device_map)
    assert spread.fingerprint() == load_voco_model("voco-tiny", device="cpu").fingerprint()
    assert {device.type for device in spread.backbone.layer_devices} == {"cpu"}


# ---------------------------------------------------------------------- on a GPU


def needs_gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")(test))


def answer_of(model) -> list[int]:
    from tests.helpers.models import random_pixels
    from voco_video.answer.generate import generate
    from voco_video.options.answering import AnswerOptions

    fit = model.backbone.images.fit
    with torch.inference_mode():
        tokens = model.compress(model.vision_tokens(random_pixels(4, size=fit.height)), form="kv")
    prompt = model.backbone.conversation_ids([{"role": "user", "content": "where is the star?"}])
    return generate(model, model.prefix(tokens), [prompt], options=AnswerOptions(max_new_tokens=4))[0][0]


@needs_gpu
@pytest.mark.skipif(find_spec("flash_attn") is None, reason="flash-attn is not installed")
def test_flash_attention_is_used_where_it_is_and_answers_the_same():
    flash = load_voco_model("voco-tiny", device="cuda", dtype="bfloat16")
    assert flash.backbone.text_config._attn_implementation == "flash_attention_2"
    sdpa = load_voco_model("voco-tiny", device="cuda", dtype="bfloat16", attn_implementation="sdpa")
    assert answer_of(flash) == answer_of(sdpa)


@needs_gpu
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_weights_are_smaller_and_answer(bits):
    whole = load_voco_model("voco-tiny", device="cuda", dtype="bfloat16")
    small = load_voco_model("voco-tiny", device="cuda", dtype="bfloat16", weight_bits=bits)
    sizes = [sum(p.numel() * p.element_size() for p in m.backbone.decoder.layers.parameters()) for m in (whole, small)]
    assert sizes[1] < 0.7 * sizes[0]
    assert len(answer_of(small)) > 0


@needs_gpu
def test_weights_go_to_the_gpu_without_a_stop(sharded):
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = load_voco_model(sharded, device="cuda", dtype="bfloat16")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    shard = max(path.stat().st_size for path in weight_files(sharded))
    assert torch.cuda.max_memory_allocated() - before < size + 1.2 * shard
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
