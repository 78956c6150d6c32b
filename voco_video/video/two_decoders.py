"""Two decoders, each in a thread of its own, decode the spans of a plan; frames come out in the order of the spans.

The threads of one decoder wait for each other, and at the end of a span all of them wait, so one decoder alone leaves
processors idle. Spans do not depend on each other. Where there is no processor to spare, decoders of one thread each
take the least work:

    decoder 0   [span 0        ][span 3    ]      a decoder takes the next span when it has finished one,
    decoder 1   [span 1 ][span 2       ]          and waits while too many frames wait to be asked for
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
from voco_video.video.decode_plan import DecodeSpan, SpanReader
from voco_video.video.packet_index import StreamIndex

NUM_DECODERS = 2
THREAD_NAME = "voco-video-decoder"
# Packets outside the longest span: with fewer, a second decoder saves less than opening the file again costs.
MIN_PACKETS_FOR_SECOND = 60
MAX_WAITING_FRAME_BYTES = 32 << 20  # decoded frames that nobody has asked for yet
# Largest load of one decoder over the average at which decoders have one thread each.
MAX_IMBALANCE = 1.05
_POLL_SECONDS = 0.05  # how often a wait looks whether another thread has stopped the reading


def pays_off(spans: Sequence[DecodeSpan]) -> bool:
    """Whether a second decoder has enough to do."""
    lengths = [span.num_packets for span in spans]
    return num_processors() > 1 and sum(lengths) - max(lengths, default=0) >= MIN_PACKETS_FOR_SECOND


def threads_per_decoder(spans: Sequence[DecodeSpan], frame_bytes: int) -> int | None:
    """Give 1 where the decoders keep all processors busy with one thread each, else None for the usual number."""
    loads = [0] * NUM_DECODERS
    for span in spans:
        loads[loads.index(min(loads))] += span.num_packets
    is_even = max(loads) * NUM_DECODERS <= MAX_IMBALANCE * sum(loads)
    has_room = max(len(span.frames) for span in spans) * frame_bytes <= MAX_WAITING_FRAME_BYTES
    return 1 if num_processors() <= NUM_DECODERS and is_even and has_room else None


def read_spans(
    source: Source,
    path: Path,
    index: StreamIndex,
    spans: Sequence[DecodeSpan],
    *,
    can_seek: bool,
    stop: threading.Event,
) -> Iterator[tuple[int, Any]]:
    """Yield (frame index, `av.VideoFrame`) of all spans in their order, as one `SpanReader` would.

    Args:
        source: freshly opened or scanned, for the first decoder; for decoders of one thread the file is opened again.
        stop: set by another thread to end early.

    Raises:
        DamagedError, MisplacedError, CannotSeekError: as `SpanReader.read`, after the frames before that place.
    """
    handover, kept_packets = _Handover(spans, stop), source.kept_packets
    num_threads = threads_per_decoder(spans, frame_bytes=source.decoder.width * source.decoder.height * 3 // 2)

    def read_all(own: Source) -> None:
        reader = SpanReader(own, index, can_seek=can_seek, is_stopped=handover.is_stopped)
        while (number := handover.next_span()) is not None:
            handover.fill(number, reader.read(spans[number]))

    def open_and_read_all() -> None:
        # Where that fails the first decoder goes on with `source`, alone.
        with contextlib.suppress(VideoError), Source(path, num_threads=num_threads) as own:
            own.kept_packets = kept_packets
            read_all(own)

    def read_first() -> None:
        if num_threads:
            open_and_read_all()
        read_all(source)

    works = [read_first, *[open_and_read_all] * (NUM_DECODERS - 1)]
    threads = [threading.Thread(target=handover.guarded, args=(work,), name=THREAD_NAME, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield from handover.frames()
    finally:
        handover.halt()
        for thread in threads:
            thread.join()


class _Handover:
    """Frames on their way from the decoders to whoever asks for them, span by span."""

    def __init__(self, spans: Sequence[DecodeSpan], stop: threading.Event) -> None:
        self._changed = threading.Condition()
        self._waiting: list[deque[tuple[int, Any] | BaseException | None]] = [deque() for _ in spans]
        self._num_begun = 0
        self._asked_for = 0  # the span whose frames go out now
        self._held_bytes = 0
        self._failure: BaseException | None = None
        self._stop = stop
        self._halted = False

    def is_stopped(self) -> bool:
        """Whether nobody wants any more."""
        return self._halted or self._stop.is_set()

    def halt(self) -> None:
        """Have the decoders end at their next packet."""
        with self._changed:
            self._halted = True
            self._changed.notify_all()

    def guarded(self, work: Callable[[], None]) -> None:
        """Do the work of one decoder thread; its failure goes to whoever asks for frames."""
        try:
            work()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def next_span(self) -> int | None:
        """A span that no thread has begun, in order; None when there is none left."""
        with self._changed:
            if self.is_stopped() or self._num_begun == len(self._waiting):
                return None
            self._num_begun += 1
            return self._num_begun - 1

    def fill(self, number: int, frames: Iterator[tuple[int, Any]]) -> None:
        """Put a span's frames where they are asked for, waiting for room, and what ends it: None or an error."""
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
            # The span that is asked for may always hand on one, so that no thread waits for ever.
            while not (
                self.is_stopped()
                or self._held_bytes < MAX_WAITING_FRAME_BYTES
                or (number == self._asked_for and not waiting)
            ):
                self._changed.wait(_POLL_SECONDS)
            waiting.append(item)
            self._held_bytes += size_bytes
            self._changed.notify_all()

    def frames(self) -> Iterator[tuple[int, Any]]:
        """What the threads put, span by span, until the last one or until stopped."""
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
