"""Sides timed against each other: in turns, in wall and processor seconds, and only after they were seen to agree."""

from __future__ import annotations

import resource
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from benchmarks.errors import MismatchError


@dataclass(frozen=True)
class Timing:
    """Repeated runs of one side: seconds of each on the clock, and of the processor over all threads and children."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    @property
    def wall_seconds(self) -> float:
        """The median on the clock."""
        return statistics.median(self.wall)

    @property
    def cpu_seconds(self) -> float:
        """The median of the processor's."""
        return statistics.median(self.cpu)

    def as_json(self) -> dict[str, Any]:
        """Medians and ranges."""
        return {
            "wall_seconds": self.wall_seconds,
            "wall_range": [min(self.wall), max(self.wall)],
            "cpu_seconds": self.cpu_seconds,
            "cpu_range": [min(self.cpu), max(self.cpu)],
            "num_runs": len(self.wall),
        }


def cpu_seconds() -> float:
    """Processor time of this process, its threads and its finished children."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def time_once(work: Callable[[], Any]) -> Timing:
    """One run. Work queued on a GPU is waited for."""
    _finish_queued()
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    _finish_queued()
    return Timing((time.perf_counter() - wall,), (cpu_seconds() - cpu,))


def interleaved(
    sides: Mapping[str, Callable[[], Any]], *, repeats: int, warm_ups: int = 1, max_seconds: float = float("inf")
) -> dict[str, Timing]:
    """Time every side `repeats` times, going through all of them in each round.

    A busy minute then falls on all sides, and no side always runs after the same other one.

    Args:
        warm_ups: rounds that are not counted.
        max_seconds: no round begins after this long; one is always run.
    """
    names = list(sides)
    runs: dict[str, list[Timing]] = {name: [] for name in names}
    started = time.perf_counter()
    for number in range(warm_ups + repeats):
        is_counted = number >= warm_ups
        if is_counted and runs[names[0]] and time.perf_counter() - started > max_seconds:
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            timing = time_once(sides[name])
            if is_counted:
                runs[name].append(timing)
    return {name: joined(timings) for name, timings in runs.items()}


def joined(timings: list[Timing]) -> Timing:
    """Runs of several timings as those of one."""
    return Timing(tuple(w for t in timings for w in t.wall), tuple(c for t in timings for c in t.cpu))


def check_same(results: Mapping[str, Tensor], *, tolerance: float) -> dict[str, float]:
    """Hold every side's result against the first one's.

    Args:
        tolerance: greatest allowed root mean square difference, as a share of the first result's root mean square.

    Returns:
        That share for each side but the first.

    Raises:
        MismatchError: a result has another shape, or differs by more than the tolerance or by NaN.
    """
    (reference_name, reference), *others = results.items()
    errors = {}
    for name, result in others:
        if result.shape != reference.shape:
            raise MismatchError(f"{name} gives {tuple(result.shape)}, {reference_name} gives {tuple(reference.shape)}")
        exact, found = reference.double().cpu(), result.double().cpu()
        errors[name] = float((found - exact).norm() / exact.norm().clamp_min(1e-30))
        if not errors[name] <= tolerance:
            raise MismatchError(f"{name} differs from {reference_name} by {errors[name]:.2g}, more than {tolerance:g}")
    return errors


class MemoryTrace:
    """Resident memory of this process while a `with` block runs.

    Attributes:
        seconds, size_bytes: samples, about ten a second.
    """

    def __init__(self, *, interval_seconds: float = 0.1) -> None:
        self.seconds: list[float] = []
        self.size_bytes: list[int] = []
        self._interval, self._stop = interval_seconds, threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling, name="memory trace", daemon=True)

    @property
    def peak_bytes(self) -> int:
        """The greatest sample."""
        return max(self.size_bytes)

    def thinned(self, num_points: int = 100) -> list[tuple[float, int]]:
        """About that many samples ``(seconds, bytes)``, evenly taken."""
        step = max(1, len(self.seconds) // num_points)
        return list(zip(self.seconds[::step], self.size_bytes[::step], strict=True))

    def __enter__(self) -> MemoryTrace:
        self._started = time.perf_counter()
        self._sample()  # what there was before, however late the thread gets its turn
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _keep_sampling(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        self.seconds.append(time.perf_counter() - self._started)
        self.size_bytes.append(resident_bytes())


def resident_bytes() -> int:
    """Resident memory of this process now; where the system does not say, the most so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _finish_queued() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
