"""How passes compute, whatever their caller has set: a cache or an answer must not depend on that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


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
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(inference))
        for kind in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
