"""Checkpoints and models of a run on disk: written elsewhere and renamed, so that what has its final name is whole.

OUTPUT_DIR/checkpoint-500/      everything a run needs to resume from step 500
OUTPUT_DIR/last/  best/         trained models
OUTPUT_DIR/unfinished/          what is being written or removed at the moment
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from voco_video.errors import UsageError, VocoVideoError
from voco_video.files.atomic_write import fsync_directory, write_atomically
from voco_video.training.config import TrainConfig

RUN_CONFIG, UNFINISHED, WEIGHTS, _STATE = "config.json", "unfinished", "trained.safetensors", "trainer_state.json"
# Options that may change when a run is resumed, because they do not change what is computed.
FREE_ON_RESUME = {
    *("output_dir", "cache_dir", "media_dir", "annotations", "max_bad_samples", "num_workers"),
    *("report_to", "log_steps", "per_device_batch_size", "gradient_checkpointing", "deepspeed", "fsdp"),
    *("eval_steps", "eval_samples", "save_steps", "save_total_limit", "export"),
}
# The parts of a checkpoint; for each part one of these names has to be there. DeepSpeed writes the name of its folder,
# which holds optimizer and schedule, to `latest` after everything else.
_PARTS = {
    "trained weights": (WEIGHTS, "pytorch_model_fsdp*"),
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_*", "latest"),
    "schedule": ("scheduler.pt", "latest"),
    "random numbers": ("rng_state*.pth",),
    "state": (_STATE,),
}
_NAME = re.compile(r"checkpoint-(\d+)")
logger = logging.getLogger(__name__)


class TrainingError(VocoVideoError):
    """A run that cannot continue; the message says which option to change."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of writing into one that names the path and says that nothing is lost.

    Raises:
        TrainingError: the disk is full, or may not be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch's own is a RuntimeError
        raise TrainingError(
            f"{path} cannot be written: {error}. Make room and give --resume: what was there before it is whole"
        ) from error


def checkpoint_to_resume(config: TrainConfig, *, resume: bool) -> Path | None:
    """Find the checkpoint to resume from, None for a new run, and remove what was not written completely.

    Raises:
        UsageError: the folder holds a run and ``resume`` is false, or it holds another run.
    """
    folder = Path(config.output_dir)
    if not resume and checkpoints_of(folder):
        raise UsageError(f"{folder} holds a run already; give --resume to go on with it, or another output_dir")
    last = newest_whole(folder)
    if last is not None:
        _check_same_run(config, folder)
    if os.environ.get("RANK", "0") == "0":
        tidy(folder)
    return last


def _check_same_run(config: TrainConfig, folder: Path) -> None:
    """Refuse to resume another run.

    Raises:
        UsageError: the folder's configuration is another one, or cannot be read.
    """
    try:
        before = json.loads((folder / RUN_CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder / RUN_CONFIG} cannot be read ({error}), so nothing says what its checkpoints are of; use another "
            "output_dir"
        ) from error
    now = config.describe()
    changed = [n for n in now if n not in FREE_ON_RESUME and before.get(n) != now[n]]
    if changed:
        differences = ", ".join(f"{n} was {before.get(n)!r} and is {now[n]!r}" for n in changed)
        raise UsageError(f"{folder} holds another run: {differences}. Use another output_dir")


def checkpoints_of(run: Path) -> list[Path]:
    """List the checkpoints in a run's folder, whole or not, the newest first."""
    folders = [path for path in run.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=_step, reverse=True)


def newest_whole(run: Path) -> Path | None:
    """Return the newest checkpoint that a run can resume from."""
    return next((path for path in checkpoints_of(run) if not why_broken(path)), None)


def tidy(run: Path) -> None:
    """Remove what an interrupted run did not write completely, and log it if it was a checkpoint."""
    aside = run / UNFINISHED
    for old in aside.glob("*.old"):  # the interruption came between the two renames of `publish`
        place = run / old.name.removesuffix(".old")
        if not place.exists():
            old.rename(place)
    shutil.rmtree(aside, ignore_errors=True)
    for path in checkpoints_of(run):
        if reason := why_broken(path):
            logger.warning("%s is not whole (%s): it is removed, and the one before it counts", path, reason)
            shutil.rmtree(path)


def why_broken(checkpoint: Path) -> str:
    """Say what is missing or truncated in a checkpoint; "" if it is whole."""
    try:
        for part, names in _PARTS.items():
            if not any(path for name in names for path in checkpoint.glob(name)):
                return f"it has no {part}"
        for path in sorted(checkpoint.rglob("*")):
            if path.is_file() and (reason := _why_unreadable(path)):
                return f"{path.relative_to(checkpoint)} {reason}"
        if (latest := checkpoint / "latest").is_file() and not (checkpoint / latest.read_text().strip()).is_dir():
            return f"it has no folder {latest.read_text().strip()}"
        for folder in checkpoint.glob("*_fsdp_*/"), checkpoint.glob("optimizer_*/"):
            if any(not (path / ".metadata").is_file() for path in folder):
                return "a sharded part has no .metadata"
        state = json.loads((checkpoint / _STATE).read_text())
        if not isinstance(state, dict) or state.get("global_step") != _step(checkpoint):
            return f"its {_STATE} is of another step"
    except OSError as error:
        return f"it cannot be read: {error}"
    return ""


def _why_unreadable(path: Path) -> str:
    """Say whether a file is empty or truncated, judging by its beginning and end; "" if it is neither."""
    if path.stat().st_size == 0:
        return "is empty"
    if path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):
        return "is cut off"
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
        elif path.suffix == ".json":
            json.loads(path.read_text())
    except (SafetensorError, ValueError) as error:
        return f"is cut off or damaged ({error})"
    return ""


def open_aside(run: Path, name: str) -> Path:
    """Make an empty folder for writing what `publish` will rename to ``name``."""
    folder = run / UNFINISHED / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish(run: Path, name: str) -> Path:
    """Rename the folder of `open_aside` to its final name, once it is on the disk; the old one is replaced."""
    made, place, old = run / UNFINISHED / name, run / name, run / UNFINISHED / f"{name}.old"
    for path in made.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for folder in (made, *(path for path in made.rglob("*") if path.is_dir())):
        fsync_directory(folder)
    if place.exists():
        place.rename(old)
    made.rename(place)
    fsync_directory(run)
    shutil.rmtree(old, ignore_errors=True)
    return place


def remove_oldest(run: Path, *, kept: int) -> None:
    """Remove all checkpoints except the ``kept`` newest; 0 keeps all."""
    for path in checkpoints_of(run)[kept:] if kept > 0 else []:
        gone = run / UNFINISHED / path.name  # so an interruption leaves nothing that looks like a checkpoint
        gone.parent.mkdir(exist_ok=True)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def write_json(path: Path, value: Any) -> None:
    """Write a small file completely, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, indent=1) + "\n")
