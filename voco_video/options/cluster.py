"""How many videos are shared out among workers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from voco_video.errors import UsageError
from voco_video.options.fields import Options, documented, option

CLUSTER = "Many videos (--engine)"
"""The group of options on sharing work out."""
Engine = Literal["processes", "ray", "shares"]


def parse_concurrency(text: str) -> tuple[int, ...]:
    """Read a number of workers, or the fewest and the most.

    Raises:
        UsageError: it is neither.

    >>> parse_concurrency("4"), parse_concurrency("1,8")
    ((4,), (1, 8))
    """
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise UsageError(f"concurrency={text!r}: give a number of workers, or the fewest and the most, as in 1,8")
    return tuple(map(int, parts))


@documented
@dataclass(frozen=True)
class ClusterOptions(Options, panel=CLUSTER):
    """How videos are shared out among workers, each of which holds a model of its own.

    Engine ``processes`` starts workers on this machine, ``ray`` on the nodes of a Ray cluster (the ray extra). With
    ``shares`` this process does its share alone: its number and how many there are come from ``torchrun``, a Slurm
    array, or ``srun``. A window's frames are compressed as they would be within the whole video, so the joined entry
    has the same bytes.
    """

    engine: Engine = option(
        "processes", "Who does the work: processes here, a Ray cluster, or this share of a torchrun or Slurm job."
    )
    concurrency: tuple[int, ...] | None = option(
        None,
        "Workers: a number, or the fewest and the most, as in 1,8.",
        metavar="N|MIN,MAX",
        parse=parse_concurrency,
        unset="as many as the processors, or the GPUs of the cluster, are enough for",
    )
    cpus_per_worker: int = option(
        1, "Processors of each worker, and the threads it computes with.", unit="processors", at_least=1
    )
    num_gpus: float | None = option(
        None,
        "GPUs of each worker of a Ray cluster.",
        unit="GPUs",
        at_least=0,
        at_most=math.inf,
        unset="1 where the cluster has any",
    )
    address: str | None = option(
        None, "The Ray cluster: auto, or host:port.", unset="$RAY_ADDRESS, or one that is started here"
    )
    window_seconds: float = option(
        600.0, "Cut longer videos into windows of about this length; inf: never.", unit="seconds", above=0,
        at_most=math.inf,
    )  # fmt: skip
    retries: int = option(
        3, "Try a video so many times more after what may pass, such as a network's failure.", unit="times", at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.concurrency is not None:
            object.__setattr__(self, "concurrency", tuple(self.concurrency))
            if not 1 <= len(self.concurrency) <= 2 or self.concurrency[0] < 1 or self.most < self.concurrency[0]:
                raise UsageError(
                    f"concurrency={','.join(map(str, self.concurrency))}: give a number of workers from 1 on, or the "
                    "fewest and the most, as in 1,8"
                )
        if self.engine != "ray":
            if self.address is not None:
                raise UsageError(f"address={self.address!r} is that of a Ray cluster; it goes with engine='ray'")
            if self.num_gpus is not None:
                raise UsageError(f"num_gpus={self.num_gpus:g} goes with engine='ray'; device says where others compute")
        if self.engine == "shares" and self.concurrency is not None:
            raise UsageError("concurrency: with engine='shares' the job says how many processes there are")

    @property
    def most(self) -> int:
        """The most workers that are asked for; 0 where nothing is."""
        return self.concurrency[-1] if self.concurrency else 0
