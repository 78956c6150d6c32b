"""Names at a hub: fetched once, then without network; every failure is one error that says what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.helpers.clips import Clip
from tests.helpers.hub_server import TOKEN, HubServer, reachable_hub, read_folder
from tests.helpers.published_layout import write_published
from tests.helpers.tiny_families import tiny_family
from voco_video.checkpoint.convert import convert_checkpoint
from voco_video.checkpoint.describe import describe_checkpoint
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.folder import load_voco_model, save_voco_adapter, save_voco_model
from voco_video.errors import ModelError, UsageError
from voco_video.hub.watching import watched_by

USELESS = (
    *("README.md", "LICENSE", "trainer_state.json", "training_args.bin", "optimizer.pt", "model.gguf", "tf_model.h5"),
    *("flax_model.msgpack", "onnx/model.onnx", "onnx/config.json", "original/consolidated.00.pth"),
    *("consolidated.safetensors", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "runs/events.out"),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """A checkpoint in shards, as a hub has it: with copies of its weights and files of other programs."""
    folder = save_voco_model(tiny_family("llava"), tmp_path_factory.mktemp("model"), max_shard_size="100KB")
    content = read_folder(folder)
    assert "model.safetensors.index.json" in content
    return content | dict.fromkeys(USELESS, b"of no use here")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that is running, with an empty cache on this side."""
    with reachable_hub(monkeypatch, tmp_path / "hub") as hub:
        yield hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------- what is fetched, and when


def test_what_is_needed_is_fetched_once(hub, files):
    commit = hub.add("user/model", files)
    folder = find_checkpoint("user/model")
    assert folder.name == commit
    assert contents(folder) == {name: data for name, data in files.items() if name not in USELESS}
    assert sorted(hub.fetched) == sorted(contents(folder))
    assert load_voco_model("user/model").fingerprint() == load_voco_model(folder).fingerprint()
    assert any("voco-video" in agent for agent in hub.user_agents)


def test_who_watches_is_told_how_many_bytes_came(hub, files):
    """In place of the library's own bars."""
    hub.add("user/model", files)
    told: list[list[tuple[int, int]]] = []

    @contextmanager
    def watch():
        told.append([])
        yield lambda num_bytes, total_bytes: told[-1].append((num_bytes, total_bytes))

    with watched_by(watch):
        folder = find_checkpoint("user/model")
        assert len(told) >= 1
        find_checkpoint("user/model")
    sizes = [total_bytes for *_, (_, total_bytes) in told]
    assert [last for *_, last in told] == [(size, size) for size in sizes], "all of each step has come in the end"
    assert sum(sizes) == sum(map(len, contents(folder).values()))
    assert all(one == sorted(one) for one in told)


def test_what_was_fetched_is_used_without_network(hub, files, capfd):
    hub.add("user/model", files)
    find_checkpoint("user/model")
    hub.requests.clear()
    capfd.readouterr()
    for options in ({}, {"offline": True}, {"weights": False}, {"revision": "main"}):
        find_checkpoint("user/model", **options)
    load_voco_model("user/model")
    assert hub.requests == []
    assert "" in capfd.readouterr()


def test_a_name_stands_for_its_commit_until_it_is_updated(hub, files):
    old = hub.add("user/model", files)
    assert find_checkpoint("user/model").name == old
    new = hub.add("user/model", files | {"voco_config.json": files["voco_config.json"] + b"\n"})
    assert find_checkpoint("user/model").name == old
    hub.requests.clear()
    assert find_checkpoint("user/model", update=True).name == new
    assert hub.fetched == ["voco_config.json"], "what both commits have is here"
    assert [find_checkpoint(f"user/model@{one}").name for one in (old, new, "main")] == [old, new, new]


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, files):
    old = hub.add("user/model", files)
    new = hub.add("user/model", files | {"generation_config.json": b"{}"})
    hub.repositories["user/model"].refs |= {"v1.0": old, "refs/pr/1": new}
    assert find_checkpoint("user/model@v1.0").name == find_checkpoint(f"user/model@{old}").name == old
    assert find_checkpoint("user/model", revision="v1.0").name == old
    assert find_checkpoint("user/model").name == new
    assert find_checkpoint(f"{hub.url}/user/model@v1.0").name == old
    with pytest.raises(UsageError, match=r"revision=.main. contradicts user/model@v1\.0"):
        find_checkpoint("user/model@v1.0", revision="main")


def test_a_folder_and_an_embedded_model_come_first(hub, files, tmp_path, monkeypatch):
    hub.add("user/model", files)
    monkeypatch.chdir(tmp_path)
    save_voco_model(tiny_family("llava"), tmp_path / "user" / "model")
    assert find_checkpoint("user/model") == Path("user/model")
    assert find_checkpoint("voco-tiny").name == "voco-tiny"
    for name in ("user/model", "voco-tiny"):
        with pytest.raises(UsageError, match="revision='v1' is for names at a hub"):
            find_checkpoint(name, revision="v1")
    assert hub.requests == []


def test_pickles_are_fetched_where_nothing_else_is(hub, tmp_path):
    write_published(tmp_path / "model", voco=True, suffix=".bin", tower="someone/clip")
    tower = read_folder(tmp_path / "model" / "tower")
    shutil.rmtree(tmp_path / "model" / "tower")
    hub.add("user/published", tmp_path / "model")
    hub.add("someone/clip", tower | {"flax_model.msgpack": b"", "tf_model.h5": b""})
    assert load_voco_model("user/published").num_voco_tokens == 2
    kinds = {Path(name).suffix for name in hub.fetched}
    assert ".bin" in kinds
    assert not kinds & {".msgpack", ".h5"}
    assert "mm_projector.bin" not in hub.fetched
    hub.requests.clear()
    assert describe_checkpoint("user/published", offline=True).num_voco_tokens == 2
    assert convert_checkpoint("user/published", tmp_path / "converted", offline=True).num_voco_tokens == 2
    assert hub.requests == []


def test_an_adapter_brings_its_base(hub, files, tmp_path):
    commit = hub.add("user/base", files)
    model = load_voco_model("user/base")
    with torch.no_grad():
        model.voco_embeds.mul_(3)
    hub.add("user/adapter", save_voco_adapter(model, tmp_path / "adapter", base="user/base", trained=["voco_embeds"]))
    hub.requests.clear()
    assert torch.equal(load_voco_model("user/adapter").voco_embeds, model.voco_embeds)
    assert not any(name.startswith("model-") for name in hub.fetched), "the base is here already"
    facts = describe_checkpoint("user/adapter")
    assert facts.base == f"user/base@{commit}"
    shutil.rmtree(tmp_path / "hub")
    assert torch.equal(load_voco_model("user/adapter").voco_embeds, model.voco_embeds)
    assert any(name.startswith("model-") for name in hub.fetched)


def test_a_description_leaves_the_weights_where_they_are(hub, files):
    hub.add("user/model", files)
    facts = describe_checkpoint("user/model")
    assert not any(name.startswith("model-") for name in hub.fetched)
    whole = describe_checkpoint(find_checkpoint("user/model"))
    assert (facts.num_parameters, facts.num_vision_tokens) == (whole.num_parameters, whole.num_vision_tokens)
    assert sum(name.startswith("model-") for name in hub.fetched) > 1


def test_several_at_once_fetch_the_same(hub, files):
    hub.add("user/model", files)
    with ThreadPoolExecutor(4) as threads:
        folders = set(threads.map(find_checkpoint, ["user/model"] * 4))
    (folder,) = folders
    assert contents(folder) == {name: data for name, data in files.items() if name not in USELESS}


# ---------------------------------------------------------------------- what goes wrong on the way


def test_a_cut_connection_goes_on_where_it_was(hub, files, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 12)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.add("user/model", files)
    large = max((name for name in files if name.startswith("model-")), key=lambda name: len(files[name]))
    hub.cuts[large] = [50_000, None]
    assert contents(find_checkpoint("user/model"))[large] == files[large]
    assert hub.ranges == ["bytes=49152-"]


def test_a_partial_download_is_completed(hub, files, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.add("user/model", files)
    last = max(name for name in files if name.startswith("model-"))
    hub.cuts[last] = [1000]
    with pytest.raises(ModelError, match=r"user/model cannot be fetched: http://127.*cannot be reached \(peer closed"):
        find_checkpoint("user/model")
    with pytest.raises(ModelError, match=r"not all of it is in the local.*without --offline.*`hf download user/model`"):
        find_checkpoint("user/model", offline=True)
    hub.cuts.clear()
    hub.requests.clear()
    assert contents(find_checkpoint("user/model"))[last] == files[last]
    assert last in hub.fetched
    assert "config.json" not in hub.fetched


def test_a_file_that_got_lost_is_fetched_again(hub, files):
    hub.add("user/model", files)
    folder = find_checkpoint("user/model")
    for name in ("tokenizer.json", "model-00001-of"):
        path = next(path for path in folder.iterdir() if path.name.startswith(name))
        path.resolve().unlink()
        path.unlink()
        hub.requests.clear()
        assert contents(find_checkpoint("user/model"))[path.name] == files[path.name]
        assert hub.fetched == [path.name]


def test_a_mirror_that_says_little_of_its_files(hub, files):
    commit = hub.add("user/model", files)
    pointer = {"rfilename": "model-x", "size": None, "blobId": "0" * 40}
    siblings = [pointer | {"rfilename": name} for name in files]
    hub.answers["/api/models/user/model"] = json.dumps({"id": "x", "sha": commit, "siblings": siblings}).encode()
    assert "config.json" in contents(find_checkpoint("user/model"))
    hub.answers["/api/models/user/other"] = json.dumps({"id": "x", "siblings": siblings}).encode()
    with pytest.raises(ModelError, match=r"does not answer as a hub does \(its answer lacks 'sha'\)"):
        find_checkpoint("user/other")


@pytest.mark.parametrize("name", ["tokenizer.json", "model-00001-of-00003.safetensors"])
def test_what_came_is_compared_with_what_was_announced(hub, files, name):
    name = next(one for one in files if one.startswith(name[:12]))
    hub.add("user/model", files)
    hub.instead[name] = files[name][:-1] + b"?"
    with pytest.raises(
        ModelError, match=rf"{name} is not what http://127.* announced, so it was deleted; run it again"
    ):
        find_checkpoint("user/model")
    hub.instead.clear()
    assert contents(find_checkpoint("user/model"))[name] == files[name]


def test_a_file_of_another_size_than_announced(hub, files):
    hub.add("user/model", files)
    name = next(one for one in files if one.startswith("model-00001"))
    hub.announces[name] = len(files[name]) + 10
    with pytest.raises(
        ModelError, match=r"user/model cannot be fetched.*should be of size \d+ but has size.*[Rr]un it"
    ):
        find_checkpoint("user/model")


REFUSALS = [
    ("user/none", {}, r"has no such model; correct the name, or, where it is private, log in with `hf auth login`"),
    ("user/private", {}, r"has no such model; correct the name, or, where it is private, log in"),
    ("user/gated", {}, r"it is gated; ask for access at http://127.*/user/gated, then log in with `hf auth login`"),
    ("user/gated", {"HF_TOKEN": "hf_other"}, r"it is gated, and your token has no access; ask for access"),
    ("user/private", {"HF_TOKEN": "hf_other"}, r"or does not accept your token"),
    ("user/disabled", {}, r"has disabled it"),
    ("user/model@v9", {}, r"user/model@v9 cannot be fetched: it has no revision 'v9'; its branches, tags and commits"),
    ("user/failing", {}, r"failed \(503\); try again later"),
    ("user/busy", {}, r"has had too many requests; wait some minutes, or log in"),
    ("user/page", {}, r"does not answer as a hub does"),
    ("user/list", {}, r"does not answer as a hub does"),
]


@pytest.mark.parametrize(("name", "environment", "says"), REFUSALS)
def test_a_refusal_says_what_to_do(hub, files, monkeypatch, name, environment, says):
    hub.add("user/model", files)
    for kind in ("gated", "private", "disabled"):
        hub.add(f"user/{kind}", files, **{kind: True})
    hub.fails = {"/user/failing": 503, "/user/busy": 429}
    hub.answers = {"/api/models/user/page": b"<html>Log in to this hotel</html>", "/api/models/user/list": b"[]"}
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ModelError, match=says) as caught:
        find_checkpoint(name)
    start = "" if "gated" in name else f"there is no folder {name} here, and "
    assert str(caught.value).startswith(f"{start}{name} cannot be fetched: ")
    assert "\n" not in str(caught.value)


def test_a_token_opens_what_is_gated_or_private(hub, files, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for kind in ("gated", "private"):
        hub.add(f"user/{kind}", files, **{kind: True})
        assert (find_checkpoint(f"user/{kind}") / "config.json").is_file()
    assert hub.tokens == {"hub": {f"Bearer {TOKEN}"}, "cdn": {None}}


def test_a_hub_that_cannot_be_reached(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"http://127.0.0.1:9 cannot be reached \(.*refused\); check the network"):
        find_checkpoint("user/model")


def test_a_hub_that_says_nothing(hub, monkeypatch):
    monkeypatch.setattr("voco_video.hub.download.TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ModelError, match=r"cannot be reached \(timed out\); check the network"):
            find_checkpoint("user/model")


def test_a_hub_that_fails_half_way(hub, files, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.add("user/model", files)
    for address, says in (
        ("/tree/", r"failed \(500\)"),
        ("/resolve/.*/tokenizer.json", r"failed \(500\)"),
        ("/cdn/", ""),
    ):
        hub.fails = {address: 500}
        with pytest.raises(ModelError, match=rf"user/model cannot be fetched: .*{says}.*(again|run it)") as caught:
            find_checkpoint("user/model")
        assert "\n" not in str(caught.value)
    hub.fails = {}
    assert load_voco_model("user/model").num_voco_tokens == 4


def test_a_blob_that_was_deleted_is_fetched_again(hub, files):
    hub.add("user/model", files)
    folder = find_checkpoint("user/model")
    for name in ("config.json", "voco_config.json", "model.safetensors.index.json"):
        (folder / name).resolve().unlink()
        assert (folder / name).is_symlink()
        with pytest.raises(ModelError, match="not all of it is in the local Hugging Face cache"):
            find_checkpoint("user/model", offline=True)
        assert contents(find_checkpoint("user/model"))[name] == files[name]


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_nothing(hub, files, monkeypatch, name):
    hub.add("user/model", files)
    monkeypatch.setenv(name, "1")
    with pytest.raises(ModelError, match=r"nothing of it is in the local Hugging Face cache .*without --offline"):
        find_checkpoint("user/model")
    assert hub.requests == []


def test_no_room_on_the_disk(hub, files, monkeypatch):
    hub.add("user/model", files)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(
        ModelError, match=r"user/model takes 0.00 GB, and .* has room for 0.00 GB; free some, or set HF_"
    ):
        find_checkpoint("user/model")
    assert hub.fetched == []


def test_a_disk_that_fills_up_meanwhile(hub, files, monkeypatch):
    hub.add("user/model", files)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(ModelError, match=r"user/model cannot be fetched: there is no room left in .*; free some"):
        find_checkpoint("user/model")


def test_names_that_are_none(hub):
    for name in ("voco-tny", "a/b/c", "./user/model", "user/model@", "user/model@../x", "user/..", "", "user/mo del"):
        with pytest.raises(ModelError, match=r"no checkpoint|not a checkpoint folder"):
            find_checkpoint(name)
    assert hub.requests == []


def test_a_name_without_weights(hub, files):
    small = {name: data for name, data in files.items() if "model" not in name}
    hub.add("user/other", small | {"LICENSE.gguf": b"x"})
    with pytest.raises(
        ModelError, match=r"user/other holds no weights: neither.*it has LICENSE, LICENSE\.gguf, .* and \d+ more"
    ):
        load_voco_model("user/other")
    lost = next(name for name in files if name.startswith("model-"))
    hub.add("user/lost", {name: data for name, data in files.items() if name != lost})
    with pytest.raises(ModelError, match=rf"user/lost lacks the file '{lost}' of its weights"):
        load_voco_model("user/lost")


def test_a_name_of_something_else(hub):
    hub.add("user/data", {"README.md": b"x"})
    with pytest.raises(ModelError, match=r"user/data holds no config\.json, .*; it has README\.md"):
        load_voco_model("user/data")


# ---------------------------------------------------------------------- the command, on a fresh machine


def command(hub: HubServer, home: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", **environment}
    variables["VOCO_VIDEO_CACHE_DIR"] = str(home / "frames")
    program = [sys.executable, "-c", "from voco_video.cli import main; main()", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, env=variables)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_asking_by_name_on_a_fresh_machine(hub, tmp_path, monkeypatch, run):
    clip, home = Clip("clip.mp4").write(tmp_path), tmp_path / "home"
    question = ("ask", clip, "What moves?", "--anyway", "--model", "user/name")
    hub.add("user/name", find_checkpoint("voco-tiny"))
    first = command(hub, home, *question)
    assert first.returncode == 0, first.stderr
    assert "note: fetching user/name: " in first.stderr
    assert "config.json" in hub.fetched
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    hub.requests.clear()
    for options in ((), ("--offline",)):
        code, out, err = run(*question, *options)
        assert (code, out) == (0, first.stdout), err
        assert "fetching" not in err
    assert hub.requests == []


def test_k_is_refused_before_weights_are_fetched(hub, files, run, tmp_path):
    (clip := tmp_path / "clip.mp4").write_bytes(b"a checkpoint is found before a clip is read")
    hub.add("user/model", files)
    hub.add("user/plain", {name: content for name, content in files.items() if not name.startswith("voco")})
    for name, message in (("user/model", "this model has"), ("user/plain", "user/plain has no VoCo tokens")):
        code, _, err = run("compress", clip, "--model", name, "--num-voco-tokens", 99)
        assert (code, f"--num-voco-tokens 99: {message}" in err) == (2, True), err
    assert not any(name.startswith("model-") for name in hub.fetched)


def test_commands_by_name(hub, files, run, tmp_path):
    (clip := tmp_path / "clip.mp4").write_bytes(b"a checkpoint is found before a clip is read")
    old = hub.add("user/model", files)
    hub.add("user/model", files | {"generation_config.json": b"{}"})
    assert f"/{old}\n" in run("models", "user/model", "--revision", old)[1]
    code, _, err = run("ask", clip, "?", "--model", "user/model", "--offline")
    assert (code, "nothing of it is in the local Hugging Face cache" in err) == (1, True)
    code, _, err = run("models", "user/none")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: there is no folder user/none here, and user/none cannot be fetched: ")
    code, _, err = run("models", "user/model", "--update", "--offline")
    assert (code, err.startswith("error: --update asks the hub, and --offline or HF_HUB_OFFLINE forbids")) == (2, True)
    code, _, err = run("models", "voco-tiny", "--revision", "v1")
    assert (code, err) == (2, "error: --revision v1 is for names at a hub, and voco-tiny is a folder; leave it out\n")
