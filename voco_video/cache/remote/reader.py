"""An entry on a store, read by ranges: of a window of frames come the bytes of these frames, and nothing else.

Each frame is compared with its digest before it is returned, whether it came from the store or from the local tier. A
window that takes all frames of a segment reads it with one request; else each tensor takes one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3

from voco_video.cache.entry import CacheEntry, Manifest
from voco_video.cache.remote.layout import (
    FRAMES_PER_BLOCK,
    RemoteManifest,
    SegmentFrames,
    frame_digest,
    num_blocks,
    segment_name,
)
from voco_video.cache.remote.names import RemoteNames
from voco_video.cache.remote.objects import ObjectStore, Range, WrongObjectError
from voco_video.cache.remote.tier import SegmentTier
from voco_video.cache.segment import Segment, SegmentReader, TensorSpec
from voco_video.errors import CacheError

BATCH_BYTES = 64 << 20  # read at a time, by any number of requests side by side
_NUM_TRIES = 2  # of bytes that came but are not the right ones


@dataclass(frozen=True)
class Wanted:
    """Frames of one segment, and where they are to go: by name bytes for all of them, every tensor of the entry."""

    number: int  # of the segment
    frames: range  # counted from the segment's first
    places: Mapping[str, memoryview]

    def piece(self, name: str, first: int, stop: int) -> memoryview:
        """The place of frames [first, stop) of a tensor."""
        size = len(self.places[name]) // len(self.frames)
        return self.places[name][(first - self.frames.start) * size : (stop - self.frames.start) * size]


class RemoteReader:
    """Reads frames of one entry: from the local tier where they are there, else from the store."""

    def __init__(
        self, objects: ObjectStore, tier: SegmentTier, remote: RemoteManifest, segments: Sequence[Segment]
    ) -> None:
        self._objects, self._tier, self._remote, self._segments = objects, tier, remote, segments
        counts = [num_blocks(segment.num_frames) for segment in segments]
        self._first_blocks = [0, *accumulate(counts)]
        self._known: dict[int, SegmentFrames] = {}  # by block

    def read(self, wanted: Sequence[Wanted]) -> None:
        """Fill all places.

        Raises:
            CacheError: the store has other bytes, or none, or cannot be reached.
        """
        self._look_up(sorted({block for one in wanted for block in self._blocks(one)}))
        missing: list[tuple[Wanted, int, int]] = []
        for one in wanted:
            pieces = [(one.places[n], self._offset(one, n, one.frames.start)) for n in self._names(one)]
            if self._tier.read(self._segments[one.number].blake3, pieces):
                missing += [(one, *run) for run in self._wrong(one, one.frames)]
            else:
                missing.append((one, one.frames.start, one.frames.stop))
        for last_try in (*[False] * (_NUM_TRIES - 1), True):
            missing = self._fetch(missing, last_try=last_try)

    def _fetch(self, runs: Sequence[tuple[Wanted, int, int]], *, last_try: bool) -> list[tuple[Wanted, int, int]]:
        """Fetch runs of frames and keep those that are right; returns the runs that are not."""
        asked = [self._ranges(*run) for run in runs]
        bytes_of = iter(self._objects.read_ranges([one for ranges in asked for one in ranges]))
        wrong: list[tuple[Wanted, int, int]] = []
        for (one, first, stop), ranges in zip(runs, asked):
            self._place(one, first, stop, [(got.begin, memoryview(next(bytes_of))) for got in ranges])
            bad = list(self._wrong(one, range(first, stop)))
            if bad and last_try:
                file = segment_name(self._segments[one.number].file, self._segments[one.number].blake3)
                raise WrongObjectError(f"{file} does not match its checksum at frame {bad[0][0]} of it")
            wrong += [(one, *run) for run in bad]
            if not bad:
                pieces = [(one.piece(n, first, stop), self._offset(one, n, first)) for n in self._names(one)]
                self._tier.write(self._segments[one.number].blake3, pieces)
        return wrong

    def _ranges(self, one: Wanted, first: int, stop: int) -> list[Range]:
        """Return the ranges of the segment's object that hold these frames."""
        segment = self._segments[one.number]
        path = f"{self._remote.folder}/{segment_name(segment.file, segment.blake3)}"
        ranges = [Range(path, begin, begin + size) for begin, size in self._spans(one, first, stop)]
        if stop - first == segment.num_frames and ranges:  # only times stand between them
            return [Range(path, ranges[0].begin, ranges[-1].end)]
        return ranges

    def _spans(self, one: Wanted, first: int, stop: int) -> list[tuple[int, int]]:
        spans = [(self._offset(one, n, first), len(one.piece(n, first, stop))) for n in self._names(one)]
        return sorted(span for span in spans if span[1])

    def _place(self, one: Wanted, first: int, stop: int, got: Sequence[tuple[int, memoryview]]) -> None:
        """Copy fetched bytes to where they belong."""
        for name in self._names(one):
            piece, offset = one.piece(name, first, stop), self._offset(one, name, first)
            for begin, data in got if len(piece) else ():
                if begin <= offset and offset + len(piece) <= begin + len(data):
                    piece[:] = data[offset - begin : offset - begin + len(piece)]
                    break

    def _wrong(self, one: Wanted, frames: range) -> Iterator[tuple[int, int]]:
        """Yield runs [first, stop) of those frames that do not match their digests."""
        begun = None
        for frame in frames:
            block, number = divmod(frame, FRAMES_PER_BLOCK)
            known = self._known[self._first_blocks[one.number] + block]
            pieces = [one.piece(name, frame, frame + 1) for name in self._names(one)]
            is_right = frame_digest(pieces) == known.digest(number)
            if not is_right and begun is None:
                begun = frame
            elif is_right and begun is not None:
                yield begun, frame
                begun = None
        if begun is not None:
            yield begun, frames.stop

    def _names(self, one: Wanted) -> list[str]:
        return sorted(one.places)

    def _offset(self, one: Wanted, name: str, frame: int) -> int:
        """Return where a frame of a tensor begins in the segment."""
        begins = self._known[self._blocks(one)[0]].begins
        return begins[name] + frame * (len(one.places[name]) // len(one.frames))

    def _blocks(self, one: Wanted) -> range:
        """The blocks that prove these frames."""
        first = self._first_blocks[one.number]
        return range(
            first + one.frames.start // FRAMES_PER_BLOCK, first + (one.frames.stop - 1) // FRAMES_PER_BLOCK + 1
        )

    def _place_of_block(self, number: int) -> tuple[str, int]:
        """Return which segment's file in the tier a block is kept in, and where: behind the segment."""
        segment = bisect_right(self._first_blocks, number) - 1
        first = self._remote.blocks[self._first_blocks[segment]]
        offset = self._segments[segment].size_bytes + self._remote.blocks[number].begin - first.begin
        return self._segments[segment].blake3, offset

    def _look_up(self, numbers: Sequence[int]) -> None:
        """Learn what some blocks say."""
        unknown = []
        for number in (number for number in numbers if number not in self._known):
            block, (digest, offset) = self._remote.blocks[number], self._place_of_block(number)
            data = bytearray(block.end - block.begin)
            self._tier.read(digest, [(memoryview(data), offset)])
            if blake3(data).hexdigest() == block.blake3:
                self._known[number] = SegmentFrames.decode(bytes(data))
            else:
                unknown.append(number)
        path = f"{self._remote.folder}/{self._remote.frames}"
        stretches = list(_stretches(unknown))
        spans = [(self._remote.blocks[s[0]].begin, self._remote.blocks[s[-1]].end) for s in stretches]
        found = self._objects.read_ranges([Range(path, *span) for span in spans])
        for stretch, (begin, _), got in zip(stretches, spans, found):
            for number in stretch:
                block, (digest, offset) = self._remote.blocks[number], self._place_of_block(number)
                data_of_block = got[block.begin - begin : block.end - begin]
                if blake3(data_of_block).hexdigest() != block.blake3:
                    raise WrongObjectError(f"{self._remote.frames} does not match its checksum")
                self._known[number] = SegmentFrames.decode(data_of_block)
                self._tier.write(digest, [(memoryview(data_of_block), offset)])


class RemoteEntry(CacheEntry):
    """An entry on a store. Its files are never held: what a range holds is proved by digests.

    Where another publication takes its place meanwhile, this one can be read until a prune deletes it.
    """

    def __init__(self, directory: Path, remote: RemoteManifest, *, objects: ObjectStore, tier: SegmentTier) -> None:
        manifest = Manifest.decode(remote.text)
        if manifest.key.digest != remote.digest:
            raise CacheError(f"it holds the result for another key, {manifest.key.digest}")
        super().__init__(
            directory, manifest, hold=None, reader=SegmentReader(), last_used=manifest.created_unix_seconds
        )
        self.remote, self._objects = remote, objects
        self._numbers = {segment.file: number for number, segment in enumerate(manifest.segments)}
        self._frames = RemoteReader(objects, tier, remote, manifest.segments)

    @property
    def location(self) -> str:
        """See `CacheEntry.location`."""
        return f"{self._objects.name}/{self.remote.folder}"

    @property
    def name(self) -> str | None:
        """See `CacheEntry.name`."""
        return RemoteNames(self._objects).name_of(self.digest)

    def read(self, start: int = 0, stop: int | None = None) -> dict[str, torch.Tensor]:
        """Read frames as `CacheEntry.read` does; only their bytes are asked of the store."""
        return self._copied(self.tensors, start, self._checked_stop(start, stop))

    def mapped_windows(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield all frames as one window: segments are fetched side by side."""
        if start < stop:
            yield start, stop

    def verify(self, *, full: bool = True) -> None:
        """Raise CacheError unless the store has every object in its size and, with `full`, with the right bytes."""
        sizes = {one.path: one.size_bytes for one in self._objects.listed(self.remote.folder)}
        for path, size in self.remote.objects.items():
            if path not in sizes:
                raise self._damaged(f"{path} is missing")
            if sizes[path] != size:
                raise self._damaged(f"{path} has {sizes[path]} bytes instead of {size}")
        if full:
            blocks = iter(self.remote.blocks)
            for segment, data in self.segment_files():
                for block in SegmentFrames.of(memoryview(data)).encode():
                    if blake3(block).hexdigest() != next(blocks).blake3:
                        raise self._damaged(f"the digests of frames are not those of {segment.file}")
            path = f"{self.remote.folder}/{self.remote.frames}"
            if "frames." + blake3(self._objects.read(path) or b"").hexdigest() != self.remote.frames:
                raise self._damaged(f"{path} does not match its checksum")

    def segment_files(self) -> Iterator[tuple[Segment, bytes]]:
        """Yield the bytes of all segments, read from the store and compared with their digests.

        Raises:
            CacheError: one is not there, or not what was written.
        """
        for segment in self._manifest.segments:
            path = f"{self.remote.folder}/{segment_name(segment.file, segment.blake3)}"
            data = self._objects.read(path)
            if data is None:
                raise self._damaged(f"{path} is missing")
            if blake3(data).hexdigest() != segment.blake3:
                raise self._damaged(f"{path} does not match its checksum")
            yield segment, data

    def touch(self) -> None:
        """Do nothing: a store notes when objects are written, not when they are read."""

    def _hold_files(self) -> None:
        """Do nothing: objects of a publication never change."""

    def _copied(
        self, specs: Mapping[str, TensorSpec], start: int, stop: int, *, row: int | None = None
    ) -> dict[str, torch.Tensor]:
        if row is None:
            shapes = {n: (stop - start, *spec.shape) for n, spec in specs.items()}
            tensors = {n: torch.empty(shapes[n], dtype=spec.dtype, device="cpu") for n, spec in specs.items()}
            self._fill(tensors, start, stop)
            return tensors
        # A digest covers a whole frame, so all of it is read; then it is in the tier for the next row.
        pieces = [self._rows(specs, begin, end, row) for begin, end in self._steps(start, stop)]
        empty = {n: torch.empty((0, *spec.shape), dtype=spec.dtype, device="cpu") for n, spec in specs.items()}
        return {name: torch.cat([piece[name] for piece in (empty, *pieces)]) for name in specs}

    def _rows(self, names: Mapping[str, TensorSpec], start: int, stop: int, row: int) -> dict[str, torch.Tensor]:
        whole = self._copied(self.tensors, start, stop)
        return {name: whole[name][:, row].clone() for name in names}

    def _steps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        size = max(1, BATCH_BYTES // max(1, self.bytes_per_frame))
        for begin in range(start, stop, size):
            yield begin, min(begin + size, stop)

    def _fill(self, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> None:
        buffers = {n: _bytes_of(tensor) for n, tensor in tensors.items()}
        sizes = {n: spec.frame_bytes for n, spec in self.tensors.items()}
        for begin, end in self._steps(start, stop):
            wanted = []
            for segment in self._overlapping(begin, end):
                first, last = max(begin, segment.first_frame), min(end, segment.stop_frame)
                places = {n: b[(first - start) * sizes[n] : (last - start) * sizes[n]] for n, b in buffers.items()}
                inside = range(first - segment.first_frame, last - segment.first_frame)
                wanted.append(Wanted(self._numbers[segment.file], inside, places))
            try:
                self._frames.read(wanted)
            except WrongObjectError as error:
                raise self._damaged(error) from error

    def _damaged(self, reason: object) -> CacheError:
        return CacheError(
            f"cannot read cache entry {self.digest[:12]} in {self._objects.name}: {reason}; get it again in case it "
            "was replaced, look at it with `voco-video cache verify`, or compress it again with --force"
        )

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    view: memoryview = tensor.view(-1).view(torch.uint8).numpy().data
    return view


def _stretches(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Cut ascending numbers where one is left out.

    >>> list(_stretches([3, 4, 7]))
    [[3, 4], [7]]
    """
    cuts = [0, *(i for i, (a, b) in enumerate(pairwise(numbers), 1) if b != a + 1), len(numbers)]
    for begin, end in pairwise(cuts):
        if begin < end:
            yield list(numbers[begin:end])
