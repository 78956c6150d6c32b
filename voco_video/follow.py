"""A source that is still being made -> model -> cache, readable by others while it runs: `Stream`.

    thread:  LiveReader -> Timeline -> frames_on_grid -> pixels -> FrameQueue
    caller:  FrameQueue -> model -> GrowingWriter, published every few seconds

Memory does not grow with the source: the queue is bounded, and what is compressed is on disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from blake3 import blake3

from voco_video.cache import CacheEntry, CacheKey, FrameCache, GrowingWriter
from voco_video.compress import (
    StageSeconds,
    checked_int8_error,
    compress_batch,
    entry_key,
    fitting_batch_size,
    model_facts,
    stored_tensors,
)
from voco_video.errors import CacheError, UsageError, VideoError
from voco_video.files.paths import expanded
from voco_video.model.memory import Batching
from voco_video.model.voco import VocoModel, VocoTokens
from voco_video.options.compression import CompressOptions, StreamOptions, parse_compressor
from voco_video.options.sampling import Sampling
from voco_video.video.frames import FrameBatch
from voco_video.video.live_source import LiveFrame, LiveReader, parse_source
from voco_video.video.pacing import FrameQueue, frames_on_grid
from voco_video.video.timeline import Timeline

_REPORT_SECONDS = 1.0
_PRUNE_SECONDS = 600.0
_SAME_TIME_SECONDS = 1e-6
_USUAL_FPS = 25  # of a source, until its frames have told


@dataclass(frozen=True)
class StreamProgress:
    """How far a stream has come.

    Attributes:
        num_frames: compressed, with those of earlier runs.
        num_published_frames: of these, what other processes can read.
        num_dropped_frames: that the source gave and the model did not get to, with those of earlier runs.
        media_seconds: from the first to the last compressed frame.
        lag_seconds: from the last compressed frame to the newest that the source gave.
        is_ended: the source is over and everything is published.
    """

    num_frames: int
    num_published_frames: int
    num_dropped_frames: int
    media_seconds: float
    lag_seconds: float
    is_ended: bool = False


class Stream:
    """Compresses a source that is still being made into an entry that others read meanwhile.

    Iterate over it: each step compresses what has come, publishes when it is time, and gives a `StreamProgress`, once
    a second at least. Leaving the ``with`` block publishes what is compressed; a killed process loses only that.
    Nothing is compressed between steps, but the source is read, up to one batch ahead.

    Args:
        source: ``"-"`` for standard input, the path of a file that is being written or of a named pipe, or a URL that
            FFmpeg opens.
        compress: all but ``force`` counts.
        fingerprint: `VocoModel.fingerprint` where the caller has it already.

    Attributes:
        key: of the entry.
        progress: as of the latest step.
        seconds: spent by stage, in this run. ``decode`` is what the thread that reads the source worked, not what it
            waited for; ``wait`` is what the model waited for frames.

    Raises:
        VideoError: no such file. While iterating: the source cannot be reached, breaks off, or is no video.
        UsageError: options that cannot be right.
        CacheError: another process writes this entry, or the cache cannot be written.
    """

    def __init__(
        self,
        model: VocoModel,
        source: str | Path,
        *,
        cache: FrameCache,
        options: StreamOptions = StreamOptions(),
        compress: CompressOptions = CompressOptions(),
        fingerprint: str | None = None,
    ) -> None:
        self._model, self._cache, self._options, self._compress = model, cache, options, compress
        self._compressor = parse_compressor(compress.compressor)
        if not self._compressor.sees_frames:
            raise UsageError("compressor 'none' keeps nothing of a frame, so there is nothing to follow a source for")
        if compress.decoder != "pyav":
            raise UsageError(f"decoder {compress.decoder!r} reads whole files only; a source is followed with 'pyav'")
        self._source = parse_source(source)
        self.key = self._find_key(fingerprint or model.fingerprint())
        self.seconds = StageSeconds()
        with ExitStack() as stack:
            self._writer: GrowingWriter = stack.enter_context(
                cache.growing_writer(self.key, facts={}, restart=options.force)
            )
            self._start()
            self._exit = stack.pop_all()

    @property
    def name(self) -> str:
        """What the entry is called."""
        return self.key.settings["stream"]

    @property
    def source_name(self) -> str:
        """The source as it is recorded: a whole path, or a URL without its password."""
        return self._source.name

    @property
    def entry(self) -> CacheEntry | None:
        """Everything published so far; None before the first publication."""
        return self._cache.get(self.key)

    def close(self) -> None:
        """Publish what is compressed, and let go of source and entry. Safe to call twice."""
        self.__exit__(None, None, None)

    def __iter__(self) -> Iterator[StreamProgress]:
        return self

    def __next__(self) -> StreamProgress:
        self.progress = next(self._steps)
        return self.progress

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._steps.close()
        self._stop.set()
        self._queue.close()
        self._thread.join(timeout=1.0)  # one that waits for a URL's next packet ends with that, or with the process
        self._exit.__exit__(kind, error, trace)

    # ------------------------------------------------------------------ which entry

    def _find_key(self, fingerprint: str) -> CacheKey:
        if self._options.name is not None:
            return self._key(self._options.name, fingerprint)
        if not self._options.resume:
            started = datetime.now(timezone.utc).isoformat(timespec="microseconds")
            return self._key(f"{self._source.name} {started}", fingerprint)
        for entry in self._cache.entries():  # latest used first
            name = entry.key.settings.get("stream")
            is_of_source = entry.facts.get("source") == self._source.name
            if name is not None and is_of_source and entry.key == self._key(name, fingerprint):
                return entry.key
        raise UsageError(
            f"nothing to resume: the cache has no stream of {self._source.name} with this model and these settings"
        )

    def _key(self, name: str, fingerprint: str) -> CacheKey:
        """A live source has no digest of its bytes: its name stands for them."""
        key = entry_key(
            self._model,
            blake3(f"voco-video stream {name}".encode(errors="surrogateescape")).hexdigest(),
            sampling=Sampling(fps=self._options.fps),
            options=self._compress,
            fingerprint=fingerprint,
        )
        return replace(key, settings={**key.settings, "stream": name})

    # ------------------------------------------------------------------ the source's thread

    def _start(self) -> None:
        options, kind = self._options, self._source.kind
        self._starts_over = kind == "file" if options.starts_over is None else options.starts_over
        thins = kind == "url" if options.when_behind is None else options.when_behind == "thin"
        marker = None if options.end_marker is None else expanded(options.end_marker)
        self._earlier_facts = self._writer.facts
        self._earlier_last_pts = self._writer.last_pts_seconds
        self._session: dict[str, Any] = {}
        self._stop = threading.Event()
        self._timeline: Timeline[float] = Timeline(1 / _USUAL_FPS, eager=True, place_first=self._place_first)
        self._batching = Batching(self._compress.batch_size)
        batch_size = fitting_batch_size(self._model, self._compressor, self._compress, self._batching)
        self._queue = FrameQueue(batch_size, thins=thins)
        self._reader = LiveReader(self._source, idle_seconds=options.idle_seconds, end_marker=marker, stop=self._stop)
        self._unpublished_since: float | None = None
        self._pruned_at = time.monotonic()
        self._steps = self._work()
        self.progress = self._progress()
        self._thread = threading.Thread(target=self._feed, name="voco-video-follow", daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        try:
            self._reader.open()
            self._queue_frames()
            self._queue.close()
        except BaseException as error:  # whatever it is, it belongs to the thread that waits for frames
            self._queue.close(error)
        finally:
            self._reader.close()

    def _queue_frames(self) -> None:
        started = time.thread_time()
        last, scaler = self._earlier_last_pts, None
        can_skip = self._starts_over and not self._earlier_facts.get("num_clock_jumps")
        frames = self._reader.frames(after_seconds=last if can_skip else None)
        taken = frames_on_grid(
            self._timeline.placed(self._same_recording(frames)),
            fps=self._options.fps,
            first_seconds=self._writer.first_pts_seconds if self._starts_over else None,
            end_seconds=self._end_seconds,
        )
        for pts, picture in taken:
            if last is not None and pts <= last:
                continue
            scaler = scaler or self._reader.scaler(picture, self._model.backbone.images.fit)
            pixels = scaler.new_batch(1)[0]
            scaler.write(picture, pixels)
            self.seconds.decode = time.thread_time() - started
            self._queue.put(pts, pixels)

    def _same_recording(self, frames: Iterator[LiveFrame]) -> Iterator[LiveFrame]:
        """Pass frames on, if the source that is read anew begins like the one that the entry is of."""
        sessions = self._earlier_facts.get("sessions") if self._starts_over else None
        for frame in frames:
            begins = self._reader.begins_seconds
            if sessions and begins is not None:
                expected = sessions[0].get("source_begins_seconds")  # entries of other versions may lack it
                if expected is not None and abs(begins - expected) > _SAME_TIME_SECONDS:
                    raise VideoError(
                        f"{self._source.name}: begins at {begins:.3f} s, and the recording that entry "
                        f"{self.key.digest[:12]} is of began at {expected:.3f} s; give another name, or force"
                    )
            yield frame

    def _place_first(self, pts_seconds: float) -> float:
        """Where the first frame of this run goes on the entry's clock: on, by the time that went by since the last."""
        now, last, place = time.time(), self._earlier_last_pts, pts_seconds
        if last is not None and not self._starts_over:
            place = last + 1 / self._options.fps
            first = (self._earlier_facts.get("sessions") or [{}])[0]
            if {"first_pts_seconds", "started_unix_seconds"} <= first.keys():  # entries of other versions may lack them
                place = max(place, first["first_pts_seconds"] + now - first["started_unix_seconds"])
        self._session = {
            "source": self._source.name,
            "started_unix_seconds": now,
            "first_pts_seconds": place,
            "source_begins_seconds": self._reader.begins_seconds,
        }
        return place

    def _end_seconds(self) -> float | None:
        end = self._reader.end_seconds
        return None if end is None else end + self._timeline.offset

    # ------------------------------------------------------------------ the caller's thread

    def _work(self) -> Generator[StreamProgress, None, None]:
        while True:
            started = time.perf_counter()
            batch = self._queue.take(self._batching.size or 1, timeout_seconds=self._patience())
            self.seconds.wait += time.perf_counter() - started
            if batch is not None:
                self._append(batch)
            if self._patience() <= 0:
                self._publish()
            if batch is None and self._queue.is_over:
                break
            yield self._progress()
        if not self._writer.num_frames:
            raise VideoError(f"{self._source.name}: gave no frame of video")
        self._publish(is_ended=True)
        yield self._progress(is_ended=True)

    def _patience(self) -> float:
        """Seconds until the next publication or report."""
        if self._unpublished_since is None:
            return _REPORT_SECONDS
        due = self._unpublished_since + self._options.publish_seconds - time.monotonic()
        return min(due, _REPORT_SECONDS)

    def _append(self, batch: FrameBatch) -> None:
        if self._unpublished_since is None:
            self._unpublished_since = time.monotonic()
        for part, tokens in self._batching.passes(
            batch, lambda b: compress_batch(self._model, b.pixels, self._compressor, self._compress, self.seconds)
        ):
            self._append_tokens(part, tokens)

    def _append_tokens(self, batch: FrameBatch, tokens: VocoTokens) -> None:
        if "num_vision_tokens" not in self._writer.facts:
            is_int8 = self._compress.storage == "int8"
            int8_error = checked_int8_error(self._model, tokens) if is_int8 else None
            self._writer.set_facts(model_facts(self._model, self._compressor, int8_error))
        started = time.perf_counter()
        if self._writer.last_pts_seconds == self._earlier_last_pts:
            self._writer.set_facts(self._facts(first_seconds=float(batch.pts_seconds[0])))
        self._writer.append(stored_tensors(tokens, self._compress.storage), batch.pts_seconds)
        if self._writer.num_published_frames == self._writer.num_frames:
            self._unpublished_since = None
        self.seconds.write += time.perf_counter() - started

    def _publish(self, *, is_ended: bool = False) -> None:
        started = time.perf_counter()
        self._writer.set_facts(self._counts())
        self._writer.publish(is_ended=is_ended)
        self._unpublished_since = None
        self.seconds.write += time.perf_counter() - started
        if time.monotonic() - self._pruned_at > _PRUNE_SECONDS:
            self._pruned_at = time.monotonic()
            with suppress(CacheError):  # a cache that cannot be pruned is no reason to stop recording
                self._cache.prune()

    def _facts(self, *, first_seconds: float) -> dict[str, Any]:
        """What the entry records of its source, once this run has its first frame."""
        earlier, last = self._earlier_facts, self._earlier_last_pts
        gaps = list(earlier.get("gaps", ()))
        if last is not None and not self._starts_over and first_seconds - last > 1.5 / self._options.fps:
            gaps.append({"start_seconds": last, "end_seconds": first_seconds})
        return {
            "source": self._source.name,
            "sampling": str(Sampling(fps=self._options.fps)),
            "video": self._reader.facts,
            "sessions": [*earlier.get("sessions", ()), self._session],
            "gaps": gaps,
            **self._counts(),
        }

    def _counts(self) -> dict[str, int]:
        counts = {
            "num_dropped_frames": self._queue.num_dropped,
            "num_undecodable_frames": self._reader.num_undecodable,
            "num_clock_jumps": self._timeline.num_set_back,
        }
        return {name: count + self._earlier_facts.get(name, 0) for name, count in counts.items()}

    def _progress(self, *, is_ended: bool = False) -> StreamProgress:
        writer = self._writer
        first, last = writer.first_pts_seconds or 0.0, writer.last_pts_seconds
        return StreamProgress(
            num_frames=writer.num_frames,
            num_published_frames=writer.num_published_frames,
            num_dropped_frames=self._counts()["num_dropped_frames"],
            media_seconds=0.0 if last is None else last - first,
            lag_seconds=0.0 if last is None else max(0.0, self._queue.newest_seconds - last),
            is_ended=is_ended,
        )
