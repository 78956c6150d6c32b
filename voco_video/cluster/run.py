"""`compress_many`: sources in, a manifest out; engines in between."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from voco_video.cluster.pieces import Job
from voco_video.cluster.pool import drive
from voco_video.cluster.process_pool import ProcessPool
from voco_video.cluster.schedule import Schedule
from voco_video.cluster.shares import Share, write_share
from voco_video.errors import CacheError
from voco_video.files.paths import default_cache, expanded
from voco_video.files.urls import is_url
from voco_video.library.manifest import VideoRow, check_can_write, write_manifest
from voco_video.library.sources import list_videos
from voco_video.options.cluster import ClusterOptions
from voco_video.options.compression import CompressOptions
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling
from voco_video.video.container import num_processors

_SEEN_SECONDS = 10.0  # until what another machine wrote is seen here, on a disk that they share


@dataclass(frozen=True)
class ClusterProgress:
    """How far a run is.

    Attributes:
        num_videos: in all, of this share.
        num_done: finished ones, also those that failed or were in the cache.
        num_cached: those that were in the cache.
        num_failed: those that failed.
        num_workers: workers that are ready.
        latest: the row that was finished last; None before the first.
    """

    num_videos: int
    num_done: int = 0
    num_cached: int = 0
    num_failed: int = 0
    num_workers: int = 0
    latest: VideoRow | None = None


@dataclass(frozen=True)
class ClusterResult:
    """What came of a list of videos.

    Attributes:
        rows: one for each video, in the order of the sources; of one share its own. Videos that were not reached
            before an interruption are left out; in the manifest they have no status.
        seconds: wall-clock time.
        manifest: where the rows were written; None where nothing was, or other shares are missing.
        num_missing_shares: shares that have not ended yet.
    """

    rows: tuple[VideoRow, ...]
    seconds: float
    manifest: Path | None = None
    num_missing_shares: int = 0

    @property
    def num_of(self) -> Counter[str]:
        """How many were ``compressed``, ``cached``, and ``failed``."""
        return Counter(row.status or "" for row in self.rows)


class InterruptedRunError(KeyboardInterrupt):
    """Ctrl-C during a run; `result` has what was done, and the manifest is written."""

    def __init__(self, result: ClusterResult) -> None:
        super().__init__()
        self.result = result


def compress_many(
    sources: Iterable[str | os.PathLike[str] | VideoRow] | str | os.PathLike[str],
    *,
    model: str | Path = "voco-tiny",
    sampling: Sampling = Sampling(),
    compression: CompressOptions = CompressOptions(),
    load: LoadOptions = LoadOptions(),
    cluster: ClusterOptions = ClusterOptions(),
    cache_dir: str | Path | None = None,
    max_cache_bytes: int | str | None = None,
    manifest: str | Path | None = None,
    on_progress: Callable[[ClusterProgress], None] | None = None,
) -> ClusterResult:
    """Compress many videos with many workers, and list what came of each.

    A video that fails is a row with an error; the others are compressed all the same. What the cache has is not done
    again. A worker or a machine that ends at any moment costs the pieces that were under way, which others do.

    Args:
        sources: files, folders, patterns, URLs, prefixes of object stores, manifests, rows; see `list_videos`.
        model: a checkpoint, as for `load_model`.
        sampling: of videos whose row has no window of its own.
        cache_dir: the frame cache, which all workers have to share; see `load_model`.
        manifest: a .parquet, .csv or .jsonl file to write.
        on_progress: called after every event, at least twice a second.

    Raises:
        UsageError: options or sources that cannot be right; no cluster, or no Ray.
        ModelError: the model cannot be loaded, or cannot do it.
        CacheError: workers on other machines write to another folder than this one sees.

    >>> result = compress_many("talks/", cluster=ClusterOptions(concurrency=(4,)), manifest="talks.parquet")
    ... # doctest: +SKIP
    >>> result.num_of                                                   # doctest: +SKIP
    Counter({'compressed': 56, 'failed': 4})
    """
    if manifest is not None:
        check_can_write(manifest)
    started = time.monotonic()
    everything = list_videos(sources)
    share = Share.from_environment() if cluster.engine == "shares" else None
    rows = share.of(everything) if share else everything
    job = Job(
        str(model), load, sampling, compression, _whole_path(cache_dir), max_cache_bytes,
        cluster.window_seconds if share is None else float("inf"), cluster.cpus_per_worker,
    )  # fmt: skip
    book = _Book(rows, on_progress or (lambda progress: None))

    def result() -> ClusterResult:
        done = [row for row in book.done if row is not None]
        num_missing = 0
        if manifest is not None and share is not None:
            num_missing = write_share(share, done, everything, expanded(manifest)) if len(done) == len(rows) else 1
        elif manifest is not None:
            write_manifest([row or rows[number] for number, row in enumerate(book.done)], manifest)
        written = expanded(manifest) if manifest is not None and not num_missing else None
        return ClusterResult(tuple(done), time.monotonic() - started, written, num_missing)

    schedule = Schedule(rows, retries=cluster.retries, on_row=book.enter)
    try:
        if share is not None:
            _run_alone(job, schedule, book)
        elif cluster.engine == "ray":
            _run_on_ray(job, schedule, cluster, book)
        else:
            _run_processes(job, schedule, cluster, book)
    except KeyboardInterrupt:
        raise InterruptedRunError(result()) from None
    return result()


class _Book:
    """The rows that are finished, and who wants to know of them."""

    def __init__(self, rows: list[VideoRow], on_progress: Callable[[ClusterProgress], None]) -> None:
        self.done: list[VideoRow | None] = [None] * len(rows)
        self._counts: Counter[str] = Counter()
        self._latest: VideoRow | None = None
        self._on_progress = on_progress
        self.check: Callable[[VideoRow], None] = lambda row: None

    def enter(self, number: int, row: VideoRow) -> None:
        """Take note of a finished row."""
        self.check(row)
        self.done[number] = self._latest = row
        self._counts[row.status or ""] += 1

    def report(self, num_workers: int) -> None:
        """Tell how far the run is."""
        counts = self._counts
        self._on_progress(
            ClusterProgress(
                len(self.done), counts.total(), counts["cached"], counts["failed"], num_workers, self._latest
            )
        )


def _run_alone(job: Job, schedule: Schedule, book: _Book) -> None:
    from voco_video.cluster.worker import Worker

    book.report(0)
    worker = None
    while not schedule.is_finished:
        piece = schedule.take()
        if piece is None:
            time.sleep(min(1.0, schedule.seconds_until_next()))
            continue
        worker = worker or Worker(job)
        schedule.finish(piece, worker.run(piece))
        book.report(1)


def _run_processes(job: Job, schedule: Schedule, cluster: ClusterOptions, book: _Book) -> None:
    most = cluster.most or max(1, num_processors() // cluster.cpus_per_worker)
    fewest = cluster.concurrency[0] if cluster.concurrency else 1
    book.report(0)
    with ProcessPool(job) as pool:
        drive(pool, schedule, fewest=min(fewest, schedule.num_waiting), most=most, on_change=book.report)


def _run_on_ray(job: Job, schedule: Schedule, cluster: ClusterOptions, book: _Book) -> None:
    from voco_video.cluster.ray_pool import RayPool

    book.report(0)
    book.check = _SharedCache(job)
    with RayPool(job, cluster) as pool:
        most = cluster.most or pool.num_places
        fewest = cluster.concurrency[0] if cluster.concurrency else 1
        drive(pool, schedule, fewest=min(fewest, schedule.num_waiting), most=most, on_change=book.report)


class _SharedCache:
    """Makes sure that what workers on other machines write can be seen here, once for a run."""

    def __init__(self, job: Job) -> None:
        self._cache_dir, self._is_checked = job.cache_dir, False

    def __call__(self, row: VideoRow) -> None:
        """Check the first row that has an entry.

        Raises:
            CacheError: its entry is not here.
        """
        if self._is_checked or row.entry is None:
            return
        from voco_video.cache import FrameCache

        cache = FrameCache(self._cache_dir)
        ends = time.monotonic() + _SEEN_SECONDS
        while not cache.candidates(row.entry):
            if time.monotonic() > ends:
                raise CacheError(
                    f"a worker wrote entry {row.entry[:12]} to {cache.cache_dir}, and it is not there on this machine: "
                    "give a --cache-dir that all nodes share"
                )
            time.sleep(0.2)
        self._is_checked = True


def _whole_path(cache_dir: str | Path | None) -> str:
    """Return the cache's folder as all workers have to call it."""
    cache_dir = cache_dir or default_cache()
    return str(cache_dir) if is_url(str(cache_dir)) else str(expanded(cache_dir).absolute())
