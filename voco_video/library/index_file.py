"""The files of a library's index, for entries that one scorer searches: written by appending, read memory-mapped.

<folder>/
    rows.bin            a head, and behind it a row for each entry: which it is, and where its frames lie in the others
    coarse-3f9a….bin    coarse codes and a check of the fine ones, frame after frame
    fine-3f9a….bin      fine codes, frame after frame
    centroids-3f9a….bin what the coarse codes stand for
    lock                flock of the one writer

A row is appended once the codes that it names are on disk, and carries its own checksum, so what a crash leaves behind
is not named by any row or is no whole row. Of two rows of one entry the later counts. Where the index is written anew,
its data files get another number, and `rows.bin` is renamed into place; a reader of the old files goes on with them.

Nothing here can be lost that entries do not have: an index that is gone, or that is of no use, is made again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3

from voco_video.answer.frame_scorer import HEAD_DIM, NUM_HEADS
from voco_video.files.atomic_write import written_aside
from voco_video.library.index_codes import FINE, Codebook, Codes

ROWS = "rows.bin"
ROW = np.dtype(
    [
        ("digest", np.uint8, 32),  # of the entry
        ("identity", np.uint8, 16),  # of its content: changes where it is written anew
        ("signature", np.int64, 3),  # inode, bytes and time of its manifest when it was last compared
        ("first_frame", np.int64),
        ("num_frames", np.int64),
        ("coarse_check", np.uint8, 16),  # BLAKE3 of its part of the coarse file
        ("check", np.uint8, 16),  # BLAKE3 of what stands before
    ]
)
_MAGIC = b"vvindex1"
_HEAD = struct.Struct("<8s32s32s16sQ")  # magic, kind, number of the data files, check of the centroids, their tokens
_CHECKED_HEAD = _HEAD.size + 16
NO_ROWS = np.empty(0, ROW)


@dataclass(frozen=True, eq=False)
class Encoded:
    """An entry's part of the index.

    Attributes:
        digest: of the entry, 64 hex digits.
        identity: 16 bytes; see `ROW`.
        signature: see `ROW`.
        coarse: ``[F, K * H]``.
        fine: `FINE` ``[F, K * H]``.
    """

    digest: str
    identity: bytes
    signature: tuple[int, int, int]
    coarse: Codes
    fine: np.ndarray


@dataclass(frozen=True, eq=False)
class IndexFile:
    """An index as it was when it was opened.

    Attributes:
        number: of its data files.
        rows: `ROW`, one for each entry, by where their frames lie.
        num_rows: in the file, those that no longer count too.
        coarse: memory-mapped, ``[F]`` of `coarse_type`.
        fine: memory-mapped, `FINE` ``[F, K * H]``.
        codebook: what coarse codes stand for.
        num_trained: tokens that the centroids were found from.
        size_bytes: of all files.
    """

    number: str
    rows: np.ndarray
    num_rows: int
    coarse: np.ndarray
    fine: np.ndarray
    codebook: Codebook
    num_trained: int
    size_bytes: int

    @property
    def num_frames(self) -> int:
        """Frames that rows name."""
        return int(self.rows["num_frames"].sum())

    @property
    def is_wasteful(self) -> bool:
        """Whether most of the codes belong to no row any more."""
        return len(self.coarse) > 2 * self.num_frames + 10_000


@dataclass(frozen=True)
class _Head:
    number: str
    centroids_check: bytes
    num_trained: int


def coarse_type(num_codes: int) -> np.dtype:
    """Return the type of a frame in the coarse file."""
    return np.dtype([("codes", np.uint16, num_codes), ("fine_check", np.uint64)])


class IndexFolder:
    """Where the index of one kind of entries lies.

    Args:
        folder: made by the first write.
        kind: 32 bytes, which scorer and which kind of frames it is for.
        num_voco_tokens: K of its frames.
    """

    def __init__(self, folder: Path, kind: bytes, num_voco_tokens: int) -> None:
        self.folder, self._kind, self._num_codes = folder, kind, num_voco_tokens * NUM_HEADS

    def open(self) -> IndexFile | None:
        """Open the index as it is now; None where there is none, or none that can be read.

        Raises:
            OSError: a file cannot be read.
        """
        for _ in range(3):  # another process may write it anew meanwhile
            try:
                data = (self.folder / ROWS).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
            head = self._read_head(data)
            if head is None:
                return None
            with suppress(FileNotFoundError):
                return self._open(head, data[_CHECKED_HEAD:])
        return None

    def append(self, entries: Sequence[Encoded], index: IndexFile) -> bool:
        """Append entries to the index that was opened; False where it has been written anew meanwhile.

        Raises:
            OSError: it cannot be written.
        """
        with self._locked():
            head = self._head_now()
            if head is None or head.number != index.number:
                return False
            self._write_rows(head.number, entries)
            return True

    def append_signatures(self, rows: np.ndarray) -> None:
        """Append rows again with other signatures; their frames stay where they are.

        Raises:
            OSError: it cannot be written.
        """
        with self._locked():
            head = self._head_now()
            if head is not None:
                self._append(ROWS, b"".join(_checked(row) for row in rows), self._whole_rows_bytes())

    def write_anew(self, entries: Iterable[Encoded], codebook: Codebook, *, num_trained: int) -> None:
        """Write an index of these entries in the place of what is there.

        Raises:
            OSError: it cannot be written.
        """
        with self._locked():
            number = uuid.uuid4().hex
            centroids = codebook.centroids.numpy().astype(np.float32).tobytes()
            head = _HEAD.pack(_MAGIC, self._kind, number.encode(), blake3(centroids).digest(16), num_trained)
            try:
                (self.folder / f"centroids-{number}.bin").write_bytes(centroids)
                with (
                    written_aside(self.folder / ROWS, is_durable=True) as aside,
                    open(aside, "wb") as rows,
                    open(self.folder / f"coarse-{number}.bin", "wb") as coarse,
                    open(self.folder / f"fine-{number}.bin", "wb") as fine,
                    open(self.folder / f"centroids-{number}.bin", "rb") as book,
                ):
                    rows.write(head + blake3(head).digest(16))
                    first = 0
                    for entry in entries:
                        part = self._coarse(entry)
                        coarse.write(part.tobytes())
                        fine.write(entry.fine.tobytes())
                        rows.write(_checked(_row(entry, first, part)))
                        first += len(part)
                    for file in (coarse, fine, rows, book):
                        file.flush()
                        os.fsync(file.fileno())
            except BaseException:
                for path in self.folder.glob(f"*-{number}.bin"):
                    path.unlink(missing_ok=True)
                raise
            for path in self.folder.glob("*-*.bin"):  # of earlier indexes; who reads them has them open
                if not path.name.endswith(f"-{number}.bin"):
                    path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the index."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_rows(self, number: str, entries: Sequence[Encoded]) -> None:
        rows_end = self._whole_rows_bytes()
        rows = self._valid_rows(number, (self.folder / ROWS).read_bytes()[_CHECKED_HEAD:rows_end])
        first = int((rows["first_frame"] + rows["num_frames"]).max(initial=0))
        coarse = [self._coarse(entry) for entry in entries]
        firsts = first + np.cumsum([0, *map(len, coarse)])
        lines = [_checked(_row(entry, at, part)) for entry, at, part in zip(entries, firsts.tolist(), coarse)]
        coarse_bytes, fine_bytes = self._coarse_type.itemsize, FINE.itemsize * self._num_codes
        self._append(f"coarse-{number}.bin", b"".join(part.tobytes() for part in coarse), first * coarse_bytes)
        self._append(f"fine-{number}.bin", b"".join(entry.fine.tobytes() for entry in entries), first * fine_bytes)
        self._append(ROWS, b"".join(lines), rows_end)

    def _append(self, name: str, data: bytes, at: int) -> None:
        """Write bytes at a place in a file, drop what stood there and behind it, and wait until the disk has them."""
        fd = os.open(self.folder / name, os.O_RDWR)
        try:
            os.ftruncate(fd, at)
            view = memoryview(data)
            while view:
                written = os.pwrite(fd, view, at)
                at, view = at + written, view[written:]
            os.fsync(fd)
        finally:
            os.close(fd)

    def _coarse(self, entry: Encoded) -> np.ndarray:
        part = np.empty(len(entry.coarse), self._coarse_type)
        part["codes"], part["fine_check"] = entry.coarse, fine_checks(entry.fine)
        return part

    @property
    def _coarse_type(self) -> np.dtype:
        return coarse_type(self._num_codes)

    def _read_head(self, data: bytes) -> _Head | None:
        """Read the head of the rows; None where it is damaged, or of another kind."""
        head, check = data[: _HEAD.size], data[_HEAD.size : _CHECKED_HEAD]
        if len(head) < _HEAD.size or blake3(head).digest(16) != check:
            return None
        magic, kind, number, centroids_check, num_trained = _HEAD.unpack(head)
        if (magic, kind) != (_MAGIC, self._kind):
            return None
        return _Head(number.decode(), centroids_check, num_trained)

    def _head_now(self) -> _Head | None:
        try:
            with open(self.folder / ROWS, "rb") as file:
                return self._read_head(file.read(_CHECKED_HEAD))
        except FileNotFoundError:
            return None

    def _whole_rows_bytes(self) -> int:
        """Return the bytes of the head and of all whole rows: a crash may have left the beginning of another."""
        size = (self.folder / ROWS).stat().st_size
        return _CHECKED_HEAD + (size - _CHECKED_HEAD) // ROW.itemsize * ROW.itemsize

    def _valid_rows(self, number: str, data: bytes) -> np.ndarray:
        """Return the rows that are whole and whose codes are there; later rows of an entry after earlier ones."""
        rows = np.frombuffer(data[: len(data) // ROW.itemsize * ROW.itemsize], ROW)
        size = ROW.itemsize - 16
        whole = np.array([blake3(row[:size]).digest(16) == row[size:] for row in _pieces(rows)], bool)
        rows = rows[whole] if len(rows) else rows
        there = min(
            (self.folder / f"coarse-{number}.bin").stat().st_size // self._coarse_type.itemsize,
            (self.folder / f"fine-{number}.bin").stat().st_size // (FINE.itemsize * self._num_codes),
        )
        is_there = (rows["first_frame"] >= 0) & (rows["first_frame"] + rows["num_frames"] <= there)
        return np.asarray(rows[is_there])

    def _open(self, head: _Head, data: bytes) -> IndexFile | None:
        number = head.number
        centroids = (self.folder / f"centroids-{number}.bin").read_bytes()
        if blake3(centroids).digest(16) != head.centroids_check:
            return None
        rows = self._valid_rows(number, data)
        num_rows = len(rows)
        last = {row.tobytes(): place for place, row in enumerate(rows["digest"])}  # later rows count
        rows = rows[sorted(last.values(), key=lambda place: int(rows["first_frame"][place]))] if last else rows
        coarse = _mapped(self.folder / f"coarse-{number}.bin", self._coarse_type)
        fine = _mapped(self.folder / f"fine-{number}.bin", np.dtype((FINE, (self._num_codes,))))
        codebook = Codebook(
            torch.from_numpy(np.frombuffer(centroids, np.float32).reshape(NUM_HEADS, -1, HEAD_DIM).copy())
        )
        sound = np.array([_is_sound(row, coarse) for row in rows], bool)
        rows = rows[sound] if len(rows) else rows
        size_bytes = len(data) + len(centroids) + coarse.nbytes + fine.nbytes
        return IndexFile(number, rows, num_rows, coarse, fine, codebook, head.num_trained, size_bytes)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def fine_checks(fine: np.ndarray) -> np.ndarray:
    """Return a number for each frame by which its fine codes are checked when they are read, ``[F]``."""
    words = np.ascontiguousarray(fine).view(np.uint8).reshape(len(fine), -1).view(np.uint64)
    checks = np.bitwise_xor.reduce(words, axis=1) ^ np.uint64(0x9E3779B97F4A7C15)  # so that zeros fail their own check
    return np.asarray(checks)


def _is_sound(row: np.void, coarse: np.ndarray) -> bool:
    part = coarse[row["first_frame"] : row["first_frame"] + row["num_frames"]]
    return bool(blake3(part.tobytes()).digest(16) == row["coarse_check"].tobytes())


def _row(entry: Encoded, first_frame: int, coarse: np.ndarray) -> np.ndarray:
    row = np.zeros((), ROW)
    row["digest"] = np.frombuffer(bytes.fromhex(entry.digest), np.uint8)
    row["identity"] = np.frombuffer(entry.identity, np.uint8)
    row["signature"] = entry.signature
    row["first_frame"], row["num_frames"] = first_frame, len(coarse)
    row["coarse_check"] = np.frombuffer(blake3(coarse.tobytes()).digest(16), np.uint8)
    return row


def _checked(row: np.ndarray | np.void) -> bytes:
    data = row.tobytes()[: ROW.itemsize - 16]
    return data + blake3(data).digest(16)


def _pieces(rows: np.ndarray) -> Iterator[bytes]:
    data, size = rows.tobytes(), ROW.itemsize
    return (data[start : start + size] for start in range(0, len(data), size))


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """Map a file's whole records; what is appended later is not seen."""
    with open(path, "rb") as file:
        count = os.fstat(file.fileno()).st_size // dtype.itemsize
        if not count:
            return np.empty(0, dtype)
        mapped = mmap.mmap(file.fileno(), count * dtype.itemsize, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype, count)
