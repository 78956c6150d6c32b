"""Runs decoded side by side: a decoder of its own for each lane, frames handed on in the order of the runs.

The threads of one decoder wait for each other, at every drain for all of them, so that one alone leaves processors
idle. Runs need nothing of each other, and where there is no processor for more, a thread each costs the least:

    lane 0   [run 0        ][run 3    ]      a lane takes the next run when it is through with one,
    lane 1   [run 1 ][run 2       ]          and waits while too much has come out that is not asked for yet
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from voco_video.errors import VideoError
from voco_video.video.container import Source, num_processors
from voco_video.video.decode_plan import Run, RunReader
from voco_video.video.packet_index import StreamIndex

NUM_LANES = 2
THREAD_NAME = "voco-video-lane"
# What there must be to do beside the longest run: fewer packets do not pay for opening the file once more.
LANE_PACKETS = 60
HELD_BYTES = 32 << 20  # of decoded frames that wait for others
# How much more than its share a lane may have to do for it to be alone at the end with one thread.
EVEN = 1.05
_POLL_SECONDS = 0.05  # how often a wait looks whether another thread has stopped the reading


def pays_side_by_side(runs: Sequence[Run]) -> bool:
    """Whether a second decoder has enough to do."""
    lengths = [run.num_packets for run in runs]
    return num_processors() > 1 and sum(lengths) - max(lengths, default=0) >= LANE_PACKETS


def threads_each(runs: Sequence[Run], frame_bytes: int) -> int | None:
    """1 where lanes are as many as processors and none of them would wait for the other long; else None, the usual."""
    loads = [0] * NUM_LANES
    for run in runs:
        loads[loads.index(min(loads))] += run.num_packets
    is_even = max(loads) * NUM_LANES <= EVEN * sum(loads)
    has_room = max(len(run.frames) for run in runs) * frame_bytes <= HELD_BYTES
    return 1 if num_processors() <= NUM_LANES and is_even and has_room else None


def read_side_by_side(
    source: Source, path: Path, index: StreamIndex, runs: Sequence[Run], *, can_seek: bool, stop: threading.Event
) -> Iterator[tuple[int, Any]]:
    """Yield (frame index, `av.VideoFrame`) of all runs in their order, as one `RunReader` would.

    source:  freshly opened or scanned, for the first lane; for lanes with one thread the file is opened again
    stop:    set by another thread to end early

    Raises what `RunReader.read` raises, after the frames before that place.
    """
    handover, kept_packets = _Handover(runs, stop), source.kept_packets
    num_threads = threads_each(runs, frame_bytes=source.decoder.width * source.decoder.height * 3 // 2)

    def read_all(own: Source) -> None:
        reader = RunReader(own, index, can_seek=can_seek, is_stopped=handover.is_stopped)
        while (number := handover.next_run()) is not None:
            handover.fill(number, reader.read(runs[number]))

    def open_and_read_all() -> None:
        # Where that fails the first lane goes on with `source`, alone.
        with contextlib.suppress(VideoError), Source(path, num_threads=num_threads) as own:
            own.kept_packets = kept_packets
            read_all(own)

    def read_first() -> None:
        if num_threads:
            open_and_read_all()
        read_all(source)

    works = [read_first, *[open_and_read_all] * (NUM_LANES - 1)]
    lanes = [threading.Thread(target=handover.guarded, args=(work,), name=THREAD_NAME, daemon=True) for work in works]
    for lane in lanes:
        lane.start()
    try:
        yield from handover.frames()
    finally:
        handover.halt()
        for lane in lanes:
            lane.join()


class _Handover:
    """Frames on their way from the lanes to whoever asks for them, run by run."""

    def __init__(self, runs: Sequence[Run], stop: threading.Event) -> None:
        self._changed = threading.Condition()
        self._waiting: list[deque[tuple[int, Any] | BaseException | None]] = [deque() for _ in runs]
        self._num_begun = 0
        self._asked_for = 0  # the run whose frames go out now
        self._held_bytes = 0
        self._failure: BaseException | None = None
        self._stop = stop
        self._halted = False

    def is_stopped(self) -> bool:
        """Whether nobody wants any more."""
        return self._halted or self._stop.is_set()

    def halt(self) -> None:
        """Have the lanes end at their next packet."""
        with self._changed:
            self._halted = True
            self._changed.notify_all()

    def guarded(self, work: Callable[[], None]) -> None:
        """Run a lane; what it fails with goes to whoever asks for frames."""
        try:
            work()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def next_run(self) -> int | None:
        """A run that no lane has begun, in order; None when there is none left."""
        with self._changed:
            if self.is_stopped() or self._num_begun == len(self._waiting):
                return None
            self._num_begun += 1
            return self._num_begun - 1

    def fill(self, number: int, frames: Iterator[tuple[int, Any]]) -> None:
        """Put a run's frames where they are asked for, waiting for room, and what ends it: None or an error."""
        end: BaseException | None = None
        try:
            for frame_index, frame in frames:
                self._put(number, (frame_index, frame), _size_bytes(frame))
        except BaseException as error:
            end = error
        with self._changed:
            self._waiting[number].append(end)
            self._changed.notify_all()

    def _put(self, number: int, item: tuple[int, Any], size_bytes: int) -> None:
        waiting = self._waiting[number]
        with self._changed:
            # The run that is asked for may always hand on one, so that no lane waits for ever.
            while not (
                self.is_stopped() or self._held_bytes < HELD_BYTES or (number == self._asked_for and not waiting)
            ):
                self._changed.wait(_POLL_SECONDS)
            waiting.append(item)
            self._held_bytes += size_bytes
            self._changed.notify_all()

    def frames(self) -> Iterator[tuple[int, Any]]:
        """What the lanes put, run by run, until the last one or until stopped."""
        for number, waiting in enumerate(self._waiting):
            with self._changed:
                self._asked_for = number
                self._changed.notify_all()
            while (item := self._take(waiting)) is not None:
                yield item

    def _take(self, waiting: deque[tuple[int, Any] | BaseException | None]) -> tuple[int, Any] | None:
        with self._changed:
            while not (waiting or self.is_stopped() or self._failure):
                self._changed.wait(_POLL_SECONDS)
            item = waiting.popleft() if waiting else self._failure
            if isinstance(item, tuple):
                self._held_bytes -= _size_bytes(item[1])
                self._changed.notify_all()
        if isinstance(item, BaseException):
            raise item
        return item


def _size_bytes(frame: Any) -> int:
    return sum(plane.buffer_size for plane in frame.planes)
