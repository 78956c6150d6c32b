"""What workers are given and what they give back: small rows, never pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from voco_video.cache.window import Window
from voco_video.library.manifest import VideoRow
from voco_video.options.compression import CompressOptions
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling


@dataclass(frozen=True)
class Job:
    """What all workers do alike: which model, which frames, and where they go.

    Attributes:
        cache_dir: of the frame cache, whole, as all workers see it; None for the default one.
        window_seconds: longer videos are cut into windows of about this length.
        num_threads: that a worker computes with.
    """

    model: str
    load: LoadOptions
    sampling: Sampling
    options: CompressOptions
    cache_dir: str | None
    max_cache_bytes: int | str | None = None
    window_seconds: float = float("inf")
    num_threads: int = 1


@dataclass(frozen=True)
class Cut:
    """A long video that was cut into windows.

    Attributes:
        digest: BLAKE3 of the video's bytes.
        state: size and time of the file when it was cut; empty for what is elsewhere.
        options: with the compressor that was chosen for the whole video.
        windows: in order; together all of its pictures.
    """

    digest: str
    state: str
    options: CompressOptions
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Piece:
    """Work for one worker: a whole video, a window of one, or the joining of its windows.

    Attributes:
        number: of the row.
        cut: the video's windows; None for a whole video.
        window: the one to compress; None with a ``cut`` asks to join them all.
        may_cut: whether a worker may cut this video.
        num_attempts: how often it was begun before.
        num_deaths: how many workers ended while they did it.
    """

    number: int
    row: VideoRow
    cut: Cut | None = None
    window: Window | None = None
    may_cut: bool = True
    num_attempts: int = 0
    num_deaths: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a piece.

    Attributes:
        row: the finished row of a whole or joined video.
        cut: the windows that a video was cut into instead.
        missing: windows that are not in the cache, so that nothing could be joined.
        error: why it failed; empty where it did not.
        may_pass: the error may be gone at the next try.
        concerns_all: the error is the model's, so that other videos will not do better.
        stage_seconds: of a window.
    """

    row: VideoRow | None = None
    cut: Cut | None = None
    missing: tuple[Window, ...] = ()
    error: str = ""
    may_pass: bool = False
    concerns_all: bool = False
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
