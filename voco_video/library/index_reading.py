"""Reading entries into the index of a library."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.entry_frames import EntryFrames
from voco_video.answer.frame_scorer import HEAD_DIM, NUM_HEADS, FrameScorer
from voco_video.cache import CacheEntry
from voco_video.errors import FILE_ERRORS, CacheError, ModelError
from voco_video.library.index_codes import keys_of
from voco_video.library.index_entries import (
    MAX_TRAINING_TOKENS,
    EntryState,
    encode,
    read_keys,
    read_state,
    train_codebook,
)
from voco_video.library.index_file import Encoded, IndexFile, IndexFolder
from voco_video.library.models import SearchedModel
from voco_video.options.compression import Form

CHANGED = "it changed while it was read"
_BATCH = 32  # entries that are appended at a time
_RETRAIN_FACTOR = 4  # centroids of a small library are found anew once it has so many times the tokens
Kind = tuple[Form, int]


class IndexToFill(Protocol):
    """What is needed of a `voco_video.library.index.LibraryIndex`."""

    @property
    def model(self) -> SearchedModel:
        """Whose entries these are."""

    @property
    def scorers(self) -> dict[Form, FrameScorer]:
        """Its trained scorers by form."""

    def folder_of(self, kind: Kind) -> IndexFolder:
        """Return where the index of a kind lies."""

    def index(self, kind: Kind) -> IndexFile | None:
        """Open the index of a kind as it is now."""

    def add_others(self, digests: Iterable[str]) -> None:
        """Remember entries that are not for this index."""


class Reading:
    """One run of reading entries into the index.

    Attributes:
        num_added: entries that are in the index now.
        others: digests of entries that it cannot hold, with the reason.
        failed: digests of those that cannot be read, with the error.
        skipped: digests of those that are not to be searched.
    """

    def __init__(self, index: IndexToFill, *, is_all: bool) -> None:
        self._index, self._is_all = index, is_all
        self._waiting: dict[Kind, list[tuple[str, EntryState, Tensor]]] = {}
        self.num_added = 0
        self.others: dict[str, str] = {}
        self.failed: dict[str, Exception] = {}
        self.skipped: set[str] = set()

    def read(self, digests: Iterable[str], on_progress: Callable[[int, int], None]) -> None:
        """Read these entries, in the order of their digests, so that the first are like the others."""
        ordered = sorted(digests)
        for done, digest in enumerate(ordered):
            on_progress(done, len(ordered))
            try:
                self._read_one(digest)
            except (CacheError, ModelError, *FILE_ERRORS) as error:
                self.failed[digest] = error
        for kind in list(self._waiting):
            self._write(kind)
        on_progress(len(ordered), len(ordered))
        if self.skipped:
            self._index.add_others(sorted(self.skipped))

    def _read_one(self, digest: str) -> None:
        model = self._index.model
        with model.cache.find(digest) as entry:
            if self._is_all and not _is_searched(entry, model):
                self.skipped.add(digest)
                return
            check_is_of(entry, model)
            state = read_state(entry.directory)
            scorer = CompressedVideo(model, (EntryFrames(entry, 0, entry.num_frames),)).scorer
            if scorer is None:
                self.others[digest] = "no trained scorer searches it"
            elif entry.is_growing:
                self.others[digest] = "its source is still followed"
            elif state is None:
                self.others[digest] = "its manifest has no checksum"
            else:
                keys = read_keys(entry, scorer)
                if read_state(entry.directory) != state:
                    self.others[digest] = CHANGED
                    return
                kind = next(form for form, one in self._index.scorers.items() if one is scorer), keys.shape[1]
                self._waiting.setdefault(kind, []).append((digest, state, keys))
                if len(self._waiting[kind]) >= _BATCH:
                    self._write(kind)

    def _write(self, kind: Kind) -> None:
        """Encode the entries of a kind that are waiting, and append them."""
        waiting, folder = self._waiting.pop(kind), self._index.folder_of(kind)
        try:
            for _ in range(3):  # another process may write the index anew meanwhile
                index = self._index.index(kind)
                if index is None:
                    codebook, num_trained = train_codebook(keys for _, _, keys in waiting)
                    folder.write_anew((), codebook, num_trained=num_trained)
                    continue
                if folder.append([encode(*one, index.codebook) for one in waiting], index):
                    self.num_added += len(waiting)
                    break
            index = self._index.index(kind)
            if index is not None and (index.is_wasteful or _is_outgrown(index)):
                write_anew(folder, index)
        except OSError as error:
            for digest, _, _ in waiting:
                self.others[digest] = f"the index cannot be written ({error.strerror or error})"


def check_is_of(entry: CacheEntry, model: SearchedModel) -> None:
    """Refuse an entry that another model made.

    Raises:
        ModelError: it is one.
    """
    if entry.key.model_fingerprint != model.fingerprint:
        other = str(entry.facts.get("model") or entry.key.model_fingerprint[:8])
        raise ModelError(
            f"entry {entry.digest[:12]} was compressed by another model ({other}), not by this one "
            f"({model.name or model.fingerprint[:8]}); load that one, or compress the video with this one"
        )


def write_anew(folder: IndexFolder, index: IndexFile) -> None:
    """Write an index without what belongs to no row any more, and with centroids that suit all of it."""
    places = [slice(row["first_frame"], row["first_frame"] + row["num_frames"]) for row in index.rows]
    per_entry = max(1, MAX_TRAINING_TOKENS // max(1, index.fine.shape[1]) // max(1, len(places)))
    steps = [max(1, (place.stop - place.start) // per_entry) for place in places]
    samples = [_frame_keys(index.fine[place][::step]) for place, step in zip(places, steps, strict=True)]
    codebook, num_trained = train_codebook(samples or [torch.zeros(1, 1, NUM_HEADS, HEAD_DIM)])

    def encoded() -> Iterable[Encoded]:
        for row, place in zip(index.rows, places, strict=True):
            fine = index.fine[place]
            coarse = codebook.encode_again(fine.reshape(-1, NUM_HEADS))
            digest, signature = row["digest"].tobytes().hex(), tuple(row["signature"].tolist())
            yield Encoded(digest, row["identity"].tobytes(), signature, coarse.reshape(len(fine), -1), fine)

    folder.write_anew(encoded(), codebook, num_trained=num_trained)


def _frame_keys(fine: np.ndarray) -> Tensor:
    keys = keys_of(fine.reshape(-1, NUM_HEADS))
    return keys.view(len(fine), -1, NUM_HEADS, HEAD_DIM)  # [F, K, H, R]


def _is_outgrown(index: IndexFile) -> bool:
    tokens = index.num_frames * index.fine.shape[1] // NUM_HEADS
    return index.num_trained < MAX_TRAINING_TOKENS and tokens >= _RETRAIN_FACTOR * index.num_trained


def _is_searched(entry: CacheEntry, model: SearchedModel) -> bool:
    """Tell whether an entry is this model's and holds tokens; what it is once it is for always."""
    return entry.key.model_fingerprint == model.fingerprint and entry.key.settings.get("compressor") != "none"
