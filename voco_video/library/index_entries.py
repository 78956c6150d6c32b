"""Entries of the cache as an index knows them: whether they are what was indexed, and the codes of their frames."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from voco_video.answer.entry_frames import EntryFrames, read_features
from voco_video.answer.frame_scorer import HEAD_DIM, NUM_HEADS, FrameScorer
from voco_video.cache import CacheEntry
from voco_video.cache.locks import GROWING, MANIFEST
from voco_video.library.index_codes import Codebook
from voco_video.library.index_file import Encoded
from voco_video.model.inference import undisturbed

MAX_TRAINING_TOKENS = 65536
_HEAD_BYTES = 256
_CHECKSUM = re.compile(rb'\A\{\s*"blake3": "([0-9a-f]{64})"')  # a manifest's keys are sorted, so this stands first


@dataclass(frozen=True)
class EntryState:
    """What tells that an entry is still the one that was indexed.

    Attributes:
        identity: 16 bytes of a checksum over its manifest, which has the checksums of all its segments.
        signature: inode, bytes and time of the manifest. While these are the same, nothing has to be read; the time
            also changes when the entry is used.
    """

    identity: bytes
    signature: tuple[int, int, int]


def signature_of(directory: Path) -> tuple[int, int, int] | None:
    """Look at an entry's manifest without reading it; None where there is none."""
    for name in (MANIFEST, GROWING):
        try:
            return _signature(os.stat(directory / name))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return None


def read_state(directory: Path) -> EntryState | None:
    """Read what an entry's manifest says of itself; None where there is none, or where it says nothing.

    Raises:
        OSError: it cannot be read.
    """
    for name in (MANIFEST, GROWING):
        try:
            with open(directory / name, "rb", buffering=0) as file:
                signature = _signature(os.fstat(file.fileno()))
                data = file.read(_HEAD_BYTES if name == MANIFEST else -1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if name == GROWING:
            return EntryState(blake3(data).digest(16), signature)
        found = _CHECKSUM.match(data)
        return EntryState(bytes.fromhex(found[1].decode())[:16], signature) if found else None
    return None


@undisturbed()
def read_keys(entry: CacheEntry, scorer: FrameScorer) -> Tensor:
    """Read an entry's frames and project them to keys, float32 ``[F, K, H, R]``.

    Raises:
        CacheError: it is damaged or gone.
    """
    device = scorer.frame_mean.device
    parts = read_features([EntryFrames(entry, 0, entry.num_frames)])
    keys = [scorer.project(features.to(device)).permute(2, 3, 0, 1).cpu() for features in parts]
    return torch.cat(keys) if keys else torch.empty(0, 1, NUM_HEADS, HEAD_DIM)


@undisturbed()
def encode(digest: str, state: EntryState, keys: Tensor, codebook: Codebook) -> Encoded:
    """Encode an entry's keys ``[F, K, H, R]``."""
    coarse, fine = codebook.encode(keys.flatten(0, 1))
    return Encoded(digest, state.identity, state.signature, coarse.reshape(len(keys), -1), fine.reshape(len(keys), -1))


@undisturbed()
def train_codebook(samples: Iterable[Tensor]) -> tuple[Codebook, int]:
    """Find centroids for keys ``[F, K, H, R]`` of some entries; returns how many tokens they came from, too."""
    tokens = torch.cat([keys.flatten(0, 1) for keys in samples])
    generator = torch.Generator().manual_seed(0)
    tokens = tokens[torch.randperm(len(tokens), generator=generator)[:MAX_TRAINING_TOKENS]]
    return Codebook.train(tokens), len(tokens)


def spread_over(count: int, wanted: int) -> list[int]:
    """Return at most so many of the first numbers, evenly spread.

    >>> spread_over(10, 4), spread_over(2, 4)
    ([0, 3, 6, 9], [0, 1])
    """
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, wanted))})


def _signature(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
