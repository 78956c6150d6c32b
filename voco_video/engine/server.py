"""One vLLM server: whether it is the right one, and one question to it, through the official client."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voco_video.engine.export import NUM_MARK_DIGITS, mark_of
from voco_video.engine.prompts import VERBATIM_ROLE, Asked
from voco_video.errors import EngineError, UsageError
from voco_video.files.urls import scrubbed, shown_name
from voco_video.options.engine import EngineOptions

if TYPE_CHECKING:
    import openai

OLDEST_VLLM = (0, 24)
_TOO_OLD = (
    "a request with embeddings ends engines before 0.24.0 whose model has positions of three coordinates "
    "(CVE-2026-55514)"
)
KEY_VARIABLE = "VLLM_API_KEY"
_NO_KEY = "none"  # an engine may need none, but the client insists on one
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 10.0
_LONGEST_WAIT_SECONDS = 30.0
_REFUSED = (401, 403)


class EngineGoneError(Exception):
    """An engine that did not answer: another one may."""


class EngineBusyError(Exception):
    """An engine that asked to come back later.

    Attributes:
        seconds: how much later.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True)
class Piece:
    """Some of an answer's tokens.

    Attributes:
        token_ids: in order, the one that ends the answer among them.
        log_probs: the logarithm of each one's probability.
        is_last: whether the answer ends here.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...] = ()
    is_last: bool = False


class EngineServer:
    """One vLLM server.

    Any number of threads may ask it.

    Attributes:
        url: its address, without secrets.
        max_length: the most tokens of prompt and answer; None where it does not say.
    """

    def __init__(self, url: str, options: EngineOptions, fingerprint: str, *, suggested_name: str) -> None:
        import openai

        self._openai, self._secret_url = openai, url
        # The client's HTTP library is httpx or, in later releases, httpx2.
        library = openai.DefaultHttpxClient.__base__.__module__.partition(".")[0]
        self._http_error: type[Exception] = sys.modules[library].HTTPError
        self.url = shown_name(url)
        self._options, self._fingerprint, self._suggested = options, fingerprint, suggested_name
        self.max_length: int | None = None
        self._name = ""
        timeout = openai.Timeout(options.engine_timeout, connect=_CONNECT_SECONDS)
        self._http = openai.DefaultHttpxClient()
        self._client = openai.OpenAI(
            api_key=os.environ.get(KEY_VARIABLE) or _NO_KEY,
            base_url=f"{url}/v1",
            timeout=timeout,
            max_retries=0,
            http_client=self._http,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # ------------------------------------------------------------------ is it there, and the right one

    def check(self) -> None:
        """Check that the server answers, is new enough, and serves this model.

        Raises:
            EngineGoneError: it does not answer.
            EngineError: it is too old, or serves something else.
        """
        self._get("/health")
        self._check_version(self._get("/version"))
        with self._errors():
            cards = [card.model_dump() for card in self._client.models.list().data]
        mark = self._fingerprint[:NUM_MARK_DIGITS]
        mine = [card for card in cards if mark_of(str(card["id"])) == mark]
        if not mine:
            served = ", ".join(repr(str(card["id"]))[:80] for card in cards) or "nothing"
            raise EngineError(
                f"{self.url} serves {served}, which is not what `voco-video export-llm` writes of this model; export "
                f"it, and start the engine with --served-model-name {self._suggested}"
            )
        self._name = str(mine[0]["id"])
        length = mine[0].get("max_model_len")
        self.max_length = length if isinstance(length, int) and length > 0 else None

    def _get(self, path: str) -> Any:
        """Fetch what stands beside ``/v1``: JSON, or None where it is none."""
        try:
            key = {"Authorization": f"Bearer {self._client.api_key}"}
            response = self._http.get(f"{self._secret_url}{path}", headers=key, timeout=_PROBE_SECONDS)
        except self._http_error as error:
            raise EngineGoneError(f"{self.url}: {self._told(error)}") from error
        if response.status_code in _REFUSED:
            raise self._refusal(response.status_code)
        if response.status_code >= 500:
            raise EngineGoneError(f"{self.url}{path}: status {response.status_code}")
        try:
            return response.json() if response.status_code == 200 else None
        except ValueError:
            return None

    def _check_version(self, told: Any) -> None:
        version = told.get("version") if isinstance(told, Mapping) else None
        numbers = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
        if not isinstance(version, str) or numbers is None:
            raise EngineError(
                f"{self.url} does not say which vLLM it is (/version: {str(version)[:40]!r}); it has to be vLLM 0.24.0 "
                "or later"
            )
        if (int(numbers[1]), int(numbers[2])) < OLDEST_VLLM:
            raise EngineError(f"{self.url} is vLLM {version[:40]}: {_TOO_OLD}; install 0.24.0 or later")

    # ------------------------------------------------------------------ one question

    def answer(self, asked: Asked) -> Piece:
        """Answer a question as a whole.

        Raises:
            EngineGoneError, EngineBusyError: another try may succeed.
            EngineError: none can.
        """
        with self._errors():
            reply = self._create(asked, stream=False).model_dump()
            self._check_prompt(reply, asked)
            piece = _piece(reply, asked)
            if not (piece.is_last and piece.token_ids):
                raise _MalformedError("the reply holds no whole answer")
            return piece

    def stream(self, asked: Asked) -> Iterator[Piece]:
        """Answer a question token by token; errors as above, also after some tokens."""
        with self._errors():
            is_over = is_checked = has_tokens = False
            chunks = self._create(asked, stream=True)
            try:
                for chunk in chunks:
                    told = chunk.model_dump()
                    if told.get("choices"):
                        if not is_checked:
                            self._check_prompt(told, asked)
                            is_checked = True
                        piece = _piece(told, asked)
                        is_over |= piece.is_last
                        has_tokens |= bool(piece.token_ids)
                        yield piece
            finally:
                chunks.close()  # an engine stops what nobody reads any more
            if not (is_over and has_tokens):
                raise EngineGoneError(f"{self.url}: the answer broke off")

    def _create(self, asked: Asked, *, stream: bool) -> Any:
        self._check_length(asked)
        known = ("temperature", "seed", "top_p")
        common = {name: asked.settings[name] for name in known if name in asked.settings}
        extra = {name: value for name, value in asked.settings.items() if name not in known}
        extra["return_token_ids"] = True
        common |= {"model": self._name, "max_tokens": asked.max_new_tokens, "stream": stream}
        if self._options.engine_api == "completions":
            extra["prompt_embeds"] = asked.payload
            prompt: Any = None
            return self._client.completions.create(prompt=prompt, logprobs=0, extra_body=extra, **common)
        part = {"type": "prompt_embeds", "data": asked.payload}
        messages: Any = [{"role": VERBATIM_ROLE, "content": [part]}]
        return self._client.chat.completions.create(messages=messages, logprobs=True, extra_body=extra, **common)

    def _check_length(self, asked: Asked) -> None:
        length, most = len(asked.embeds), self.max_length
        if most is not None and length + asked.max_new_tokens > most:
            raise UsageError(
                f"{self.url} takes {most} tokens of prompt and answer, and this question has {length} and up to "
                f"{asked.max_new_tokens}; give a smaller max_voco_tokens or max_new_tokens, or start the engine with a "
                "larger --max-model-len"
            )

    def _check_prompt(self, told: Mapping[str, Any], asked: Asked) -> None:
        """Check that the engine read what it was sent, and nothing else around it.

        Raises:
            EngineError: it did not.
        """
        ids = told.get("prompt_token_ids")
        if ids is None and told.get("choices"):
            ids = told["choices"][0].get("prompt_token_ids")
        if not isinstance(ids, list):
            raise EngineError(
                f"{self.url} does not say which prompt it read (prompt_token_ids); ask a vLLM server itself"
            )
        if len(ids) != len(asked.embeds):
            raise EngineError(
                f"{self.url} read another prompt than it was sent ({len(ids)} tokens for {len(asked.embeds)}): its "
                "chat template is not the exported one; serve what `voco-video export-llm` wrote, unchanged"
            )

    # ------------------------------------------------------------------ errors

    def _errors(self) -> _Errors:
        return _Errors(self)

    def _refusal(self, status: int) -> EngineError:
        return EngineError(f"{self.url} refuses the key (status {status}); set {KEY_VARIABLE}")

    def _told(self, error: Exception) -> str:
        """Return another library's message on one line, without secrets and without what it repeats of a payload."""
        message = scrubbed(str(error) or type(error).__name__, self._secret_url)
        cause = error.__cause__
        if cause is not None and str(cause) and str(cause) not in message:
            message = f"{message} ({scrubbed(str(cause), self._secret_url)})"
        return message if len(message) <= 500 else f"{message[:500]}..."

    def translated(self, error: Exception) -> Exception | None:
        """Return what an error of the client means; None for errors of ours."""
        api = self._openai
        if isinstance(error, api.RateLimitError):
            return EngineBusyError(f"{self.url}: {self._told(error)}", _retry_after(error))
        if isinstance(error, api.InternalServerError | api.APIConnectionError | self._http_error):
            return EngineGoneError(f"{self.url}: {self._told(error)}")
        if isinstance(error, api.APIStatusError):
            if error.status_code in _REFUSED:
                return self._refusal(error.status_code)
            if error.status_code == 404:
                return EngineError(f"{self.url} does not serve {self._name!r} any more: {self._told(error)}")
            hint = "; start it with --enable-prompt-embeds" if "prompt-embeds" in str(error) else ""
            return EngineError(f"{self.url} refuses the question: {self._told(error)}{hint}")
        if isinstance(error, api.APIError | json.JSONDecodeError | _MalformedError):
            return EngineGoneError(f"{self.url}: {self._told(error)}")
        return None


class _Errors:
    """Turn errors of the client into ours, for the length of a block."""

    def __init__(self, server: EngineServer) -> None:
        self._server = server

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and (ours := self._server.translated(error)) is not None:
            raise ours from error


class _MalformedError(Exception):
    """A reply that is not what vLLM sends."""


def _piece(told: Mapping[str, Any], asked: Asked) -> Piece:
    """Read tokens off a reply, or off a part of one.

    Raises:
        _MalformedError: something else stands there.
    """
    try:
        choice = told["choices"][0]
        ids = choice.get("token_ids") or []
        log_probs = choice.get("logprobs") or {}
        numbers = log_probs.get("token_logprobs")
        if numbers is None:
            numbers = [one["logprob"] for one in log_probs.get("content") or []]
        piece = Piece(tuple(ids), tuple(map(float, numbers)), choice.get("finish_reason") is not None)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _MalformedError(f"the reply is not one of vLLM's: {str(told)[:200]}") from error
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in piece.token_ids):
        raise _MalformedError(f"the reply has no token ids: {str(told)[:200]}")
    if piece.is_last and choice["finish_reason"] not in ("stop", "length"):
        raise _MalformedError(f"the answer ended for {choice['finish_reason']!r}")
    if len(piece.token_ids) != len(piece.log_probs):
        raise _MalformedError(f"{len(piece.token_ids)} tokens came with {len(piece.log_probs)} probabilities")
    if len(piece.token_ids) > asked.max_new_tokens:
        raise _MalformedError(f"{len(piece.token_ids)} tokens came where {asked.max_new_tokens} were asked for")
    return piece


def _retry_after(error: openai.RateLimitError) -> float:
    """Return the seconds that a reply asks to wait, half a second where it does not say."""
    told = error.response.headers.get("retry-after", "")
    return min(float(told), _LONGEST_WAIT_SECONDS) if re.fullmatch(r"\d+(\.\d+)?", told) else 0.5
