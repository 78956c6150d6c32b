"""A device that can be told from main memory and that nothing can be read back from: torch's ``meta``, as a GPU.

What makes the host wait for a GPU is counted there (``item``, a copy back) or an error (``nonzero``); mixing tensors of
both places is an error. No numbers are computed.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRETEND = "meta"
_READS = ("aten._local_scalar_dense.default", "aten.is_nonzero.default")


class Watched(TorchDispatchMode):
    """Counts operations in a ``with`` block.

    Attributes:
        reads: how often the host asked for a number of the device (it is told 0) or for a tensor (it gets ones).
        doubles: operations on the device with float64.
        copies: copies to the device that the host waits for, with their shapes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.doubles: Counter[str] = Counter()
        self.copies: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(function) in _READS and args[0].device.type == PRETEND:
            self.reads += 1
            return 0
        if str(function).startswith(("aten.to.", "aten._to_copy.")) and _is_copy_back(args, kwargs):
            self.reads += 1
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        result = function(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if any(t.dtype == torch.float64 and t.device.type == PRETEND for t in tensors):
            self.doubles[str(function)] += 1
        if str(function) == "aten._to_copy.default" and not kwargs.get("non_blocking"):
            places = args[0].device.type, result.device.type
            if places == ("cpu", PRETEND):
                self.copies.append(tuple(result.shape))
        return result


def _is_copy_back(args: Any, kwargs: Any) -> bool:
    devices = [a for a in (*args, kwargs.get("device")) if isinstance(a, torch.device)]
    return args[0].device.type == PRETEND and any(device.type == "cpu" for device in devices)
