"""Several videos: compressed one after the other, joined to one, and searched for the best moments of all."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from voco_video.answer.answering_model import AnsweringModel
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.frame_scorer import AskedQuestion, FrameScorer, read_question
from voco_video.answer.moments import Moment
from voco_video.answer.speech import order_of
from voco_video.compress import Progress
from voco_video.errors import FILE_ERRORS, CacheError, ModelError, UsageError, VocoVideoError
from voco_video.files.urls import short_name, shown_name
from voco_video.model.voco import VocoModel
from voco_video.options.compression import AUTO, BatchSize, CompressOptions, Decoder, Form, Storage
from voco_video.options.sampling import Sampling
from voco_video.video.pictures import Pictures
from voco_video.video.sources import LocalVideo, VideoLike


@dataclass(frozen=True)
class Found:
    """A moment and the video that it is in."""

    video: CompressedVideo
    moment: Moment


def find(
    videos: Sequence[CompressedVideo],
    query: str,
    *,
    num_moments: int = 5,
    on_progress: Callable[[int], None] | None = None,
    on_error: Callable[[CompressedVideo, Exception], None] | None = None,
) -> list[Found]:
    """Find the moments of several videos that are most relevant to a query, best first; no answer is generated.

    Args:
        query: a question, or what to look for.
        num_moments: how many at most, over all videos.
        on_progress: called after every video with its number of frames.
        on_error: called with a video whose entry cannot be read, and why; the others are searched all the same. The
            error is raised where this is left out.

    Raises:
        UsageError: the query is empty, or frames keep no tokens.
        CacheError: an entry is damaged or gone, and `on_error` is left out.

    >>> [(f.video, f.moment) for f in find([a, b], "the red star")]       # doctest: +SKIP
    """
    found: list[Found] = []
    asked = Asked(query)
    for video in videos:
        try:
            found += asked.moments(video, num_moments)
        except (CacheError, *FILE_ERRORS) as error:
            if on_error is None:
                raise
            on_error(video, error)
        if on_progress is not None:
            on_progress(video.num_frames)
    return best_first(found, num_moments)


def best_first(found: Iterable[Found], num_moments: int) -> list[Found]:
    """Return the best moments, best first; of equal ones those that come first, and last those without a score."""
    return sorted(found, key=lambda f: (math.isnan(f.moment.score), order_of(f.moment)))[:num_moments]


class Asked:
    """A query for one video after the other of one model; it is read once for all videos of a form."""

    def __init__(self, query: str) -> None:
        self._query = query
        self._read: dict[tuple[VocoModel, FrameScorer], AskedQuestion] = {}

    def by(self, model: AnsweringModel, scorer: FrameScorer) -> AskedQuestion:
        """Return the query as a scorer sees it.

        Raises:
            UsageError: it is empty.
        """
        key = model.voco, scorer
        if key not in self._read:
            self._read[key] = read_question(*key, self._query)
        return self._read[key]

    def moments(self, video: CompressedVideo, num_moments: int) -> list[Found]:
        """Find the best moments of a video, as `CompressedVideo.find` does."""
        asked = None if video.scorer is None else self.by(video.model, video.scorer)
        return [Found(video, moment) for moment in video.find(self._query, num_moments=num_moments, asked=asked)]


def concat(videos: Sequence[CompressedVideo]) -> CompressedVideo:
    """Join the frames of several compressed videos, one video after the other, as if they were one.

    Raises:
        UsageError: no video, or videos that differ in model, compressor, form, or tokens per frame.

    >>> both = concat([a, b])                                             # doctest: +SKIP
    """
    if not videos:
        raise UsageError("concat needs at least one video")
    kinds = {(v.parts[0].entry.key.model_fingerprint, v.compressor, v.form, v.num_voco_tokens) for v in videos}
    if len(kinds) > 1:
        listed = "; ".join(f"model {m[:12]}, {c}, form {f}, {n} tokens a frame" for m, c, f, n in sorted(kinds))
        raise UsageError(f"videos to join must be compressed alike, but these are: {listed}")
    return CompressedVideo(videos[0].model, tuple(part for video in videos for part in video.parts))


@dataclass(frozen=True)
class Compressed:
    """One of many videos: its compressed frames, or why there are none.

    Attributes:
        given: the video as it was given.
        video: its frames; None where it failed.
        error: why it failed; None where it did not.
    """

    given: VideoLike
    video: CompressedVideo | None = None
    error: Exception | None = None

    @property
    def name(self) -> str:
        """What the video is called: its path, its URL without secrets, or what kind of thing it is."""
        is_text = isinstance(self.given, (str, os.PathLike))
        return shown_name(str(self.given)) if is_text else type(self.given).__name__


class SeveralVideos(ABC):
    """What a model does with several videos; a base of `voco_video.VideoModel`."""

    @abstractmethod
    def compress_with(
        self,
        video: VideoLike,
        sampling: Sampling,
        options: CompressOptions,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> CompressedVideo:
        """Compress one video, or find it in the cache."""

    def compress_many(
        self,
        videos: Iterable[VideoLike],
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
        progress: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[Compressed]:
        """Compress videos one after the other, and yield each when it is done.

        A video that cannot be compressed is an item with an ``error``; the others are compressed all the same. What is
        in the cache costs nothing, so the same call goes on where an interrupted one stopped.

        Args:
            videos: any iterable; the next one is taken when the one before is done.
            fps, num_frames, keyframes, timestamps, start_seconds, end_seconds: see `Sampling`; 1 fps by default.
            compressor, num_voco_tokens, form, storage, batch_size, merge_pictures, decoder, force: see
                `CompressOptions`.
            progress: draw a bar on standard error, where that is a terminal.
            on_progress: called after every batch of a video.

        Raises:
            UsageError: an option that cannot be right, at once.
            ModelError: the first video shows that this model cannot do it, so no other will do better.

        >>> for item in model.compress_many(Path("clips").glob("*.mp4"), progress=True):     # doctest: +SKIP
        ...     print(item.name, item.error or item.video)
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
        return self._each(_listed(videos), sampling, options, progress, on_progress or (lambda state: None))

    def _each(
        self,
        videos: Iterable[Any],
        sampling: Sampling,
        options: CompressOptions,
        progress: bool,
        on_progress: Callable[[Progress], None],
    ) -> Iterator[Compressed]:
        total = len(videos) if isinstance(videos, Sized) else None
        num_done = 0
        with closing(tqdm(total=total, unit="video", disable=None if progress else True)) as bar:

            def show(state: Progress) -> None:
                if state.total_frames:
                    bar.set_postfix_str(f"{state.num_frames} of {state.total_frames} frames")
                on_progress(state)

            for given in videos:
                bar.set_postfix_str("", refresh=False)
                bar.set_description(short_name(Compressed(given).name))
                try:
                    item = Compressed(given, self.compress_with(given, sampling, options, show))
                    num_done += 1
                except (VocoVideoError, *FILE_ERRORS) as error:
                    if isinstance(error, ModelError) and not num_done:
                        raise
                    item = Compressed(given, error=error)
                bar.update()
                yield item

    def find(
        self,
        videos: Iterable[VideoLike | CompressedVideo] | VideoLike | CompressedVideo,
        query: str,
        *,
        num_moments: int = 5,
        on_progress: Callable[[int], None] | None = None,
        on_error: Callable[[VideoLike | CompressedVideo, Exception], None] | None = None,
    ) -> list[Found]:
        """Find the moments of videos that are most relevant to a query, best first; no answer is generated.

        Args:
            videos: one or more. Those that are not compressed yet are compressed first, at 1 fps.
            query: a question, or what to look for.
            num_moments: how many at most, over all videos.
            on_progress: called after every video with its number of frames.
            on_error: called with a video that cannot be read or searched, and why; the others are searched all the
                same. The error is raised where this is left out.

        Raises:
            UsageError: the query is empty, or frames keep no tokens.
            VideoError, CacheError, ModelError: a video cannot be read or searched, and `on_error` is left out.

        >>> [(f.video, f.moment) for f in model.find(["a.mp4", "b.mp4"], "the red star")]       # doctest: +SKIP
        """
        compressed: list[CompressedVideo] = []
        for one in _listed(videos):
            if isinstance(one, CompressedVideo):
                compressed.append(one)
                continue
            item = next(self._each([one], Sampling(), CompressOptions(), False, lambda state: None))
            if item.video is not None:
                compressed.append(item.video)
            elif item.error is not None and on_error is None:
                raise item.error
            elif item.error is not None and on_error is not None:
                on_error(one, item.error)
        return find(compressed, query, num_moments=num_moments, on_progress=on_progress, on_error=on_error)


def _listed(videos: Any) -> Iterable[Any]:
    """Return videos as an iterable, also where there is but one."""
    is_one = isinstance(videos, (str, os.PathLike, bytes, bytearray, memoryview, CompressedVideo, Pictures, LocalVideo))
    return [videos] if is_one or hasattr(videos, "read") else videos
