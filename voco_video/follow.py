"""A source that is still being made -> model -> cache, readable by others while it runs: `Stream`.

    SourceThread -> its queue -> model -> GrowingWriter, published every few seconds

Memory does not grow with the source: the queue is bounded, and what is compressed is on disk.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

import numpy as np
from blake3 import blake3

from voco_video.auto_compressor import with_compressor
from voco_video.cache import CacheEntry, CacheKey, FrameCache, GrowingWriter
from voco_video.cache.names import check_name, taken
from voco_video.checkpoint.world import FrameCounts, Watcher, World
from voco_video.compress import compress_batch, fitting_batch_size, model_facts
from voco_video.entry_keys import entry_key
from voco_video.errors import CacheError, UsageError, VideoError
from voco_video.files.paths import expanded
from voco_video.model.memory import Batching, Frames
from voco_video.model.stage_clock import StageSeconds
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.compression import CompressOptions, StreamOptions, parse_compressor
from voco_video.options.sampling import Sampling
from voco_video.stored_tokens import checked_int8_error, stored_frames
from voco_video.video.frames import FrameBatch, FrameGroups
from voco_video.video.live_source import LiveSource, parse_source
from voco_video.video.source_thread import EarlierRuns, SourceThread

_REPORT_SECONDS = 1.0
_PRUNE_SECONDS = 600.0


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
        world: what the model was trained on; the entry then records how many frames are of something else.
        model_name: what the model is called, for the entry's facts.

    Attributes:
        key: of the entry.
        options: as they were given.
        choice: why this compressor was chosen, in one line; empty where it was named or is the learned one.
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
        world: World | None = None,
        model_name: str = "",
    ) -> None:
        compress, self.choice = with_compressor(model, compress, lambda _: None)
        compressor = parse_compressor(compress.compressor)
        if not compressor.sees_frames:
            raise UsageError("compressor 'none' keeps nothing of a frame, so there is nothing to follow a source for")
        if compress.decoder != "pyav":
            raise UsageError(f"decoder {compress.decoder!r} reads whole files only; a source is followed with 'pyav'")
        self._cache, self._source, self.options = cache, parse_source(source), options
        identity = _EntryIdentity(model, fingerprint or model.fingerprint(), options, compress)
        self.key = identity.find_key(self._source, cache)
        self.seconds = StageSeconds()
        with ExitStack() as stack:
            named = {"model": model_name} if model_name else {}
            writer = stack.enter_context(
                cache.growing_writer(self.key, facts=named, source=self._source.name, restart=options.force)
            )
            if options.name is not None:
                identity.take_name(self.key, cache)
            batching = Batching(compress.batch_size)
            self._thread = SourceThread(
                self._source,
                earlier=EarlierRuns(
                    self.key.digest,
                    writer.facts,
                    writer.first_pts_seconds,
                    # Of a frame that is merged of several pictures the entry has the first one's time.
                    writer.facts.get("last_picture_seconds", writer.last_pts_seconds),
                ),
                fps=options.fps,
                fit_for=model.backbone.images.fit_for,
                batch_size=fitting_batch_size(model, compressor, compress, batching),
                starts_over=self._source.kind == "file" if options.starts_over is None else options.starts_over,
                thins=self._source.kind == "url" if options.when_behind is None else options.when_behind == "thin",
                idle_seconds=options.idle_seconds,
                end_marker=None if options.end_marker is None else expanded(options.end_marker),
            )
            loop = _PublishingLoop(
                model,
                cache,
                writer,
                self._thread,
                options,
                compress,
                batching=batching,
                seconds=self.seconds,
                watcher=Watcher(world, FrameCounts.of_fact(writer.facts.get("world"))) if world else None,
            )
            self._steps = loop.steps()
            self.progress = loop.progress()
            self._thread.start()
            self._exit = stack.pop_all()

    @property
    def name(self) -> str:
        """What the entry is called."""
        return self._cache.names.by_digest().get(self.key.digest, self.key.settings["stream"])

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
        self._thread.close()
        self._exit.__exit__(kind, error, trace)


@dataclass(frozen=True)
class _EntryIdentity:
    """Which entry a stream writes."""

    model: VocoModel
    fingerprint: str
    options: StreamOptions
    compress: CompressOptions

    def find_key(self, source: LiveSource, cache: FrameCache) -> CacheKey:
        """Return the key of the entry that the options name, of a new one, or of the latest one of this source."""
        if self.options.name is not None:
            return self._named_key(self.options.name, cache)
        if not self.options.resume:
            return self._key(f"{source.name} {_now()}")
        for entry in cache.entries():  # latest used first
            name = entry.key.settings.get("stream")
            is_of_source = entry.facts.get("source") == source.name
            if name is not None and is_of_source and entry.key == self._key(name):
                return entry.key
        raise UsageError(
            f"nothing to resume: the cache has no stream of {source.name} with this model and these settings"
        )

    def _named_key(self, name: str, cache: FrameCache) -> CacheKey:
        """Return the key of the entry that has a name, or of a new one.

        Raises:
            UsageError: an entry that was made otherwise has the name, or it is no name.
        """
        holder, key = cache.names.digest_of(name), self._key(name)
        if holder not in (None, key.digest):  # it was renamed, or is another's
            first_name = next((label.stream for label in cache.candidates(holder)), "")
            if first_name and (renamed := self._key(first_name)).digest == holder:
                return renamed
            if not self.options.force:
                raise UsageError(taken(name, str(holder)) + "; force=True drops it")
        if holder is None and key.digest in cache.names.by_digest():  # that one was renamed, so this is a new one
            return self._key(f"{name} {_now()}")
        if holder is None and not cache.contains(key):
            check_name(name)
        return key

    def take_name(self, key: CacheKey, cache: FrameCache) -> None:
        """Give an entry the name of the options; with ``force`` the entry that had it before is dropped."""
        name = self.options.name
        assert name is not None
        holder = cache.names.digest_of(name)
        if holder not in (None, key.digest) and self.options.force:
            cache.remove(holder)
        if holder is None and cache.contains(key):
            try:
                check_name(name)
            except UsageError:  # an entry from before there were rules is found by its stream's name
                return
        cache.names.give(name, key.digest)

    def _key(self, name: str) -> CacheKey:
        """Make a key by name: a live source has no digest of its bytes, so the name's digest stands for it."""
        key = entry_key(
            self.model,
            blake3(f"voco-video stream {name}".encode(errors="surrogateescape")).hexdigest(),
            sampling=Sampling(fps=self.options.fps),
            options=self.compress,
            fingerprint=self.fingerprint,
        )
        return replace(key, settings={**key.settings, "stream": name})


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


class _PublishingLoop:
    """Compresses queued frames, appends them to the entry and publishes them in time."""

    def __init__(
        self,
        model: VocoModel,
        cache: FrameCache,
        writer: GrowingWriter,
        thread: SourceThread,
        options: StreamOptions,
        compress: CompressOptions,
        *,
        batching: Batching,
        seconds: StageSeconds,
        watcher: Watcher | None,
    ) -> None:
        self._model, self._cache, self._writer, self._thread = model, cache, writer, thread
        self._options, self._compress, self._batching, self._seconds = options, compress, batching, seconds
        self._compressor, self._watcher = parse_compressor(compress.compressor), watcher
        self._frames = _FramesOfPictures(model.backbone.template.pictures_per_frame, merges=compress.merge_pictures)
        self._has_begun = False
        self._unpublished_since: float | None = None
        self._pruned_at = time.monotonic()

    def steps(self) -> Generator[StreamProgress, None, None]:
        """Compress, append and publish until the source is over; yields after each batch."""
        while True:
            started = time.perf_counter()
            batch = self._thread.queue.take(self._batching.size or 1, timeout_seconds=self._seconds_to_wait())
            self._seconds.wait += time.perf_counter() - started
            self._seconds.decode = self._thread.decode_seconds
            for frames in self._frames.of(batch, is_over=batch is None and self._thread.queue.is_over):
                self._append(frames)
            if self._seconds_to_wait() <= 0:
                self._publish()
            if batch is None and self._thread.queue.is_over:
                break
            yield self.progress()
        if not self._writer.num_frames:
            raise VideoError(f"{self._thread.source.name}: gave no frame of video")
        self._publish(is_ended=True)
        yield self.progress(is_ended=True)

    def progress(self, *, is_ended: bool = False) -> StreamProgress:
        """Report how far the entry has come."""
        writer = self._writer
        first, last = writer.first_pts_seconds or 0.0, writer.last_pts_seconds
        return StreamProgress(
            num_frames=writer.num_frames,
            num_published_frames=writer.num_published_frames,
            num_dropped_frames=self._thread.counts()["num_dropped_frames"],
            media_seconds=0.0 if last is None else last - first,
            lag_seconds=0.0 if last is None else max(0.0, self._thread.queue.newest_seconds - last),
            is_ended=is_ended,
        )

    def _seconds_to_wait(self) -> float:
        """Return the seconds until the next publication or report."""
        if self._unpublished_since is None:
            return _REPORT_SECONDS
        due = self._unpublished_since + self._options.publish_seconds - time.monotonic()
        return min(due, _REPORT_SECONDS)

    def _append(self, batch: Frames) -> None:
        if self._unpublished_since is None:
            self._unpublished_since = time.monotonic()
        for part, tokens in self._batching.passes(
            batch,
            lambda b: compress_batch(self._model, b, self._compressor, self._compress, self._seconds, self._watcher),
        ):
            self._append_tokens(part, tokens)

    def _append_tokens(self, batch: Frames, tokens: VocoTokens) -> None:
        if "num_vision_tokens" not in self._writer.facts:
            is_int8 = self._compress.storage == "int8"
            int8_error = checked_int8_error(self._model, tokens) if is_int8 else None
            self._writer.set_facts(model_facts(self._model, self._compressor, int8_error))
        started = time.perf_counter()
        if not self._has_begun:
            self._has_begun = True
            self._writer.set_facts(self._thread.facts(first_seconds=float(batch.pts_seconds[0])))
        stored = stored_frames(tokens, batch, self._compress.storage, earlier=self._writer.log.tensors)
        self._writer.append(stored, batch.pts_seconds)
        self._seconds.settle()  # the pass is over, since its tokens are here
        if tokens.seconds is not None:
            self._writer.set_facts({"last_picture_seconds": float(tokens.seconds[-1, -1])})
        if self._writer.num_published_frames == self._writer.num_frames:
            self._unpublished_since = None
        self._seconds.write += time.perf_counter() - started

    def _publish(self, *, is_ended: bool = False) -> None:
        started = time.perf_counter()
        self._writer.set_facts(self._thread.counts() | (self._watcher.facts if self._watcher else {}))
        self._writer.publish(is_ended=is_ended)
        self._unpublished_since = None
        self._seconds.write += time.perf_counter() - started
        if time.monotonic() - self._pruned_at > _PRUNE_SECONDS:
            self._pruned_at = time.monotonic()
            with suppress(CacheError):  # a cache that cannot be pruned is no reason to stop recording
                self._cache.prune()


class _FramesOfPictures:
    """Groups pictures to the frames that a model reads, as they come; a picture without a partner waits for one."""

    def __init__(self, size: int, *, merges: bool) -> None:
        self._size, self._merges = size, merges
        self._left: FrameBatch | None = None

    def of(self, batch: FrameBatch | None, *, is_over: bool) -> Iterator[Frames]:
        """Yield the frames that are complete with a batch; once the source is over, also what is left."""
        if self._size == 1 and batch is not None:
            yield batch
            return
        waiting = [b for b in (self._left, batch) if b is not None]
        if not waiting:
            return
        pictures = FrameBatch(
            np.concatenate([b.pixels for b in waiting]), np.concatenate([b.pts_seconds for b in waiting])
        )
        num_whole = len(pictures) // self._size * self._size if self._merges and not is_over else len(pictures)
        self._left = pictures[num_whole:] if num_whole < len(pictures) else None
        if num_whole:
            yield FrameGroups.of(pictures[:num_whole], self._size, merges=self._merges)
