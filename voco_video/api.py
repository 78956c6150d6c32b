"""The Python front door: a model that compresses videos, and compressed videos that answer questions.

>>> import voco_video
>>> model = voco_video.load_model("voco-tiny")
>>> video = model.compress("clip.mp4", fps=2)              # doctest: +SKIP
>>> video.ask("What moves to the left?").text              # doctest: +SKIP
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from voco_video.answer.answering_model import Engine
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.entry_frames import EntryFrames
from voco_video.answer.frame_scorer import Retriever
from voco_video.answer.several_videos import Found, SeveralVideos, concat, find
from voco_video.cache import FrameCache
from voco_video.cache.lookup import several
from voco_video.cache.window import Window
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.fingerprints import cached_fingerprint
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.checkpoint.world import World
from voco_video.compress import Progress, compress_video
from voco_video.engine.engines import connect
from voco_video.errors import CacheError, ModelError, used_wrongly
from voco_video.files.paths import expanded
from voco_video.follow import Stream
from voco_video.hub.upload import check_can_publish
from voco_video.library.find import Library
from voco_video.model.inference import undisturbed
from voco_video.model.memory import Batching
from voco_video.model.voco import VocoModel
from voco_video.options.compression import (
    AUTO,
    BatchSize,
    CompressOptions,
    Decoder,
    Form,
    Storage,
    StreamOptions,
    WhenBehind,
)
from voco_video.options.engine import EngineApi, EngineOptions
from voco_video.options.loading import Layout, WeightBits
from voco_video.options.sampling import Sampling
from voco_video.publish.push import push_checkpoint
from voco_video.stored_tokens import videos_with_frames_first
from voco_video.video.sources import VideoLike

__all__ = ["CompressedVideo", "EntryFrames", "Found", "VideoModel", "VideoStream", "concat", "find", "load_model"]

log = logging.getLogger(__name__)


@undisturbed(inference=False)
def load_model(
    path: str | Path = "voco-tiny",
    *,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str = "auto",
    device_map: str | Mapping[str, str | int] | None = None,
    weight_bits: WeightBits = 16,
    layout: Layout | None = None,
    num_voco_tokens: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    cache_dir: str | Path | None = None,
    max_cache_bytes: int | str | None = None,
    engine_url: str | None = None,
    engine_api: EngineApi = "completions",
    engine_timeout: float = 120.0,
) -> VideoModel:
    """Load a checkpoint together with the frame cache it writes to.

    Several threads may load at once, and may use one model at once. A process that was forked afterwards cannot use it
    (UsageError): it loads its own, and then computes in one thread, or it is started by ``spawn``.

    Args:
        path, num_voco_tokens: see `voco_video.checkpoint.folder.load_voco_model`; also a short name, as
            ``voco-video models`` lists them.
        device, dtype, attn_implementation, device_map, weight_bits, layout, revision, offline: see `LoadOptions`.
        cache_dir: where compressed videos are kept, a folder or the URL of a store such as ``"s3://bucket/prefix"``;
            ``$VOCO_VIDEO_CACHE_DIR`` or ``~/.cache/voco-video`` when None.
        max_cache_bytes: the cache drops what was unused longest beyond this, bytes or text such as ``"20G"``;
            ``$VOCO_VIDEO_CACHE_MAX_BYTES`` or 50 GB when None.
        engine_url, engine_api, engine_timeout: see `EngineOptions`; this process generates the answers by default.

    Raises:
        UsageError, ModelError: see `voco_video.checkpoint.folder.load_voco_model`.
        EngineError: no engine answers, or one serves something else than this model.

    >>> model = load_model("voco-tiny")
    >>> model.num_voco_tokens
    8
    """
    engine = EngineOptions(engine_url, engine_api, engine_timeout)
    cache = FrameCache(cache_dir, max_bytes=max_cache_bytes)  # a bad folder fails before minutes of loading
    voco = load_voco_model(
        path,
        device=device,
        dtype=dtype,
        attn_implementation=attn_implementation,
        device_map=device_map,
        weight_bits=weight_bits,
        layout=layout,
        num_voco_tokens=num_voco_tokens,
        revision=revision,
        offline=offline,
    )
    folder = find_checkpoint(path, revision=revision, offline=offline)
    retriever = Retriever.load(folder, device=voco.backbone.device)
    name = _name_of(path)
    engines = connect(voco, engine, name=name, cache_dir=cache.cache_dir) if engine.urls else None
    return VideoModel(voco, cache, retriever, World.load(folder), name, engines)


def _name_of(path: str | Path) -> str:
    """Return what a model is called where it is shown."""
    folder = expanded(path)
    return "/".join(folder.resolve().parts[-2:]) if folder.is_dir() else str(path)


@dataclass(frozen=True)
class VideoModel(SeveralVideos):
    """A `VocoModel` and a `FrameCache`: compresses each video once.

    Threads may share it, and the videos that come from it: what each computes does not depend on the others, nor on a
    caller's autocast, default type, default device or gradient mode.

    Attributes:
        voco: the model.
        cache: where its results are kept.
        retriever: what it has learned about finding frames; None leaves that to its attention.
        trained_on: what it was trained on, by which videos of something else are recognised; None where the checkpoint
            does not say.
        name: what it is called: as it was asked for, or the last two parts of a folder's path. Entries record it.
        engine: what generates its answers; None for the model itself.
    """

    voco: VocoModel
    cache: FrameCache
    retriever: Retriever | None = None
    trained_on: World | None = None
    name: str = ""
    engine: Engine | None = None
    _batchings: dict[CompressOptions, Batching] = field(default_factory=dict, init=False, repr=False, compare=False)

    from_pretrained = staticmethod(load_model)
    """`load_model` under the name that Hugging Face gives it."""

    @property
    def num_voco_tokens(self) -> int:
        """K: VoCo tokens per frame that the model can write."""
        return self.voco.num_voco_tokens

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over the compressing weights, computed once; do not train the model while this is in use.

        That of a large checkpoint is remembered in the cache's folder: `voco_video.checkpoint.fingerprints`.
        """
        what = f"compressing {self.voco.backbone.template}"
        return cached_fingerprint(self.voco, self.voco.fingerprint, what=what, cache_dir=self.cache.cache_dir)

    @cached_property
    def world(self) -> World | None:
        """`trained_on`, unless the weights were trained further since."""
        known = self.trained_on
        return known if known is not None and known.belongs_to(self.voco, self.fingerprint) else None

    def compress(
        self,
        path: VideoLike,
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        keyframes: bool = False,
        timestamps: Sequence[float] | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        compressor: str = AUTO,
        num_voco_tokens: int | None = None,
        form: Form | None = None,
        storage: Storage = "native",
        batch_size: BatchSize = 16,
        merge_pictures: bool = True,
        decoder: Decoder = "pyav",
        force: bool = False,
        name: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> CompressedVideo:
        """Compress a video, or find it in the cache.

        Args:
            path: any file that FFmpeg reads; a URL of one (``http``, ``https``, ``file``, ``data``, and what fsspec
                knows: ``s3``, ``hf``, ...); its bytes; a file opened with ``"rb"``; or `voco_video.Pictures`.
            fps, num_frames, keyframes, timestamps, start_seconds, end_seconds: see `Sampling`; 1 fps by default.
            compressor, num_voco_tokens, form, storage, batch_size, merge_pictures, decoder, force: see
                `CompressOptions`.
            name: a name for the entry, by which `open` finds it; another entry must not have it.
            on_progress: called after every batch.

        Raises:
            VideoError, UsageError, ModelError, CacheError: see `voco_video.compress.compress_video`.

        >>> video = load_model().compress("clip.mp4", num_frames=8)      # doctest: +SKIP
        >>> video.num_frames                                             # doctest: +SKIP
        8
        """
        sampling = Sampling(
            fps=fps,
            num_frames=num_frames,
            keyframes=keyframes,
            timestamps=tuple(timestamps) if timestamps is not None else None,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
        )
        options = CompressOptions(
            compressor=compressor,
            num_voco_tokens=num_voco_tokens,
            form=form,
            storage=storage,
            batch_size=batch_size,
            merge_pictures=merge_pictures,
            decoder=decoder,
            force=force,
        )
        return self.compress_with(path, sampling, options, on_progress, name=name)

    def compress_with(
        self,
        video: VideoLike,
        sampling: Sampling,
        options: CompressOptions,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        name: str | None = None,
        window: Window | None = None,
    ) -> CompressedVideo:
        """Compress a video, or a window of it, as `compress` does, with its options as classes."""
        result = compress_video(
            self.voco,
            video,
            cache=self.cache,
            sampling=sampling,
            options=options,
            fingerprint=self.fingerprint,
            world=self.world,
            model_name=self.name,
            batchings=self._batchings,
            name=name,
            window=window,
            on_progress=on_progress,
        )
        if not result.from_cache and result.entry.key.video_digest in self._frames_first:
            log.warning(
                "%s was compressed before with all frames in front of the first word, and now again as the model was "
                "trained; the old entry is no longer used (docs/prompts.md)",
                video,
            )
        return CompressedVideo(self, (EntryFrames(result.entry, 0, result.entry.num_frames),), result)

    @cached_property
    def _frames_first(self) -> frozenset[str]:
        # For a warning alone; on a store it would read the manifests of all entries.
        return frozenset() if self.cache.is_remote else videos_with_frames_first(self.voco, self.cache)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model as an ordinary Hugging Face folder, which `load_model` reads back.

        Its VoCo files go with it, and what it has learned about finding frames. Plain transformers opens it too, as an
        `AutoModelForImageTextToText` and an `AutoProcessor`.

        >>> load_model("VoCo-LLaMA-7B").save_pretrained("voco-llama-7b-hf")     # doctest: +SKIP
        PosixPath('voco-llama-7b-hf')
        """
        saved = save_voco_model(self.voco, folder)
        if self.retriever is not None:
            self.retriever.save(saved)
        if self.world is not None:
            self.world.save(saved)
        return saved

    def push_to_hub(
        self,
        repo_id: str,
        *,
        reports: Sequence[str | Path] = (),
        private: bool | None = None,
        revision: str | None = None,
        message: str | None = None,
    ) -> str:
        """Publish the model at a hub with a model card; `load_model` and plain transformers load it by its name.

        Weights are written in the type that they were loaded with. `HF_TOKEN` or `hf auth login` says who you are.

        Args:
            repo_id: ``user/name``; made where it is not there yet.
            reports, private, revision, message: see `voco_video.publish.push.push_checkpoint`.

        Returns:
            The address of the commit.

        >>> load_model("runs/mine/last", dtype="bfloat16").push_to_hub("me/mine")     # doctest: +SKIP
        'https://huggingface.co/me/mine/commit/...'
        """
        check_can_publish(repo_id)
        with TemporaryDirectory() as folder:
            saved = self.save_pretrained(folder)
            return push_checkpoint(saved, repo_id, reports=reports, private=private, revision=revision, message=message)

    def open_stream(
        self,
        source: str | Path,
        *,
        fps: float = 1.0,
        name: str | None = None,
        resume: bool = False,
        publish_seconds: float = 1.0,
        idle_seconds: float = 30.0,
        end_marker: str | Path | None = None,
        when_behind: WhenBehind | None = None,
        starts_over: bool | None = None,
        compressor: str = AUTO,
        num_voco_tokens: int | None = None,
        form: Form | None = None,
        storage: Storage = "native",
        batch_size: BatchSize = 16,
        merge_pictures: bool = True,
        force: bool = False,
    ) -> VideoStream:
        """Follow a source that is still being made, and ask about it meanwhile.

        Args:
            source: ``"-"``, a file that is being written, a named pipe, or a URL that FFmpeg opens.
            fps, name, resume, publish_seconds, idle_seconds, end_marker, when_behind, starts_over, force: see
                `StreamOptions`.
            compressor, num_voco_tokens, form, storage, batch_size, merge_pictures: see `CompressOptions`.

        Raises:
            VideoError, UsageError, CacheError: see `voco_video.follow.Stream`.

        >>> with model.open_stream("rtsp://camera.local/1", name="door") as stream:      # doctest: +SKIP
        ...     for progress in stream:
        ...         if progress.num_published_frames:
        ...             print(progress.media_seconds, stream.video.ask("Is somebody there?").text)
        """
        options = StreamOptions(
            fps=fps,
            name=name,
            resume=resume,
            publish_seconds=publish_seconds,
            idle_seconds=idle_seconds,
            end_marker=end_marker,
            when_behind=when_behind,
            starts_over=starts_over,
            force=force,
        )
        compress = CompressOptions(
            compressor=compressor,
            num_voco_tokens=num_voco_tokens,
            form=form,
            storage=storage,
            batch_size=batch_size,
            merge_pictures=merge_pictures,
        )
        return VideoStream(self, source, options, compress)

    def library(self, entries: Iterable[str] | None = None) -> Library:
        """Search many entries of the cache together, by an index that is kept beside them.

        Args:
            entries: their digests, 64 hex digits each, as a manifest has them; None for all that this model made.

        >>> load_model().library().find("the red star")                      # doctest: +SKIP
        """
        return Library(self, entries)

    def open(self, entry: str) -> CompressedVideo:
        """Open an entry of the cache, finished or growing.

        Args:
            entry: its name, the path of its video, or the beginning of its digest, as ``voco-video cache ls`` shows
                them; see `voco_video.cache.FrameCache.candidates`. Of a video's entries those of this model count.

        Raises:
            CacheError: none or several entries match.
            ModelError: another model made it.

        >>> load_model().open("flower").ask("What is there?").text              # doctest: +SKIP
        """
        found = self.cache.candidates(entry)
        own = [label for label in found if label.model_fingerprint == self.fingerprint]
        if len(own) > 1:
            raise used_wrongly(CacheError(several(entry, own)))
        if found and not own and found[0].model_fingerprint:
            others = " and ".join(dict.fromkeys(label.model for label in found))
            raise ModelError(
                f"{entry}: entry {found[0].digest[:12]} was compressed by another model ({others}), not by this one "
                f"({self.name or self.fingerprint[:8]}); load that one, or compress the video with this one"
            )
        opened = self.cache.open(own[0]) if own else self.cache.find(entry)
        return CompressedVideo(self, (EntryFrames(opened, 0, opened.num_frames),))


class VideoStream(Stream):
    """A live source whose frames answer questions while it runs. Comes from `VideoModel.open_stream`."""

    def __init__(
        self, model: VideoModel, source: str | Path, options: StreamOptions, compress: CompressOptions
    ) -> None:
        self._video_model = model
        super().__init__(
            model.voco,
            source,
            cache=model.cache,
            options=options,
            compress=compress,
            fingerprint=model.fingerprint,
            world=model.world,
            model_name=model.name,
        )

    def __enter__(self) -> VideoStream:
        return self

    @property
    def video(self) -> CompressedVideo:
        """All frames published so far; take it again to see more.

        Raises:
            CacheError: nothing is published yet.
        """
        entry = self.entry
        if entry is None:
            raise CacheError(f"{self.source_name}: nothing is published yet; iterate over the stream first")
        return CompressedVideo(self._video_model, (EntryFrames(entry, 0, entry.num_frames),))
