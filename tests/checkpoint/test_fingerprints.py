"""Fingerprints of large checkpoints: computed once, remembered, and computed again when anything may have changed."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.models import tiny_voco
from tests.helpers.tiny_families import tiny_family
from voco_video.api import VideoModel
from voco_video.cache import FrameCache
from voco_video.checkpoint import fingerprints
from voco_video.checkpoint.fingerprints import cached_fingerprint, sample_digest
from voco_video.checkpoint.folder import load_voco_model, save_voco_model


@pytest.fixture(autouse=True)
def _any_size(monkeypatch):
    monkeypatch.setattr(fingerprints, "MIN_BYTES", 0)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint whose files are an hour old."""
    folder = save_voco_model(tiny_family("llava"), tmp_path / "checkpoint", max_shard_size="60KB")
    age(folder)
    return folder


def age(folder: Path, *, seconds: float = 3600.0) -> None:
    then = time.time() - seconds
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


class Asking:
    """Asks for fingerprints and counts how often weights were read for one."""

    def __init__(self, cache_dir: Path) -> None:
        self.cache_dir, self.num_computed = cache_dir, 0

    def __call__(self, model, what: str = "compressing") -> str:
        def compute() -> str:
            self.num_computed += 1
            return model.fingerprint()

        return cached_fingerprint(model, compute, what=what, cache_dir=self.cache_dir)


@pytest.fixture
def ask(tmp_path):
    return Asking(tmp_path / "cache")


def test_it_is_computed_once_for_the_same_files(folder, ask):
    first = ask(load_voco_model(folder))
    assert first == load_voco_model(folder).fingerprint()
    assert [ask(load_voco_model(folder)), ask(load_voco_model(folder))] == [first, first]
    assert ask.num_computed == 1


def test_a_copy_elsewhere_and_another_use_are_computed_anew(folder, ask, tmp_path):
    first = ask(load_voco_model(folder))
    shutil.copytree(folder, tmp_path / "copy")
    assert ask(load_voco_model(tmp_path / "copy")) == first
    assert ask(load_voco_model(folder), what="answering") == first
    assert ask.num_computed == 3


def change(path: Path, *, where: int) -> dict[str, torch.Tensor]:
    weights = load_file(path)
    name = sorted(weights)[where]
    weights[name] = weights[name].clone() + 0.5
    return weights


@pytest.mark.parametrize("where", [0, -1])
def test_another_file_under_the_same_name_is_another_model(folder, ask, where):
    first = ask(load_voco_model(folder))
    path = sorted(folder.glob("model-*.safetensors"))[1]
    weights = change(path, where=where)
    save_file(weights, folder / "new", {"format": "pt"})
    assert (folder / "new").stat().st_size == path.stat().st_size
    (folder / "new").replace(path)
    age(folder)
    second = ask(load_voco_model(folder))
    assert second == load_voco_model(folder).fingerprint() != first
    assert ask.num_computed == 2


def test_a_change_that_hides_its_time_is_seen_in_the_numbers(folder, ask):
    """Same path, size, inode and time of change; what is in memory is not the same."""
    first = ask(load_voco_model(folder))
    path = sorted(folder.glob("model-*.safetensors"))[0]
    before = path.stat()
    save_file(change(path, where=-1), folder / "new", {"format": "pt"})
    data = (folder / "new").read_bytes()
    (folder / "new").unlink()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert ask(load_voco_model(folder)) != first
    assert ask.num_computed == 2


def test_a_touched_file_is_read_again(folder, ask):
    first = ask(load_voco_model(folder))
    age(folder, seconds=1800)
    assert ask(load_voco_model(folder)) == first
    assert ask.num_computed == 2


def test_a_file_that_changes_after_loading_is_not_taken_for_what_was_loaded(folder, ask):
    model = load_voco_model(folder)
    age(folder, seconds=1800)
    first = ask(model)
    assert first == model.fingerprint()
    assert not list(ask.cache_dir.rglob("*.json")), "what the files hold now is not known"


def test_a_model_changed_in_memory_is_computed(folder, ask):
    first = ask(load_voco_model(folder))
    model = load_voco_model(folder)
    with torch.no_grad():
        model.voco_embeds.mul_(1.5)
    assert ask(model) == model.fingerprint() != first
    assert ask(load_voco_model(folder)) == first
    assert ask.num_computed == 2


def test_types_do_not_share_a_fingerprint(folder, ask):
    kinds = ("float32", "bfloat16")
    found = [[ask(load_voco_model(folder, dtype=dtype)) for dtype in kinds] for _ in range(2)]
    assert found[0] == found[1]
    assert len(set(found[0])) == 2
    assert ask.num_computed == 2


def test_files_of_this_very_moment_are_not_remembered(tmp_path, ask):
    folder = save_voco_model(tiny_family("llava"), tmp_path / "new")
    model = load_voco_model(folder)
    assert ask(model) == ask(model)
    assert ask.num_computed == 2


def test_models_that_came_from_no_file_are_computed(ask):
    model = tiny_voco()
    assert ask(model) == ask(model) == model.fingerprint()
    assert ask.num_computed == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"about": {}, "fingerprint": "00"}'])
def test_a_damaged_record_is_computed_anew(folder, ask, damage):
    first = ask(load_voco_model(folder))
    (record,) = ask.cache_dir.glob("fingerprints/*.json")
    record.write_text(damage)
    assert ask(load_voco_model(folder)) == first
    assert ask.num_computed == 2
    assert json.loads(record.read_text())["fingerprint"] == first


def test_a_cache_that_cannot_be_written_to_changes_nothing(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    ask = Asking(tmp_path / "file")
    assert ask(load_voco_model(folder)) == ask(load_voco_model(folder))


def test_small_models_are_not_written_down(folder, ask, monkeypatch):
    monkeypatch.setattr(fingerprints, "MIN_BYTES", 1 << 30)
    ask(load_voco_model(folder))
    assert not ask.cache_dir.exists()


def test_video_models_remember(folder, tmp_path, monkeypatch):
    first = VideoModel(load_voco_model(folder), FrameCache(tmp_path / "cache")).fingerprint
    model = load_voco_model(folder)
    monkeypatch.setattr(type(model), "fingerprint", lambda self: pytest.fail("the weights were read again"))
    assert VideoModel(model, FrameCache(tmp_path / "cache")).fingerprint == first
    assert FrameCache(tmp_path / "cache").entries() == []


def test_samples_cover_every_weight(folder):
    model = load_voco_model(folder)
    digests = {sample_digest(model)}
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(1.0)
        digests.add(sample_digest(model))
    assert len(digests) == 1 + len(list(model.parameters()))
