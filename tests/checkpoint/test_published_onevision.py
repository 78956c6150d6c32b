"""Original LLaVA-OneVision checkpoints: the same model as in the library's layout, asked as its own code asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, SiglipConfig, SiglipVisionConfig

from tests.helpers.as_trained import SEVERAL_TURNS, WITH_SYSTEM, Shown, compressed, last_logits
from tests.helpers.published_layout import published_weights
from tests.helpers.tiny_families import TOWER, tiny_family, tiny_tokenizer
from voco_video.checkpoint.convert import convert_checkpoint
from voco_video.checkpoint.describe import describe_checkpoint
from voco_video.checkpoint.folder import load_voco_model
from voco_video.errors import ModelError

NUM_LAYERS = 3  # of the published tower, whose last layer nothing reads


def write_onevision(folder: Path, *, with_tower: bool = True, **others: object):
    """A tiny LLaVA-OneVision as the original code saves it; returns the same model of the library."""
    model = tiny_family("llava_onevision").backbone.hf_model
    text = model.config.text_config.to_dict()
    settings = text | {
        "model_type": "llava_qwen",
        "architectures": ["LlavaQwenForCausalLM"],
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
        "mm_vision_tower": "tower",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_newline_position": "one_token",
        "mm_spatial_pool_mode": "bilinear",
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": "(1x1),...,(6x6)",
    }
    tower = folder / "tower"
    tower.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings | others))
    tiny_tokenizer(chat_template="nobody reads this").save_pretrained(folder)
    weights = published_weights(model)
    prefix = "model.vision_tower.vision_tower."
    towers = {name.removeprefix(prefix): weights.pop(name) for name in list(weights) if name.startswith(prefix)}
    if with_tower:
        weights |= {prefix + name: tensor for name, tensor in towers.items()}
    save_file(weights, folder / "model.safetensors")
    vision = SiglipVisionConfig(**TOWER | {"image_size": 40, "num_hidden_layers": NUM_LAYERS})
    SiglipConfig(vision_config=vision.to_dict()).save_pretrained(tower)
    dropped = {name.replace("layers.0.", f"layers.{NUM_LAYERS - 1}."): t + 1 for name, t in towers.items()}
    head = {"vision_model.head.probe": torch.ones(1, 1, 32)}
    save_file(dropped | towers | head | {"text_model.x": torch.ones(1)}, tower / "model.safetensors")
    processor = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 40, "width": 40}}
    processor |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    (tower / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


@pytest.fixture(params=[True, False], ids=["own tower", "frozen tower"])
def published(request, tmp_path):
    return tmp_path / "published", write_onevision(tmp_path / "published", with_tower=request.param)


def test_it_is_the_librarys_model_and_converts_to_it(published, tmp_path):
    folder, original = published
    model = load_voco_model(folder, dtype="float32")
    state = model.backbone.hf_model.state_dict()
    assert state.keys() == original.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in original.state_dict().items())
    convert_checkpoint(folder, tmp_path / "converted")
    library = AutoModelForImageTextToText.from_pretrained(tmp_path / "converted", dtype="float32").state_dict()
    assert all(torch.equal(tensor, library[name]) for name, tensor in state.items())
    converted = load_voco_model(tmp_path / "converted", dtype="float32")
    assert converted.fingerprint() == model.fingerprint()
    shown = Shown.random(3, (40, 40))
    logits = [last_logits(m, compressed(m, shown).prefix(), SEVERAL_TURNS) for m in (model, converted)]
    assert torch.equal(*logits)
    facts = describe_checkpoint(folder)
    assert (facts.title, facts.layout, facts.num_vision_tokens) == ("original LLaVA-OneVision", "published", 9)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (
            SEVERAL_TURNS,
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n{video}\nWhat moves?<|im_end|>\n"
            "<|im_start|>assistant\nA dog.<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            WITH_SYSTEM,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{video}\nWhere to?<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
    ],
)
def test_it_is_asked_as_its_own_code_asks(published, turns, expected):
    """`conv_qwen` of the original code, its picture the whole video: 2 frames of 9 tokens, and one newline."""
    model = load_voco_model(published[0], dtype="float32")
    video = compressed(model, Shown.random(2, (40, 40)))
    text = expected.format(video="<video>" * (2 * 9 + 1))
    assert video.whole_ids(turns) == model.backbone.tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"mm_newline_position": "grid"}, "mm_newline_position is 'grid'; of this layout only LLaVA-OneVision"),
        ({"mm_spatial_pool_mode": "average"}, "mm_spatial_pool_mode is 'average'"),
        ({"add_faster_video": True}, "add_faster_video is True"),
        ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type has to be"),
        ({"mm_projector_type": "linear"}, "projector 'linear' is not supported"),
    ],
)
def test_what_reads_frames_in_another_way_is_refused(tmp_path, others, message):
    write_onevision(tmp_path / "other", **others)
    with pytest.raises(ModelError, match=message):
        load_voco_model(tmp_path / "other")
