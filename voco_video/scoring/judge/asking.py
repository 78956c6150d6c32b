"""One request to an OpenAI-compatible endpoint, through the official client and its retries."""

from __future__ import annotations

import email.utils
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from voco_video.errors import JudgeError, UsageError
from voco_video.options.judging import Judging
from voco_video.scoring.judge.cache import Reply

if TYPE_CHECKING:
    import openai

_NOT_FOUND = 404
_HOPELESS_STATUSES = (401, 403, _NOT_FOUND)
_HOPELESS_CODES = ("insufficient_quota", "invalid_api_key", "model_not_found")
_MAX_WAIT_SECONDS = 60.0
_LOCAL_KEY = "none"  # a local endpoint needs no key, but the client insists on one
MAX_REPLY_TOKENS = 64


class NoReplyError(Exception):
    """One question got no reply after all retries; other questions may still get one."""


class Endpoint:
    """An endpoint that any number of threads may ask; it counts the requests.

    Attributes:
        base_url: where requests go.
        num_requests: sent so far, retries included.
        num_retries: how many of these were retries.

    Raises:
        UsageError: there is no key for OpenAI's own endpoint, the client library is not installed, or the address is
            not one of HTTP.
    """

    def __init__(self, options: Judging) -> None:
        key = os.environ.get(options.judge_api_key_env)
        if not key and options.judge_base_url is None:
            raise UsageError(
                f"the judge needs a key: set {options.judge_api_key_env}, or name another endpoint or variable"
            )
        try:
            import openai
        except ImportError as error:
            raise UsageError("a judge needs the client library: pip install 'voco-video[judge]'") from error
        self.options = options
        self._openai = openai
        self._client = openai.OpenAI(
            api_key=key or _LOCAL_KEY,
            base_url=options.judge_base_url,
            timeout=options.judge_timeout,
            max_retries=options.judge_retries,
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [self._before_request], "response": [self._after_response]}
            ),
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
        """Send one request and return the reply.

        Raises:
            NoReplyError: the endpoint refuses this request, or did not reply to any try.
            JudgeError: no request can succeed: wrong key, no such model, no credit left.
        """
        turns: Any = list(messages)
        try:
            made: Any = self._client.chat.completions.create(
                model=self.options.judge_model or "",
                messages=turns,
                temperature=0,
                max_tokens=MAX_REPLY_TOKENS,
            )
        except self._openai.APIStatusError as error:
            reason = f"status {error.status_code}, {_one_line(error)}"
            if _is_hopeless(error.status_code, error.code):
                way_out = self._way_out() if error.status_code == _NOT_FOUND else ""
                raise JudgeError(
                    f"{self.base_url} will not judge with {self.options.judge_model}: {reason}{way_out}"
                ) from error
            raise NoReplyError(f"{reason}{_tries(error)}") from error
        except self._openai.APITimeoutError as error:
            raise NoReplyError(f"no reply within {self.options.judge_timeout:g} s{_tries(error)}") from error
        except self._openai.APIError as error:
            raise NoReplyError(f"{_one_line(error.__cause__ or error)}{_tries(error)}") from error
        except self._openai.OpenAIError as error:
            raise NoReplyError(_one_line(error)) from error
        usage = made.usage
        return Reply(
            text=made.choices[0].message.content or "",
            model=made.model,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
        )

    def _way_out(self) -> str:
        """Say how a model is served under the name of its revision."""
        name, revision = self.options.judge_name, self.options.judge_revision
        if revision is None:
            return ""
        serve = f"vllm serve {name} --revision {revision} --served-model-name {name}@{revision}"
        return f"; serve it with `{serve}`, or name a model that is there with judge_model=NAME"

    def _before_request(self, request: Any) -> None:
        """Count a request; none is sent any more once `stop` was called."""
        if self._stopped.is_set():
            raise self._openai.OpenAIError("stopped")
        with self._lock:
            self.num_requests += 1
            self.num_retries += _retry_number(request) > 0

    def _after_response(self, response: Any) -> None:
        """Correct what the client would make of a response: which ones are worth a retry, and after what wait.

        Raises:
            RemoteProtocolError: a success that is no chat completion; the client retries it like a lost connection.
        """
        response.read()
        try:
            content = response.json()
        except ValueError:
            content = None
        if response.is_success:
            if not _has_message(content):
                raise self._protocol_error(f"the response is no chat completion: {response.text!r:.120}")
            return
        if _is_hopeless(response.status_code, _error_code(content)):
            response.headers["x-should-retry"] = "false"
        if _asked_to_wait(response.headers) > _MAX_WAIT_SECONDS:
            del response.headers["retry-after"]  # the client then waits as long as without it

    def _protocol_error(self, message: str) -> Exception:
        """Make an error of the client's HTTP library, which is httpx or, in later releases, httpx2."""
        library = self._openai.DefaultHttpxClient.__base__.__module__.partition(".")[0]
        error: Exception = sys.modules[library].RemoteProtocolError(message)
        return error


def _is_hopeless(status: int, code: str | None) -> bool:
    """Say whether an error means that no request can succeed."""
    return status in _HOPELESS_STATUSES or code in _HOPELESS_CODES


def _has_message(content: Any) -> bool:
    try:
        return content["choices"][0]["message"] is not None
    except (LookupError, TypeError):
        return False


def _error_code(content: Any) -> str | None:
    error = content.get("error") if isinstance(content, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def _retry_number(request: Any) -> int:
    """Return which retry a request is, as the client counts them; 0 for the first try."""
    return int(request.headers.get("x-stainless-retry-count", "0"))


def _tries(error: openai.APIError) -> str:
    num_tries = _retry_number(error.request) + 1
    return f" ({num_tries} tries)" if num_tries > 1 else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _asked_to_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that an endpoint asks to wait, given as a number or as a date; 0 if it does not ask."""
    value = headers.get("retry-after", "")
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return 0.0
