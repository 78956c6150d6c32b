"""Results of a GPU's passes, taken one pass late: it computes while the host writes what the pass before gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch

from voco_video.model.memory import Frames
from voco_video.model.tokens import VocoTokens

Item = TypeVar("Item")


def fetched(passes: Iterator[tuple[Frames, VocoTokens]], device: torch.device) -> Iterator[tuple[Frames, VocoTokens]]:
    """Pass on frames and their tokens in order; from a GPU in main memory, after the next pass has been queued."""
    if device.type != "cuda":
        yield from passes
        return
    queued = ((part, *_on_the_way(tokens, device)) for part, tokens in passes)
    for part, tokens, done in one_late(queued):
        done()
        yield part, tokens


def one_late(items: Iterator[Item]) -> Iterator[Item]:
    """Yield each item after the next one has been made. An error in making one comes after all items before it.

    >>> list(one_late(iter("abc")))
    ['a', 'b', 'c']
    """
    waiting: list[Item] = []
    while True:
        try:
            item = next(items)
        except StopIteration:
            yield from waiting
            return
        except Exception:
            yield from waiting
            raise
        yield from waiting
        waiting = [item]


def _on_the_way(tokens: VocoTokens, device: torch.device) -> tuple[VocoTokens, Callable[[], None]]:
    """Queue the copy to pinned memory behind the pass; the function waits for that copy, and for nothing later."""
    copies: dict[str, Any] = {name: t.to("cpu", non_blocking=True) for name, t in tokens.tensors().items()}
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(device))
    return replace(tokens, **copies), copied.synchronize
