"""Several compressed videos: joined to one, and searched for the best moments of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.moments import Moment
from voco_video.errors import FILE_ERRORS, CacheError, UsageError


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
    for video in videos:
        try:
            found += [Found(video, moment) for moment in video.find(query, num_moments=num_moments)]
        except (CacheError, *FILE_ERRORS) as error:
            if on_error is None:
                raise
            on_error(video, error)
        if on_progress is not None:
            on_progress(video.num_frames)
    return sorted(found, key=lambda f: -f.moment.score)[:num_moments]


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
