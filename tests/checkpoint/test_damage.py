"""Damage to any file of a checkpoint is one clear error that names the file, and never a traceback or another model.

Each table says what is done to a file and what the error has to name. `benchmarks.fuzz` does the same by seed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file

from tests.helpers.published_layout import write_published
from tests.helpers.tiny_families import EACH_FAMILY, tiny_family
from voco_video.api import load_model
from voco_video.checkpoint.convert import convert_checkpoint
from voco_video.checkpoint.describe import describe_checkpoint
from voco_video.checkpoint.files import read_image_processor, read_tokenizer
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.errors import ModelError, UsageError, VocoVideoError
from voco_video.model.voco import VocoModel
from voco_video.training import TrainConfig
from voco_video.training.trainable import choose_trainable, export_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9\nsize 12345\n"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Path]:
    """One sound checkpoint of every kind; `copy_of` gives one to damage."""
    root = tmp_path_factory.mktemp("sound")
    folders = {kind: root / kind for kind in ("voco-tiny", "llava", "sharded", "qwen2_5_vl", "adapter", "answering")}
    shutil.copytree(find_checkpoint("voco-tiny"), folders["voco-tiny"])
    save_voco_model(tiny_family("llava"), folders["llava"])
    save_voco_model(tiny_family("llava"), folders["sharded"], max_shard_size="150KB")
    save_voco_model(tiny_family("qwen2_5_vl"), folders["qwen2_5_vl"])
    for kind in ("llava", "qwen2_5_vl"):  # as the library writes them
        for name in ("voco_config.json", "voco.safetensors"):
            (folders[kind] / name).unlink()
    base = save_voco_model(tiny_family("llava"), root / "base")
    for kind, changes in (
        ("adapter", {}),
        ("answering", {"mode": "cached", "stage": "video", "train_projector": False, "train_voco_embeds": False}),
    ):
        options: dict[str, Any] = {"lora_rank": 2, "lora_targets": ("q_proj",), "output_dir": "x", "export": "adapter"}
        config = TrainConfig(model=str(base), **options | changes)
        trained = load_voco_model(base)
        choose_trainable(trained, config)
        export_model(trained, folders[kind], config)
    folders["published"] = root / "published"
    write_published(folders["published"], voco=True)
    folders["pickled"] = root / "pickled"
    write_published(folders["pickled"], voco=False, suffix=".bin")
    return folders


@pytest.fixture
def copy_of(sound, tmp_path):
    def copy(kind: str) -> Path:
        return Path(shutil.copytree(sound[kind], tmp_path / "checkpoint"))

    return copy


def load(folder: Path) -> VocoModel:
    return load_model(folder, device="cpu").voco


def change(path: Path, place: str, value: Any) -> None:
    """Set ``a.b.c`` of a JSON file; `Ellipsis` deletes it."""
    settings = json.loads(path.read_text())
    *above, key = place.split(".")
    parent = settings
    for name in above:
        parent = parent[name]
    if value is ...:
        del parent[key]
    else:
        parent[key] = value
    path.write_text(json.dumps(settings))


def change_tensors(path: Path, **changes: Any) -> None:
    """Set tensors by the ends of their names, with ``__`` for dots; None drops one."""
    tensors = load_file(path)
    for ending, value in changes.items():
        name = next((n for n in tensors if n.endswith(ending.replace("__", "."))), ending.replace("__", "."))
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value(tensors[name]) if callable(value) else value
    save_file(tensors, path, {"format": "pt"} | _metadata(path))


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def named(value: Any) -> str:
    """A short name of a row, the same in every process."""
    return re.sub(r" at 0x\w+", "", str(value))[:40]


# ---------------------------------------------------------------------- files that are not what they were


def _become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


BROKEN = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "LFS pointer": (
        lambda path: path.write_text(POINTER),
        "is a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    "web page": (lambda path: path.write_text("\n<!DOCTYPE html><html>"), "is a web page, not the file itself"),
    "folder": (_become_a_folder, "is a folder where a file has to be"),
    "link": (_link_to_nowhere, r"is a link to nowhere \(gone\)"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is not JSON|cannot be read"),
    "zeros": (lambda path: path.write_bytes(bytes(2000)), "is not JSON|cannot be read"),
}
BROKEN_JSON = {
    "list": (lambda path: path.write_text("[1]"), r"has to hold a JSON object \{\.\.\.\}, not \[1\]"),
    "null": (lambda path: path.write_text("null"), "not None"),
    "number": (lambda path: path.write_text("3.5"), "not 3.5"),
    "no JSON": (lambda path: path.write_text("{model_type: llava}"), "is not JSON: Expecting property name"),
    "deep": (lambda path: path.write_text('{"a":' * 100_000), "is not JSON"),
    "mark": (lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()), "byte-order mark"),
    "UTF-16": (lambda path: path.write_bytes(path.read_text().encode("utf-16")), "is not UTF-8 text"),
}
JSON_FILES = [
    *(("voco-tiny", name) for name in ("config.json", "voco_config.json", "tokenizer_config.json")),
    *(("voco-tiny", name) for name in ("generation_config.json", "answer_adapter/adapter.json")),
    *(("llava", name) for name in ("config.json", "preprocessor_config.json")),
    ("qwen2_5_vl", "preprocessor_config.json"),
    ("sharded", "model.safetensors.index.json"),
    *(("adapter", name) for name in ("voco_config.json", "adapter_config.json")),
    *(("published", name) for name in ("config.json", "tower/config.json", "tower/preprocessor_config.json")),
]
OTHER_FILES = [
    *(("voco-tiny", name) for name in ("model.safetensors", "voco.safetensors", "retrieval.safetensors")),
    *(("voco-tiny", name) for name in ("tokenizer.json", "answer_adapter/adapter.safetensors")),
    ("sharded", "model-00002-of-00004.safetensors"),
    *(("adapter", name) for name in ("changed.safetensors", "adapter_model.safetensors", "voco.safetensors")),
    ("answering", "answer_adapter/adapter.safetensors"),
    *(("pickled", name) for name in ("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json")),
    ("published", "model-00001-of-00002.safetensors"),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("kind", "name"), [*JSON_FILES, *OTHER_FILES], ids=str)
@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_not_what_it_was(copy_of, kind, name, how):
    folder = copy_of(kind)
    damage, says = BROKEN[how]
    damage(folder / name)
    with pytest.raises(ModelError, match=f"(?s){Path(name).name}.*({says})") as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ModelError, match=Path(name).name):
        describe_checkpoint(folder)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("kind", "name"), JSON_FILES, ids=str)
@pytest.mark.parametrize("how", BROKEN_JSON)
def test_settings_that_are_no_settings(copy_of, kind, name, how):
    folder = copy_of(kind)
    damage, says = BROKEN_JSON[how]
    damage(folder / name)
    with pytest.raises(ModelError, match=f"{Path(name).name} .*{says}"):
        load(folder)
    with pytest.raises(ModelError, match=f"{Path(name).name} .*{says}"):
        describe_checkpoint(folder)


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("voco-tiny", "config.json", "config.json does not exist"),
        ("voco-tiny", "voco_config.json", "holds voco.safetensors without voco_config.json"),
        ("voco-tiny", "voco.safetensors", "voco.safetensors does not exist"),
        ("voco-tiny", "model.safetensors", "holds no weights: neither model.safetensors nor pytorch_model.bin"),
        ("voco-tiny", "answer_adapter", "answer_adapter/adapter.json does not exist, and .*voco_config.json says"),
        ("voco-tiny", "answer_adapter/adapter.json", "adapter.json does not exist"),
        ("voco-tiny", "answer_adapter/adapter.safetensors", "adapter.safetensors does not exist"),
        ("voco-tiny", "tokenizer.json", "holds tokenizer_config.json without tokenizer.json"),
        ("llava", "preprocessor_config.json", "the image processor in .* cannot be read"),
        ("sharded", "model.safetensors.index.json", "holds no weights"),
        ("sharded", "model-00003-of-00004.safetensors", "model-00003-of-00004.safetensors does not exist"),
        ("adapter", "voco_config.json", "holds no config.json .nor, as an adapter does, voco_config.json"),
        ("adapter", "changed.safetensors", "changed.safetensors does not exist, and .*voco_config.json says"),
        ("adapter", "adapter_config.json", "adapter_config.json does not exist"),
        ("adapter", "adapter_model.safetensors", "adapter_model.safetensors does not exist"),
        ("answering", "answer_adapter", "adapter.json does not exist"),
        ("published", "tower", "mm_vision_tower 'tower': no checkpoint 'tower'"),
        ("published", "tower/config.json", "mm_vision_tower 'tower': .*holds no config.json"),
    ],
)
def test_a_file_that_is_missing(copy_of, kind, name, says):
    folder = copy_of(kind)
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ModelError, match=says):
        load(folder)


def test_old_adapters_that_list_no_files_miss_one_of_two(copy_of):
    folder = copy_of("adapter")
    change(folder / "voco_config.json", "files", ...)
    assert load(folder).num_voco_tokens == 4
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match=r"one of adapter_config.json and adapter_model.safetensors without the other"):
        load(folder)


def test_a_file_in_place_of_the_answering_adapters_folder(copy_of):
    folder = copy_of("voco-tiny")
    change(folder / "voco_config.json", "files", ...)
    shutil.rmtree(folder / "answer_adapter")
    (folder / "answer_adapter").write_text("")
    with pytest.raises(ModelError, match="answer_adapter has to be the folder of the answering adapters"):
        load(folder)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_may_not_be_read(copy_of, name):
    folder = copy_of("voco-tiny")
    (folder / name).chmod(0)
    with pytest.raises(ModelError, match=f"{name} may not be read: change its permissions"):
        load(folder)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("~nobody-of-this-name/model", "there is no user 'nobody-of-this-name'"),
        ("model\0", "embedded null"),
        ("m" * 5000, "File name too long"),
        (__file__, "is no folder, so it is not a checkpoint folder"),
    ],
    ids=["user", "null", "long", "file"],
)
def test_names_that_cannot_be_a_checkpoint(path, says):
    with pytest.raises((ModelError, UsageError), match=says):
        load_model(path)


# ---------------------------------------------------------------------- values


CONFIG_VALUES = [
    ("llava", "text_config", ..., "text_config is missing, and nothing else says how large the model is"),
    ("llava", "text_config", {}, "text_config is missing"),
    ("llava", "vision_config", ..., "vision_config is missing"),
    ("llava", "model_type", ..., "model_type has to be a name such as 'llava', not None"),
    ("llava", "model_type", 7, "model_type has to be a name such as 'llava', not 7"),
    ("llava", "model_type", "bert", "model_type 'bert' is not supported, only llava"),
    (
        "llava",
        "model_type",
        "qwen2_5_vl",
        "config.json",
    ),
    ("llava", "text_config.hidden_size", 128, "do not belong together"),
    ("llava", "text_config.hidden_size", -64, "cannot be read|hidden_size has to be a whole number from 1 on"),
    ("llava", "text_config.hidden_size", "64", "hidden_size"),
    ("llava", "text_config.hidden_size", None, "hidden_size"),
    (
        "llava",
        "text_config.num_hidden_layers",
        10**9,
        r"num_hidden_layers is 1000000000, and the files hold \d+ weights",
    ),
    ("llava", "text_config.num_hidden_layers", 2, r"has no layer for .*layers\.2\.\S*, which is in the files"),
    ("llava", "text_config.num_hidden_layers", 0, "num_hidden_layers has to be a whole number from 1 on, not 0"),
    ("llava", "text_config.num_attention_heads", 0, "num_attention_heads|cannot be read"),
    ("llava", "text_config.num_key_value_heads", 3, "no multiple of num_key_value_heads 3|do not belong"),
    ("llava", "text_config.intermediate_size", 10**12, "do not belong together|no model can be made"),
    ("llava", "text_config.vocab_size", 10**10, "do not belong together|no model can be made"),
    ("llava", "text_config.vocab_size", 50, "do not belong together|token id"),
    ("llava", "text_config.head_dim", 0, "head_dim has to be a whole number from 1 on, not 0"),
    ("llava", "text_config.rms_norm_eps", 1e300, "rms_norm_eps has to be a small number above 0"),
    ("llava", "text_config.rms_norm_eps", float("nan"), "rms_norm_eps has to be a small number above 0, not nan"),
    ("llava", "text_config.rms_norm_eps", "tiny", "rms_norm_eps"),
    ("llava", "text_config.hidden_act", "no-such", "no-such"),
    ("llava", "text_config.rope_parameters.rope_theta", -1.0, "rope_theta"),
    ("llava", "text_config.rope_parameters.rope_theta", "x", "rope_theta"),
    ("llava", "text_config.rope_parameters.rope_type", "spiral", "spiral"),
    ("llava", "text_config.max_position_embeddings", 0, "max_position_embeddings has to be a whole number from 1 on"),
    ("llava", "vision_config.patch_size", 0, "patch_size"),
    ("llava", "vision_config.image_size", 64, "do not belong together|image_size"),
    ("llava", "vision_config.num_hidden_layers", 10**9, "num_hidden_layers is 1000000000"),
    ("llava", "vision_feature_layer", 99, r"vision_feature_layer has to be a layer of the tower, from -3 to 2, not 99"),
    ("llava", "vision_feature_layer", [0, -9], "vision_feature_layer has to be a layer of the tower"),
    ("llava", "vision_feature_select_strategy", "some", "some|vision_feature_select_strategy"),
    (
        "llava",
        "quantization_config",
        {"quant_method": "awq"},
        "quantization_config: quantized weights are not supported",
    ),
    ("qwen2_5_vl", "vision_config.spatial_merge_size", 0, "spatial_merge_size has to be a whole number from 1 on"),
    ("qwen2_5_vl", "vision_config.depth", 10**9, "is 1000000000, and the files hold"),
    ("qwen2_5_vl", "vision_config.window_size", -16, "window_size has to be a whole number from 1 on"),
    ("qwen2_5_vl", "vision_config.fullatt_block_indexes", [7], "fullatt_block_indexes has to name layers from 0 to 2"),
    ("qwen2_5_vl", "text_config.rope_parameters.mrope_section", [2, 3], "mrope_section"),
    ("qwen2_5_vl", "text_config.rope_parameters.mrope_section", [9, 9, 9], "mrope_section .*add up to 8"),
    ("qwen2_5_vl", "video_token_id", 10**6, "the tokenizer does not know token id 1000000 of config.json"),
    ("published", "hidden_size", ..., "hidden_size is missing, and has to be a whole number from 1 on"),
    ("published", "num_hidden_layers", 10**9, "num_hidden_layers is 1000000000"),
    ("published", "bos_token_id", None, "bos_token_id has to be a token id, not None"),
    ("published", "mm_vision_tower", ..., "mm_vision_tower is missing"),
    ("published", "mm_vision_tower", 3, "mm_vision_tower has to be the name of a vision tower, not 3"),
    ("published", "mm_vision_select_layer", "last", "mm_vision_select_layer has to be a layer of the vision tower"),
    ("published", "mm_vision_select_layer", -40, "vision_feature_layer has to be a layer of the tower"),
    ("published", "mm_vision_select_feature", "both", 'mm_vision_select_feature has to be "patch" or "cls_patch"'),
    ("published", "image_aspect_ratio", "anyres", r"tiles \(LLaVA-1.6\) are not supported"),
]


@pytest.mark.parametrize(("kind", "place", "value", "says"), CONFIG_VALUES, ids=named)
def test_configurations_that_cannot_be_right(copy_of, kind, place, value, says):
    folder = copy_of(kind)
    change(folder / "config.json", place, value)
    for read in (load, describe_checkpoint):
        with pytest.raises(ModelError, match=says) as caught:
            read(folder)
        assert str(folder) in str(caught.value) or "is not supported" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


VOCO_VALUES = [
    ("format", 2, "format 2; this version reads 1: use the version that wrote it"),
    ("format", ..., "format is missing"),
    ("format", "1", "format has to be the number of a format, not '1'"),
    ("format", True, "format has to be the number of a format, not True"),
    ("num_voco_tokens", 4, r"voco_embeds are \(8, 128\), and num_voco_tokens in .*voco_config.json is 4"),
    ("num_voco_tokens", ..., "num_voco_tokens is missing"),
    ("num_voco_tokens", -8, "num_voco_tokens has to be a whole number from 0 on, not -8"),
    ("num_voco_tokens", 8.0, "num_voco_tokens has to be a whole number"),
    ("trained", "yes", "trained has to be true or false, not 'yes'"),
    ("trained", 1, "trained has to be true or false, not 1"),
    ("about", 5, "about has to be text, not 5"),
    ("default_form", "all", 'default_form has to be "kv", "embeds" or null'),
    ("frame_before_ids", ..., "frame_before_ids is missing"),
    ("frame_before_ids", [99999], "frame_before_ids: token id 99999 is not below the model's vocab_size 512"),
    ("frame_after_ids", "202", "frame_after_ids has to be a list of token ids"),
    ("text_before_ids", [-1], "text_before_ids has to be a list of token ids"),
    ("text_before_ids", [None], "text_before_ids has to be a list of token ids"),
    ("images", ..., "images is missing"),
    ("images", [], "images has to be an object"),
    ("images.fit.height", -64, "images.fit.height has to be a number of pixels"),
    ("images.fit.height", 10**6, "Fit.height must be a whole number of pixels from 1 to 16384"),
    ("images.fit.width", 56, "frames of 64 x 56 pixels; the vision tower in config.json takes image_size 64"),
    ("images.fit.mode", "squash", "mode must be one of crop, pad, stretch"),
    ("images.fit.pad_rgb", [0, 0], "pad_rgb has to be three numbers"),
    ("images.mean", [0.5, 0.5], "images.mean has to be three numbers"),
    ("images.mean", [0.5, 1e300, 0.5], "image_mean has to be three numbers, of brightness from 0 to 1"),
    ("images.std", [0.5, 0.0, 0.5], "image_std has to be three numbers above 0"),
    ("images.std", [0.5, float("nan"), 0.5], "images.std has to be three numbers above 0"),
    ("chat_template", 9, "chat_template has to be text or null, not 9"),
    ("chat_template", "{% for %}", "its chat template in voco_config.json, line 1"),
    ("base", "voco-tiny", "base has to be an object or null"),
    ("base", {"name": "voco-tiny"}, "base.digest is missing"),
    ("base", {"name": "", "digest": "0" * 64}, "base.name has to be a folder or a hub id"),
    ("base", {"name": "voco-tiny", "digest": "0" * 64}, "whose weights are not what they were in training"),
    ("base", {"name": "no-such", "digest": "0" * 64}, "is an adapter for 'no-such': no checkpoint"),
    ("files", "all", "files has to be a list of file names"),
    ("files", ["../config.json"], "files has to be a list of file names"),
]


@pytest.mark.parametrize(("place", "value", "says"), VOCO_VALUES, ids=named)
def test_our_own_settings_that_cannot_be_right(copy_of, place, value, says):
    folder = copy_of("voco-tiny")
    change(folder / "voco_config.json", place, value)
    for read in (load, describe_checkpoint):
        with pytest.raises(ModelError, match=says):
            read(folder)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("kind", "name", "place", "value", "says"),
    [
        (
            "voco-tiny",
            "answer_adapter/adapter.json",
            "rank",
            10**9,
            r"adapter.json says rank 1000000000, and .* no LoRA",
        ),
        ("voco-tiny", "answer_adapter/adapter.json", "rank", None, "adapter.json: rank has to be a whole number"),
        (
            "voco-tiny",
            "answer_adapter/adapter.json",
            "targets",
            ["x_proj"],
            "adapter.json: answering weights for x_proj",
        ),
        ("voco-tiny", "answer_adapter/adapter.json", "targets", ["q_proj"], "are for another model, or not complete"),
        ("voco-tiny", "answer_adapter/adapter.json", "targets", "q_proj", "targets has to be a list of names"),
        ("voco-tiny", "answer_adapter/adapter.json", "form", "kvs", "form has to be"),
        ("answering", "answer_adapter/adapter.json", "rank", 0, r"says rank 0, and .* LoRA of rank \[2\]"),
        ("answering", "answer_adapter/adapter.json", "rank", 4, r"says rank 4, and .* LoRA of rank \[2\]"),
        ("answering", "answer_adapter/adapter.json", "alpha", "x", "alpha has to be a number, not 'x'"),
        ("adapter", "adapter_config.json", "r", 0, "adapter_config.json: r has to be a whole number from 1 on, not 0"),
        ("adapter", "adapter_config.json", "r", 3, "lacks one of two matrices of rank 3"),
        ("adapter", "adapter_config.json", "lora_alpha", ..., "lora_alpha is missing"),
        ("voco-tiny", "generation_config.json", "eos_token_id", "x", "eos_token_id has to be a token id"),
        ("voco-tiny", "generation_config.json", "eos_token_id", 5000, "eos_token_id: token id 5000 is not below"),
        ("voco-tiny", "generation_config.json", "eos_token_id", [2, -9], "eos_token_id has to be a token id"),
        ("voco-tiny", "generation_config.json", "repetition_penalty", "x", "repetition_penalty has to be a number"),
        ("voco-tiny", "generation_config.json", "no_repeat_ngram_size", -4, "no_repeat_ngram_size has to be a whole"),
        ("llava", "preprocessor_config.json", "size", ..., "cannot be used|cannot be read|pixels"),
        (
            "llava",
            "preprocessor_config.json",
            "crop_size",
            {"height": 64, "width": 64},
            "cannot be used|takes image_size 32",
        ),
        ("llava", "preprocessor_config.json", "image_mean", None, "the image processor in .* cannot be used"),
        ("llava", "preprocessor_config.json", "image_mean", [1, 2], "image_mean has to be three numbers"),
        ("llava", "preprocessor_config.json", "image_std", [0.5, 0.5, "x"], "image_std has to be three numbers"),
        ("llava", "preprocessor_config.json", "image_processor_type", "NoSuch", "image processor in .* cannot be read"),
        ("qwen2_5_vl", "preprocessor_config.json", "size", {"shortest_edge": 0}, "image processor in .* cannot be"),
        (
            "qwen2_5_vl",
            "preprocessor_config.json",
            "image_std",
            ...,
            "image_std is missing in preprocessor_config.json",
        ),
        (
            "sharded",
            "model.safetensors.index.json",
            "weight_map",
            ...,
            "weight_map has to name the file of every weight",
        ),
        (
            "sharded",
            "model.safetensors.index.json",
            "weight_map",
            {},
            "weight_map has to name the file of every weight",
        ),
        ("sharded", "model.safetensors.index.json", "weight_map", {"x": "/etc/hosts"}, "has to name a file beside it"),
        ("sharded", "model.safetensors.index.json", "weight_map", {"x": "m" * 3000}, "has to name a file beside it"),
        (
            "sharded",
            "model.safetensors.index.json",
            "weight_map",
            {"x": "../a.safetensors"},
            "has to name a file beside",
        ),
        (
            *("sharded", "model.safetensors.index.json", "weight_map"),
            *({"x": "model-00001-of-00004.safetensors"}, "missing weights"),
        ),
    ],
    ids=named,
)
def test_values_of_the_other_files(copy_of, kind, name, place, value, says):
    folder = copy_of(kind)
    change(folder / name, place, value)
    with pytest.raises(ModelError, match=says):
        load(folder)


@pytest.mark.parametrize("value", [..., None])
def test_answers_end_where_the_configuration_says_if_nothing_else_does(copy_of, sound, value):
    folder = copy_of("voco-tiny")
    change(folder / "generation_config.json", "eos_token_id", value)
    ends = [load(path).backbone.hf_model.generation_config.eos_token_id for path in (folder, sound["voco-tiny"])]
    assert ends == [2, 2]


# ---------------------------------------------------------------------- weights


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[-1] = float("nan")
    return tensor


def _infinite(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[0] = float("-inf")
    return tensor


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("kind", "name", "changes", "says"),
    [
        (
            "llava",
            "model.safetensors",
            {"0__self_attn__q_proj__weight": _nan},
            "model.safetensors: .*q_proj.weight holds NaN",
        ),
        (
            "llava",
            "model.safetensors",
            {"embed_tokens__weight": _infinite},
            "embed_tokens.weight holds NaN or infinite",
        ),
        ("llava", "model.safetensors", {"linear_1__bias": _nan}, "linear_1.bias holds NaN"),
        ("llava", "model.safetensors", {"gate_proj__weight": None}, r"missing weights.*gate_proj.*not complete; fetch"),
        (
            "llava",
            "model.safetensors",
            {"gate_proj__weight": torch.ones(3)},
            r"gate_proj.weight is \(3,\) in the files",
        ),
        ("llava", "model.safetensors", {"gate_proj__weight": lambda t: t.T.contiguous()}, "do not belong together"),
        ("llava", "model.safetensors", {"gate_proj__weight": lambda t: t.int()}, "gate_proj.weight is of type I32"),
        (
            "llava",
            "model.safetensors",
            {"gate_proj__weight": lambda t: t.to(torch.float8_e4m3fn)},
            "is of type F8_E4M3",
        ),
        ("voco-tiny", "voco.safetensors", {"voco_embeds": _nan}, "voco.safetensors: voco_embeds holds NaN"),
        ("voco-tiny", "voco.safetensors", {"voco_embeds": lambda t: t[:3].clone()}, "voco_embeds are"),
        ("voco-tiny", "voco.safetensors", {"voco_embeds": lambda t: t[:, :9].clone()}, "hidden size is 128"),
        ("voco-tiny", "voco.safetensors", {"voco_embeds": lambda t: t.long()}, "has to be of floating-point numbers"),
        ("voco-tiny", "voco.safetensors", {"voco_embeds": None}, "has to hold voco_embeds and nothing else"),
        ("voco-tiny", "voco.safetensors", {"more": torch.ones(1)}, "has to hold voco_embeds and nothing else"),
        ("voco-tiny", "answer_adapter/adapter.safetensors", {"q_proj__answer_layer__weight": _nan}, "holds NaN"),
        ("voco-tiny", "answer_adapter/adapter.safetensors", {"q_proj__answer_layer__weight": None}, "no such weight"),
        (
            "voco-tiny",
            "answer_adapter/adapter.safetensors",
            {"more": torch.ones(1)},
            "more is .* and no such weight by",
        ),
        ("voco-tiny", "retrieval.safetensors", {"bias": _nan}, "retrieval.safetensors: .*bias holds NaN"),
        ("voco-tiny", "retrieval.safetensors", {"keys__weight": None}, "does not hold a retriever"),
        ("voco-tiny", "retrieval.safetensors", {"kw__keys__weight": torch.ones(2)}, "does not hold a retriever"),
        ("adapter", "changed.safetensors", {"linear_1__weight": _nan}, "changed.safetensors: .* holds NaN"),
        ("adapter", "changed.safetensors", {"linear_1__weight": torch.ones(2)}, "does not fit its base"),
        ("adapter", "changed.safetensors", {"more": torch.ones(1)}, "more .* does not fit its base, which has no such"),
        ("adapter", "adapter_model.safetensors", {"lora_A__weight": None}, "lacks one of two matrices of rank 2"),
        (
            "adapter",
            "adapter_model.safetensors",
            {"lora_B__weight": torch.ones(4)},
            "lacks one of two matrices of rank 2",
        ),
        ("adapter", "adapter_model.safetensors", {"more": torch.ones(1)}, "more is no matrix of LoRA"),
        ("published", "model-00001-of-00002.safetensors", {"lm_head__weight": _nan}, "holds NaN"),
    ],
    ids=named,
)
def test_weights_that_cannot_be_right(copy_of, kind, name, changes, says):
    folder = copy_of(kind)
    change_tensors(folder / name, **changes)
    with pytest.raises(ModelError, match=says):
        load(folder)


def test_converting_refuses_nan_and_leaves_no_checkpoint(copy_of, tmp_path):
    folder = copy_of("published")
    change_tensors(folder / "model-00001-of-00002.safetensors", lm_head__weight=_nan)
    with pytest.raises(ModelError, match=r"lm_head.weight holds NaN"):
        convert_checkpoint(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_weights_beyond_a_type_are_told_from_damage(copy_of):
    folder = copy_of("llava")
    change_tensors(folder / "model.safetensors", norm__weight=lambda t: torch.full_like(t, 1e30))
    assert load_voco_model(folder, dtype="bfloat16").num_voco_tokens == 0
    with pytest.raises(ModelError, match=r"does not fit into torch.float16: use --dtype bfloat16 or float32"):
        load_voco_model(folder, dtype="float16")


def test_large_weights_add_up_to_no_false_alarm(copy_of):
    folder = copy_of("llava")
    change_tensors(folder / "model.safetensors", lm_head__weight=lambda t: torch.full_like(t, 1e36))
    assert load_voco_model(folder).num_voco_tokens == 0


def test_weights_that_are_no_part_of_the_model_are_named(copy_of, caplog):
    folder = copy_of("llava")
    load(folder)
    assert "no part of" not in caplog.text
    change_tensors(folder / "model.safetensors", model__surprise__weight=torch.ones(2))
    load(folder)
    assert (
        "1 of its weights are no part of a llava model and are left out, such as model.surprise.weight" in caplog.text
    )
    assert "LOAD REPORT" not in caplog.text


def test_a_pickle_of_something_else(copy_of):
    folder = copy_of("pickled")
    for content in ([torch.ones(2)], {"a": 1}, {"model": {"a": torch.ones(2)}}):
        torch.save(content, folder / "pytorch_model-00001-of-00002.bin")
        with pytest.raises(ModelError, match=r"pytorch_model-00001-of-00002\.bin cannot be read as weights"):
            load(folder)


MEMORY = """
import resource, sys
from voco_video.checkpoint.describe import describe_checkpoint
from voco_video.checkpoint.folder import load_voco_model
from voco_video.errors import ModelError
load_voco_model("voco-tiny")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for folder in sys.argv[1:]:
    for read in (load_voco_model, describe_checkpoint):
        try:
            read(folder)
            raise SystemExit("no error")
        except ModelError as error:
            print(error)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 200 << 10, f"{(after - before) >> 10} MiB more for {folder}"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts KiB on Linux")
@pytest.mark.exhaustive
def test_memory_is_taken_only_for_what_the_files_hold(sound, tmp_path):
    folders = []
    for place, value in (
        ("text_config", {"model_type": "llama"}),  # the library's defaults: 7 billion weights
        ("text_config.hidden_size", 1 << 18),
        ("text_config.vocab_size", 1 << 40),
        ("vision_config.intermediate_size", 1 << 40),
    ):
        folders.append(shutil.copytree(sound["llava"], tmp_path / str(len(folders))))
        change(folders[-1] / "config.json", place, value)
    done = subprocess.run([sys.executable, "-c", MEMORY, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("config.json") == 2 * len(folders)


# ---------------------------------------------------------------------- tokenizers and templates


def test_a_tokenizer_of_another_model(copy_of, sound):
    folder = copy_of("llava")
    for path in sound["voco-tiny"].glob("tokenizer*"):
        shutil.copy(path, folder / path.name)
    with pytest.raises(ModelError, match=r"its tokenizer: token id \d+ is not below the model's vocab_size"):
        load(folder)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="before 5.23 the library drops one of the two tokens"
)
def test_a_tokenizer_with_two_tokens_of_one_id(copy_of):
    folder = copy_of("llava")
    change(folder / "tokenizer.json", "model.vocab.x", 40)
    with pytest.raises(ModelError, match=r"its tokenizer\.json gives several tokens the id 40"):
        load(folder)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (
            "{% for m in messages %}{{ m.content }",
            "its chat template in chat_template.jinja or tokenizer_config.json, line",
        ),
        ("{{ messages | no_such_filter }}", "its chat template in chat_template.jinja"),
        ("\udcff", "chat_template.jinja is not UTF-8 text"),
    ],
)
def test_a_chat_template_that_is_none(copy_of, template, says):
    folder = copy_of("llava")
    (folder / "chat_template.jinja").write_bytes(template.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=says):
        load(folder)


def test_a_chat_template_that_fails_is_an_error_when_it_is_asked(copy_of):
    folder = copy_of("llava")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('not like this') }}")
    with pytest.raises(ModelError, match=r"refuses the conversation: not like this; set another chat_template.jinja"):
        load(folder).backbone.conversation_ids([{"role": "user", "content": "What?"}])


# ---------------------------------------------------------------------- code that a checkpoint brings


ORIGINALS = {
    "internvl_chat": "OpenGVLab/InternVL3-1B-hf",
    "llava_mistral": "llava-hf/llava-1.5-7b-hf",
    "minicpmv": "a conversion to the library's own layout",
    "some_new_vl": "a conversion to the library's own layout",
}


@pytest.mark.parametrize("model_type", ORIGINALS)
def test_code_of_a_checkpoint_is_never_run_nor_asked_about(tmp_path, monkeypatch, model_type):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the library asked a question"))
    settings = {"model_type": model_type, "auto_map": {"AutoConfig": "configuration_custom.Custom"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "configuration_custom.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    for read in (load, describe_checkpoint):
        with pytest.raises(ModelError, match=f"own code, which is never run; use .*{ORIGINALS[model_type]}"):
            read(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("model_type", ["llava_llama", "vila", "nvila"])
def test_vila_is_told_from_llava(tmp_path, model_type):
    settings = {"model_type": model_type, "llm_cfg": {}, "vision_tower_cfg": {}, "mm_projector_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    for read in (load, describe_checkpoint, lambda folder: convert_checkpoint(folder, tmp_path / "out")):
        with pytest.raises(ModelError, match=r"use another family, such as Qwen/Qwen2.5-VL-7B-Instruct"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer_config.json"])
def test_code_beside_a_supported_model(copy_of, monkeypatch, name):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the library asked a question"))
    folder = copy_of("llava")
    kind, own = (
        ("AutoImageProcessor", "image_processor_type") if "pre" in name else ("AutoTokenizer", "tokenizer_class")
    )
    code = "custom.Custom" if "pre" in name else ["custom.Custom", None]
    change(folder / name, "auto_map", {kind: code})
    change(folder / name, own, "Custom")
    (folder / "custom.py").write_text(f"open({str(folder / 'executed')!r}, 'w')")
    if "pre" in name:
        with pytest.raises(ModelError, match=r"the image processor in .* cannot be read"):
            read_image_processor(folder)
    else:  # tokenizer.json says all there is to know
        assert type(read_tokenizer(folder)).__module__.startswith("transformers")
    assert not (folder / "executed").exists()


# ---------------------------------------------------------------------- what no check can see


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("llava", "text_config.rope_parameters.rope_theta", 500000.0),
        ("llava", "text_config.rms_norm_eps", 1e-3),
        ("llava", "text_config.hidden_act", "gelu"),
        ("llava", "vision_config.layer_norm_eps", 1e-3),
        ("llava", "vision_config.num_attention_heads", 4),
        ("llava", "vision_config.hidden_act", "relu"),
        ("llava", "vision_feature_layer", -1),
        ("llava", "projector_hidden_act", "relu"),
        ("qwen2_5_vl", "text_config.rope_parameters.mrope_section", [4, 2, 2]),
        ("qwen2_5_vl", "vision_config.window_size", 32),
        ("qwen2_5_vl", "vision_config.fullatt_block_indexes", [0]),
    ],
)
def test_a_setting_that_changes_tokens_changes_the_fingerprint(copy_of, sound, kind, place, value):
    folder = copy_of(kind)
    change(folder / "config.json", place, value)
    assert load(folder).fingerprint() != load(sound[kind]).fingerprint()


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("transformers_version", "5.0.0"),
        ("architectures", ["Other"]),
        ("dtype", "bfloat16"),
        ("text_config.use_cache", False),
        ("text_config.attention_dropout", 0.1),
        ("text_config.initializer_range", 0.5),
        ("text_config.pad_token_id", None),
        ("text_config.rope_parameters.rope_theta", 10000),
        ("text_config.new_in_a_later_version", None),
    ],
)
def test_a_setting_that_changes_no_token_changes_no_fingerprint(copy_of, sound, place, value):
    folder = copy_of("llava")
    change(folder / "config.json", place, value)
    assert load(folder).fingerprint() == load(sound["llava"]).fingerprint()


# ---------------------------------------------------------------------- commands


@pytest.mark.parametrize(
    ("kind", "damage", "says"),
    [
        ("voco-tiny", lambda folder: (folder / "config.json").write_text(POINTER), "config.json is a Git LFS pointer"),
        (
            "voco-tiny",
            lambda folder: (folder / "voco_config.json").write_text("[]"),
            "voco_config.json has to hold a JSON",
        ),
        ("voco-tiny", lambda folder: change(folder / "config.json", "text_config", ...), "text_config is missing"),
        ("voco-tiny", lambda folder: change(folder / "config.json", "model_type", "internvl_chat"), "InternVL3-1B-hf"),
        ("published", lambda folder: (folder / "config.json").write_bytes(b"\xff"), "config.json is not UTF-8 text"),
        (
            "published",
            lambda folder: (folder / "model-00001-of-00002.safetensors").write_text(POINTER),
            "Git LFS pointer",
        ),
    ],
)
@pytest.mark.parametrize("command", ["ask", "models", "convert", "train"])
def test_every_command_says_it_in_one_line(run, copy_of, tmp_path, kind, damage, says, command):
    folder = copy_of(kind)
    damage(folder)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {folder}\noutput_dir: {tmp_path / 'run'}\nreport_to: []\nmax_steps: 1\n")
    (clip := tmp_path / "clip.mp4").write_bytes(b"a checkpoint is read before a clip")
    arguments = {
        "ask": ("ask", clip, "What?", "--model", folder),
        "models": ("models", folder),
        "convert": ("convert", folder, "--out", tmp_path / "out"),
        "train": ("train", recipe),
    }
    code, _, err = run(*arguments[command])
    last = err.strip().splitlines()[-1]
    assert code == 1
    assert last.startswith("error: ")
    assert "Traceback" not in err
    plain = command == "convert" and kind == "voco-tiny" and "not in a published layout" in " ".join(last.split())
    assert says in last or plain


def test_every_sound_folder_loads(sound):
    for kind, folder in sound.items():
        facts = describe_checkpoint(folder)
        assert load(folder).num_voco_tokens == facts.num_voco_tokens, kind


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_every_family_is_run_once_while_it_is_loaded(tmp_path, name, monkeypatch):
    save_voco_model(tiny_family(name), tmp_path)
    assert "num_vision_tokens" in load(tmp_path).backbone.__dict__
    monkeypatch.setattr(
        "voco_video.model.backbone.Backbone.vision_tokens",
        lambda *_: (_ for _ in ()).throw(RuntimeError("no such kernel")),
    )
    with pytest.raises(ModelError, match=r"the model in .* cannot be run; correct its config.json: no such kernel"):
        load(tmp_path)


def test_options_are_still_told_from_damage():
    with pytest.raises(UsageError, match="num_voco_tokens=3: voco-tiny was made with 8"):
        load_voco_model("voco-tiny", num_voco_tokens=3)
    assert issubclass(ModelError, VocoVideoError)
