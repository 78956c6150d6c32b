"""Hub ids: pinned to a revision, found in the local cache alone, with no network in reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny_families import tiny_family
from voco_video.checkpoint.describe import describe_checkpoint
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.errors import ModelError

OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A hub's cache as `hf download` leaves it: two commits of one model, files as links to blobs."""
    hub = tmp_path / "hub"
    repository = hub / "models--someone--llava-tiny"
    (repository / "blobs").mkdir(parents=True)
    model = tiny_family("llava")
    for commit in (OLD, NEW):
        written = save_voco_model(model, tmp_path / commit)
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for path in written.iterdir():
            blob = repository / "blobs" / f"{commit[0]}-{path.name}"
            shutil.copy(path, blob)
            (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
        with torch.no_grad():
            model.voco_embeds.mul_(2)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(NEW)
    (repository / "refs" / "v1.0").write_text(OLD)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    return hub


def test_a_revision_pins_what_an_id_is(hub):
    assert find_checkpoint("someone/llava-tiny").name == NEW
    assert find_checkpoint("someone/llava-tiny@main").name == NEW
    for revision in ("v1.0", OLD):
        assert find_checkpoint(f"someone/llava-tiny@{revision}").name == OLD
    old, new = (load_voco_model(f"someone/llava-tiny@{commit}") for commit in (OLD, NEW))
    assert torch.equal(2 * old.voco_embeds, new.voco_embeds)
    assert {Path(file.path).parent.name for file in old.sources} == {"blobs"}, "what links lead to is what counts"


def test_a_revision_that_is_not_here_says_how_to_fetch_it(hub):
    says = r"no checkpoint 'someone/llava-tiny@v2'.*`hf download someone/llava-tiny --revision v2`"
    with pytest.raises(ModelError, match=says):
        load_voco_model("someone/llava-tiny@v2")
    with pytest.raises(ModelError, match=r"`hf download someone/other`"):
        load_voco_model("someone/other")


def test_a_folder_may_have_an_at_in_its_name(tmp_path):
    save_voco_model(tiny_family("llava"), tmp_path / "model@home")
    assert find_checkpoint(tmp_path / "model@home") == tmp_path / "model@home"


_WITHOUT_NETWORK = """
import socket, sys

def refuse(*arguments, **options):
    raise AssertionError(f"something reached for the network: {arguments}")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from voco_video import load_model
from voco_video.checkpoint.describe import describe_checkpoint
print(load_model("someone/llava-tiny@v1.0", device="cpu", cache_dir=sys.argv[1]).num_voco_tokens)
print(describe_checkpoint("someone/llava-tiny").num_vision_tokens)
"""


def test_loading_reaches_for_no_network(hub, monkeypatch):
    """Though nobody has set HF_HUB_OFFLINE."""
    reached = []

    def refuse(*arguments, **options):
        reached.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("socket.socket.connect", "socket.getaddrinfo", "socket.create_connection"):
        monkeypatch.setattr(name, refuse)
    assert load_voco_model("someone/llava-tiny@v1.0").num_voco_tokens == 4
    assert describe_checkpoint("someone/llava-tiny").num_vision_tokens == 16
    assert reached == []


@pytest.mark.exhaustive
def test_nothing_reaches_for_the_network_in_a_new_process(hub, tmp_path):
    """What is imported does not, either."""
    environment = {**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", _WITHOUT_NETWORK, str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", "16"]
