"""Evaluation on several processes, and the command that is killed and given again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from voco_video.errors import CacheError, UsageError, VocoVideoError
from voco_video.evaluate.processes import OnDone, Spawned, Torchrun, device_of
from voco_video.scoring.predictions import load_predictions, read_run_info
from voco_video.shapes.write_dataset import write_dataset

FORKED = Path(__file__).parents[1] / "helpers" / "two_processes.py"
PROGRAM = Path(sys.executable).parent / "voco-video"
OPTIONS = ("--num-frames", "3", "--max-new-tokens", "6", "--num-voco-tokens", "8,1", "--dtype", "float32")

_SLOW_EVAL = """
import time
from voco_video.evaluate.run_folder import RankFile
append = RankFile.append
RankFile.append = lambda *args: append(*args) or time.sleep(0.3)
from voco_video.cli import main
if __name__ == "__main__":
    main()
"""


# --- processes alone, without torch


def count_jobs(model: str, jobs: Sequence[int], rank: int, on_done: OnDone, *, folder: Path) -> None:
    for job in jobs:
        (folder / f"{job}").write_text(f"{model} {rank}")
        on_done(job)


def name_model(rank: int) -> Any:
    return f"model of {rank}"


def fail(rank: int, how: str) -> Any:
    if how == "error":
        raise CacheError(f"no model for process {rank}")
    os._exit(7)


def test_jobs_are_dealt_in_turn_and_progress_comes_together(tmp_path):
    heard: list[int] = []
    Spawned(3, name_model).run(partial(count_jobs, folder=tmp_path), "mine", range(8), heard.append)
    owners = {int(path.name): path.read_text() for path in tmp_path.iterdir()}
    expected = ("mine 0", "model of 1 1", "model of 2 2")
    assert owners == {job: expected[job % 3] for job in range(8)}
    assert sorted(heard) == list(range(8))


@pytest.mark.parametrize(("how", "message"), [("error", "no model for process 1"), ("exit", "exit code 7")])
def test_a_process_that_fails_stops_the_run(tmp_path, how, message):
    with pytest.raises(VocoVideoError, match=message):
        Spawned(2, partial(fail, how=how)).run(partial(count_jobs, folder=tmp_path), "mine", range(2), lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def wait_for_ever(model: str, jobs: Sequence[int], rank: int, on_done: OnDone, *, folder: Path) -> None:
    # Written under another name first: whoever sees the file finds the number in it.
    (folder / f"new-{rank}").write_text(str(os.getpid()))
    (folder / f"new-{rank}").rename(folder / f"pid-{rank}")
    if rank == 0:
        while not (folder / "pid-1").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt
    time.sleep(600)


def test_ctrl_c_ends_the_others(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Spawned(2, name_model).run(partial(wait_for_ever, folder=tmp_path), "mine", range(2), lambda _: None)
    assert not is_alive(int((tmp_path / "pid-1").read_text()))


_PARENT = """
import sys, time
from functools import partial
from pathlib import Path
sys.path.insert(0, {tests!r})
from voco_video.evaluate.processes import Spawned
import test_evaluate_processes as tests

def work(model, jobs, rank, on_done, *, folder):
    if rank == 0:
        time.sleep(600)
    tests.wait_for_ever(model, jobs, rank, on_done, folder=folder)

if __name__ == "__main__":
    Spawned(2, tests.name_model).run(partial(work, folder=Path(sys.argv[1])), "mine", range(2), print)
"""


def test_processes_end_with_the_one_that_started_them(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(_PARENT.format(tests=str(Path(__file__).parent)))
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    wait_until((tmp_path / "pid-1").exists)
    child = int((tmp_path / "pid-1").read_text())
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_alive(child))


def wait_until(condition: Any, *, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise TimeoutError(condition)


def is_alive(pid: int) -> bool:
    """Zombies, which nobody may be there to collect, are not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_at_least_one_process():
    with pytest.raises(UsageError, match="num_workers=0"):
        Spawned(0, name_model)


def test_torchrun_is_what_its_environment_says(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert Torchrun.from_environment() is None
    for name, value in {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert Torchrun.from_environment() == Torchrun(2, 4)


def test_devices_are_dealt_in_turn(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [device_of("auto", rank) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_of("cuda:1", 0) == "cuda:1"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert device_of("auto", 5) == "auto"


# --- the command


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "shapes"
    return write_dataset(folder, layout="msvd", num_videos=10, questions_per_video=4, size=64)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


def command(shapes: Path, out: Path, *more: str) -> list[str]:
    return ["eval", "msvd", "--root", str(shapes), "--split", "train", "--out", str(out), *OPTIONS, *more]


def run_eval(
    shapes: Path, out: Path, cache_dir: Path, *more: str, program: Sequence[str] = (str(PROGRAM),), num_threads: int = 1
) -> dict[str, bytes]:
    """The command as a user gives it; the predictions it wrote."""
    environment = os.environ | {"VOCO_VIDEO_CACHE_DIR": str(cache_dir), "OMP_NUM_THREADS": str(num_threads)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*program, *command(shapes, out, *more)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return predictions_in(out)


def run_eval_here(shapes: Path, out: Path, cache_dir: Path) -> dict[str, bytes]:
    """The command in this process, which has imported everything already; the predictions it wrote."""
    import torch  # processes that are started here import this file, and most of them no torch

    from tests.helpers.two_processes import command as run

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VOCO_VIDEO_CACHE_DIR", str(cache_dir))
            patch.setattr(sys, "argv", sys.argv)  # put back as it is now
            run(*command(shapes, out))
    finally:
        torch.set_num_threads(num_threads)
    return predictions_in(out)


def predictions_in(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.jsonl")}


@pytest.fixture(scope="module")
def alone(shapes: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes that nothing disturbs."""
    return run_eval_here(shapes, tmp_path_factory.mktemp("runs") / "alone", cache_dir)


@pytest.mark.exhaustive
def test_three_processes_write_what_one_does(shapes, cache_dir, alone, tmp_path):
    three = run_eval(shapes, tmp_path / "run", tmp_path / "frames", "--num-workers", "3")
    assert three == alone
    assert set(alone) == {"predictions-k8.jsonl", "predictions-k1.jsonl"}
    assert read_run_info(tmp_path / "run" / "predictions-k8.jsonl")["num_processes"] == 3


TORCHRUN = (*("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"), str(PROGRAM))


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("program", [(str(FORKED),), TORCHRUN], ids=["forked", "run"])
def test_torchrun_writes_what_one_process_does(shapes, cache_dir, alone, tmp_path, program):
    assert run_eval(shapes, tmp_path / "run", tmp_path / "frames", program=(sys.executable, *program)) == alone
    assert read_run_info(tmp_path / "run" / "predictions-k8.jsonl")["num_processes"] == 2


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_another_number_of_threads_moves_confidences_by_less_than_is_promised(shapes, alone, tmp_path):
    """What torchrun's one thread a process comes to, against one process of several: README says how much."""
    run_eval(shapes, tmp_path / "run", tmp_path / "frames", num_threads=3)
    for name, content in alone.items():
        (tmp_path / name).write_bytes(content)
        several, one = (load_predictions(folder / name).predictions for folder in (tmp_path / "run", tmp_path))
        assert [replace(p, confidence=None) for p in several] == [replace(p, confidence=None) for p in one]
        assert [p.confidence for p in several] == pytest.approx([p.confidence for p in one], abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", ["2", pytest.param("1212", marks=pytest.mark.exhaustive)])
def test_killed_at_random_moments_and_given_again_the_bytes_are_the_same(shapes, cache_dir, alone, tmp_path, rounds):
    """SIGKILL to all its processes, of which each round has another number, on an empty cache."""
    randomness = random.Random(4)
    environment = os.environ | {"VOCO_VIDEO_CACHE_DIR": str(tmp_path / "frames"), "OMP_NUM_THREADS": "1"}
    script = tmp_path / "slow_eval.py"
    script.write_text(_SLOW_EVAL)
    out = tmp_path / "run"
    num_lines = [0]
    for num_workers in rounds:
        child = subprocess.Popen(
            [sys.executable, str(script), *command(shapes, out, "--num-workers", num_workers)],
            env=environment,
            start_new_session=True,
        )
        target = num_lines[-1] + randomness.randint(1, 12)
        wait_until(lambda target=target, child=child: lines_in(out) >= target or child.poll() is not None, seconds=120)
        time.sleep(randomness.uniform(0, 0.3))
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, "it was over before it was killed"
        num_lines.append(lines_in(out))
    assert not list(out.glob("*.jsonl"))
    assert num_lines == sorted(num_lines), "nothing that was answered is lost"
    assert run_eval_here(shapes, out, tmp_path / "frames") == alone
    assert read_run_info(out / "predictions-k8.jsonl")["num_resumed"] > 0


def lines_in(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("parts/*.jsonl"))
