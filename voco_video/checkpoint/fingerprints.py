"""Fingerprints of large checkpoints, computed once and stored in the cache's folder.

A stored fingerprint is used as long as the weights came from the very same files: path, size, time of change to the
nanosecond, inode and device of each are compared, not its name alone. Besides, a few numbers of every weight in memory
are compared, so that a model which was trained or changed after loading is not taken for what its files hold.

<cache_dir>/fingerprints/<64 hex>.json      one for a set of files and a way of loading them
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3

from voco_video.files.atomic_write import write_atomically
from voco_video.files.weights import FileState, add_to_digest
from voco_video.model.voco import VocoModel
from voco_video.version import __version__

MIN_BYTES = 256 << 20  # of weights; fewer are hashed quickly enough
_SETTLED_SECONDS = 2.0  # a file that changed this recently may change again without a new time stamp

logger = logging.getLogger(__name__)


def cached_fingerprint(model: VocoModel, compute: Callable[[], str], *, what: str, cache_dir: Path) -> str:
    """Return a fingerprint of a model, from an earlier run where nothing has changed since.

    Args:
        compute: the fingerprint, by reading every weight.
        what: all that it covers besides weights, as text.
        cache_dir: the frame cache's folder.

    >>> cached_fingerprint(model, model.fingerprint, what="compressing", cache_dir=cache.cache_dir)  # doctest: +SKIP
    '2b9f87b6264e...'
    """
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size < MIN_BYTES or not _is_as_loaded(model):
        return compute()
    about = _about(model, what)
    path = cache_dir / "fingerprints" / f"{blake3(json.dumps(about).encode()).hexdigest()}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(path.read_text())
        if stored["about"] == about:
            return str(stored["fingerprint"])
    fingerprint = compute()
    if _is_as_loaded(model) and _is_settled(model.sources):
        with suppress(OSError):  # writing an entry to the same cache reports it
            _write(path, {"about": about, "fingerprint": fingerprint})
    return fingerprint


def _is_as_loaded(model: VocoModel) -> bool:
    """Tell whether the model came from files, and those are still what they were."""
    with suppress(OSError):
        return bool(model.sources) and all(FileState.of(Path(file.path)) == file for file in model.sources)
    return False


def _is_settled(files: tuple[FileState, ...]) -> bool:
    newest = max(file.mtime_ns for file in files) / 1e9
    return newest < time.time() - _SETTLED_SECONDS


def _about(model: VocoModel, what: str) -> dict[str, Any]:
    from transformers import __version__ as transformers_version

    return {
        "what": what,
        "files": [[f.path, f.size_bytes, f.mtime_ns, f.inode, f.device] for f in model.sources],
        "sample": sample_digest(model),
        "versions": [__version__, transformers_version],  # of what turns files into weights
    }


@torch.inference_mode()
def sample_digest(model: VocoModel) -> str:
    """Digest the name, shape, type and a few numbers of every weight of a model, as 64 hex digits."""
    digest = blake3()
    for name, parameter in sorted(model.named_parameters()):
        add_to_digest(digest, name, parameter, is_sampled=True)
    return digest.hexdigest()


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=1) + "\n")
    logger.info("stored the fingerprint of %d files in %s", len(record["about"]["files"]), path)
