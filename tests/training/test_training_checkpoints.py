"""Checkpoints that an interruption cannot spoil: killed anywhere while it saves, a run goes on to the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from test_training import losses, tiny_run

from voco_video.errors import DataError, UsageError
from voco_video.training import TrainConfig, TrainingError, engine, train
from voco_video.training.checkpoints import (
    checkpoints_of,
    newest_whole,
    open_aside,
    publish,
    remove_oldest,
    tidy,
    why_broken,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> TrainConfig:
    """A run of three steps with a checkpoint after each."""
    config = tiny_run(tmp_path_factory.mktemp("finished"), max_steps=3, save_steps=1, save_total_limit=3)
    train(config)
    return config


@pytest.fixture
def run(finished, tmp_path) -> TrainConfig:
    """A copy of it."""
    shutil.copytree(finished.output_dir, tmp_path / "run")
    return replace(finished, output_dir=str(tmp_path / "run"))


def test_a_run_leaves_whole_checkpoints_and_nothing_unfinished(run):
    folder = Path(run.output_dir)
    assert [path.name for path in checkpoints_of(folder)] == ["checkpoint-3", "checkpoint-2", "checkpoint-1"]
    assert [why_broken(path) for path in checkpoints_of(folder)] == ["", "", ""]
    assert not list((folder / "unfinished").glob("*"))
    remove_oldest(folder, kept=1)
    assert [path.name for path in checkpoints_of(folder)] == ["checkpoint-3"]
    remove_oldest(folder, kept=0)
    assert newest_whole(folder) == folder / "checkpoint-3"


FILES = ("optimizer.pt", "rng_state.pth", "scheduler.pt", "trained.safetensors", "trainer_state.json")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "half"])
def test_a_checkpoint_that_is_not_whole_is_passed_over_and_removed(run, caplog, file, damage):
    folder = Path(run.output_dir)
    assert {path.name for path in (folder / "checkpoint-3").iterdir()} == set(FILES), "else more has to be tried"
    path = folder / "checkpoint-3" / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: {"empty": 0, "cut": len(content) - 1, "half": len(content) // 2}[damage]])
    if (file, damage) == ("trainer_state.json", "cut"):
        path.write_bytes(content.rstrip()[:-1])
    assert newest_whole(folder) == folder / "checkpoint-2"
    tidy(folder)
    assert [path.name for path in checkpoints_of(folder)] == ["checkpoint-2", "checkpoint-1"]
    assert "checkpoint-3 is not whole" in caplog.text


@pytest.mark.parametrize("kind", ["nothing in it", "only weights", "of another step"])
def test_going_on_from_the_newest_whole_checkpoint_gives_the_same_bytes(finished, run, kind):
    """What a kill, a full disk or a copy that was stopped leaves; with the newest of all unfinished, too."""
    folder = Path(run.output_dir)
    newest = folder / "checkpoint-3"
    for path in newest.iterdir():
        if kind == "nothing in it" or (kind == "only weights" and path.name != "trained.safetensors"):
            path.unlink()
    if kind == "of another step":
        newest.rename(folder / "checkpoint-4")
    (folder / "unfinished" / "checkpoint-3").mkdir(parents=True, exist_ok=True)
    (folder / "unfinished" / "checkpoint-3" / "trained.safetensors").write_bytes(b"half")
    shutil.rmtree(folder / "last")
    with pytest.raises(UsageError, match="give --resume"):
        train(run)
    train(run, resume=True)
    for name in ("last/model.safetensors", "last/voco.safetensors", "checkpoint-3/trained.safetensors"):
        assert (folder / name).read_bytes() == (Path(finished.output_dir) / name).read_bytes()
    assert losses(run) == losses(finished)


def test_without_a_whole_checkpoint_a_run_begins_anew(finished, run):
    folder = Path(run.output_dir)
    for path in checkpoints_of(folder):
        (path / "trained.safetensors").unlink()
    train(run, resume=True)
    assert (folder / "last/model.safetensors").read_bytes() == (
        Path(finished.output_dir) / "last/model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("content", [None, "{", ""])
def test_checkpoints_without_a_readable_configuration_are_not_gone_on_from(run, content):
    path = Path(run.output_dir) / "config.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"config.json cannot be read"):
        train(run, resume=True)


def sharded(folder: Path, kind: str) -> Path:
    """A checkpoint as DeepSpeed or FSDP writes it."""
    folder.mkdir()
    step = int(folder.name.rpartition("-")[2])
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    parts = [folder / "rng_state_0.pth", folder / "rng_state_1.pth"]
    if kind == "deepspeed":
        (folder / "latest").write_text(f"global_step{step}")
        (folder / f"global_step{step}").mkdir()
        parts += [folder / f"global_step{step}" / f"bf16_zero_pp_rank_{r}_mp_rank_00_optim_states.pt" for r in (0, 1)]
        save_file({"x": torch.zeros(2)}, folder / "trained.safetensors")
    else:
        for name in ("pytorch_model_fsdp_0", "optimizer_0"):
            (folder / name).mkdir()
            (folder / name / "__0_0.distcp").write_bytes(b"shard")
            (folder / name / ".metadata").write_bytes(b"metadata")
        parts += [folder / "scheduler.pt"]
    for path in parts:
        torch.save({"x": torch.zeros(3)}, path)
    return folder


@pytest.mark.parametrize("kind", ["deepspeed", "fsdp"])
def test_sharded_checkpoints_that_are_not_whole_are_passed_over(tmp_path, kind):
    whole, newest = sharded(tmp_path / "checkpoint-9", kind), sharded(tmp_path / "checkpoint-10", kind)
    assert newest_whole(tmp_path) == newest
    for path in [path for path in newest.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        path.write_bytes(b"")
        assert newest_whole(tmp_path) == whole, path
        path.write_bytes(content)
    gone = {"deepspeed": ("latest", "trained.safetensors"), "fsdp": ("scheduler.pt", "optimizer_0/.metadata")}[kind]
    for name in (*gone, "trainer_state.json"):
        content = (newest / name).read_bytes()
        (newest / name).unlink()
        assert newest_whole(tmp_path) == whole, name
        (newest / name).write_bytes(content)
    assert newest_whole(tmp_path) == newest


def test_a_folder_takes_its_name_when_it_is_whole_and_gives_it_back(tmp_path):
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "model").write_text("old")
    (open_aside(tmp_path, "last") / "model").write_text("new")
    assert (tmp_path / "last" / "model").read_text() == "old"
    (tmp_path / "last").rename(tmp_path / "unfinished" / "last.old")  # killed between the two renames
    tidy(tmp_path)
    assert (tmp_path / "last" / "model").read_text() == "old"
    (open_aside(tmp_path, "last") / "model").write_text("new")
    publish(tmp_path, "last")
    assert (tmp_path / "last" / "model").read_text() == "new"
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


KILLED = """
import json, os, signal, sys
import torch
from test_training import tiny_run
from voco_video.training import train

torch.set_num_threads(1)
NUM_KILLS = 10
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")

def in_child(work):
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        work()
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def config_of(name):
    return tiny_run(root / name, max_steps=2, save_steps=1, save_total_limit=1)

def killed(name, at):
    seen = [0]
    def count(event, args):
        if event in EVENTS and args and str(args[0]).startswith(str(root / name)):
            if event == "open" and not (args[1] or "").startswith(("w", "a", "x")):
                return
            if seen[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1
    sys.addaudithook(count)
    train(config_of(name))
    (root / "count").write_text(str(seen[0]))

from pathlib import Path
root = Path(sys.argv[1])
assert in_child(lambda: killed("whole", -1)) == 0
total = int((root / "count").read_text())
moments = sorted({total * i // NUM_KILLS for i in range(NUM_KILLS)})
for at in moments:
    status = in_child(lambda: killed(f"at{at}", at))
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (at, status)
    assert in_child(lambda: train(config_of(f"at{at}"), resume=True)) == 0, at
print(json.dumps({"total": total, "moments": moments}))
"""


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_anywhere_while_it_saves_a_run_goes_on_to_the_same_bytes(tmp_path):
    """SIGKILL at moments spread over everything that a run writes, renames and removes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    moments = json.loads(done.stdout.splitlines()[-1])["moments"]
    assert len(moments) == 10
    expected = tmp_path / "whole" / "run" / "last"
    for at in moments:
        folder = tmp_path / f"at{at}" / "run"
        for name in ("model.safetensors", "voco.safetensors"):
            assert (folder / "last" / name).read_bytes() == (expected / name).read_bytes(), at
        assert [path.name for path in checkpoints_of(folder)] == ["checkpoint-2"], at
        assert not list((folder / "unfinished").glob("*")), at


def test_two_runs_with_adapters_and_one_seed_give_the_same_bytes(tmp_path):
    """Whatever the process drew before; another seed gives other weights."""
    runs = {}
    for name, seed, drawn in (("one", 0, 1), ("two", 0, 99), ("other", 1, 1)):
        torch.manual_seed(drawn)
        config = tiny_run(tmp_path / name, lora_rank=2, lora_dropout=0.1, max_steps=2, save_steps=2, seed=seed)
        runs[name] = (train(config).last / "model.safetensors").read_bytes()
    assert runs["one"] == runs["two"] != runs["other"]


@pytest.mark.parametrize(
    "full", ["safetensors", *(pytest.param(where, marks=pytest.mark.exhaustive) for where in ("torch", "rename"))]
)
def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room(finished, tmp_path, monkeypatch, full):
    """What is raised where a disk is full, at the second checkpoint; the first stays whole."""
    config = replace(finished, output_dir=str(tmp_path / "run"))
    saved = {"count": 0}

    def fill(owner, name, error):
        original = getattr(owner, name)

        def save(*args, **options):
            if any("checkpoint-2" in str(argument) for argument in args):
                saved["count"] += 1
                raise error
            return original(*args, **options)

        monkeypatch.setattr(owner, name, save)

    if full == "safetensors":
        fill(engine, "save_file", SafetensorError("I/O error: No space left on device (os error 28)"))
    elif full == "torch":
        fill(torch, "save", RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"))
    else:
        fill(Path, "rename", OSError(28, "No space left on device"))
    with pytest.raises(TrainingError, match=r"checkpoint-2 cannot be written: .*--resume"):
        train(config)
    assert saved["count"] == 1
    assert newest_whole(tmp_path / "run") == tmp_path / "run" / "checkpoint-1"
    monkeypatch.undo()
    train(config, resume=True)
    assert (tmp_path / "run/last/model.safetensors").read_bytes() == (
        Path(finished.output_dir) / "last/model.safetensors"
    ).read_bytes()


def test_an_error_of_a_process_that_prepares_samples_is_one_line():
    raised = DataError(
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  x"
        "\nvoco_video.errors.DataError: row 3 (a): no such file\n"
    )
    assert str(engine._as_raised(raised)) == "row 3 (a): no such file"
    plain = DataError("row 3 (a): no such file")
    assert engine._as_raised(plain) is plain
