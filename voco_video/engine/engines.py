"""Several engines as one: round robin, and another one where one dies."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from voco_video.answer.choosing import end_token_ids
from voco_video.checkpoint.fingerprints import cached_fingerprint
from voco_video.engine.export import NUM_MARK_DIGITS
from voco_video.engine.prompts import Asked, asked, check_form
from voco_video.engine.server import EngineBusyError, EngineGoneError, EngineServer, Piece
from voco_video.engine.text_model import answering_fingerprint
from voco_video.errors import EngineError
from voco_video.model.inference import undisturbed
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel
from voco_video.options.answering import MAX_QUESTIONS_PER_BATCH, AnswerOptions
from voco_video.options.compression import Form
from voco_video.options.engine import EngineOptions

log = logging.getLogger(__name__)

RECHECK_SECONDS = 5.0  # after which an engine that was gone is tried again
_MAX_WAITS = 20  # for engines that are busy, before giving up
_NUM_PROBED = 12
_LARGEST_DIFFERENCE = 0.5  # of the logarithm of a probability; other weights differ by several


class Engines:
    """Engines that generate answers for one model; `voco_video.answer.answering_model.Engine`.

    Each question goes to one of them, in turn. An engine that does not answer is left out, its question goes to another
    one, and it is tried again some seconds later. Threads may share this.

    Args:
        model: the model whose decoder they serve.
        options: their addresses.
        name: what the model is called, for messages.
        fingerprint: `answering_fingerprint`, where it is known.

    Raises:
        ModelError: the model's weights are quantized.
        EngineError: no engine answers; or one is too old, or serves something else.
    """

    def __init__(
        self, model: VocoModel, options: EngineOptions, *, name: str = "model", fingerprint: str | None = None
    ) -> None:
        fingerprint = fingerprint or answering_fingerprint(model)
        suggested = f"{name.rpartition('/')[2] or 'model'}-{fingerprint[:NUM_MARK_DIGITS]}"
        self.options = options
        self._model = model
        self._servers = [EngineServer(url, options, fingerprint, suggested_name=suggested) for url in options.urls]
        self._lock = threading.Lock()
        self._turn = 0
        self._gone: dict[EngineServer, tuple[float, str]] = dict.fromkeys(self._servers, (-math.inf, ""))
        for server in self._servers:
            self._is_back(server)
        if len(self._gone) == len(self._servers):
            raise self._all_gone()
        for _, reason in self._gone.values():
            log.warning("an engine does not answer, and is left out until it does: %s", reason)

    def close(self) -> None:
        """Close all connections."""
        for server in self._servers:
            server.close()

    @property
    def num_engines(self) -> int:
        """How many engines answer, as far as is known."""
        return len(self._servers) - len(self._gone)

    # ------------------------------------------------------------------ answers

    @property
    def kind(self) -> str:
        """What they are, for people and for the settings of a run."""
        return f"vLLM ({self.options.engine_api})"

    def check(self, form: Form) -> None:
        """Refuse a form that an engine cannot be sent.

        Raises:
            UsageError: form ``kv``.
        """
        check_form(self._model, form)

    def generate(
        self, model: VocoModel, prefix: Prefix, prompts: Sequence[Sequence[int]], *, options: AnswerOptions
    ) -> list[tuple[list[int], float]]:
        """Generate after a prefix for several prompts at once, as `voco_video.answer.generate.generate` does.

        Raises:
            UsageError, ModelError: the question cannot be put to an engine.
            EngineError: no engine answers, or one refuses the question.
        """
        questions = [asked(model, prefix, prompt, options) for prompt in prompts]
        ends = end_token_ids(model) if options.stop_at_end else set()
        if not questions:
            return []
        with ThreadPoolExecutor(min(len(questions), MAX_QUESTIONS_PER_BATCH), "voco-video engine") as pool:
            waiting = [pool.submit(self._answer, question) for question in questions]
            try:
                return [_until_end(future.result(), ends) for future in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def stream(
        self, model: VocoModel, prefix: Prefix, prompt: Sequence[int], *, options: AnswerOptions
    ) -> Iterator[tuple[int, float]]:
        """Yield each token with the logarithm of its probability; the one that ends the answer too. Errors as above.

        Where an engine breaks off, another one goes on behind the tokens that have come.
        """
        whole = asked(model, prefix, prompt, options)
        ids: list[int] = []
        tries = _Tries()
        while True:
            with undisturbed():
                left = whole.going_on(model.backbone.embed(torch.tensor(ids, dtype=torch.long)))
            server = self._next(tries)
            try:
                for piece in server.stream(left):
                    for token_id, log_prob in zip(piece.token_ids, piece.log_probs):
                        ids.append(token_id)
                        yield token_id, log_prob
                    if piece.is_last or len(ids) >= options.max_new_tokens:
                        return
            except (EngineGoneError, EngineBusyError) as error:
                self._failed(server, error, tries)

    def _answer(self, question: Asked) -> Piece:
        tries = _Tries()
        while True:
            server = self._next(tries)
            try:
                return server.answer(question)
            except (EngineGoneError, EngineBusyError) as error:
                self._failed(server, error, tries)

    # ------------------------------------------------------------------ which engine

    def _next(self, tries: _Tries) -> EngineServer:
        """Choose the engine whose turn it is; one that was gone is checked before it is asked again.

        Raises:
            EngineError: none answers.
        """
        for is_last_resort in (False, True):
            for server in self._in_turn():
                with self._lock:
                    since, _ = self._gone.get(server, (None, ""))
                is_due = since is None or time.monotonic() - since >= RECHECK_SECONDS
                if server in tries.gone or not (is_due or is_last_resort):
                    continue
                if since is None or self._is_back(server):
                    return server
        raise self._all_gone()

    def _in_turn(self) -> list[EngineServer]:
        with self._lock:
            first = self._turn % len(self._servers)
            self._turn += 1
        return self._servers[first:] + self._servers[:first]

    def _failed(self, server: EngineServer, error: Exception, tries: _Tries) -> None:
        """Note that an engine did not answer, or wait for one that is busy."""
        if isinstance(error, EngineBusyError):
            tries.num_waits += 1
            if tries.num_waits > _MAX_WAITS:
                raise EngineError(f"the engines are busy: {error}") from error
            time.sleep(error.seconds)
            return
        tries.gone.add(server)
        with self._lock:
            self._gone[server] = time.monotonic(), str(error)
        log.warning("an engine does not answer, and is left out until it does: %s", error)

    def _is_back(self, server: EngineServer) -> bool:
        """Check an engine that was gone.

        Raises:
            EngineError: it answers, but is not what it has to be.
        """
        try:
            server.check()
            self._probe(server)
        except (EngineGoneError, EngineBusyError) as error:
            with self._lock:
                self._gone[server] = time.monotonic(), str(error)
            return False
        with self._lock:
            self._gone.pop(server, None)
        return True

    def _all_gone(self) -> EngineError:
        with self._lock:
            reasons = [reason for _, reason in self._gone.values() if reason]
        some = (
            f"none of {len(self._servers)} engines answers" if len(self._servers) > 1 else "the engine does not answer"
        )
        listed = "; ".join(reasons) or "each failed at this question"
        return EngineError(f"{some} ({listed}); start one, or leave out engine_url")

    def _probe(self, server: EngineServer) -> None:
        """Ask for one token whose probability is known here: a name is no proof of weights.

        Raises:
            EngineError: the engine computes something else.
        """
        model = self._model
        backbone, size = model.backbone, model.backbone.text_config.vocab_size
        ids = torch.arange(1, _NUM_PROBED + 1) * (size // (_NUM_PROBED + 1)) % size
        with undisturbed():
            embeds = backbone.embed(ids)  # [T, D]
            with model.answering("embeds"):
                hidden = backbone.decoder(inputs_embeds=embeds[None]).last_hidden_state
            expected = backbone.logits(hidden[:, -1])[0].float().log_softmax(-1)  # [vocabulary]
        settings: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, "skip_special_tokens": False}
        piece = server.answer(Asked(embeds, settings, 1))
        if len(piece.token_ids) != 1 or piece.token_ids[0] >= len(expected):
            raise EngineError(f"{server.url} does not tell tokens and their probabilities as vLLM 0.24 and later do")
        known, told = float(expected[piece.token_ids[0]]), piece.log_probs[0]
        if not abs(known - told) <= _LARGEST_DIFFERENCE:
            raise EngineError(
                f"{server.url} computes something else than this model, under its name (a token's log-probability is "
                f"{told:.3f} there and {known:.3f} here); serve what `voco-video export-llm` wrote, unchanged"
            )


def connect(model: VocoModel, options: EngineOptions, *, name: str, cache_dir: Path) -> Engines:
    """Connect to engines; the fingerprint of a large model's answering weights is remembered in the cache's folder.

    Raises:
        UsageError, ModelError, EngineError: see `Engines`.
    """
    compute = partial(answering_fingerprint, model)
    fingerprint = cached_fingerprint(model, compute, what="answering", cache_dir=cache_dir)
    return Engines(model, options, name=name, fingerprint=fingerprint)


class _Tries:
    """How often one question was put to engines.

    Attributes:
        gone: the engines that failed at it.
        num_waits: how often it waited for a busy one.
    """

    def __init__(self) -> None:
        self.gone: set[EngineServer] = set()
        self.num_waits = 0


def _until_end(piece: Piece, ends: set[int]) -> tuple[list[int], float]:
    """Cut at the first end token, whose probability counts too."""
    ids = list(piece.token_ids)
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    counted = piece.log_probs[: length + 1]
    return ids[:length], math.exp(sum(counted) / len(counted))
