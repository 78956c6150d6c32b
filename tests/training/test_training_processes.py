"""Two processes for real, with gloo on the CPU, against one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from voco_video.errors import UsageError
from voco_video.training import TrainConfig, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
ROOT = Path(__file__).parents[2]


def temporal_run(tmp_path, name, **changes) -> TrainConfig:
    options = {
        "output_dir": str(tmp_path / name),
        "stage": "video",
        "num_frames": 3,
        "image_fraction": 0.3,
        "num_turns": 2,
        "max_steps": 3,
        "global_batch_size": 4,
        "per_device_batch_size": 2,
        "learning_rate": 1e-3,
        "num_voco_token_choices": (1, 4),
        "full_visibility_fraction": 0.3,
        "save_steps": 2,
        "log_steps": 1,
        "report_to": (),
    }
    return TrainConfig(**options | changes)


_STEPS = """
import json, sys
from tests.helpers.two_processes import command, on_two_processes
from voco_video.training import engine

engine.draw_curves = lambda history, path: path  # takes longer than a tiny run
for arguments in json.loads(sys.argv[1]):
    on_two_processes(command, *arguments)
"""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def arguments_of(folder: Path, config: TrainConfig, *flags: str) -> list[str]:
    """The command that trains as the configuration says."""
    path = folder / f"{Path(config.output_dir).name}.yaml"
    path.write_text(yaml.safe_dump(config.describe()))
    return ["train", str(path), *flags]


def python(*arguments: str) -> str:
    """What a process of its own prints; AssertionError unless it succeeds."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "training")))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    folder = Path(config.output_dir) / "last"
    return load_file(folder / "model.safetensors") | load_file(folder / "voco.safetensors")


def losses(config: TrainConfig) -> list[float]:
    log = json.loads((Path(config.output_dir) / "log.json").read_text())
    return [line["loss"] for line in log if "loss" in line]


def logged(config: TrainConfig) -> list[dict[str, float]]:
    """Loss and accuracy of each visibility, line by line."""
    log = json.loads((Path(config.output_dir) / "log.json").read_text())
    kinds = ("loss_", "token_accuracy_")
    return [{key: line[key] for key in line if key.startswith(kinds)} for line in log if "loss" in line]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> TrainConfig:
    """The temporal stage on one process, which accumulates what two do at once."""
    config = temporal_run(tmp_path_factory.mktemp("alone"), "run")
    train(config)
    return config


def assert_same(alone: TrainConfig, two: TrainConfig, *, atol: float) -> None:
    assert losses(two) == pytest.approx(losses(alone), abs=1e-3)
    for line, own in zip(logged(two), logged(alone), strict=True):
        assert own, "each line says what was seen"
        assert line == pytest.approx(own, abs=1e-3), "what is logged is of all processes"
    expected, got = weights(alone), weights(two)
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        assert torch.allclose(got[name], tensor, atol=atol), name


SHARDED = """
import torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from tests.helpers.models import tiny_voco
from test_training_packed import make_batch
from voco_video.training.batches import Visibility
from voco_video.training.loss import TrainableVoco

def shard():
    dist.init_process_group("gloo")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    plain, sharded = (TrainableVoco(tiny_voco()) for _ in range(2))
    decoder = sharded.voco.backbone.decoder
    enable = getattr(decoder, "activation_checkpointing_enable", None) or decoder.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for layer in sharded.voco.backbone.decoder.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    for visibility in (Visibility(2), Visibility(None)):
        batch = make_batch([2, 1], visibility)  # the same on both processes, so the mean gradient is the one of either
        losses = [model.train()(batch)["loss"] for model in (plain, sharded)]
        for loss in losses:
            loss.backward()
        assert abs(float(losses[0].detach() - losses[1].detach())) < 1e-5
    expected = dict(plain.named_parameters())
    for name, parameter in sharded.named_parameters():
        if expected[name].grad is None:
            continue
        assert isinstance(parameter, torch.distributed.tensor.DTensor), name
        error = (parameter.grad.full_tensor() - expected[name].grad).abs().max()
        assert error < 1e-4 * expected[name].grad.abs().max().clamp_min(1e-3), (name, error)
    dist.destroy_process_group()

on_two_processes(shard)
print("sharded and plain are the same")
"""


@pytest.fixture(scope="module")
def pair(alone, tmp_path_factory) -> tuple[TrainConfig, TrainConfig, str]:
    """A run on two processes, one that goes on where `alone` was after two steps, and what `SHARDED` prints.

    All in one start of Python, which takes longer than they do.
    """
    folder = tmp_path_factory.mktemp("pair")
    whole, resumed = (temporal_run(folder, name) for name in ("whole", "resumed"))
    shutil.copytree(alone.output_dir, resumed.output_dir)
    shutil.rmtree(Path(resumed.output_dir) / "checkpoint-3")
    shutil.rmtree(Path(resumed.output_dir) / "last")
    commands = [arguments_of(folder, whole), arguments_of(folder, resumed, "--resume")]
    return whole, resumed, python("-c", _STEPS + SHARDED, json.dumps(commands))


def test_two_processes_train_what_one_does(pair, alone):
    assert_same(alone, pair[0], atol=5e-5)


def test_two_processes_go_on_where_one_stopped(pair, alone):
    """Fewer devices, more devices: a checkpoint belongs to the run, not to the number of processes."""
    assert_same(alone, pair[1], atol=5e-5)


def test_packed_pass_under_fully_sharded_weights_has_the_same_loss_and_gradients(pair):
    """FSDP2 itself on two CPU processes; Accelerate offers it on GPUs only, where `fsdp: true` turns it on."""
    assert pair[2].endswith("sharded and plain are the same\n")


@pytest.mark.exhaustive
def test_torchrun_trains_what_one_process_does(tmp_path, alone):
    config = temporal_run(tmp_path, "run")
    script = tmp_path / "run.py"
    script.write_text("from voco_video.cli import main\n\nmain()\n")
    python(*TORCHRUN, str(script), *arguments_of(tmp_path, config))
    assert_same(alone, config, atol=5e-5)


def test_fsdp_without_gpus_is_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there are GPUs")
    with pytest.raises(UsageError, match="fsdp=True needs GPUs"):
        train(temporal_run(tmp_path, "fsdp", fsdp=True))


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_trains_what_one_process_does(tmp_path, alone, stage):
    """ZeRO on two CPU processes; the first run builds an operator, which takes two minutes."""
    pytest.importorskip("deepspeed")
    config = temporal_run(tmp_path, "zero", deepspeed=str(ROOT / "configs" / "deepspeed" / f"zero{stage}.json"))
    python("-c", _STEPS, json.dumps([arguments_of(tmp_path, config)]))
    assert_same(alone, config, atol=5e-5)
