"""What is saved opens in plain transformers: the processor's files come along as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.helpers.tiny_families import tiny_family
from voco_video.checkpoint.configurations import read_images
from voco_video.checkpoint.folder import load_voco_model, save_voco_model

TRAINED = (
    *("llava-1.5-7b-hf", "llava-onevision-qwen2-0.5b-ov-hf", "SmolVLM2-500M-Video-Instruct"),
    *(
        pytest.param(name, marks=pytest.mark.exhaustive)
        for name in ("InternVL3-1B-hf", "Qwen2.5-VL-3B-Instruct", "Qwen3-VL-2B-Instruct")
    ),
)
KEPT = {
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("chat_template.json", "chat_template.jinja", "tokenizer.json"),
}
WITHOUT_TORCHVISION = ("llava-1.5-7b-hf",)  # the library's video processors need it
JSON_TEMPLATE = "{% for m in messages %}{{ m.role }}> {{ m.content }}{% endfor %}"


@pytest.mark.parametrize("name", TRAINED)
def test_the_processor_of_a_real_family_comes_along(shared, tmp_path, name):
    source = shared / "golden" / "as_trained" / name
    saved = save_voco_model(load_voco_model(source, device="cpu", num_voco_tokens=2), tmp_path / name)
    again = save_voco_model(load_voco_model(saved, device="cpu"), tmp_path / "again")
    for folder in (saved, again):
        kept = {path.name: path.read_bytes() for path in source.iterdir() if path.name in KEPT}
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in KEPT} == kept
    ids = torch.arange(5, 25)[None]
    models = [AutoModelForImageTextToText.from_pretrained(one, dtype=torch.float32) for one in (source, again)]
    assert torch.equal(*(model(input_ids=ids).logits for model in models))
    if name not in WITHOUT_TORCHVISION and find_spec("torchvision") is None:
        return  # the files are the same, and so is what the library makes of them
    first, second = (AutoProcessor.from_pretrained(one) for one in (source, again))
    assert type(first) is type(second)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What happens?"}]}]
    assert first.apply_chat_template(turn) == second.apply_chat_template(turn) != ""


@pytest.fixture
def source(tmp_path):
    """A checkpoint whose processor has a template of its own, and settings in one file for all."""
    folder = save_voco_model(tiny_family("llava"), tmp_path / "source")
    images = json.loads((folder / "preprocessor_config.json").read_text())
    joint = {"processor_class": "LlavaProcessor", "patch_size": 8, "image_processor": images | {"note": "kept"}}
    (folder / "processor_config.json").write_text(json.dumps(joint))
    (folder / "video_preprocessor_config.json").write_text('{"do_sample_frames":  true}')
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": JSON_TEMPLATE}))
    return folder


def test_a_template_in_both_forms_stays_in_both(source, tmp_path):
    saved = save_voco_model(load_voco_model(source), tmp_path / "saved")
    for name in KEPT & {path.name for path in source.iterdir()}:
        assert (saved / name).read_bytes() == (source / name).read_bytes(), name


def test_a_template_that_was_changed_is_the_one_that_is_saved(source, tmp_path):
    (source / "chat_template.jinja").unlink()
    model = load_voco_model(source)
    model.backbone.tokenizer.chat_template = "{{ 'new' }}"
    saved = save_voco_model(model, tmp_path / "saved")
    assert load_voco_model(saved).backbone.tokenizer.chat_template == "{{ 'new' }}"
    assert AutoProcessor.from_pretrained(saved).chat_template == "{{ 'new' }}"
    assert not (saved / "chat_template.json").exists()


def test_frames_that_were_changed_are_the_ones_that_are_saved(source, tmp_path):
    model = load_voco_model(source)
    images = replace(model.backbone.images, mean=(0.1, 0.2, 0.3))
    model.backbone = replace(model.backbone, images=images)
    saved = save_voco_model(model, tmp_path / "saved")
    assert read_images(saved, model.backbone.hf_model.config) == images
    assert AutoProcessor.from_pretrained(saved).image_processor.image_mean == (0.1, 0.2, 0.3)
    assert json.loads((saved / "processor_config.json").read_text())["patch_size"] == 8
