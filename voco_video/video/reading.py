"""A video file as frames with their times: `open_video`, `read_frames`, `probe`.

    video -> a file here (`sources`) -> one demux pass (every frame's time) -> Sampling picks frames
          -> decode just those -> FrameBatch

Which frames come depends on the file and the `Sampling` alone, never on the backend that decodes them.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_video.errors import UsageError, VideoError
from voco_video.options.sampling import Sampling
from voco_video.video.container import Source, StreamFacts
from voco_video.video.decode_plan import all_whole
from voco_video.video.frames import FrameBatch
from voco_video.video.media_files import as_video_errors
from voco_video.video.other_readers import Reader, check_backend, open_reader
from voco_video.video.packet_index import StreamIndex, scan
from voco_video.video.picture_index import index_again, index_frames
from voco_video.video.pictures import PictureReader, picture_facts, picture_index
from voco_video.video.sampling import pick_frames
from voco_video.video.scaling import MAX_PIXELS, Fit, FrameScaler, display_size
from voco_video.video.sources import LocalVideo, VideoLike, local_video


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before decoding it.

    Attributes:
        path: of the file; a URL without its secrets, or what else the video is.
        width, height: pixels as displayed: upright, square pixels.
        rotation_degrees: clockwise turn that makes the stored picture upright (already applied to width and height).
        sample_aspect_ratio: width of a stored pixel over its height.
        num_frames: shown frames, counted, not taken from the header.
        first_pts_seconds: time of the first frame, not always 0.
        duration_seconds: from the first frame to the end of the last.
        end_seconds: when the last frame ends, on the video's own clock.
        average_fps: num_frames / duration_seconds.
        num_video_streams: more than 1 is possible; the one that FFmpeg calls best is read.
    """

    path: Path | str
    container: str
    codec: str
    width: int
    height: int
    rotation_degrees: int
    sample_aspect_ratio: Fraction
    pixel_format: str
    num_frames: int
    first_pts_seconds: float
    duration_seconds: float
    end_seconds: float
    average_fps: float
    num_video_streams: int


class Video:
    """An opened video: what it is, which frames a sampling takes, and those frames. Made by `open_video`.

    Holds the times of all frames (about 30 bytes each). Until the first `batches` also what opening a small file has
    left: the open file, its packets and its decoder.

    Attributes:
        holding: closed with the video: what keeps the file here that it is read from.
    """

    def __init__(
        self, local: LocalVideo, index: StreamIndex, facts: StreamFacts, backend: str, source: Source | None = None
    ) -> None:
        self.holding = contextlib.ExitStack()
        self._local = local
        self._index = index
        self._facts = facts
        self._backend = backend
        self._source = source
        self._pts_seconds = index.pts_seconds
        self._has_checked_keyframes = False
        self._num_undecodable = 0
        self._decode_seconds = 0.0
        self._running: weakref.WeakSet[Any] = weakref.WeakSet()
        self._display_size = display_size(
            facts.stored_height, facts.stored_width, facts.sample_aspect_ratio, facts.orientation
        )
        height, width = self._display_size
        if height * width > MAX_PIXELS:
            raise VideoError(
                f"{local.name}: its pictures would have {round(width)}x{round(height)} pixels, more than {MAX_PIXELS}; "
                "it is damaged, or no video"
            )

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop every unfinished `batches` iteration. Safe to call twice."""
        if source := self._take_source():
            source.close()
        for batches in list(self._running):
            batches.close()
        self.holding.close()

    @property
    def info(self) -> VideoInfo:
        """What is known of the video before decoding it."""
        facts, times = self._facts, self.pts_seconds
        height, width = self._display_size
        end_seconds = self._end_seconds
        duration = end_seconds - float(times[0])
        return VideoInfo(
            path=self._local.name,
            container=facts.container,
            codec=facts.codec,
            width=max(1, round(width)),
            height=max(1, round(height)),
            rotation_degrees=facts.orientation.rotation_degrees,
            sample_aspect_ratio=facts.sample_aspect_ratio,
            pixel_format=facts.pixel_format,
            num_frames=len(times),
            first_pts_seconds=float(times[0]),
            duration_seconds=duration,
            end_seconds=end_seconds,
            average_fps=len(times) / duration,
            num_video_streams=facts.num_video_streams,
        )

    @property
    def pts_seconds(self) -> npt.NDArray[np.float64]:
        """[M] presentation times of all frames, sorted."""
        return self._pts_seconds

    @property
    def keyframe_seconds(self) -> npt.NDArray[np.float64]:
        """[M'] times of the frames at which decoding can begin, sorted."""
        return self._pts_seconds[self._index.is_keyframe]

    @property
    def num_undecodable(self) -> int:
        """How many planned frames of the latest `batches` could not be decoded; final once it has ended.

        Above 0 the file is damaged: the last frame before each that does decode stood in for it, or nothing where
        that one had been yielded already.
        """
        return self._num_undecodable

    @property
    def decode_seconds(self) -> float:
        """Seconds that the latest `batches` has spent on decoding and scaling so far, in whichever thread."""
        return self._decode_seconds

    @property
    def _path(self) -> Path:
        assert self._local.path is not None
        return self._local.path

    @property
    def _end_seconds(self) -> float:
        return float(self._index.to_seconds(self._index.end_pts))

    def plan(self, sampling: Sampling) -> npt.NDArray[np.float64]:
        """[F] presentation times of the frames that `batches` will yield if all of them decode.

        Raises:
            UsageError: the sampling's window or times lie outside the video.
        """
        return self.pts_seconds[self._pick(sampling)]

    def _pick(self, sampling: Sampling) -> npt.NDArray[np.int64]:
        if sampling.keyframes:
            self._check_keyframes()
        return pick_frames(self.pts_seconds, self._index.is_keyframe, self._end_seconds, sampling)

    def _check_keyframes(self) -> None:
        """List the frames anew where one that the container marks as a keyframe does not decode as one."""
        if not (self._has_checked_keyframes or self._index.is_from_pictures):
            marked = self._index.packet_of[self._index.is_keyframe]
            if not all_whole(self._path, np.sort(marked).tolist(), threading.Event()):
                self._index = index_again(self._path)
                self._pts_seconds = self._index.pts_seconds
        self._has_checked_keyframes = True

    def read(self, sampling: Sampling, *, fit: Fit | None = None) -> FrameBatch:
        """All planned frames at once, for when they fit in memory; raises what `batches` raises."""
        num_frames = len(self.plan(sampling))
        (batch,) = self.batches(sampling, fit=fit, batch_size=num_frames, prefetch_batches=0)
        return batch

    def batches(
        self,
        sampling: Sampling,
        *,
        fit: Fit | None = None,
        batch_size: int = 16,
        first_frame: int = 0,
        stop_frame: int | None = None,
        prefetch_batches: int = 2,
    ) -> Iterator[FrameBatch]:
        """Yield the planned frames in time order, `batch_size` at a time (the last batch may be shorter).

        Args:
            fit: final size; None keeps the display size.
            first_frame: leave out this many frames of the plan, to go on where an earlier reading stopped.
            stop_frame: end before this frame of the plan; None for all.
            prefetch_batches: how many finished batches may wait while a thread decodes ahead; 0 decodes in the
                caller's.

        A damaged file may yield fewer frames than planned. There, go on by the time of the last frame had:
        first_frame = np.searchsorted(video.plan(sampling), last_pts_seconds, side="right"), passing over what comes
        that is not later than last_pts_seconds.

        At most prefetch_batches + 2 batches are in memory. Stop early by leaving the loop. Raises UsageError for
        values that cannot be right, VideoError when not one frame decodes.
        """
        plan = self._pick(sampling)
        _check_at_least("batch_size", batch_size, 1)
        _check_at_least("prefetch_batches", prefetch_batches, 0)
        _check_at_least("first_frame", first_frame, 0)
        if first_frame > len(plan):
            raise UsageError(f"first_frame={first_frame} is past the {len(plan)} frames of the plan ({sampling})")
        plan = plan[:stop_frame]
        stop = threading.Event()
        source = self._take_source()
        batches = self._clocked(self._contained(plan, sampling, fit, batch_size, first_frame, stop, source))
        if prefetch_batches:
            batches = _prefetched(batches, num_waiting=prefetch_batches, stop=stop)
        self._running.add(batches)
        return batches

    def _take_source(self) -> Source | None:
        source, self._source = self._source, None
        return source

    def _clocked(self, batches: Iterator[FrameBatch]) -> Iterator[FrameBatch]:
        self._decode_seconds = 0.0
        with contextlib.closing(batches):  # type: ignore[type-var]  # it is a generator
            while True:
                started = time.perf_counter()
                batch = next(batches, None)
                self._decode_seconds += time.perf_counter() - started
                if batch is None:
                    return
                yield batch

    def _contained(self, *arguments: Any) -> Iterator[FrameBatch]:
        with self._local.named_errors(), as_video_errors(self._local.path or self._local.name):
            yield from self._decode(*arguments)

    def _decode(
        self,
        plan: npt.NDArray[np.int64],
        sampling: Sampling,
        fit: Fit | None,
        batch_size: int,
        first_frame: int,
        stop: threading.Event,
        source: Source | None,
    ) -> Iterator[FrameBatch]:
        reader = self._open_reader(stop, source)
        facts = self._facts
        scaler = FrameScaler(
            fit,
            stored_height=facts.stored_height,
            stored_width=facts.stored_width,
            sample_aspect_ratio=facts.sample_aspect_ratio,
            orientation=facts.orientation,
            coded_aspect=facts.coded_aspect,
            name=str(self._local.name),
        )
        num_left = len(plan) - first_frame
        pixels: npt.NDArray[np.uint8] | None = None
        pts_seconds: list[float] = []
        for pts, frame in reader.read(plan, first_frame, repeats=sampling.timestamps is not None):
            if pixels is None:
                pixels = scaler.new_batch(min(batch_size, num_left))
            scaler.write(frame, pixels[len(pts_seconds)])
            pts_seconds.append(float(self._index.to_seconds(pts)))
            num_left -= 1
            if len(pts_seconds) == len(pixels):
                yield FrameBatch(pixels, np.array(pts_seconds))
                pixels, pts_seconds = None, []
        self._num_undecodable = reader.num_undecodable
        if pixels is not None:
            yield FrameBatch(pixels[: len(pts_seconds)], np.array(pts_seconds))
        if num_left == len(plan) and not stop.is_set():
            raise VideoError(f"{self._local.name}: not one of {num_left} frames could be decoded")

    def _open_reader(self, stop: threading.Event, source: Source | None) -> Reader:
        if self._local.pictures is not None:
            return PictureReader(self._local.pictures, stop)
        return open_reader(self._backend, self._path, self._index, self._facts, stop, source)


def open_video(path: VideoLike, *, backend: str = "pyav") -> Video:
    """Open a video and list its frames' times; decodes one frame, to learn which way up it is.

    Args:
        path: a file, a URL, bytes, an open file or pictures; see `voco_video.video.sources.local_video`. What had to be
            copied here stays until the video is closed.
        backend: "pyav", "decord" or "torchcodec"; all give the same frames.

    Raises:
        VideoError: what is not a readable video; it names the file and the reason.
        UsageError: a backend that is unknown or not installed.

        with open_video("clip.mp4") as video:
            print(video.info.duration_seconds, len(video.plan(Sampling(fps=1))))
            for batch in video.batches(Sampling(fps=1), fit=Fit(336, 336)):
                print(batch.pts_seconds, batch.pixels.shape)
    """
    check_backend(backend)
    with contextlib.ExitStack() as holding:
        video = _open_local(holding.enter_context(local_video(path)), backend)
        video.holding = holding.pop_all()
        return video


def _open_local(local: LocalVideo, backend: str) -> Video:
    if local.pictures is not None:
        return Video(local, picture_index(local.pictures), picture_facts(local.pictures), backend)
    assert local.path is not None
    with as_video_errors(local.path), contextlib.ExitStack() as closing:
        source = closing.enter_context(Source(local.path))
        packets, facts = scan(source)
        index = index_frames(source, packets)
        if source.kept_packets and backend == "pyav":
            closing.pop_all()  # the first reading uses it up
            return Video(local, index, facts, backend, source)
    return Video(local, index, facts, backend)


def read_frames(
    path: VideoLike,
    sampling: Sampling | None = None,
    *,
    fit: Fit | None = None,
    backend: str = "pyav",
) -> FrameBatch:
    """All frames of a sampling (default: one per second) at once, for when they fit in memory.

        batch = read_frames("clip.mp4", Sampling(num_frames=8), fit=Fit(336, 336))
        batch.pixels.shape  # (8, 336, 336, 3)

    Raises what `open_video` and `Video.batches` raise.
    """
    sampling = sampling or Sampling()
    with open_video(path, backend=backend) as video:
        return video.read(sampling, fit=fit)


def probe(path: VideoLike) -> VideoInfo:
    """What `open_video(path).info` says: size, times, codec. Reads the file once, decodes one frame."""
    with open_video(path) as video:
        return video.info


def _prefetched(batches: Iterator[FrameBatch], *, num_waiting: int, stop: threading.Event) -> Iterator[FrameBatch]:
    """Run `batches` in a thread that stays up to `num_waiting` items ahead. `stop` makes it end in mid-item."""
    waiting: queue.Queue[FrameBatch | BaseException | None] = queue.Queue(num_waiting)

    def put(item: FrameBatch | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return waiting.put(item, timeout=0.05)

    def work() -> None:
        try:
            for batch in batches:
                put(batch)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # whatever it is, it belongs to the thread that waits for frames
            put(error)
        finally:
            batches.close()  # type: ignore[attr-defined]  # it is a generator

    worker = threading.Thread(target=work, name="voco-video-decode", daemon=True)
    worker.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        worker.join()


def _check_at_least(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, not {value!r}")
