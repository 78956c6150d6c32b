"""What the steps run on a GPU and in a rehearsal, and how a step tells what it found."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.shapes import make_model
from voco_video.model.memory import free_bytes
from voco_video.model.voco import VocoModel

RESULTS = "results.jsonl"
RESERVED_BYTES = 1 << 30  # of a GPU: its context, libraries, fragments
Figures = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Sizes of everything.

    Attributes:
        shape: of `benchmarks.shapes`, for steps b to e.
        small_shape: of the checkpoint that step f writes.
        batches: frames of a pass.
        cached: frames that a question is asked over; with each number of VoCo tokens.
        uncompressed: frames that are also asked about without compressing.
        clip: seconds that are encoded, and how often they stand one after the other.
        fps: frames taken from each second of it.
    """

    device: str
    dtype: str
    shape: str
    small_shape: str
    batches: tuple[int, ...]
    cached: tuple[int, ...]
    num_voco_tokens: tuple[int, ...]
    uncompressed: int
    questions: int
    question_tokens: int
    answer_tokens: int
    clip: tuple[int, int]
    fps: float
    clip_batch: int
    training_frames: int
    training_text: int
    repeats: int
    max_seconds: float


FULL = Plan(
    device="cuda",
    dtype="bfloat16",
    shape="7b",
    small_shape="mid",
    batches=(32, 128, 8),  # the most telling first
    cached=(64, 1024, 1),
    num_voco_tokens=(1, 8),
    uncompressed=64,
    questions=32,
    question_tokens=32,
    answer_tokens=32,
    clip=(10, 60),
    fps=1.0,
    clip_batch=32,
    training_frames=8,
    training_text=128,
    repeats=3,
    max_seconds=8.0,
)
REHEARSAL = Plan(
    device="cpu",
    dtype="bfloat16",
    shape="tiny",
    small_shape="tiny",
    batches=(2, 4, 1),
    cached=(4, 8, 1),
    num_voco_tokens=(1, 8),
    uncompressed=2,
    questions=3,
    question_tokens=4,
    answer_tokens=3,
    clip=(1, 2),
    fps=4.0,
    clip_batch=2,
    training_frames=2,
    training_text=8,
    repeats=1,
    max_seconds=5.0,
)


@dataclass(frozen=True)
class Part:
    """One measurement of a step.

    Attributes:
        needs_bytes: memory of the device that it takes at its peak, computed, the model included.
        lacks: why it cannot run here; empty where it can.
        expected: figures from arithmetic, put beside those measured.
    """

    name: str
    run: Callable[[], Figures]
    needs_bytes: float = 0.0
    lacks: str = ""
    expected: Figures | None = None


@dataclass(frozen=True)
class Bench:
    """The plan, a folder to work in, and the model that all parts of a step share."""

    plan: Plan
    folder: Path

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device(self.plan.device)

    @property
    def is_gpu(self) -> bool:
        """Whether that is a GPU."""
        return self.device.type == "cuda"

    @cached_property
    def model(self) -> VocoModel:
        """The model to measure, random weights made on the device."""
        return make_model(self.plan.shape, dtype=self.plan.dtype, device=self.plan.device, attention="sdpa")

    @cached_property
    def shape(self) -> VocoModel:
        """The same without weights, for arithmetic."""
        return model_without_weights(self.plan.shape, self.plan.dtype)


def model_without_weights(shape: str, dtype: str = "bfloat16") -> VocoModel:
    """A model of `benchmarks.shapes` whose weights take no memory."""
    return make_model(shape, dtype=dtype, device="meta", attention="sdpa")


def run_parts(step: str, parts: Iterator[Part], bench: Bench, out: Path) -> bool:
    """Run parts one after the other, a line for each as it ends; tell whether none failed."""
    is_good = True
    for part in parts:
        line: Figures = {"step": step, "part": part.name}
        if part.expected:
            line["expected"] = part.expected
        started = time.perf_counter()
        try:
            line |= _run_part(part, bench)
        except Exception as error:
            traceback.print_exc()
            line |= {"status": "failed", "why": f"{type(error).__name__}: {error}"[:500]}
            is_good = False
        if bench.is_gpu:
            with suppress(RuntimeError):  # after an illegal access every call fails
                torch.cuda.empty_cache()
        write_line(out, line | {"seconds": round(time.perf_counter() - started, 3)})
    return is_good


def _run_part(part: Part, bench: Bench) -> Figures:
    if part.lacks:
        return {"status": "skipped", "why": part.lacks}
    needed = {"needs_bytes": round(part.needs_bytes)} if part.needs_bytes else {}
    total = total_bytes(bench.device)
    if total is not None and part.needs_bytes + RESERVED_BYTES * bench.is_gpu > total:
        why = f"needs {part.needs_bytes / 2**30:.1f} GiB, and there are {total / 2**30:.1f} GiB"
        return {"status": "refused", "why": why} | needed
    if bench.is_gpu:
        torch.cuda.reset_peak_memory_stats()
    figures = part.run()
    if bench.is_gpu:
        figures["peak_bytes"] = torch.cuda.max_memory_allocated()
    return {"status": "ok"} | needed | figures


def total_bytes(device: torch.device) -> int | None:
    """Memory that this process can have on a device, with what it has already; None where nobody says."""
    if device.type == "cuda":
        return (free_bytes(device) or 0) + torch.cuda.memory_allocated(device)
    return free_bytes(device)


def write_line(out: Path, line: Figures) -> None:
    """Append a result, at once on the disk: the next part may be the last thing this machine does."""
    text = json.dumps(line, default=str)
    with (out / RESULTS).open("a") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    print(text, flush=True)
