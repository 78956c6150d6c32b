"""A segment: the compressed tensors of consecutive frames in one ordinary safetensors file, frames on axis 0.

Any safetensors reader opens it. Beside the model's tensors it holds `pts_seconds` float64 [F], and in its
metadata the digest of the key it belongs to, `format_version`, `first_frame` and `num_frames`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3

from voco_video.cache.key import FORMAT_VERSION, is_digest
from voco_video.errors import CacheError
from voco_video.files.digest import digest_file, hash_threads

PTS_SECONDS = "pts_seconds"
MAX_SEGMENT_BYTES = 256 << 20  # limits memory where frames are large, as with the `full` compressor
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_SEGMENT_FILE = re.compile(r"segment-(\d{6,})\.safetensors", re.ASCII)
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """What one frame of a stored tensor is: its dtype and its shape without the frame axis.

    Example:
        >>> TensorSpec(torch.float16, (32, 8, 2, 128)).frame_bytes
        131072
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return prod(self.shape) * self.dtype.itemsize

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value that `from_json` reads."""
        return {"dtype": _DTYPE_NAMES[self.dtype], "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TensorSpec:
        """Rebuild the specification from `to_json`; CacheError for anything else."""
        dtype, shape = value["dtype"], value["shape"]
        if dtype not in DTYPES or not isinstance(shape, list) or not all(map(_is_count, shape)):
            raise CacheError(f"no tensor has dtype {dtype!r} and shape {shape!r}")
        return cls(DTYPES[dtype], tuple(shape))


@dataclass(frozen=True)
class Batch:
    """Whole frames as they were appended: tensors [F, …] by name and pts_seconds float64 [F]."""

    first_frame: int
    tensors: Mapping[str, torch.Tensor]
    pts_seconds: np.ndarray

    @property
    def num_frames(self) -> int:
        """F."""
        return len(self.pts_seconds)

    @property
    def stop_frame(self) -> int:
        """One past the last frame."""
        return self.first_frame + self.num_frames

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """By name, what every frame of a tensor looks like."""
        return {name: TensorSpec(tensor.dtype, tuple(tensor.shape[1:])) for name, tensor in self.tensors.items()}

    def copied(self) -> Batch:
        """Copy the frames to memory that the caller cannot change."""
        tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in self.tensors.items()}
        return Batch(self.first_frame, tensors, self.pts_seconds)


@dataclass(frozen=True)
class Segment:
    """One segment file as the manifest records it; `blake3` covers every byte of the file."""

    file: str
    first_frame: int
    num_frames: int
    size_bytes: int
    blake3: str
    pts_seconds: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value that `from_json` reads."""
        return {**vars(self), "pts_seconds": list(self.pts_seconds)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Segment:
        """Rebuild the record from `to_json`; CacheError for anything else."""
        segment = cls(**{**value, "pts_seconds": tuple(value["pts_seconds"])})
        counts, pts_seconds = (segment.first_frame, segment.num_frames, segment.size_bytes), segment.pts_seconds
        is_sound = (
            all(map(_is_count, counts))
            and segment.num_frames == len(pts_seconds) > 0
            and set(map(type, pts_seconds)) == {float}
            and all(map(isfinite, pts_seconds))
            and sorted(pts_seconds) == list(pts_seconds)
            and _SEGMENT_FILE.fullmatch(segment.file) is not None
            and is_digest(segment.blake3)
        )
        if not is_sound:
            raise CacheError(f"no segment has the record {value!r}")
        return segment

    @property
    def stop_frame(self) -> int:
        """One past the last frame."""
        return self.first_frame + self.num_frames


def segment_file(index: int) -> str:
    """Name an entry's `index`-th segment."""
    return f"segment-{index:06d}.safetensors"


def segment_index(file: str) -> int | None:
    """Undo `segment_file`; None for the name of another file."""
    match = _SEGMENT_FILE.fullmatch(file)
    return None if match is None else int(match[1])


def check_continues(segments: Sequence[Segment], segment: Segment) -> None:
    """Raise CacheError unless `segment` begins where `segments` end, in frames and in time."""
    expected = segments[-1].stop_frame if segments else 0
    if segment.first_frame != expected:
        raise CacheError(f"{segment.file} begins at frame {segment.first_frame}, not at frame {expected}")
    if segments and segment.pts_seconds[0] < segments[-1].pts_seconds[-1]:
        raise CacheError(f"{segment.file} begins at {segment.pts_seconds[0]} s, before the segment in front of it ends")


def check_batch(tensors: Mapping[str, torch.Tensor], pts_seconds: np.ndarray) -> None:
    """Raise CacheError unless every tensor is [F, …] of a storable dtype and there are F finite, ascending times."""
    if not tensors or pts_seconds.ndim != 1 or len(pts_seconds) == 0:
        raise CacheError(f"nothing to append: {len(tensors)} tensors, pts_seconds of shape {pts_seconds.shape}")
    if not np.isfinite(pts_seconds).all() or (np.diff(pts_seconds) < 0).any():
        raise CacheError(f"pts_seconds must be finite and ascending, not {pts_seconds}")
    for name, tensor in tensors.items():
        if name in (PTS_SECONDS, "__metadata__"):
            raise CacheError(f"{name!r} is a reserved tensor name")
        if tensor.dtype not in _DTYPE_NAMES:
            raise CacheError(f"tensor {name!r} is {tensor.dtype}; storable are {sorted(map(str, _DTYPE_NAMES))}")
        if tensor.ndim < 1 or tensor.shape[0] != len(pts_seconds):
            raise CacheError(
                f"tensor {name!r} of shape {tuple(tensor.shape)} must have {len(pts_seconds)} frames on "
                "axis 0, one per value of pts_seconds"
            )


def write_segment(directory: Path, index: int, batches: Sequence[Batch], *, key_digest: str) -> Segment:
    """Write `batches` as one segment and fsync it; returns the record that names and proves it.

    The batches are streamed to the file one after the other and hashed on the way: nothing is concatenated in
    memory.
    """
    hasher, size_bytes = blake3(max_threads=hash_threads()), 0
    path = directory / segment_file(index)
    with open(path, "wb") as file:
        for chunk in _file_chunks(batches, key_digest):
            file.write(chunk)
            hasher.update(chunk)
            size_bytes += chunk.nbytes
        file.flush()
        os.fsync(file.fileno())
    return Segment(
        file=path.name,
        first_frame=batches[0].first_frame,
        num_frames=sum(batch.num_frames for batch in batches),
        size_bytes=size_bytes,
        blake3=hasher.hexdigest(),
        pts_seconds=tuple(float(pts) for batch in batches for pts in batch.pts_seconds),
    )


def check_size(directory_fd: int, segment: Segment) -> None:
    """Raise CacheError unless the segment's file exists and is as long as its record says."""
    try:
        size_bytes = os.stat(segment.file, dir_fd=directory_fd).st_size
    except FileNotFoundError:
        raise CacheError(f"{segment.file} is missing") from None
    _check_size(size_bytes, segment)


def _check_size(size_bytes: int, segment: Segment) -> None:
    if size_bytes != segment.size_bytes:
        raise CacheError(f"{segment.file} has {size_bytes} bytes instead of {segment.size_bytes}")


@dataclass(frozen=True)
class _Header:
    """What a checked file says of itself.

    Attributes:
        key_digest: whose it is.
        tensors: by name each tensor's dtype, shape and bytes in the file.
        specs: what one frame of each is, times left out.
    """

    key_digest: str
    tensors: Mapping[str, tuple[torch.dtype, list[int], int, int]]
    specs: Mapping[str, TensorSpec]

    @classmethod
    def read(cls, fd: int, segment: Segment) -> _Header:
        """Read the header of a file with the right checksum; CacheError where its frames are not the recorded ones."""
        length = int.from_bytes(os.pread(fd, 8, 0), "little")
        header = json.loads(os.pread(fd, length, 8))
        metadata, tensors, specs = header.pop("__metadata__"), {}, {}
        for name, tensor in header.items():
            begin, end = (8 + length + offset for offset in tensor["data_offsets"])
            tensors[name] = (DTYPES[tensor["dtype"]], tensor["shape"], begin, end)
            specs[name] = TensorSpec(DTYPES[tensor["dtype"]], tuple(tensor["shape"][1:]))
        del specs[PTS_SECONDS]
        _, _, begin, end = tensors[PTS_SECONDS]
        if (
            metadata["first_frame"] != str(segment.first_frame)
            or os.pread(fd, end - begin, begin) != np.array(segment.pts_seconds, np.float64).tobytes()
        ):
            raise CacheError(f"{segment.file} holds other frames than the entry says")
        return cls(metadata["key_digest"], tensors, specs)


class SegmentReader:
    """Opens segments, hashing each the first time this process sees it in its present state.

    A file that changed since (other inode, size or time stamps) is hashed again, so a read never returns
    bytes that were not checked.
    """

    def __init__(self) -> None:
        self._checked: dict[tuple[int | str, ...], _Header] = {}

    def open(
        self, directory_fd: int, segment: Segment, *, specs: Mapping[str, TensorSpec], key_digest: str
    ) -> dict[str, torch.Tensor]:
        """Memory-map the tensors of one segment, ``[F, ...]`` by name; writing to them changes no file.

        Args:
            specs: of the entry's tensors.
            key_digest: of the entry's key.

        Raises:
            CacheError: the file is not the recorded one; says what is wrong with it.
        """
        fd, header = self._open(directory_fd, segment, specs, key_digest)
        try:
            file = torch.from_file(f"/dev/fd/{fd}", shared=False, size=segment.size_bytes, dtype=torch.uint8)
        finally:
            os.close(fd)
        tensors = header.tensors.items()
        return {name: file[begin:end].view(dtype).view(shape) for name, (dtype, shape, begin, end) in tensors}

    def copy(
        self,
        directory_fd: int,
        segment: Segment,
        frames: range,
        buffers: Mapping[str, memoryview],
        *,
        row: int | None = None,
        specs: Mapping[str, TensorSpec],
        key_digest: str,
    ) -> None:
        """Read frames of one segment, or one row of each, into memory; takes less than the page faults of a mapping do.

        Args:
            frames: which of the segment's.
            buffers: by name of tensor, bytes for all of them.
            row: index on the first axis of a frame, where only that is read.
            specs, key_digest: as for `open`.

        Raises:
            CacheError: as for `open`.
        """
        fd, header = self._open(directory_fd, segment, specs, key_digest)
        try:
            for name, buffer in buffers.items():
                _, shape, begin, end = header.tensors[name]
                frame_bytes = (end - begin) // segment.num_frames
                if row is None:
                    _read_fully(fd, buffer, begin + frames.start * frame_bytes, segment)
                    continue
                size = len(buffer) // len(frames)
                begin += range(shape[1])[row] * size
                for number, frame in enumerate(frames):  # runs thousands of times: nothing slow in here
                    place, offset = buffer[number * size : (number + 1) * size], begin + frame * frame_bytes
                    if os.preadv(fd, (place,), offset) < size:
                        _read_fully(fd, place, offset, segment)
        finally:
            os.close(fd)

    def _open(
        self, directory_fd: int, segment: Segment, specs: Mapping[str, TensorSpec], key_digest: str
    ) -> tuple[int, _Header]:
        """Open a file and check that it is as recorded; returns its descriptor and header."""
        try:
            fd = os.open(segment.file, os.O_RDONLY, dir_fd=directory_fd)
        except FileNotFoundError:
            raise CacheError(f"{segment.file} is missing") from None
        try:
            header = self._header(fd, segment)
            if header.key_digest != key_digest:
                raise CacheError(f"{segment.file} belongs to another key")
            if header.specs != specs:
                raise CacheError(f"{segment.file} holds other tensors than the entry says")
        except BaseException:
            os.close(fd)
            raise
        return fd, header

    def _header(self, fd: int, segment: Segment) -> _Header:
        stat = os.fstat(fd)
        _check_size(stat.st_size, segment)
        state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, segment.blake3)
        header = self._checked.get(state)
        if header is None:
            if digest_file(f"/dev/fd/{fd}") != segment.blake3:  # the open file: its name may be given to another
                raise CacheError(f"{segment.file} does not match its checksum")
            try:
                header = self._checked[state] = _Header.read(fd, segment)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise CacheError(f"{segment.file} is no segment: {error!r}") from error
        return header


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read_fully(fd: int, buffer: memoryview, offset: int, segment: Segment) -> None:
    done = 0
    while done < len(buffer):
        size = os.preadv(fd, [buffer[done:] if done else buffer], offset + done)
        if not size:
            raise CacheError(f"{segment.file} was cut off while it was read")
        done += size


def _file_chunks(batches: Sequence[Batch], key_digest: str) -> Iterator[memoryview]:
    """Yield the file's bytes: header, then each tensor's batches in turn."""
    num_frames = sum(batch.num_frames for batch in batches)
    specs = {**batches[0].specs, PTS_SECONDS: TensorSpec(torch.float64, ())}
    names = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))  # widest first: all aligned
    header: dict[str, Any] = {
        "__metadata__": {
            "format_version": str(FORMAT_VERSION),
            "key_digest": key_digest,
            "first_frame": str(batches[0].first_frame),
            "num_frames": str(num_frames),
        }
    }
    end = 0
    for name in names:
        begin, end = end, end + num_frames * specs[name].frame_bytes
        shape = [num_frames, *specs[name].shape]
        header[name] = {**specs[name].to_json(), "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in names:
        for batch in batches:
            tensor = torch.from_numpy(batch.pts_seconds) if name == PTS_SECONDS else batch.tensors[name]
            yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
