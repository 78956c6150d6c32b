"""The one thread that owns the model's answers, and the bounded queue before it.

Questions with equal keys (same frames, same view) are answered together over one prefix; others take turns. Whoever
compresses asks `AnswerQueue.let_pass` between two steps, so that answers go first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from voco_video.answer.answering_model import Engine
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.model.voco import VocoModel
from voco_video.options.answering import MAX_QUESTIONS_PER_BATCH
from voco_video.serve.answering import Ask, CancelledAskError, answer_together, frames_key

log = logging.getLogger(__name__)
MAX_KEPT_VIDEOS = 8  # whose prefix, search features and scores stay in memory
_MAX_PASS_SECONDS = 2.0
_SHARE_OF_STEP = 4.0  # answers may take this many times as long as the compressing step before them


class QueueFullError(Exception):
    """No more questions can wait.

    Attributes:
        retry_seconds: when there will probably be room.
    """

    def __init__(self, retry_seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_seconds} s")
        self.retry_seconds = retry_seconds


class StoppingError(Exception):
    """The server is shutting down."""


@dataclass(frozen=True)
class Task:
    """Other work for the thread that owns the model, such as a search."""

    work: Callable[[], None]
    key: Hashable = None


class AnswerQueue:
    """Takes questions from any thread and answers them in its own.

    Args:
        max_waiting: questions and other tasks that may wait.
        engine: generates the answers in place of the model.
        on_batch: called with the number of questions answered together and the seconds that it took.
    """

    def __init__(
        self,
        model: VocoModel,
        *,
        max_waiting: int,
        engine: Engine | None = None,
        max_batch: int = MAX_QUESTIONS_PER_BATCH,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._model, self._max_waiting, self._max_batch, self._on_batch = model, max_waiting, max_batch, on_batch
        self._engine = engine
        self._waiting: deque[Ask | Task] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._running: list[Ask | Task] = []
        self._batch_seconds = 1.0  # a mean that follows the latest batches
        self._videos: OrderedDict[Hashable, CompressedVideo] = OrderedDict()
        self._thread = threading.Thread(target=self._work, name="voco-video answers", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Questions and tasks that wait."""
        return len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._waiting or self._running)

    @property
    def is_alive(self) -> bool:
        """Whether questions are taken."""
        return self._thread.is_alive() and not self._is_stopping

    def kept(self, video: CompressedVideo) -> tuple[CompressedVideo, bool]:
        """Return the video that is in memory with the same frames, or this one, and whether it was there."""
        key = frames_key(video)
        with self._changed:
            known = self._videos.get(key)
            self._videos[key] = known or video
            self._videos.move_to_end(key)
            while len(self._videos) > MAX_KEPT_VIDEOS:
                self._videos.popitem(last=False)
        return known or video, known is not None

    def forget(self, digest: str) -> None:
        """Let go of an entry that is deleted."""
        with self._changed:
            for key, video in list(self._videos.items()):
                if any(part.entry.digest == digest for part in video.parts):
                    del self._videos[key]

    def submit(self, item: Ask | Task) -> None:
        """Put a question or a task at the end of the queue.

        Raises:
            QueueFullError: too many wait.
            StoppingError: the server is shutting down.
        """
        with self._changed:
            if self._is_stopping:
                raise StoppingError
            if len(self._waiting) >= self._max_waiting:
                raise QueueFullError(self.retry_seconds())
            self._waiting.append(item)
            self._changed.notify_all()

    def retry_seconds(self) -> int:
        """Estimate when there will be room, in whole seconds from 1 to 60."""
        num_batches = 1 + len({item.key for item in self._waiting})
        return int(min(60, max(1, round(num_batches * self._batch_seconds))))

    def let_pass(self, step_seconds: float) -> None:
        """Wait while there are questions, but not for ever: compressing gets its share, too.

        Args:
            step_seconds: how long the caller has worked since it last waited.
        """
        deadline = time.monotonic() + max(_MAX_PASS_SECONDS, _SHARE_OF_STEP * step_seconds)
        with self._changed:
            while self.is_busy and not self._is_stopping:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return

    def stop(self, *, within_seconds: float) -> int:
        """Take no more questions, finish what waits within a time, and hand back the rest; returns how many."""
        deadline = time.monotonic() + within_seconds
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
            while self.is_busy and time.monotonic() < deadline:
                self._changed.wait(max(0.0, deadline - time.monotonic()))
            left = [item for item in (*self._waiting, *self._running) if isinstance(item, Ask)]
            self._waiting.clear()
            for ask in left:
                ask.cancel()
            self._changed.notify_all()
        for ask in left:
            ask.fail(StoppingError())
        self._thread.join(within_seconds + 5)
        return len(left)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_stopping:
                    self._changed.wait()
                if not self._waiting:
                    return
                self._running = self._next_batch()
            started = time.perf_counter()
            try:
                self._run(self._running)
            except BaseException as error:  # never leaves a client waiting
                log.exception("answering failed")
                for item in self._running:
                    if isinstance(item, Ask):
                        item.fail(error)
            seconds = time.perf_counter() - started
            self._batch_seconds += 0.2 * (seconds - self._batch_seconds)
            self._on_batch(sum(isinstance(item, Ask) for item in self._running), seconds)
            with self._changed:
                self._running = []
                self._changed.notify_all()

    def _next_batch(self) -> list[Ask | Task]:
        """Take the first that waits, and the questions that can be answered with it."""
        first = self._waiting.popleft()
        if isinstance(first, Task):
            return [first]
        batch: list[Ask | Task] = [first]
        key = first.key
        for item in list(self._waiting):
            if len(batch) >= self._max_batch:
                break
            if isinstance(item, Ask) and item.key == key:
                self._waiting.remove(item)
                batch.append(item)
        return batch

    def _run(self, batch: list[Ask | Task]) -> None:
        first = batch[0]
        if isinstance(first, Task):
            first.work()
            return
        asks = [item for item in batch if isinstance(item, Ask)]
        for ask in asks:
            if ask.is_cancelled.is_set():
                ask.fail(CancelledAskError())
        if alive := [ask for ask in asks if not ask.future.done()]:
            answer_together(self._model, alive, self._engine)
