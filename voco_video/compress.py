"""video -> model -> cache: streaming, resumable, and at most once per video, model and settings."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from voco_video.auto_compressor import frames_of_sampling, pictures_per_frame, with_compressor
from voco_video.cache import CacheEntry, FrameCache
from voco_video.cache.window import Window
from voco_video.checkpoint.world import FrameCounts, Watcher, World
from voco_video.entry_keys import entry_key, video_digest
from voco_video.errors import VideoError, used_wrongly
from voco_video.model.compressors import compress_frames, no_tokens
from voco_video.model.in_flight import fetched
from voco_video.model.inference import undisturbed
from voco_video.model.memory import Batching, Frames
from voco_video.model.stage_clock import StageSeconds
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.compression import (
    CompressOptions,
    Compressor,
    parse_compressor,
)
from voco_video.options.sampling import Sampling
from voco_video.stored_tokens import checked_int8_error, stored_frames
from voco_video.version import __version__
from voco_video.video.container import Source
from voco_video.video.downloads import Downloads
from voco_video.video.frames import FrameBatch, FrameGroups, grouped
from voco_video.video.media_files import as_video_errors, check_readable
from voco_video.video.reading import Video, open_video
from voco_video.video.resuming import later_pictures, next_planned
from voco_video.video.sources import LocalVideo, VideoLike, local_video

_LARGE_BYTES = 256 << 20


@dataclass(frozen=True)
class Progress:
    """How far a run has come: frames in the entry, frames in all, and what is happening.

    Attributes:
        waiting: for another process that compresses the same video.
        num_bytes: of a URL's file that have come; None when that is over, or never began.
        total_bytes: of that file in all, where its server says so.
    """

    num_frames: int
    total_frames: int
    waiting: bool = False
    num_bytes: int | None = None
    total_bytes: int | None = None


@dataclass(frozen=True)
class CompressResult:
    """An entry of the frame cache and how it came about.

    Attributes:
        entry: the frames' VoCo tokens, or what another compressor kept, on disk.
        source: the video as it was given; a URL without its secrets.
        from_cache: True where nothing was decoded or compressed.
        choice: why this compressor was chosen, in one line; empty where it was named or is the learned one.
        num_resumed_frames: frames kept from an interrupted run.
        seconds: by stage, for this run.
        total_seconds: wall-clock time of the call.
    """

    entry: CacheEntry
    from_cache: bool
    choice: str = ""
    num_resumed_frames: int = 0
    seconds: StageSeconds = field(default_factory=StageSeconds)
    total_seconds: float = 0.0
    source: str = ""


def compress_video(
    model: VocoModel,
    path: VideoLike,
    *,
    cache: FrameCache,
    sampling: Sampling = Sampling(),
    options: CompressOptions = CompressOptions(),
    fingerprint: str | None = None,
    world: World | None = None,
    model_name: str = "",
    batchings: dict[CompressOptions, Batching] | None = None,
    name: str | None = None,
    window: Window | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> CompressResult:
    """Compress a video into the frame cache, or find it there.

    Decoding runs in a thread ahead of the model. An interrupted run leaves whole segments behind, and the next call
    with the same arguments goes on from them. Two processes may ask for the same video: one compresses, the other
    waits for its result.

    Args:
        path: any file that FFmpeg reads, a URL of one, its bytes, an open file or pictures; see
            `voco_video.video.sources.local_video`. The same content is found in the cache however it is given.
        fingerprint: `VocoModel.fingerprint` where the caller has it already.
        world: what the model was trained on; the entry then records how many frames are of something else.
        model_name: what the model is called, for the entry's facts.
        batchings: how many frames fit, by options; filled in for the next video that is compressed alike.
        name: for the entry; see `voco_video.cache.names.EntryNames`.
        window: the part of the frames to compress, into an entry of its own.
        on_progress: called with the state at the start and after every batch.

    Raises:
        VideoError: it is not a readable video, or cannot be fetched.
        UsageError: options that do not fit the model or the video, or another entry has the name.
        ModelError: the compressor is ``voco`` and the checkpoint has no VoCo tokens.
        CacheError: the cache cannot be written, or the entry is damaged.
    """
    started = time.perf_counter()
    report = on_progress or (lambda progress: None)
    with local_video(
        path,
        downloads=Downloads.beside(cache.cache_dir),
        on_download=lambda done, total: report(Progress(0, 0, num_bytes=done, total_bytes=total)),
    ) as local:
        result = _compress_local(
            model,
            local,
            cache=cache,
            sampling=sampling,
            options=options,
            fingerprint=fingerprint,
            world=world,
            model_name=model_name,
            batchings=batchings,
            name=name,
            window=window,
            report=report,
        )
    return replace(result, total_seconds=time.perf_counter() - started, source=str(local.name))


def _compress_local(
    model: VocoModel,
    local: LocalVideo,
    *,
    cache: FrameCache,
    sampling: Sampling,
    options: CompressOptions,
    fingerprint: str | None,
    world: World | None,
    model_name: str,
    batchings: dict[CompressOptions, Batching] | None,
    name: str | None,
    window: Window | None,
    report: Callable[[Progress], None],
) -> CompressResult:
    _check_file(local)
    key_with = partial(entry_key, model, video_digest(local), sampling=sampling, fingerprint=fingerprint)
    options, choice = with_compressor(
        model, options, lambda auto: frames_of_sampling(model, local, cache, sampling, auto, key_with)
    )
    compressor = parse_compressor(options.compressor)
    key = key_with(options=options) if window is None else window.key(key_with(options=options))
    if name is not None:
        cache.names.check_free(name, key.digest)
    if not options.force and (entry := cache.get(key)) is not None:
        if name is not None:
            cache.names.give(name, key.digest)
        return CompressResult(entry, from_cache=True, choice=choice)
    seconds = StageSeconds()
    with (
        open_video(local, backend=options.decoder) as video,
        cache.writer(
            key, facts={}, restart=options.force, on_wait=lambda: report(Progress(0, 0, waiting=True))
        ) as writer,
    ):
        if name is not None:  # at once: the entry may be asked for by it while it is made
            cache.names.give(name, key.digest)
        if writer.entry is not None:  # another process finished it while this one waited
            return CompressResult(writer.entry, from_cache=True, choice=choice)
        plan, skipped = video.plan(sampling), 0
        if window is not None:
            plan, skipped = plan[window.first_picture : window.stop_picture], window.first_picture
        noted = writer.log.facts  # by an interrupted run, of the frames that it left
        int8_error: float | None = noted.get("int8_logit_error")
        batching = ({} if batchings is None else batchings).setdefault(options, Batching(options.batch_size))
        watcher = Watcher(world, FrameCounts.of_fact(noted.get("world"))) if world else None
        seen: deque[dict[str, Any]] = deque()  # what the watcher says after each pass: passes are ahead of writing

        def compressed(part: FrameBatch | FrameGroups) -> VocoTokens:
            tokens = compress_batch(model, part, compressor, options, seconds, watcher)
            seen.append(watcher.facts if watcher else {})
            return tokens

        per_frame = pictures_per_frame(model, compressor, options)
        num_resumed, total = writer.num_frames, -(-len(plan) // per_frame)
        report(Progress(num_resumed, total))
        is_given = sampling.timestamps is not None
        first, num_merged = next_planned(plan, num_resumed, per_frame, writer.last_pts_seconds, keeps_count=is_given)
        if compressor.sees_frames and first < len(plan):
            fit = model.backbone.images.fit_for(video.info.width, video.info.height)
            size = fitting_batch_size(model, compressor, options, batching)
            pictures = {"first_frame": skipped + first, "stop_frame": skipped + len(plan)}
            batches = video.batches(sampling, fit=fit, batch_size=size * per_frame, **pictures)
        else:
            batches = _undecoded(plan[first:])
        if not is_given:  # given timestamps may name a frame twice
            batches = later_pictures(batches, writer.last_pts_seconds, num_merged)
        passes = (
            found
            for batch in _timed(frames_of(model, compressor, options, batches), seconds)
            for found in batching.passes(batch, compressed)
        )
        for part, tokens in fetched(passes, model.backbone.device):
            if options.storage == "int8" and int8_error is None:
                int8_error = checked_int8_error(model, tokens)
            with seconds.clock("write"):
                stored = stored_frames(tokens, part, options.storage, earlier=writer.log.tensors)
                writer.note(seen.popleft() | ({} if int8_error is None else {"int8_logit_error": int8_error}))
                writer.append(stored, part.pts_seconds)
            report(Progress(writer.num_frames, total))
        seconds.settle()
        seconds.decode = video.decode_seconds
        with seconds.clock("write"):
            facts = _facts(model, local, video, sampling, compressor, int8_error)
            facts |= {"model": model_name} if model_name else {}
            facts |= watcher.facts if watcher else {}
            entry = writer.finish(facts if window is None else window.facts(facts))
    return CompressResult(entry, False, choice=choice, num_resumed_frames=num_resumed, seconds=seconds)


def frames_of(
    model: VocoModel, compressor: Compressor, options: CompressOptions, batches: Iterator[FrameBatch]
) -> Iterator[FrameBatch | FrameGroups]:
    """Make the frames that a model reads from the pictures of a video: groups of them, for a tower that merges some."""
    size = model.backbone.template.pictures_per_frame
    if not compressor.sees_frames or size == 1:
        yield from batches
    else:
        yield from grouped(batches, size, merges=options.merge_pictures)


def _undecoded(pts_seconds: np.ndarray) -> Iterator[FrameBatch]:
    """Make frames without pixels from the times of a plan."""
    if len(pts_seconds):
        yield FrameBatch(np.empty((len(pts_seconds), 0, 0, 3), np.uint8), pts_seconds)


@undisturbed()
def compress_batch(
    model: VocoModel,
    frames: FrameBatch | FrameGroups,
    compressor: Compressor,
    options: CompressOptions,
    seconds: StageSeconds,
    watcher: Watcher | None = None,
) -> VocoTokens:
    """Compress frames; the time it takes is added to ``seconds``, what they show to the ``watcher``'s counts."""
    if not compressor.sees_frames:
        return no_tokens(model, len(frames))
    if isinstance(frames, FrameGroups):
        pixels = frames.pixels.reshape(-1, *frames.pixels.shape[2:])
        tokens = _compressed(model, pixels, compressor, options, seconds, watcher)
        return replace(tokens, seconds=torch.from_numpy(frames.seconds.copy()))
    return _compressed(model, frames.pixels, compressor, options, seconds, watcher)


def _compressed(
    model: VocoModel,
    pixels: np.ndarray,
    compressor: Compressor,
    options: CompressOptions,
    seconds: StageSeconds,
    watcher: Watcher | None = None,
) -> VocoTokens:
    with seconds.clock("vision", model.backbone.device):
        vision_tokens = model.vision_tokens(pixels)  # [F, N, D]
    with seconds.clock("llm", model.backbone.device):
        tokens = compress_frames(
            model,
            vision_tokens,
            compressor,
            num_voco_tokens=options.num_voco_tokens,
            form=model.form_of(compressor, options.form),
            grid=model.backbone.grid_of(*pixels.shape[1:3]),
        )
        if watcher is not None:
            watcher.look(vision_tokens)
    return tokens


def fitting_batch_size(model: VocoModel, compressor: Compressor, options: CompressOptions, batching: Batching) -> int:
    """Return the frames per pass; for ``"auto"`` found on empty frames, unless ``batching`` has it already.

    Raises:
        ModelError: not even one frame fits.
    """
    fit, per_frame = model.backbone.images.fit, model.backbone.template.pictures_per_frame

    def run(num_frames: int) -> None:
        empty = np.zeros((num_frames * per_frame, fit.height, fit.width, 3), np.uint8)
        with undisturbed():
            _compressed(model, empty, compressor, options, StageSeconds())

    return batching.find(run, device=model.backbone.device)


def _facts(
    model: VocoModel,
    local: LocalVideo,
    video: Video,
    sampling: Sampling,
    compressor: Compressor,
    int8_error: float | None,
) -> dict[str, Any]:
    info = asdict(video.info)
    return {
        "source": local.recorded_name,
        "video": {name: value if isinstance(value, (int, float)) else str(value) for name, value in info.items()},
        "sampling": str(sampling),
        "num_undecodable_frames": int(video.num_undecodable),
        **model_facts(model, compressor, int8_error),
    }


def model_facts(model: VocoModel, compressor: Compressor, int8_error: float | None) -> dict[str, Any]:
    """Collect what an entry records of how its frames were compressed, beyond its key."""
    return {
        "model_trained": model.trained,
        "voco_video_version": __version__,
        "attention": model.backbone.text_config._attn_implementation,
        "num_vision_tokens": model.backbone.num_vision_tokens if compressor.sees_frames else 0,
        "int8_logit_error": int8_error,
    }


def _check_file(local: LocalVideo) -> None:
    path = local.path
    if path is None:
        return
    if os.path.isdir(path):  # unlike Path.is_dir, it takes names of any length
        raise used_wrongly(VideoError(f"{path} is a folder; give the video files in it"))
    check_readable(path)
    if path.stat().st_size > _LARGE_BYTES:  # check early: hashing a large file takes minutes
        with as_video_errors(path), Source(path):
            pass


def _timed(batches: Iterator[Frames], seconds: StageSeconds) -> Iterator[Frames]:
    while True:
        with seconds.clock("wait"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
