"""The Python front door: a model that compresses videos, and compressed videos that answer questions.

>>> import voco_video
>>> model = voco_video.load_model("voco-tiny")
>>> video = model.compress("clip.mp4", fps=2)              # doctest: +SKIP
>>> video.ask("What moves to the left?").text              # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from voco_video.answer import Answer, AnswerOptions, Message, answer_questions, stream_answer
from voco_video.batching import Batching, BatchSize
from voco_video.cache import CacheEntry, FrameCache
from voco_video.checkpoint import load_voco_model, save_voco_model
from voco_video.compress import (
    CompressOptions,
    CompressResult,
    Form,
    Progress,
    StageSeconds,
    Storage,
    compress_video,
    compressor_of,
    read_tokens,
    tokens_per_frame,
)
from voco_video.errors import CacheError, ModelError, UsageError
from voco_video.fingerprints import remembered
from voco_video.loading import WeightBits
from voco_video.model import Prefix, VocoModel, VocoTokens
from voco_video.sampling import Sampling
from voco_video.stream import Stream, StreamOptions, WhenBehind


def load_model(
    path: str | Path = "voco-tiny",
    *,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str = "auto",
    device_map: str | Mapping[str, str | int] | None = None,
    weight_bits: WeightBits = 16,
    num_voco_tokens: int | None = None,
    cache_dir: str | Path | None = None,
    max_cache_bytes: int | None = None,
) -> VideoModel:
    """Load a checkpoint together with the frame cache it writes to.

    Args:
        path, num_voco_tokens: see `voco_video.checkpoint.load_voco_model`.
        device, dtype, attn_implementation, device_map, weight_bits: see `voco_video.loading.LoadOptions`.
        cache_dir: where compressed videos are kept; ``$VOCO_VIDEO_CACHE_DIR`` or ``~/.cache/voco-video`` when None.
        max_cache_bytes: the cache drops what was unused longest beyond this; ``$VOCO_VIDEO_CACHE_MAX_BYTES`` or 50 GB.

    >>> model = load_model("voco-tiny")
    >>> model.num_voco_tokens
    8
    """
    cache = FrameCache(cache_dir, max_bytes=max_cache_bytes)  # a bad folder fails before minutes of loading
    voco = load_voco_model(
        path,
        device=device,
        dtype=dtype,
        attn_implementation=attn_implementation,
        device_map=device_map,
        weight_bits=weight_bits,
        num_voco_tokens=num_voco_tokens,
    )
    return VideoModel(voco, cache)


@dataclass(frozen=True)
class VideoModel:
    """A `VocoModel` and a `FrameCache`: compresses each video once.

    Attributes:
        voco: the model.
        cache: where its results are kept.
    """

    voco: VocoModel
    cache: FrameCache
    _batchings: dict[CompressOptions, Batching] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def num_voco_tokens(self) -> int:
        """K: VoCo tokens per frame that the model can write."""
        return self.voco.num_voco_tokens

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over the compressing weights, computed once; do not train the model while this is in use.

        That of a large checkpoint is remembered in the cache's folder from run to run, see `voco_video.fingerprints`.
        """
        what = f"compressing {self.voco.backbone.template}"
        return remembered(self.voco, self.voco.fingerprint, what=what, cache_dir=self.cache.cache_dir)

    def compress(
        self,
        path: str | Path,
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        keyframes: bool = False,
        timestamps: Sequence[float] | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        compressor: str = "voco",
        num_voco_tokens: int | None = None,
        form: Form | None = None,
        storage: Storage = "native",
        batch_size: BatchSize = 16,
        decoder: str = "pyav",
        force: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> CompressedVideo:
        """Compress a video, or find it in the cache.

        Args:
            path: any file that FFmpeg reads.
            fps, num_frames, keyframes, timestamps, start_seconds, end_seconds: see `Sampling`; 1 fps by default.
            compressor, num_voco_tokens, form, storage, batch_size, decoder, force: see `CompressOptions`.
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
            decoder=decoder,
            force=force,
        )
        result = compress_video(
            self.voco,
            path,
            cache=self.cache,
            sampling=sampling,
            options=options,
            fingerprint=self.fingerprint,
            batching=self._batchings.setdefault(options, Batching(options.batch_size)),
            on_progress=on_progress,
        )
        return CompressedVideo(self, (Part(result.entry, 0, result.entry.num_frames),), result)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model as an ordinary Hugging Face folder with its VoCo files; `load_model` reads it back.

        >>> load_model("VoCo-LLaMA-7B").save_pretrained("voco-llama-7b-hf")     # doctest: +SKIP
        PosixPath('voco-llama-7b-hf')
        """
        return save_voco_model(self.voco, folder)

    def open_stream(
        self,
        source: str | Path,
        *,
        fps: float = 1.0,
        name: str | None = None,
        resume: bool = False,
        publish_seconds: float = 3.0,
        idle_seconds: float = 30.0,
        end_marker: str | Path | None = None,
        when_behind: WhenBehind | None = None,
        starts_over: bool | None = None,
        compressor: str = "voco",
        num_voco_tokens: int | None = None,
        form: Form | None = None,
        storage: Storage = "native",
        batch_size: BatchSize = 16,
        force: bool = False,
    ) -> VideoStream:
        """Follow a source that is still being made, and ask about it meanwhile.

        Args:
            source: ``"-"``, a file that is being written, a named pipe, or a URL that FFmpeg opens.
            fps, name, resume, publish_seconds, idle_seconds, end_marker, when_behind, starts_over, force: see
                `StreamOptions`.
            compressor, num_voco_tokens, form, storage, batch_size: see `CompressOptions`.

        Raises:
            VideoError, UsageError, CacheError: see `voco_video.stream.Stream`.

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
        )
        return VideoStream(self, source, options, compress)

    def open(self, digest: str) -> CompressedVideo:
        """An entry of the cache by the beginning of its digest, as `voco-video cache ls` prints it.

        Raises:
            CacheError: none or several entries match.
            ModelError: another model made it.
        """
        entry = self.cache.find(digest)
        if entry.key.model_fingerprint != self.fingerprint:
            raise ModelError(
                f"entry {entry.digest[:12]} was compressed by a model with fingerprint "
                f"{entry.key.model_fingerprint[:12]}, not by this one ({self.fingerprint[:12]})"
            )
        return CompressedVideo(self, (Part(entry, 0, entry.num_frames),))


@dataclass(frozen=True)
class Part:
    """Frames ``start:stop`` of one cache entry."""

    entry: CacheEntry
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class CompressedVideo:
    """Compressed frames in time order, ready for questions. Slices and concatenations read nothing from disk.

    Attributes:
        model: what compressed them, and answers.
        parts: where the frames are.
        result: how the entry came about; None for slices, concatenations and opened entries.
    """

    model: VideoModel = field(repr=False)
    parts: tuple[Part, ...]
    result: CompressResult | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        pts = self.pts_seconds
        span = f"{pts[0]:.2f}-{pts[-1]:.2f} s" if len(pts) else "no frames"
        kept = f"{self.num_voco_tokens} {'VoCo ' if self.compressor == 'voco' else ''}tokens each, {self.form}"
        return f"CompressedVideo({self.num_frames} frames, {span}, {kept})"

    def __len__(self) -> int:
        return self.num_frames

    @property
    def num_frames(self) -> int:
        """F."""
        return sum(part.stop - part.start for part in self.parts)

    @cached_property
    def pts_seconds(self) -> np.ndarray:
        """The time of each frame in its own video, float64 ``[F]``."""
        return np.concatenate([part.entry.pts_seconds[part.start : part.stop] for part in self.parts])

    @property
    def compressor(self) -> str:
        """``"voco"``, ``"full"``, ``"pool:k"`` or ``"none"``."""
        return str(compressor_of(self.parts[0].entry))

    @property
    def num_voco_tokens(self) -> int:
        """K: tokens kept per frame, VoCo tokens or those of another compressor."""
        return tokens_per_frame(self.parts[0].entry)

    @property
    def form(self) -> Form:
        """``"kv"`` or ``"embeds"``."""
        return self.parts[0].entry.key.settings["form"]

    @property
    def from_cache(self) -> bool:
        """True where nothing had to be decoded or compressed."""
        return self.result is None or self.result.from_cache

    @property
    def stage_seconds(self) -> StageSeconds:
        """Seconds this run spent on decoding, the vision tower, the LLM and writing."""
        return self.result.seconds if self.result else StageSeconds()

    def __getitem__(self, window: slice) -> CompressedVideo:
        """Frames with ``start <= pts_seconds < stop``; a slice in seconds.

        Raises:
            UsageError: no frame lies in the window, or a step was given.

        >>> video[30.0:60.0]                                              # doctest: +SKIP
        CompressedVideo(30 frames, 30.00-59.00 s, 8 VoCo tokens each, kv)
        """
        if not isinstance(window, slice) or window.step is not None:
            raise UsageError(f"[{window!r}]: slice a video in seconds, as in video[30.0:60.0]")
        start = -np.inf if window.start is None else float(window.start)
        stop = np.inf if window.stop is None else float(window.stop)
        parts = tuple(cut for part in self.parts if (cut := _cut(part, start, stop)) is not None)
        if not parts:
            pts = self.pts_seconds
            raise UsageError(f"no frame between {start:g} s and {stop:g} s; frames lie at {pts[0]:g} to {pts[-1]:g} s")
        return CompressedVideo(self.model, parts)

    def tokens(self) -> VocoTokens:
        """Read the VoCo tokens of all frames, memory-mapped where they lie in one segment."""
        return VocoTokens.cat([read_tokens(part.entry, part.start, part.stop) for part in self.parts])

    def prefix(self, *, num_voco_tokens: int | None = None) -> Prefix:
        """What the text attends to, assembled once and kept for the budget last used.

        Args:
            num_voco_tokens: k, at most K; only VoCo tokens can be cut to their first few.

        Raises:
            UsageError: there are no k tokens, or not of this compressor.
        """
        budget = self.num_voco_tokens if num_voco_tokens is None else num_voco_tokens
        if self._prefixes.get(budget) is None:
            prefix = self.model.voco.prefix(self.tokens(), num_voco_tokens=budget)
            self._prefixes.clear()
            self._prefixes[budget] = prefix
        return self._prefixes[budget]

    @cached_property
    def _prefixes(self) -> dict[int, Prefix]:
        return {}

    @overload
    def ask(  # type: ignore[overload-overlap]
        self,
        question: str,
        *,
        num_voco_tokens: int | None = ...,
        history: Sequence[Message] = ...,
        max_new_tokens: int = ...,
        temperature: float = ...,
        seed: int = ...,
        with_attention: bool = ...,
    ) -> Answer: ...
    @overload
    def ask(
        self,
        question: Sequence[str],
        *,
        num_voco_tokens: int | None = ...,
        history: Sequence[Message] = ...,
        max_new_tokens: int = ...,
        temperature: float = ...,
        seed: int = ...,
        with_attention: bool = ...,
    ) -> list[Answer]: ...
    def ask(
        self,
        question: str | Sequence[str],
        *,
        num_voco_tokens: int | None = None,
        history: Sequence[Message] = (),
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        with_attention: bool = False,
    ) -> Answer | list[Answer]:
        """Answer one question, or several over one shared prefix.

        Args:
            question: a question, or a sequence of them, which then gives a list.
            num_voco_tokens: budget k per frame, at most what was compressed; all of them when None.
            history: earlier turns, for a conversation.
            max_new_tokens, temperature, seed: see `AnswerOptions`.
            with_attention: fill in `Answer.frame_attention`.

        >>> video.ask("What colour is the circle?").text                  # doctest: +SKIP
        'red'
        >>> [a.text for a in video.ask(["What moves?", "Where to?"])]     # doctest: +SKIP
        ['circle', 'left']
        """
        questions = [question] if isinstance(question, str) else list(question)
        prefix = self.prefix(num_voco_tokens=num_voco_tokens)
        answers = answer_questions(
            self.model.voco,
            prefix,
            questions,
            history=history,
            options=AnswerOptions(max_new_tokens, temperature, seed),
            frame_pts_seconds=self.pts_seconds[: len(prefix.frame_slots)],  # none where the text stands alone
            with_attention=with_attention,
        )
        return answers[0] if isinstance(question, str) else answers

    def stream(
        self,
        question: str,
        *,
        num_voco_tokens: int | None = None,
        history: Sequence[Message] = (),
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yield the answer's text as it is generated; arguments as for `ask`.

        >>> for piece in video.stream("Tell me what happens."):           # doctest: +SKIP
        ...     print(piece, end="", flush=True)
        """
        return stream_answer(
            self.model.voco,
            self.prefix(num_voco_tokens=num_voco_tokens),
            question,
            history=history,
            options=AnswerOptions(max_new_tokens, temperature, seed),
        )


class VideoStream(Stream):
    """A `Stream` whose frames answer questions while it runs. Comes from `VideoModel.open_stream`."""

    def __init__(
        self, model: VideoModel, source: str | Path, options: StreamOptions, compress: CompressOptions
    ) -> None:
        self._video_model = model
        super().__init__(
            model.voco, source, cache=model.cache, options=options, compress=compress, fingerprint=model.fingerprint
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
        return CompressedVideo(self._video_model, (Part(entry, 0, entry.num_frames),))


def concat(videos: Sequence[CompressedVideo]) -> CompressedVideo:
    """Frames of several compressed videos, one video after the other, as if they were one.

    Raises:
        UsageError: none given, or they differ in model, compressor, form, or tokens per frame.

    >>> both = concat([a, b])                                             # doctest: +SKIP
    """
    if not videos:
        raise UsageError("concat needs at least one video")
    kinds = {(v.parts[0].entry.key.model_fingerprint, v.compressor, v.form, v.num_voco_tokens) for v in videos}
    if len(kinds) > 1:
        listed = "; ".join(f"model {m[:12]}, {c}, form {f}, {n} tokens a frame" for m, c, f, n in sorted(kinds))
        raise UsageError(f"videos to join must be compressed alike, but these are: {listed}")
    return CompressedVideo(videos[0].model, tuple(part for video in videos for part in video.parts))


def _cut(part: Part, start_seconds: float, stop_seconds: float) -> Part | None:
    pts = part.entry.pts_seconds[part.start : part.stop]
    first, last = np.searchsorted(pts, [start_seconds, stop_seconds], side="left")
    return Part(part.entry, part.start + int(first), part.start + int(last)) if first < last else None
