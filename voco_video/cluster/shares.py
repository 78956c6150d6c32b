"""Shares of a list: each process of a torchrun or Slurm job takes its own, and the last to end joins the manifests."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from voco_video.errors import DataError, UsageError
from voco_video.library.manifest import VideoRow, read_manifest, write_manifest


@dataclass(frozen=True)
class Share:
    """Which share of the work is this process's.

    Attributes:
        number: from 0.
        num_shares: how many there are.
    """

    number: int
    num_shares: int

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Share:
        """Read the share from what torchrun or Slurm tell this process.

        Of a Slurm array every task takes a share; within a task that ``srun`` started on several processes, each of
        them does.

        Raises:
            UsageError: neither started it, or what they tell cannot be right.

        >>> Share.from_environment({"RANK": "2", "WORLD_SIZE": "8"})
        Share(number=2, num_shares=8)
        >>> array = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3"}
        >>> Share.from_environment({**array, "SLURM_ARRAY_TASK_STEP": "2"})
        Share(number=2, num_shares=3)
        >>> Share.from_environment({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"})
        Share(number=1, num_shares=4)
        """
        told = {name: _whole(name, value) for name, value in environment.items() if name in _NAMES}
        if {"RANK", "WORLD_SIZE"} <= told.keys():
            return Share(told["RANK"], told["WORLD_SIZE"])._checked()
        # Only srun sets the tasks of a step: a plain command in a job's script is alone, whatever --ntasks says.
        step = Share(told.get("SLURM_PROCID", 0), told.get("SLURM_STEP_NUM_TASKS", 1))
        if {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"} <= told.keys():
            width = told.get("SLURM_ARRAY_TASK_STEP", 1) or 1
            task = (told["SLURM_ARRAY_TASK_ID"] - told.get("SLURM_ARRAY_TASK_MIN", 0)) // width
            count = told["SLURM_ARRAY_TASK_COUNT"]
            Share(task, count)._checked()
            return Share(task * step.num_shares + step.number, count * step.num_shares)._checked()
        if "SLURM_STEP_NUM_TASKS" not in told:
            raise UsageError(
                "engine='shares': neither torchrun nor Slurm says which share this is; start it with torchrun, srun or "
                "sbatch --array, or set RANK and WORLD_SIZE"
            )
        return step._checked()

    def of(self, rows: Sequence[VideoRow]) -> list[VideoRow]:
        """Return this share's rows: every n-th, so that what lies together is spread."""
        return list(rows[self.number :: self.num_shares])

    def _checked(self) -> Share:
        if not 0 <= self.number < self.num_shares:
            raise UsageError(
                f"share {self.number} of {self.num_shares}: shares count from 0 to one less than there are"
            )
        return self


_NAMES = frozenset({
    "RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_STEP",
})  # fmt: skip


def _whole(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"{name}={value!r} in the environment has to be a whole number") from None


def write_share(share: Share, done: Sequence[VideoRow], everything: Sequence[VideoRow], manifest: Path) -> int:
    """Write the manifest of a share beside that of the whole, and the whole once all shares are there.

    The folder with the shares stays: whoever ends last joins all of them, also after a share was done again.

    Args:
        everything: the rows of all shares, before they were compressed.

    Returns:
        How many shares are still missing; 0 where the whole manifest was written.
    """
    folder = manifest.with_name(f"{manifest.name}.shares") / _name_of(everything, share.num_shares)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror})") from error
    paths = [folder / f"{number:05}.jsonl" for number in range(share.num_shares)]
    rows_of = [everything[number :: share.num_shares] for number in range(share.num_shares)]
    if done:
        write_manifest(done, paths[share.number])
    missing = [path for path, rows in zip(paths, rows_of) if rows and not path.exists()]
    if missing:
        return len(missing)
    joined: list[VideoRow | None] = [None] * len(everything)
    for number, (path, rows) in enumerate(zip(paths, rows_of)):
        if rows:
            joined[number :: share.num_shares] = read_manifest(path)
    write_manifest([row for row in joined if row is not None], manifest)
    return 0


def _name_of(rows: Sequence[VideoRow], num_shares: int) -> str:
    """Name the shares of one list: those of another, or of another number of processes, do not belong to them."""
    text = "\n".join(f"{row.uri}\t{row.id}\t{row.start_seconds}\t{row.end_seconds}" for row in rows)
    return blake3(f"{num_shares}\n{text}".encode()).hexdigest()[:16]
