"""Short names of recommended checkpoints: one place, every way in, and what a misspelt one may have meant."""

from __future__ import annotations

import json

import pytest

from tests.helpers.tiny_families import tiny_family
from voco_video.checkpoint.adapter_folder import describe_base
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.folder import save_voco_model
from voco_video.checkpoint.recommended import RECOMMENDED, full_name, similar_names
from voco_video.cli.options import _model_names
from voco_video.errors import ModelError
from voco_video.model.families import FAMILIES

COMMIT = "3" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache with a checkpoint under the name of one that is recommended."""
    hub = tmp_path / "hub"
    repository = hub / "models--OpenGVLab--InternVL3-1B-hf"
    save_voco_model(tiny_family("llava"), repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    return hub


def test_names_are_short_and_all_different():
    shorts, ids = ([getattr(one, name) for one in RECOMMENDED] for name in ("short", "hub_id"))
    assert len(set(shorts)) == len(set(ids)) == len(RECOMMENDED)
    assert all(short == short.lower() and "/" not in short and "@" not in short for short in shorts)
    assert all(one.hub_id.count("/") == 1 and one.licence and one.num_parameters > 1e8 for one in RECOMMENDED)


def test_every_one_is_of_a_family_that_runs():
    kinds = {"smolvlm", "qwen2_5_vl", "qwen3_vl", "internvl", "llava_onevision", "llava"}
    assert kinds <= FAMILIES.keys()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3-vl-2b", "Qwen/Qwen3-VL-2B-Instruct"),
        ("Qwen3-VL-2B@v1", "Qwen/Qwen3-VL-2B-Instruct@v1"),
        ("someone/qwen3-vl-2b", "someone/qwen3-vl-2b"),
        ("./qwen3-vl-2b", "./qwen3-vl-2b"),
        ("voco-tiny", "voco-tiny"),
        ("", ""),
    ],
)
def test_a_short_name_stands_for_its_hub_id(name, expected):
    assert full_name(name) == expected


def test_a_short_name_is_found_where_its_hub_id_is(hub):
    found = find_checkpoint("internvl3-1b")
    assert found == find_checkpoint("OpenGVLab/InternVL3-1B-hf")
    assert find_checkpoint(f"internvl3-1b@{COMMIT}") == found
    assert describe_base("internvl3-1b").name == f"OpenGVLab/InternVL3-1B-hf@{COMMIT}", (
        "an adapter outlives short names"
    )


def test_a_folder_of_that_name_comes_first(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_voco_model(tiny_family("llava"), tmp_path / "internvl3-1b")
    assert find_checkpoint("internvl3-1b").resolve() == (tmp_path / "internvl3-1b").resolve()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("smolvlm-500m", "smolvlm2-500m"),
        ("smolvlm2_2.2b", "smolvlm2-2.2b"),
        ("qwen2.5-vl-3", "qwen2.5-vl-3b"),
        ("Qwen/Qwen2.5-VL-3B", "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("HuggingFaceTB/SmolVLM2-500M-Instruct", "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"),
    ],
)
def test_a_misspelt_name_says_what_it_may_have_meant(hub, name, meant):
    assert meant in similar_names(name)
    with pytest.raises(ModelError, match=rf"Did you mean .*{meant}"):
        find_checkpoint(name)


@pytest.mark.parametrize("name", ["smolvlm2-500m", "Qwen/Qwen3-VL-8B-Instruct", "someone/else", "nothing-here"])
def test_a_right_name_and_a_strange_one_suggest_nothing(hub, name):
    assert similar_names(name) == []
    with pytest.raises(ModelError) as caught:
        find_checkpoint(name)
    assert "Did you mean" not in str(caught.value)


def test_models_begins_with_them(run):
    code, out, _ = run("models")
    lines = out.splitlines()
    assert code == 0
    assert lines[2].startswith("smolvlm2-500m")
    for one in RECOMMENDED:
        (line,) = (line for line in lines if line.startswith(f"{one.short} "))
        assert one.hub_id in line
        assert one.licence in line
    facts = json.loads(run("models", "--json")[1])
    assert [one["short"] for one in facts["recommended"]] == [one.short for one in RECOMMENDED]
    first = facts["recommended"][0]
    assert first["weight_bytes"] == 2 * first["num_parameters"]
    assert first["command"].endswith("--model smolvlm2-500m")


def test_names_are_completed():
    assert [name for name, _ in _model_names("smol")] == ["smolvlm2-500m", "smolvlm2-256m", "smolvlm2-2.2b"]
    assert [name for name, _ in _model_names("voco")] == ["voco-tiny"]
    assert len(_model_names("")) == 1 + len(RECOMMENDED)
