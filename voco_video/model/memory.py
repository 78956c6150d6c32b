"""How many frames go through a model at once: as many as fit into its device's memory.

On a CPU nothing warns before memory runs out, and running out ends the process. So there, as on a GPU, a batch of two
frames is run and measured first, and the size is computed from what is free.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from voco_video.errors import ModelError
from voco_video.model.freed_memory import give_back_freed_memory
from voco_video.options.compression import BatchSize, check_batch_size
from voco_video.video.frames import FrameBatch, FrameGroups

Result = TypeVar("Result")
Frames = FrameBatch | FrameGroups

MAX_FRAMES = {"cpu": 16, "cuda": 256}  # larger batches are not faster
FREE_SHARE = 0.8  # of the free memory; the rest is for allocators' losses and for other processes
_NO_CUDA_LIMIT = 16
_CGROUP = Path("/sys/fs/cgroup")

logger = logging.getLogger(__name__)


class Batching:
    """Frames per pass for one model and one way of compressing, kept from video to video.

    Args:
        batch_size: a number that stays as it is, or ``"auto"``: found by `find`, and halved whenever memory runs out.

    Attributes:
        size: frames per pass; None for ``"auto"`` until it is found.
    """

    def __init__(self, batch_size: BatchSize) -> None:
        check_batch_size(batch_size)
        self.is_auto = batch_size == "auto"
        self.size: int | None = None if isinstance(batch_size, str) else batch_size
        self._measuring = threading.Lock()

    def find(self, run: Callable[[int], object], *, device: torch.device) -> int:
        """Return the size; for ``"auto"``, found once, from what two frames take.

        Args:
            run: compresses so many empty frames.

        Raises:
            ModelError: not even one frame fits.
        """
        with self._measuring:
            if self.size is None:
                self.size = largest_batch(run, device=device)
                logger.info("batch size %d fits on %s", self.size, device)
            return self.size

    def passes(self, batch: Frames, run: Callable[[Frames], Result]) -> Iterator[tuple[Frames, Result]]:
        """Run a batch in one pass, or in several where it is larger than what fits.

        Raises:
            ModelError: memory runs out, and the size is fixed or 1 already.
        """
        start = 0
        while start < len(batch):
            part = batch[start : start + (self.size or len(batch))]
            result = unless_out_of_memory(lambda part=part: run(part))  # type: ignore[misc]
            if result is None:
                self._halve(len(part))
                continue
            yield part, result[0]
            start += len(part)

    def _halve(self, num_frames: int) -> None:
        if not self.is_auto:
            raise ModelError(
                f"out of memory with {num_frames} frames in one pass; use batch_size='auto' (--batch-size auto) for as "
                "many as fit, or a smaller number"
            )
        if num_frames == 1:
            raise ModelError(NOT_EVEN_ONE_FRAME)
        self.size = num_frames // 2
        logger.warning("out of memory with %d frames in one pass; going on with %d", num_frames, self.size)


NOT_EVEN_ONE_FRAME = (
    "out of memory with a single frame: use dtype='bfloat16', weight_bits=8 or 4 (on a GPU), device_map='auto' over "
    "several GPUs, a smaller checkpoint, or free memory that other processes hold"
)


def largest_batch(run: Callable[[int], object], *, device: torch.device) -> int:
    """Find how many frames fit into what is free on a device, at most `MAX_FRAMES`.

    Raises:
        ModelError: not even one.
    """
    limit = MAX_FRAMES.get(device.type, _NO_CUDA_LIMIT)
    if unless_out_of_memory(lambda: run(1)) is None:  # also allocates what later runs reuse
        raise ModelError(NOT_EVEN_ONE_FRAME)
    measured = unless_out_of_memory(lambda: peak_bytes(lambda: run(2), device=device))
    if measured is None:
        return 1
    peak, free = measured[0], free_bytes(device)
    if peak is None or free is None:
        return limit
    return max(1, min(limit, int(FREE_SHARE * free / max(peak / 2, 1))))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that a device, or this process, has no more memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def unless_out_of_memory(work: Callable[[], Result]) -> tuple[Result] | None:
    """Return the result of some work in a tuple; None where memory ran out, and what it had allocated is free again."""
    try:
        return (work(),)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():  # only here: the exception holds on to tensors until it is gone
        torch.cuda.empty_cache()
    return None


# ---------------------------------------------------------------------- memory


def peak_bytes(work: Callable[[], object], *, device: torch.device) -> int | None:
    """Measure the peak memory of a piece of work beyond what was taken before; None where the system does not say."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    give_back_freed_memory()  # memory that earlier work freed would be reused without being counted
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    except OSError:
        work()
        return None
    before = _status_bytes("VmRSS")
    work()
    return max(0, _status_bytes("VmHWM") - before)


def free_bytes(device: torch.device) -> int | None:
    """Measure what is free on a device, within the process's control group; None where the system does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min(available, _free_in_control_group(available))


def _free_in_control_group(otherwise: int) -> int:
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        rows = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return limit - used + next(int(size) for name, size in rows if name == "inactive_file")
    except (OSError, ValueError):  # no group, or one without a limit ("max")
        return otherwise


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
