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
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from blake3 import blake3

from voco_video.answer.frame_scorer import FrameScorer
from voco_video.cache.paths import CachePaths
from voco_video.errors import UsageError
from voco_video.library.index_entries import EntryState, read_state, signature_of
from voco_video.library.index_file import ROWS, IndexFile, IndexFolder
from voco_video.library.index_reading import CHANGED, Kind, Reading
from voco_video.library.models import SearchedModel
from voco_video.options.compression import Form

log = logging.getLogger(__name__)

INDEX_VERSION = 1
_DIGEST_BYTES = 32


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

    @property
    def reasons(self) -> dict[str, int]:
        """How many entries have to be read, by reason."""
        return dict(Counter(self.others.values()))


@dataclass(frozen=True)
class IndexStatus:
    """What the index holds of entries of one kind.

    Attributes:
        form, num_voco_tokens: how their frames are kept.
        num_entries, num_frames: that it answers for; entries that were deleted since count until the next clean-up.
        size_bytes: of its files.
    """

    form: Form
    num_voco_tokens: int
    num_entries: int
    num_frames: int
    size_bytes: int


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

    def status(self) -> list[IndexStatus]:
        """Say what there is of each kind.

        Raises:
            OSError: an index cannot be read.
        """
        found = [(kind, index) for kind in self.kinds() if (index := self.index(kind)) is not None]
        return [IndexStatus(*kind, len(one.rows), one.num_frames, one.size_bytes) for kind, one in found]

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
            reading = Reading(self, is_all=digests is None)
            reading.read({upkeep.digests[number] for number in to_read}, on_progress or (lambda done, total: None))
            upkeep, left, refreshed = self._compare([d for d in upkeep.digests if d not in reading.skipped])
            upkeep.num_added = reading.num_added
            for number in left:
                digest = upkeep.digests[number]
                if digest in reading.failed:
                    upkeep.failed[number] = reading.failed[digest]
                else:
                    upkeep.others[number] = reading.others.get(digest, CHANGED)
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


def _state_or_none(directory: Path) -> EntryState | None:
    try:
        return read_state(directory)
    except OSError:
        return None


def _with_signatures(index: IndexFile, changed: Sequence[tuple[int, tuple[int, int, int]]]) -> np.ndarray:
    rows = index.rows[[place for place, _ in changed]].copy()
    rows["signature"] = [signature for _, signature in changed]
    return rows
