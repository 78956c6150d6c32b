"""What all routes share: the model, its queue, the jobs and the library, and how a request gets its video."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.api import VideoModel
from voco_video.compress import Progress
from voco_video.errors import VideoError, VocoVideoError
from voco_video.files.urls import without_secrets
from voco_video.options.compression import CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.serve.answering import Answered, Ask
from voco_video.serve.jobs import OVER, Job, Jobs
from voco_video.serve.kept_jobs import Again, KeptJobs
from voco_video.serve.live import Follows
from voco_video.serve.media_files import Thumbnails
from voco_video.serve.metrics import Metrics
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.openai_request import sampling_of
from voco_video.serve.queue import AnswerQueue, QueueFullError, StoppingError, Task
from voco_video.serve.safety.addresses import IsAllowed, is_public
from voco_video.serve.safety.paths import below
from voco_video.serve.settings import ServeOptions
from voco_video.serve.sources import Source, Sources
from voco_video.serve.uploads import Uploads
from voco_video.serve.videos import Videos
from voco_video.video.downloads import Downloads

log = logging.getLogger(__name__)
Result = TypeVar("Result")
_NUM_READERS = 4  # threads that read files for requests at once


class _NotCachedError(BaseException):
    """A video has to be compressed; a BaseException so that no handler takes it for a failed video."""


class Service:
    """One server's model, queue, jobs and library.

    Args:
        is_allowed: tells which addresses URLs may lead to; tests let loopback pass.
    """

    def __init__(self, model: VideoModel, settings: ServeOptions, *, is_allowed: IsAllowed = is_public) -> None:
        self.model, self.settings, self.is_allowed = model, settings, is_allowed
        self.state_dir = model.cache.cache_dir / "serve"
        self.metrics = Metrics()
        self._kept_jobs = KeptJobs(self.state_dir / "jobs")
        self.uploads = Uploads(self.state_dir, settings)
        self.videos = Videos(model, self.uploads, settings)
        self.sources = Sources(self.videos, settings, Downloads.beside(model.cache.cache_dir), is_allowed=is_allowed)
        self.queue = AnswerQueue(
            model.voco, max_waiting=settings.max_waiting, on_batch=self._count_batch, engine=model.engine
        )
        self.jobs = Jobs(max_waiting=settings.max_jobs, on_end=self._count_job)
        self.thumbnails = Thumbnails()
        self.follows = Follows(
            self.queue, max_streams=settings.max_streams, is_allowed=is_allowed, on_answer=self.count_answer
        )
        self.started_unix_seconds = time.time()
        self.is_stopping = False
        self._readers = ThreadPoolExecutor(_NUM_READERS, "voco-video reader")
        self.metrics.watch("queue_waiting", "Questions that wait.", lambda: self.queue.num_waiting)
        self.metrics.watch("jobs_waiting", "Jobs that wait.", lambda: self.jobs.num_waiting)

    # ------------------------------------------------------------------ threads

    async def read(self, work: Callable[[], Result]) -> Result:
        """Do what reads files in a thread, a few at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def answered(self, ask: Ask) -> Answered:
        """Put a question into the queue and wait for its answer; whoever stops waiting cancels it."""
        self.submit(ask)
        try:
            answered = await asyncio.wrap_future(ask.future)
        except asyncio.CancelledError:
            ask.cancel()
            raise
        except StoppingError:
            raise stopping() from None
        self.count_answer(answered)
        return answered

    async def in_model_thread(self, work: Callable[[], Result]) -> Result:
        """Do other work of the model in its thread, such as a search, in turn with the questions.

        Raises:
            ApiError: too much waits.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def hand_over(set_it: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                set_it(value)

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = work()
            except Exception as error:
                loop.call_soon_threadsafe(hand_over, future.set_exception, error)
            else:
                loop.call_soon_threadsafe(hand_over, future.set_result, result)

        self.submit(Task(run))
        return await future

    def submit(self, item: Ask | Task) -> None:
        """Put a question or a task into the queue.

        Raises:
            ApiError: it is full (429, with Retry-After), or the server stops (503).
        """
        try:
            self.queue.submit(item)
        except QueueFullError as error:
            raise self.too_many(error) from None
        except StoppingError:
            raise stopping() from None

    def too_many(self, error: QueueFullError) -> ApiError:
        """Return the refusal of a request for which there is no room in a queue."""
        self.metrics.refused.labels("queue_full").inc()
        return ApiError(
            429,
            f"the server has as much to do as it takes; try again in {error.retry_seconds} s",
            code="queue_full",
            headers={"Retry-After": str(error.retry_seconds)},
        )

    # ------------------------------------------------------------------ videos

    async def compressed(self, source: Source, sampling: Sampling, options: CompressOptions) -> CompressedVideo:
        """Return a source's frames, from the cache, or compressed by a job that others may wait for, too."""
        video = source.video
        if video is None:
            video = await self.read(partial(self._from_cache, source, sampling, options))
            self.metrics.cache.labels("yes" if video else "no").inc()
        if video is None:
            job = self.submit_compress(source, sampling, options)
            job.num_askers += 1
            try:
                digest = await asyncio.shield(asyncio.wrap_future(job.future))
                video = await self.read(partial(self._open, digest))
            except StoppingError:
                raise stopping() from None
            finally:
                self.jobs.let_go(job)
        video, is_kept = self.queue.kept(video)
        self.metrics.prefixes.labels("yes" if is_kept else "no").inc()
        return video

    def _open(self, digest: str) -> CompressedVideo:
        return self.model.open(digest)

    def _from_cache(self, source: Source, sampling: Sampling, options: CompressOptions) -> CompressedVideo | None:
        def stop_at_work(progress: Progress) -> None:
            raise _NotCachedError

        try:
            with source.opened(lambda done, total: None) as opened:
                return self.model.compress_with(opened, sampling, options, stop_at_work)
        except _NotCachedError:
            return None

    def submit_compress(
        self,
        source: Source,
        sampling: Sampling,
        options: CompressOptions,
        *,
        video: str = "",
        name: str | None = None,
        keep: bool = False,
        again: Again | None = None,
    ) -> Job:
        """Have a source compressed; the job of the same content and settings is shared.

        Args:
            video: the id of the video, where it is known.
            name: for the entry.
            keep: go on although no request waits for it.
            again: how the next server takes it up where this one does not finish it.

        Raises:
            ApiError: too many jobs wait.
        """

        def work(job: Job) -> str:
            return self._compress(job, source, sampling, options, name)

        job = Job("compress", work, (source.key, sampling, options), video, {"name": source.name})
        job.is_kept = keep
        try:
            found = self.jobs.submit(job)
        except QueueFullError as error:
            raise self.too_many(error) from None
        except StoppingError:
            raise stopping() from None
        found.is_kept = found.is_kept or keep
        if again is not None and found is job:
            self._kept_jobs.keep(job.id, again)
            if job.state in OVER and job.state != "interrupted":  # it was quicker
                self._kept_jobs.drop(job.id)
        return found

    def _compress(
        self, job: Job, source: Source, sampling: Sampling, options: CompressOptions, name: str | None
    ) -> str:
        stepped = time.monotonic()

        def on_progress(progress: Progress) -> None:
            nonlocal stepped
            if progress.total_frames > self.settings.max_video_frames:
                raise VideoError(
                    f"{source.name}: {progress.total_frames} frames would be compressed; at most "
                    f"{self.settings.max_video_frames} are taken here, so sample fewer"
                )
            stage = "waiting" if progress.waiting else "compressing"
            job.report(stage=stage, num_done=progress.num_frames, num_total=progress.total_frames)
            self.queue.let_pass(time.monotonic() - stepped)
            stepped = time.monotonic()

        def on_download(done: int, total: int | None) -> None:
            job.report(stage="fetching", num_done=done, num_total=total or 0, unit="bytes")

        job.report(stage="opening")
        with source.opened(on_download) as opened:
            video = self.model.compress_with(opened, sampling, options, on_progress, name=name)
        entry = video.parts[0].entry
        job.video = job.video or entry.key.video_digest
        job.result = {
            "video": entry.key.video_digest,
            "entry": entry.digest,
            "num_frames": video.num_frames,
            "from_cache": video.from_cache,
        }
        job.report(stage="done", num_done=video.num_frames, num_total=video.num_frames)
        for stage, seconds in asdict(video.stage_seconds).items():
            self.metrics.stage_seconds.labels(stage).inc(max(0.0, float(seconds)))
        return entry.digest

    def compress_again(self, again: Again) -> Job:
        """Begin a compress job, to be taken up by the next server where this one does not finish it.

        Raises:
            ApiError, UsageError, CacheError: it cannot be begun.
        """
        sampling = sampling_of(again.fps, again.num_frames, self.settings)
        options = CompressOptions() if again.compressor is None else CompressOptions(compressor=again.compressor)
        if again.kind == "video":
            source = self.sources.of_row(self.videos.row(again.where))
        elif again.kind == "path":
            source = self.sources.of_path(below(again.where, self.settings.media_root))
        else:
            source = self.sources.of_web(again.where)
        video = again.where if again.kind == "video" else ""
        return self.submit_compress(source, sampling, options, video=video, name=again.name, keep=True, again=again)

    # ------------------------------------------------------------------ life

    def take_up(self) -> int:
        """Begin the jobs that an earlier server left; returns how many."""
        num_begun = 0
        for again in self._kept_jobs.left():
            try:
                self.compress_again(again)
                num_begun += 1
            except (ApiError, VocoVideoError) as error:
                log.warning("the job of %s cannot be taken up: %s", without_secrets(again.where), error)
        return num_begun

    def stop(self) -> dict[str, int]:
        """Take nothing new, finish what runs within the time that was set, and hand back the rest; returns how much."""
        self.is_stopping = True
        deadline = time.monotonic() + self.settings.shutdown_seconds
        self.follows.stop()
        num_asks = self.queue.stop(within_seconds=self.settings.shutdown_seconds)
        jobs = self.jobs.stop(within_seconds=max(0.0, deadline - time.monotonic()))
        self._readers.shutdown(wait=False, cancel_futures=True)
        return {"questions": num_asks, "jobs": len(jobs)}

    def _count_batch(self, size: int, seconds: float) -> None:
        if size:
            self.metrics.batch_size.observe(size)
        self.metrics.stage_seconds.labels("answer").inc(seconds)

    def _count_job(self, job: Job) -> None:
        self.metrics.jobs.labels(job.kind, job.state).inc()
        if job.state != "interrupted":
            self._kept_jobs.drop(job.id)

    def count_answer(self, answered: Answered) -> None:
        """Count an answer and its tokens."""
        self.metrics.answers.labels(answered.finish).inc()
        self.metrics.tokens.labels("prompt").inc(answered.num_prompt_tokens)
        self.metrics.tokens.labels("answer").inc(answered.num_new_tokens)


def stopping() -> ApiError:
    """Return the refusal of a request while the server stops."""
    return ApiError(503, "the server is shutting down", code="stopping", headers={"Retry-After": "10"})
