"""Who is told how far files have come from a hub, or gone to it; the library's own bars otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeAlias

OnBytes: TypeAlias = Callable[[int, int], None]
"""Takes how many bytes have come or gone, of how many."""

Watch: TypeAlias = Callable[[], AbstractContextManager[OnBytes]]
"""Begins before files are fetched or sent and ends behind them."""

_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched_by(watch: Watch) -> Iterator[None]:
    """Tell ``watch`` of all that is fetched or sent meanwhile, and draw no other bar."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def watcher() -> Watch | None:
    """Return who is to be told; None where nobody asked."""
    return _watch.get()
