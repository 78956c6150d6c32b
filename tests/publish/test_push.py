"""A checkpoint goes to a hub with what it needs and a card, and comes back by its name as it was."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.helpers.hub_server import TOKEN, reachable_hub, read_folder
from tests.helpers.terminals import run_in_process
from tests.helpers.tiny_families import tiny_family
from voco_video.api import load_model
from voco_video.checkpoint.folder import load_voco_model, save_voco_adapter, save_voco_model
from voco_video.errors import ModelError, UsageError
from voco_video.hub.watching import watched_by
from voco_video.publish.push import push_checkpoint


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with reachable_hub(monkeypatch, tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint in shards, with what a training run leaves beside it."""
    folder = save_voco_model(tiny_family("llava"), tmp_path / "mine", max_shard_size="100KB")
    for name in ("optimizer.pt", "trainer_state.json", "logs/events", "LICENSE"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("of the run")
    return folder


def published(hub, repo_id: str, revision: str = "main") -> dict[str, bytes]:
    repository = hub.repositories[repo_id]
    return repository.commits[repository.refs[revision]]


def test_what_is_pushed_comes_back(hub, folder):
    address = push_checkpoint(folder, "me/mine")
    assert address == f"{hub.url}/me/mine/commit/{hub.repositories['me/mine'].refs['main']}"
    here, there = read_folder(folder), published(hub, "me/mine")
    left = {"optimizer.pt", "trainer_state.json", "logs/events"}
    assert {name for name in there if name not in (".gitattributes", "README.md")} == set(here) - left
    assert all(there[name] == here[name] for name in set(here) - left)
    back = load_voco_model("me/mine")
    assert back.fingerprint() == load_voco_model(folder).fingerprint()


def test_who_watches_is_told_how_much_has_gone(hub, folder):
    seen = []

    @contextmanager
    def watch():
        yield lambda done, total: seen.append((done, total))

    with watched_by(watch):
        push_checkpoint(folder, "me/mine")
    sizes = {len(data) for name, data in published(hub, "me/mine").items() if name != ".gitattributes"}
    (total,) = {total for _, total in seen}
    assert len(seen) > 2
    assert seen[-1] == (total, total), "small files and large ones, each once"
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert max(sizes) < total
    assert load_voco_model("me/mine").fingerprint() == load_voco_model(folder).fingerprint()


def test_the_command_shows_it_on_a_terminal(hub, folder, monkeypatch):
    seen = run_in_process(monkeypatch, 80, "push", folder, "me/mine")
    assert seen.code == 0, seen.raw
    assert any(re.match(r"uploading me/mine .*/\d+\.\d MB", line) for line in seen.drawn), seen.drawn
    assert [line for line in seen.screen if line] == [
        f"{hub.url}/me/mine/commit/{hub.repositories['me/mine'].refs['main']}"
    ]


def test_a_model_goes_from_one_call_to_another(hub, folder, tmp_path):
    model = load_model(folder, device="cpu", cache_dir=tmp_path / "cache")
    model.push_to_hub("me/mine", private=True, message="The first one")
    assert hub.repositories["me/mine"].private
    back = load_model("me/mine", device="cpu", cache_dir=tmp_path / "cache")
    assert back.fingerprint == model.fingerprint
    snapshot = next((tmp_path / "hub" / "models--me--mine" / "snapshots").iterdir())
    assert type(AutoProcessor.from_pretrained(snapshot)).__name__ == "LlavaProcessor"
    plain = AutoModelForImageTextToText.from_pretrained(snapshot, dtype=torch.float32)
    ids = torch.arange(20, 40)[None]
    expected = model.voco.backbone.hf_model(input_ids=ids).logits
    assert torch.equal(plain(input_ids=ids).logits, expected)


def test_its_card_says_what_it_is(hub, folder):
    push_checkpoint(folder, "me/mine")
    card = ModelCard(published(hub, "me/mine")["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("voco-video", "video-text-to-text")
    assert "--model me/mine" in card.text
    assert "4 VoCo tokens a frame" in card.text
    assert not (folder / "README.md").exists()
    (folder / "README.md").write_text("# By hand\n")
    push_checkpoint(folder, "me/mine")
    assert published(hub, "me/mine")["README.md"] == b"# By hand\n"
    with pytest.raises(UsageError, match=r"README\.md is published as it is"):
        push_checkpoint(folder, "me/mine", reports=["predictions.scores.json"])


def test_a_branch_is_made_where_it_is_not_there(hub, folder):
    push_checkpoint(folder, "me/mine")
    main = dict(published(hub, "me/mine"))
    (folder / "LICENSE").write_text("another")
    for _ in range(2):
        push_checkpoint(folder, "me/mine", revision="next")
    assert published(hub, "me/mine", "next")["LICENSE"] == b"another"
    assert published(hub, "me/mine") == main


def test_an_adapter_needs_a_base_that_others_have(hub, folder, tmp_path):
    model = load_voco_model(folder)
    adapter = save_voco_adapter(model, tmp_path / "adapter", base=folder, trained=["voco_embeds"])
    with pytest.raises(UsageError, match=rf"is an adapter for {folder}, a folder that others do not"):
        push_checkpoint(adapter, "me/adapter")
    assert "me/adapter" not in hub.repositories
    push_checkpoint(folder, "me/base")
    small = save_voco_adapter(load_voco_model("me/base"), tmp_path / "small", base="me/base", trained=["voco_embeds"])
    push_checkpoint(small, "me/adapter")
    assert "model.safetensors.index.json" not in published(hub, "me/adapter")
    assert ModelCard(published(hub, "me/adapter")["README.md"].decode()).data.base_model == "me/base"
    assert torch.equal(load_voco_model("me/adapter").voco_embeds, model.voco_embeds)


def test_nobody_is_logged_in(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ModelError, match=r"me/mine cannot be published: log in with `hf auth login`, or set HF_TOKEN"):
        push_checkpoint(folder, "me/mine")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "fails", "says"),
    [
        ("hf_other", {}, r"me/mine cannot be published: .*does not accept your token; correct the name, or log in"),
        (TOKEN, {"repos/create": 403}, r"your token may not write there \(.*use one with more rights"),
        (TOKEN, {"/commit/": 503}, r"failed \(503\); try again later"),
        (TOKEN, {"/lfs/": 413}, r"answered 413"),
    ],
)
def test_a_hub_that_refuses(hub, folder, monkeypatch, token, fails, says):
    monkeypatch.setenv("HF_TOKEN", token)
    hub.fails = fails
    with pytest.raises(ModelError, match=says) as caught:
        push_checkpoint(folder, "me/mine")
    assert "\n" not in str(caught.value)


def test_a_hub_that_is_not_there(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"me/mine cannot be published: http://127.0.0.1:9 cannot be reached"):
        push_checkpoint(folder, "me/mine")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set; unset it"):
        push_checkpoint(folder, "me/mine")


def test_a_checkpoint_that_is_not_whole(hub, folder):
    shard = next(folder.glob("model-*.safetensors"))
    shard.unlink()
    with pytest.raises(ModelError, match=rf"lacks {shard.name}, so it is not published"):
        push_checkpoint(folder, "me/mine")
    assert "me/mine" not in hub.repositories


def test_the_command(hub, folder, run):
    code, out, err = run("push", folder, "me/mine", "--message", "Hello")
    assert (code, out.strip()) == (0, f"{hub.url}/me/mine/commit/{hub.repositories['me/mine'].refs['main']}"), err
    assert json.loads(published(hub, "me/mine")["voco_config.json"])["num_voco_tokens"] == 4
    code, out, err = run("push", folder, "a/b/c")
    assert (code, out) == (2, "")
    assert err.endswith("error: 'a/b/c' is no name for a model at a hub; give one such as user/name\n")
