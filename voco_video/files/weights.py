"""Files of weights, read as tensors and nothing else: what they hold is never executed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from blake3 import blake3
from safetensors.torch import load_file
from torch import Tensor

from voco_video.errors import ModelError
from voco_video.files.settings import FETCH_AGAIN, check_content, first_line

_NUM_SAMPLES = 64


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of one file. A pickle is read as weights alone: nothing in it is executed.

    Raises:
        ModelError: the file is missing or damaged, or a pickle that holds more than weights.
    """
    check_content(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        reason = f"{path} cannot be read as weights: it is damaged, or holds more than tensors, which is never executed"
        raise ModelError(f"{reason}; {FETCH_AGAIN}") from error
    except Exception as error:  # the libraries raise anything
        raise ModelError(f"{path} cannot be read as weights: {first_line(error)}; {FETCH_AGAIN}") from error
    if not isinstance(weights, dict) or not all(isinstance(t, Tensor) for t in weights.values()):
        raise ModelError(f"{path} cannot be read as weights: it holds something else than tensors by their names")
    return weights


def read_small_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of one of our own files, each of finite numbers.

    Raises:
        ModelError: as `read_weights`, or a tensor of whole numbers, or of numbers that are none.
    """
    weights = read_weights(path)
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise ModelError(
                f"{path}: {name} is {tensor.dtype}, and has to be of floating-point numbers; {FETCH_AGAIN}"
            )
        if not is_finite(tensor):
            raise ModelError(f"{path}: {name} holds NaN or infinite numbers; {FETCH_AGAIN}")
    return weights


@torch.inference_mode()
def is_finite(tensor: Tensor) -> bool:
    """Tell whether every number of a floating-point tensor is one: no NaN, nothing infinite.

    One pass without a copy, 0.1 to 0.2 s of a processor a gigabyte.
    """
    return not tensor.numel() or all(bool(end.isfinite()) for end in tensor.aminmax())  # NaN is both ends


def add_to_digest(digest: blake3, name: str, weight: Tensor, *, is_sampled: bool = False) -> None:
    """Add a weight to a digest: its name, type, shape and numbers.

    Args:
        is_sampled: add only a few numbers, from its first to its last, so that little is read of a mapped file.
    """
    flat = weight.detach().flatten()
    step = max(1, (len(flat) - 1) // (_NUM_SAMPLES - 1)) if is_sampled else 1
    digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
    digest.update(flat[::step].cpu().contiguous().view(torch.uint8).numpy().data)


@dataclass(frozen=True)
class FileState:
    """What tells a file that was changed or replaced from what it was, without reading it."""

    path: str
    size_bytes: int
    mtime_ns: int
    inode: int
    device: int

    @staticmethod
    def of(path: Path) -> FileState:
        """Read a file's state as it is now.

        Raises:
            OSError: it is not there.
        """
        path = path.resolve()  # a hub's snapshot is of links
        stat = path.stat()
        return FileState(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)
