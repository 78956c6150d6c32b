"""How passes compute: the same in whatever thread, in whatever process, and whatever their caller has set."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from voco_video.errors import UsageError

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")
_num_forks = 0  # of this process and of those that it was forked from, since this module was imported
_has_computed = False


@contextmanager
def undisturbed(*, inference: bool = True) -> Iterator[None]:
    """Compute in the types and on the devices that are named, without gradients, and without the caller's autocast.

    For a ``with`` block or, as ``@undisturbed()``, for a function. A generator must not yield inside: its caller would
    go on with these settings.

    A caller's default *type* is the one setting that cannot be kept out, as it holds for all threads at once. So what
    runs in here names the type of every tensor that it makes.

    Args:
        inference: False for loading, whose tensors may be trained later.
    """
    global _has_computed
    _has_computed = True
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(inference))
        for kind in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@lru_cache(maxsize=64)
def on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a few constants as a tensor that stays on its device: bringing them makes the host wait for a GPU."""
    with torch.inference_mode(False):  # training uses them too
        return torch.tensor(values, dtype=dtype, device=device)


# ---------------------------------------------------------------------- threads and processes


def _settle_vector_math() -> None:
    """Call vector math once in one thread, before several threads call it together.

    MKL looks at the processor at its first call, and chooses by that how to compute. A thread that comes in the middle
    of this computes with what is fast and inexact: in about 1 of 100 processes half of the first table of a rotary
    embedding was off by 1.5e-4, and so were the tokens of the first frames. One call of any function settles all.
    """
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(1, dtype=dtype, device="cpu")
        for function in (torch.cos, torch.sin, torch.exp, torch.tanh, torch.erf, torch.log):
            function(one)


_settle_vector_math()


def lock_across_forks() -> threading.RLock:
    """Make a lock that is free in every forked process, whichever thread held it."""
    lock = threading.RLock()
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def num_forks() -> int:
    """Count how often this process, or one that it comes from, was forked; to be kept with a model that is made now."""
    return _num_forks


def check_not_forked(num_forks_then: int) -> None:
    """Refuse a model that was made before this process was forked.

    Raises:
        UsageError: it was. Threads that its passes would wait for, and a GPU's memory, did not come along.
    """
    if num_forks_then < _num_forks:
        raise UsageError(
            "this model was loaded before its process was forked, and cannot compute in the new one; load it there, or "
            "start processes by multiprocessing.get_context('spawn')"
        )


def _after_fork() -> None:
    global _num_forks
    _num_forks += 1
    if _has_computed:
        torch.set_num_threads(1)  # more would wait for ever for threads that the process before had


os.register_at_fork(after_in_child=_after_fork)
