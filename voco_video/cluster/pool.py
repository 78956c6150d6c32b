"""Workers that come and go, and pieces given to those that are free."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from voco_video.cluster.pieces import Outcome, Piece
from voco_video.cluster.schedule import Schedule
from voco_video.errors import VocoVideoError

MAX_FAILED_STARTS = 5  # in a row
FIRST_START_WAIT_SECONDS = 2.0  # after one; doubled after each: a machine's memory may be full for a while
LONGEST_WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Event:
    """Something that a worker did.

    Attributes:
        outcome: of the piece that it was given; None where it is ready for the first one, or lost.
        lost: why it is no more; empty where it is there.
    """

    worker: Hashable
    outcome: Outcome | None = None
    lost: str = ""


class Pool(Protocol):
    """What starts workers somewhere and talks to them."""

    def start(self) -> Hashable:
        """Start a worker; an event tells when its model is loaded."""

    def give(self, worker: Hashable, piece: Piece) -> None:
        """Give a free worker a piece; an event tells what came of it."""

    def wait(self, timeout_seconds: float) -> list[Event]:
        """Wait until something happens, or for so long.

        Raises:
            VocoVideoError: a worker cannot load its model, so no other can.
        """


def drive(
    pool: Pool, schedule: Schedule, *, fewest: int, most: int, on_change: Callable[[int], None] = lambda count: None
) -> None:
    """Do everything on a schedule with a pool's workers.

    Args:
        fewest, most: workers; more than the fewest where there are pieces for them.
        on_change: called after every event, at least twice a second, with the number of workers that are ready.

    Raises:
        VocoVideoError: workers end again and again before a single one is ready.
        ModelError: see `Schedule.finish`.
    """
    loading: set[Hashable] = set()
    free: list[Hashable] = []
    busy: dict[Hashable, Piece] = {}
    num_failed_starts, next_start = 0, -math.inf
    while not schedule.is_finished:
        wanted = min(most, max(fewest, schedule.num_waiting + len(busy)))
        while len(loading) + len(free) + len(busy) < wanted and time.monotonic() >= next_start:
            loading.add(pool.start())
        while free and (piece := schedule.take()) is not None:
            busy[free[-1]] = piece
            pool.give(free.pop(), piece)
        if schedule.is_finished:  # what was left is not wanted any more
            break
        timeout = LONGEST_WAIT_SECONDS
        if free:
            timeout = min(timeout, schedule.seconds_until_next())
        for event in pool.wait(timeout):
            worker = event.worker
            if event.lost:
                if worker in loading:
                    num_failed_starts += 1
                    next_start = time.monotonic() + FIRST_START_WAIT_SECONDS * 2 ** (num_failed_starts - 1)
                    if num_failed_starts >= MAX_FAILED_STARTS:
                        raise VocoVideoError(
                            f"{num_failed_starts} workers in a row ended before their model was loaded: {event.lost}"
                        )
                loading.discard(worker)
                if worker in free:
                    free.remove(worker)
                if worker in busy:
                    schedule.lose(busy.pop(worker), event.lost)
                continue
            if event.outcome is not None:
                schedule.finish(busy.pop(worker), event.outcome)
            else:
                loading.discard(worker)
                num_failed_starts, next_start = 0, -math.inf
            free.append(worker)
        on_change(len(free) + len(busy))
