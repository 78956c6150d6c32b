"""What a process keeps of the memory that it freed. The command line decides that for its own process; nobody else."""

from __future__ import annotations

import ctypes
import os

MAX_RETAINED_HEAP_BYTES = 2**29
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of <malloc.h>


def keep_freed_memory() -> None:
    """Have this process keep up to 512 MiB that it freed, where the C library is glibc and nobody set it up otherwise.

    By default large blocks go back to the system and come again page by page, zeroed, batch after batch: up to 40 % of
    the time of a small model, and what made that time vary.

    All threads share one heap. With heaps of their own, what one thread has freed would not serve another: each thread
    that opens a file of hours would keep FFmpeg's list of its packets, tens of MiB, beside what listing them has left.
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return
    _call_libc("mallopt", _M_TRIM_THRESHOLD, MAX_RETAINED_HEAP_BYTES)
    _call_libc("mallopt", _M_MMAP_THRESHOLD, MAX_RETAINED_HEAP_BYTES)
    _call_libc("mallopt", _M_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Give what is kept back to the system, where the C library can."""
    _call_libc("malloc_trim", 0)


def _call_libc(name: str, *arguments: int) -> None:
    """Call a function of the C library, where it has one of that name."""
    function = getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
    if function is not None:
        function(*arguments)
