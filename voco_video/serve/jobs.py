"""Long work in its own thread: compressing videos one after the other, with progress for who listens."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from voco_video.serve.openai_errors import as_api_error
from voco_video.serve.queue import QueueFullError, StoppingError

log = logging.getLogger(__name__)
State = Literal["waiting", "running", "done", "failed", "cancelled", "interrupted"]
OVER = frozenset({"done", "failed", "cancelled", "interrupted"})
MAX_KEPT = 500  # finished jobs that can still be asked for


class JobCancelledError(BaseException):
    """The job was cancelled, or the server stops; a BaseException so that no handler takes it for a failed video."""


@dataclass(eq=False)
class Job:
    """One piece of work.

    Attributes:
        id: a random name for clients.
        kind: of work, such as "compress".
        video: the id of the video, once it is known.
        key: jobs with equal keys are one.
        work: does it; gets the job, whose `report` it calls between steps.
        result: plain values, once it is done.
        num_done, num_total, unit: how far it has come; `num_total` is 0 where that is not known.
        future: gets what the work returns.
    """

    kind: str
    work: Callable[[Job], Any]
    key: Hashable = None
    video: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: State = "waiting"
    stage: str = ""
    num_done: int = 0
    num_total: int = 0
    unit: str = "frames"
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    created_unix_seconds: float = field(default_factory=time.time)
    future: Future[Any] = field(default_factory=Future)
    version: int = 0
    num_askers: int = 0
    is_kept: bool = False
    _is_cancelled: threading.Event = field(default_factory=threading.Event)

    def report(self, *, stage: str = "", num_done: int = 0, num_total: int = 0, unit: str = "frames") -> None:
        """Say how far the work has come.

        Raises:
            JobCancelledError: nobody wants it any more.
        """
        self.stage, self.num_done, self.num_total, self.unit = stage, num_done, num_total, unit
        self.version += 1
        if self._is_cancelled.is_set():
            raise JobCancelledError

    def cancel(self) -> None:
        """Stop it at its next step."""
        self._is_cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self._is_cancelled.is_set()

    def facts(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "stage": self.stage,
            "num_done": self.num_done,
            "num_total": self.num_total,
            "unit": self.unit,
            "video": self.video,
            "error": self.error,
            "result": self.result,
            "created_unix_seconds": self.created_unix_seconds,
            **self.about,
        }


class Jobs:
    """Does jobs in turn, in a thread of its own."""

    def __init__(self, *, max_waiting: int, on_end: Callable[[Job], None] = lambda job: None) -> None:
        self._max_waiting, self._on_end = max_waiting, on_end
        self._waiting: deque[Job] = deque()
        self._known: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._is_stopping = False
        self.running: Job | None = None
        self._thread = threading.Thread(target=self._work, name="voco-video jobs", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    def submit(self, job: Job) -> Job:
        """Put a job at the end of the queue; returns the one of its key that waits or runs already, where there is one.

        Raises:
            QueueFullError: too many wait.
            StoppingError: the server is shutting down.
        """
        with self._changed:
            if self._is_stopping:
                raise StoppingError
            if job.key is not None:
                for other in (*self._waiting, *([self.running] if self.running else [])):
                    if other.key == job.key and not other.is_cancelled:
                        return other
            if len(self._waiting) >= self._max_waiting:
                raise QueueFullError(30)
            self._waiting.append(job)
            self._known[job.id] = job
            while len(self._known) > MAX_KEPT + self._max_waiting:
                self._known.popitem(last=False)
            self._changed.notify_all()
        return job

    def get(self, job_id: str) -> Job | None:
        """Return a job by its id, or None."""
        return self._known.get(job_id)

    def all(self) -> list[Job]:
        """List the jobs, the latest first."""
        return list(reversed(self._known.values()))

    def of_video(self, video: str) -> list[Job]:
        """List a video's jobs that wait or run."""
        return [job for job in self._known.values() if job.video == video and job.state not in OVER]

    def cancel(self, job: Job) -> None:
        """Stop a job, whether it waits or runs."""
        job.cancel()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, "cancelled", JobCancelledError())

    def let_go(self, job: Job) -> None:
        """Count one client less that waits for a job; without any, a job that nobody asked to keep is cancelled."""
        with self._changed:
            job.num_askers -= 1
            is_unwanted = job.num_askers <= 0 and not job.is_kept
        if is_unwanted:
            self.cancel(job)

    def stop(self, *, within_seconds: float) -> list[Job]:
        """Take no more jobs, let the running one finish within a time, hand back the rest; returns those."""
        deadline = time.monotonic() + within_seconds
        with self._changed:
            self._is_stopping = True
            left = list(self._waiting)
            self._waiting.clear()
            for job in left:
                self._end(job, "interrupted", StoppingError())
            self._changed.notify_all()
            while self.running is not None and time.monotonic() < deadline:
                self._changed.wait(max(0.0, deadline - time.monotonic()))
            if self.running is not None:
                left.append(self.running)
                self.running.cancel()  # what is compressed stays, and the next run goes on after it
        self._thread.join(within_seconds + 10)
        return left

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_stopping:
                    self._changed.wait()
                if self._is_stopping:
                    return
                job = self.running = self._waiting.popleft()
                job.state = "running"
                job.version += 1
            try:
                result = job.work(job)
            except JobCancelledError as error:
                self._end(job, "interrupted" if self._is_stopping else "cancelled", error)
            except BaseException as error:
                job.error = as_api_error(error).body()["error"]
                self._end(job, "failed", error)
            else:
                job.state = "done"
                job.future.set_result(result)
                job.version += 1
                self._on_end(job)
            with self._changed:
                self.running = None
                self._changed.notify_all()

    def _end(self, job: Job, state: State, error: BaseException) -> None:
        job.state = state
        if not job.future.done():
            job.future.set_exception(error if isinstance(error, Exception) else StoppingError("the job was stopped"))
        job.version += 1
        self._on_end(job)
