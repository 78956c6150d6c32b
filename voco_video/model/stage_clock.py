"""Seconds by stage, without making a GPU wait to be timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class StageSeconds:
    """Seconds spent by stage. ``decode`` is the decoding thread's own; ``wait`` is what the model waited for it.

    On a GPU ``vision`` and ``llm`` are its own time, which `settle` adds once it is over.
    """

    decode: float = 0.0
    wait: float = 0.0
    vision: float = 0.0
    llm: float = 0.0
    write: float = 0.0

    def __post_init__(self) -> None:
        self._queued: list[tuple[str, Any, Any]] = []  # no field: it is no stage

    @contextmanager
    def clock(self, stage: str, device: torch.device | None = None) -> Iterator[None]:
        """Add the time of a ``with`` block to a stage; on a CUDA device the time of the kernels that it queues."""
        if device is not None and device.type == "cuda":
            # Waiting for the kernels here would keep the next ones from being queued behind them.
            stream = torch.cuda.current_stream(device)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(stream)
            yield
            end.record(stream)
            self._queued.append((stage, begin, end))
            return
        started = time.perf_counter()
        yield
        self._add(stage, time.perf_counter() - started)

    def settle(self) -> None:
        """Add what a GPU's kernels took, waiting for those that still run."""
        queued, self._queued = self._queued, []
        for stage, begin, end in queued:
            end.synchronize()
            self._add(stage, begin.elapsed_time(end) / 1000)

    def _add(self, stage: str, seconds: float) -> None:
        setattr(self, stage, getattr(self, stage) + seconds)
