"""The index of a model's entries in a cache: kept up with the entries, made by whoever searches.

<cache_dir>/index/<model and scorers>-<form>-k<K>/      see `voco_video.library.index_file`
<cache_dir>/index/<model and scorers>-others.bin        digests of entries that are not for this index

Only entries that a trained scorer searches are in it. Those of other compressors, and of models without a scorer, are
searched by their keys in all layers, which no code here stands for. A live source's entry changes all the time. All of
these are read one by one, as without an index.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.entry_frames import EntryFrames
from voco_video.answer.frame_scorer import HEAD_DIM, NUM_HEADS, FrameScorer
from voco_video.cache import CacheEntry
from voco_video.cache.paths import CachePaths
from voco_video.errors import FILE_ERRORS, CacheError, ModelError, UsageError
from voco_video.library.index_codes import keys_of
from voco_video.library.index_entries import (
    MAX_TRAINING_TOKENS,
    EntryState,
    encode,
    read_keys,
    read_state,
    signature_of,
    train_codebook,
)
from voco_video.library.index_file import ROWS, Encoded, IndexFile, IndexFolder
from voco_video.library.models import SearchedModel
from voco_video.options.compression import Form

log = logging.getLogger(__name__)

INDEX_VERSION = 1
_BATCH = 32  # entries that are appended at a time
_RETRAIN_FACTOR = 4  # centroids of a small library are found anew once it has so many times the tokens
_DIGEST_BYTES = 32
_CHANGED = "it changed while it was read"
Kind = tuple[Form, int]


@dataclass(eq=False)
class Covered:
    """Entries that one index answers for.

    Attributes:
        kind: form and K of their frames.
        scorer: for this form.
        index: their index.
        rows: theirs in it.
        numbers: which they are among all that are searched.
    """

    kind: Kind
    scorer: FrameScorer
    index: IndexFile
    rows: np.ndarray
    numbers: np.ndarray


@dataclass(eq=False)
class Upkeep:
    """How an index stands to the entries that are searched.

    Attributes:
        digests: of these entries, in their order.
        covered: those that the index answers for.
        others: numbers of those that have to be read, each with the reason.
        failed: numbers of those that cannot be read, each with the error.
        num_added: entries that were read into the index just now.
    """

    digests: list[str]
    covered: list[Covered] = field(default_factory=list)
    others: dict[int, str] = field(default_factory=dict)
    failed: dict[int, Exception] = field(default_factory=dict)
    num_added: int = 0


class LibraryIndex:
    """The index of the entries that a model made.

    Attributes:
        model: whose entries, scorers and cache these are.

    Raises:
        UsageError: the cache is on a store, where no files tell that an entry has changed.
    """

    def __init__(self, model: SearchedModel) -> None:
        if model.cache.is_remote:
            location = model.cache.location
            raise UsageError(
                f"{location}: a library's index is kept of entries in a folder; bring them there first: "
                f"voco-video cache pull {location}"
            )
        self.model = model
        self._paths = CachePaths(model.cache.cache_dir)
        self._open: dict[Kind, tuple[tuple[int, int, int], IndexFile]] = {}

    @property
    def folder(self) -> Path:
        """Where the index lies."""
        return self._paths.cache_dir / "index"

    @cached_property
    def scorers(self) -> dict[Form, FrameScorer]:
        """The model's trained scorers by form; none where they belong to other weights."""
        retriever = self.model.retriever
        if retriever is None or not retriever.belongs_to(self.model.voco, self.model.fingerprint):
            return {}
        return retriever.scorers

    def kinds(self) -> list[Kind]:
        """List the kinds of entries that there is an index of."""
        found = []
        for path in sorted(self.folder.glob(f"{self._name}-*-k*")):
            form, _, tokens = path.name.removeprefix(f"{self._name}-").rpartition("-k")
            if form in self.scorers and tokens.isdecimal():
                found.append((form, int(tokens)))
        return found

    def index(self, kind: Kind) -> IndexFile | None:
        """Open the index of a kind as it is now, or return the one that was opened, if it is that.

        Raises:
            OSError: it cannot be read.
        """
        folder = self.folder_of(kind)
        try:
            stat = os.stat(folder.folder / ROWS)
        except (FileNotFoundError, NotADirectoryError):
            return None
        now = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        known = self._open.get(kind)
        if known is not None and known[0] == now:
            return known[1]
        opened = folder.open()
        if opened is not None:
            self._open[kind] = (now, opened)
        return opened

    def remove(self) -> None:
        """Delete the index of this model's entries; the next search makes it again."""
        self._open.clear()
        for kind in self.kinds():
            self.folder_of(kind).remove()
        self._others_file.unlink(missing_ok=True)

    def refresh(
        self, digests: Sequence[str] | None = None, *, on_progress: Callable[[int, int], None] | None = None
    ) -> Upkeep:
        """Look at entries, and read into the index those that it does not have as they are now.

        Args:
            digests: of the entries; None for all of this model's in the cache that have something to search.
            on_progress: called with how many entries were read into the index, and of how many.
        """
        upkeep, to_read, refreshed = self._compare(digests)
        if to_read:
            reading = _Reading(self, is_all=digests is None)
            reading.read({upkeep.digests[number] for number in to_read}, on_progress or (lambda done, total: None))
            upkeep, left, refreshed = self._compare([d for d in upkeep.digests if d not in reading.skipped])
            upkeep.num_added = reading.num_added
            for number in left:
                digest = upkeep.digests[number]
                if digest in reading.failed:
                    upkeep.failed[number] = reading.failed[digest]
                else:
                    upkeep.others[number] = reading.others.get(digest, _CHANGED)
        self._write_signatures(refreshed)
        return upkeep

    def _compare(self, digests: Sequence[str] | None) -> tuple[Upkeep, list[int], dict[Kind, np.ndarray]]:
        """Tell which entries the index has as they are now, which not, and rows whose entries were only used since."""
        indexes = {kind: index for kind in self.kinds() if (index := self._index_or_none(kind)) is not None}
        places = {
            row.tobytes(): (kind, place)
            for kind, index in indexes.items()
            for place, row in enumerate(index.rows["digest"])
        }
        if digests is None:
            not_here = self._read_others()
            found = (path.name for path in self._paths.directories())
            digests = [digest for digest in found if bytes.fromhex(digest) not in not_here]
            digests = [digest for digest in digests if signature_of(self._paths.directory(digest)) is not None]
        upkeep, to_read = Upkeep(list(digests)), []
        have: dict[Kind, list[tuple[int, int]]] = {kind: [] for kind in indexes}
        used: dict[Kind, list[tuple[int, tuple[int, int, int]]]] = {kind: [] for kind in indexes}
        signatures = {kind: index.rows["signature"].tolist() for kind, index in indexes.items()}
        for number, digest in enumerate(digests):
            directory = self._paths.directory(digest)
            signature = signature_of(directory)
            kind, place = places.get(bytes.fromhex(digest), (None, 0))
            if kind is None:
                to_read.append(number)
                continue
            if signature is None or tuple(signatures[kind][place]) != signature:
                state = _state_or_none(directory)
                if state is None or state.identity != indexes[kind].rows["identity"][place].tobytes():
                    to_read.append(number)
                    continue
                used[kind].append((place, state.signature))
            have[kind].append((number, place))
        for kind, pairs in have.items():
            if pairs:
                numbers, kept = (np.array(column) for column in zip(*pairs))
                order = np.argsort(kept, kind="stable")  # by where frames lie
                index = indexes[kind]
                upkeep.covered.append(
                    Covered(kind, self.scorers[kind[0]], index, index.rows[kept[order]], numbers[order])
                )
        return upkeep, to_read, {k: _with_signatures(indexes[k], pairs) for k, pairs in used.items() if pairs}

    def _write_signatures(self, rows: dict[Kind, np.ndarray]) -> None:
        for kind, changed in rows.items():
            try:
                self.folder_of(kind).append_signatures(changed)
            except OSError as error:
                log.debug("the index was not told that entries were used: %s", error)

    def _index_or_none(self, kind: Kind) -> IndexFile | None:
        try:
            return self.index(kind)
        except OSError as error:
            log.warning("the index in %s cannot be read: %s", self.folder_of(kind).folder, error)
            return None

    @cached_property
    def _name(self) -> str:
        digest = blake3(f"voco-video index {INDEX_VERSION} of {self.model.fingerprint}".encode())
        for form, scorer in sorted(self.scorers.items()):
            for name, tensor in sorted(scorer.state_dict().items()):
                digest.update(f"{form} {name} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def folder_of(self, kind: Kind) -> IndexFolder:
        """Return where the index of a kind lies."""
        form, num_voco_tokens = kind
        name = f"{self._name}-{form}-k{num_voco_tokens}"
        return IndexFolder(self.folder / name, blake3(name.encode()).digest(), num_voco_tokens)

    @property
    def _others_file(self) -> Path:
        return self.folder / f"{self._name}-others.bin"

    def _read_others(self) -> set[bytes]:
        """Return the digests of entries that are not for this index: it is decided by what a digest stands for."""
        try:
            data = self._others_file.read_bytes()
        except OSError:
            return set()
        return {data[start : start + _DIGEST_BYTES] for start in range(0, len(data), _DIGEST_BYTES)}

    def add_others(self, digests: Iterable[str]) -> None:
        """Remember them; one that is lost, or half of one, is only looked at again."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self._others_file, "ab") as file:
                torn = -os.fstat(file.fileno()).st_size % _DIGEST_BYTES
                file.write(bytes(torn) + b"".join(map(bytes.fromhex, digests)))
        except OSError as error:
            log.debug("entries of other models are looked at again: %s", error)


class _Reading:
    """One run of reading entries into the index.

    Attributes:
        num_added: entries that are in the index now.
        others: digests of entries that it cannot hold, with the reason.
        failed: digests of those that cannot be read, with the error.
        skipped: digests of those that are not to be searched.
    """

    def __init__(self, index: LibraryIndex, *, is_all: bool) -> None:
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
                    self.others[digest] = _CHANGED
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


def _state_or_none(directory: Path) -> EntryState | None:
    try:
        return read_state(directory)
    except OSError:
        return None


def _with_signatures(index: IndexFile, changed: Sequence[tuple[int, tuple[int, int, int]]]) -> np.ndarray:
    rows = index.rows[[place for place, _ in changed]].copy()
    rows["signature"] = [signature for _, signature in changed]
    return rows
