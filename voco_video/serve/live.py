"""Live sources that are followed for clients, and standing questions, asked of each new stretch."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NotYetError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from voco_video.api import VideoStream
from voco_video.errors import VocoVideoError
from voco_video.options.answering import AnswerOptions
from voco_video.serve.answering import Answered, Ask, CancelledAskError
from voco_video.serve.openai_errors import ApiError, as_api_error
from voco_video.serve.queue import AnswerQueue, QueueFullError, StoppingError
from voco_video.serve.safety.addresses import IsAllowed
from voco_video.serve.safety.fetch import ask_once

log = logging.getLogger(__name__)
Opened = tuple[VideoStream, Callable[[], None]]
MAX_EVENTS = 500
WEBHOOK_TRIES = 3
_FIRST_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Standing:
    """What is asked of each new stretch, and who is told.

    Attributes:
        every_seconds: length of a stretch, of the source's own clock.
        webhook: URL that each answer is sent to; "" for none.
    """

    questions: tuple[str, ...] = ()
    every_seconds: float = 10.0
    webhook: str = ""
    max_new_tokens: int = 64


@dataclass(eq=False)
class Follow:
    """A source while it is followed.

    Attributes:
        events: the latest answers and failures, each with its number.
    """

    stream: VideoStream
    name: str
    standing: Standing
    close: Callable[[], None]
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: str = "running"
    error: dict[str, Any] | None = None
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    num_events: int = 0
    num_skipped: int = 0
    num_undelivered: int = 0
    version: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def add_event(self, event: dict[str, Any]) -> dict[str, Any]:
        """Keep an event, and give it its number."""
        self.num_events += 1
        numbered = {"number": self.num_events, "follow": self.id, "name": self.name, **event}
        self.events.append(numbered)
        self.version += 1
        return numbered

    def facts(self) -> dict[str, Any]:
        """Return it as plain values."""
        progress = self.stream.progress
        return {
            "id": self.id,
            "name": self.name,
            "source": self.stream.source_name,
            "state": self.state,
            "error": self.error,
            "video": self.stream.key.video_digest,
            "entry": self.stream.key.digest,
            "num_frames": progress.num_frames,
            "num_published_frames": progress.num_published_frames,
            "num_dropped_frames": progress.num_dropped_frames,
            "media_seconds": progress.media_seconds,
            "questions": list(self.standing.questions),
            "num_skipped": self.num_skipped,
            "num_undelivered": self.num_undelivered,
        }


class Follows:
    """The sources that a server follows, each in a thread of its own.

    Args:
        is_allowed: tells which addresses webhooks may lead to.
        on_answer: called with each answer to a standing question.
    """

    def __init__(
        self,
        queue: AnswerQueue,
        *,
        max_streams: int,
        is_allowed: IsAllowed,
        on_answer: Callable[[Answered], None],
    ) -> None:
        self._queue, self._max_streams, self._is_allowed, self._on_answer = queue, max_streams, is_allowed, on_answer
        self._known: dict[str, Follow] = {}
        self._lock = threading.Lock()

    def get(self, follow_id: str) -> Follow | None:
        """Return one, or None."""
        return self._known.get(follow_id)

    def all(self) -> list[Follow]:
        """List them, the latest first."""
        return list(reversed(self._known.values()))

    def begin(self, open_stream: Callable[[], Opened], name: str, standing: Standing) -> Follow:
        """Follow a source.

        Args:
            open_stream: gives the source, and what to call when it is over.

        Raises:
            ApiError: as many as may be are followed.
        """
        with self._lock:
            if sum(one.state == "running" for one in self._known.values()) >= self._max_streams:
                raise ApiError(
                    429,
                    f"{self._max_streams} sources are followed, the most here; stop one",
                    code="too_many_streams",
                    headers={"Retry-After": "60"},
                )
            stream, close = open_stream()
            follow = Follow(stream, name, standing, close)
            self._known[follow.id] = follow
            while len(self._known) > 100:
                ended = [key for key, one in self._known.items() if one.state != "running"]
                self._known.pop(ended[0])
        follow.thread = threading.Thread(target=self._run, args=(follow,), name="voco-video follow", daemon=True)
        follow.thread.start()
        return follow

    def stop(self) -> None:
        """Stop all, and publish what is compressed."""
        for follow in self._known.values():
            follow.stop.set()
        for follow in self._known.values():
            if follow.thread is not None:
                follow.thread.join(10)

    def _run(self, follow: Follow) -> None:
        asked_until: float | None = None
        try:
            with follow.stream as stream:
                stepped = time.monotonic()
                for progress in stream:
                    follow.version += 1
                    if progress.num_published_frames and follow.standing.questions:
                        asked_until = self._ask(follow, asked_until, is_last=progress.is_ended)
                    if follow.stop.is_set():
                        break
                    self._queue.let_pass(time.monotonic() - stepped)
                    stepped = time.monotonic()
            follow.state = "stopped" if follow.stop.is_set() else "ended"
        except Exception as error:
            follow.state, follow.error = "failed", as_api_error(error).body()["error"]
        finally:
            follow.close()
        follow.version += 1

    def _ask(self, follow: Follow, asked_until: float | None, *, is_last: bool) -> float | None:
        """Ask the standing questions of the frames since the last time; returns up to when frames were asked."""
        video = follow.stream.video
        pts = video.pts_seconds
        start = float(pts[0]) if asked_until is None else asked_until
        end = float(pts[-1])
        is_due = end - start >= follow.standing.every_seconds or (is_last and (asked_until is None or end > start))
        if not is_due:
            return asked_until
        stretch = video[start if asked_until is None else start + 1e-6 :]
        first = float(stretch.pts_seconds[0])
        for question in follow.standing.questions:
            where = {"video": follow.stream.key.video_digest, "start_seconds": first, "end_seconds": end}
            ask = Ask(stretch, question, options=AnswerOptions(max_new_tokens=follow.standing.max_new_tokens))
            try:
                self._queue.submit(ask)
                answered = self._wait(follow, ask)
            except (QueueFullError, StoppingError, CancelledAskError, CancelledError) as error:
                follow.num_skipped += 1
                follow.add_event({**where, "kind": "skipped", "question": question, "error": str(error)})
            except VocoVideoError as error:
                follow.add_event({**where, "kind": "failed", "question": question, "error": str(error)})
            else:
                self._tell(follow, where, answered)
        return end

    def _wait(self, follow: Follow, ask: Ask) -> Answered:
        while True:
            with suppress(NotYetError):
                answered = ask.future.result(timeout=0.5)
                self._on_answer(answered)
                return answered
            if follow.stop.is_set():
                ask.cancel()

    def _tell(self, follow: Follow, where: dict[str, Any], answered: Answered) -> None:
        answer = answered.answer
        event = follow.add_event(
            {
                **where,
                "kind": "answer",
                "question": answer.question,
                "answer": answer.text,
                "confidence": None if answer.is_foreign else answer.confidence,
                "is_foreign": answer.is_foreign,
                "note": answer.note,
            }
        )
        if follow.standing.webhook and not self._deliver(follow, event):
            follow.num_undelivered += 1
            log.warning("a webhook of stream %s could not be reached", follow.id)

    def _deliver(self, follow: Follow, event: dict[str, Any]) -> bool:
        """Send an event to the webhook; redirects are not followed."""
        body = json.dumps(event).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for number in range(WEBHOOK_TRIES):
            if number and follow.stop.wait(_FIRST_WAIT_SECONDS * 2 ** (number - 1)):
                break
            with suppress(VocoVideoError):
                reply = ask_once(
                    follow.standing.webhook,
                    method="POST",
                    headers=headers,
                    body=body,
                    is_allowed=self._is_allowed,
                )
                reply.close()
                if 200 <= reply.status < 300:
                    return True
        return False
