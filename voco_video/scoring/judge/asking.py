"""One request to an OpenAI-compatible endpoint, through the official client, tried again where that can help."""

from __future__ import annotations

import email.utils
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voco_video.errors import JudgeError, UsageError
from voco_video.options.fields import same_option
from voco_video.options.judging import Judging
from voco_video.scoring.judge.cache import Reply

if TYPE_CHECKING:
    import openai

_HOPELESS_STATUSES = (401, 403, 404)
_HOPELESS_CODES = ("insufficient_quota", "invalid_api_key", "model_not_found")
_RETRIED_STATUSES = (408, 409, 429)
_RETRIED_FROM_STATUS = 500


class NoReplyError(Exception):
    """One question got no reply, however often it was asked; others may."""


@dataclass(frozen=True)
class AskOptions:
    """How a request is made.

    Attributes:
        model: the judge, as the endpoint names it.
        base_url: the endpoint, up to and with "/v1"; None: OpenAI's own, or $OPENAI_BASE_URL.
        timeout_seconds: for one try.
        max_retries: tries after the first.
        first_wait_seconds: before the first retry; each further wait is twice as long, and a random share of up to
            half of it is taken off, so that requests that failed together do not come back together.
        max_wait_seconds: no wait is longer, whatever the endpoint's Retry-After says.
        max_tokens: a reply is cut after this many tokens.
    """

    model: str
    base_url: str | None = None
    timeout_seconds: float = same_option(Judging, "judge_timeout")
    max_retries: int = same_option(Judging, "judge_retries")
    first_wait_seconds: float = 1.0
    max_wait_seconds: float = 60.0
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if self.timeout_seconds <= 0 or self.first_wait_seconds < 0 or self.max_wait_seconds < 0:
            raise UsageError("a judge's timeout has to be above 0 seconds, and its waits cannot be negative")
        if self.max_retries < 0 or self.max_tokens < 1:
            raise UsageError(f"max_retries {self.max_retries} or max_tokens {self.max_tokens} cannot be")


class Endpoint:
    """An endpoint that any number of threads may ask; it counts what it does.

    Attributes:
        base_url: where requests go.
        num_requests: sent so far, retries included.
        num_retries: of these, repetitions.

    Raises:
        UsageError: the client library is not installed, or the address is none.
    """

    def __init__(self, options: AskOptions, *, api_key: str) -> None:
        try:
            import openai
        except ImportError as error:
            raise UsageError("a judge needs the client library: pip install 'voco-video[judge]'") from error
        self.options = options
        self._openai = openai
        # Retries are made here: the client's own are not counted, and know no upper bound on Retry-After.
        self._client = openai.OpenAI(
            api_key=api_key, base_url=options.base_url, timeout=options.timeout_seconds, max_retries=0
        )
        self.base_url = str(self._client.base_url)
        if not self.base_url.startswith(("http://", "https://")):
            raise UsageError(f"the judge's address is {self.base_url!r}, but has to begin with http:// or https://")
        self.num_requests = self.num_retries = 0
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def stop(self) -> None:
        """Make all threads give up before their next try."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, messages: Sequence[dict[str, str]]) -> Reply:
        """The reply to one request.

        Raises:
            NoReplyError: the endpoint refuses this request, or did not reply to any try.
            JudgeError: no request can succeed: wrong key, no such model, no credit left.
        """
        for retry in range(self.options.max_retries + 1):
            if self._stopped.is_set():
                raise NoReplyError("stopped")
            with self._lock:
                self.num_requests += 1
                self.num_retries += retry > 0
            try:
                return self._ask_once(messages)
            except self._openai.APIStatusError as error:
                self._refuse_if_useless(error)
                reason, asked_to_wait = _status_reason(error), _retry_after(error.response.headers)
            except self._openai.APITimeoutError:
                reason, asked_to_wait = f"no reply within {self.options.timeout_seconds:g} s", 0.0
            except (self._openai.APIError, ValueError) as error:  # ValueError: the body is not whole JSON
                reason, asked_to_wait = _one_line(error), 0.0
            if retry < self.options.max_retries:
                self._stopped.wait(self._wait_seconds(retry, asked_to_wait))
        raise NoReplyError(f"{reason} ({self.options.max_retries + 1} tries)")

    def _ask_once(self, messages: Sequence[dict[str, str]]) -> Reply:
        turns: Any = list(messages)
        made: Any = self._client.chat.completions.create(
            model=self.options.model,
            messages=turns,
            temperature=0,
            max_tokens=self.options.max_tokens,
        )
        # The client hands through whatever JSON or text comes with status 200.
        choices = getattr(made, "choices", None)
        message = getattr(choices[0], "message", None) if choices else None
        if message is None:
            raise ValueError(f"the response holds no choices: {made!r:.120}")
        usage = made.usage
        return Reply(
            text=message.content or "",
            model=made.model,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
        )

    def _refuse_if_useless(self, error: openai.APIStatusError) -> None:
        reason = _status_reason(error)
        if error.status_code in _HOPELESS_STATUSES or error.code in _HOPELESS_CODES:
            raise JudgeError(f"{self.base_url} will not judge with {self.options.model}: {reason}") from error
        if error.status_code not in _RETRIED_STATUSES and error.status_code < _RETRIED_FROM_STATUS:
            raise NoReplyError(reason) from error

    def _wait_seconds(self, retry: int, asked_to_wait: float) -> float:
        doubled = self.options.first_wait_seconds * 2**retry
        return min(self.options.max_wait_seconds, max(asked_to_wait, doubled * random.uniform(0.5, 1)))


def _status_reason(error: openai.APIStatusError) -> str:
    return f"status {error.status_code}, {_one_line(error)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _retry_after(headers: Any) -> float:
    """Seconds that an endpoint asks to wait, as a number or as a date; 0: it does not."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
