"""OpenAI's protocol: ``/v1/models`` and ``/v1/chat/completions``, whole or streamed."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.generate import Answer
from voco_video.answer.moments import Moment
from voco_video.answer.several_videos import concat
from voco_video.serve.answering import Answered, Ask
from voco_video.serve.depends import EVENT_HEADERS, Served
from voco_video.serve.openai_errors import ApiError, as_api_error
from voco_video.serve.openai_request import EXAMPLE_ANSWER, ChatRequest, Wanted, read_request
from voco_video.serve.queue import StoppingError
from voco_video.serve.service import Service, stopping

log = logging.getLogger(__name__)
KEEP_ALIVE_SECONDS = 5.0
GONE_POLL_SECONDS = 0.2
Shown = list[tuple[str, CompressedVideo]]
"""The name and the frames of each video of a question."""


router = APIRouter(prefix="/v1", tags=["OpenAI's protocol"])


@router.get("/models", summary="The models of this server: one.")
async def models(service: Served) -> dict[str, Any]:
    """List the model."""
    return {"object": "list", "data": [_model_card(service)]}


@router.get("/models/{name:path}", summary="What is known of a model.")
async def model(service: Served, name: str) -> dict[str, Any]:
    """Return the model, where this is its name."""
    _check_model(service, name)
    return _model_card(service)


@router.post(
    "/chat/completions",
    summary="Answer a conversation about videos and pictures.",
    response_class=JSONResponse,
    responses={
        200: {
            "description": "An answer; with stream=true server-sent events.",
            "content": {"application/json": {"example": EXAMPLE_ANSWER}, "text/event-stream": {}},
        }
    },
)
async def chat_completions(service: Served, body: ChatRequest, request: Request) -> Response:
    """Answer, whole or streamed; a client that leaves cancels its answer."""
    _check_model(service, body.model)
    wanted = read_request(body, service.settings)
    request.state.question = wanted.conversation.question
    completion = _Completion(service, wanted)
    if wanted.stream:
        first = await unless_gone(request, completion.begun())
        return StreamingResponse(first, media_type="text/event-stream", headers=EVENT_HEADERS)
    answered = await unless_gone(request, completion.whole())
    request.state.answer = answered.answer.text
    return JSONResponse(completion.body(answered))


async def unless_gone(request: Request, work: Any) -> Any:
    """Wait for work; when the client has gone, cancel it.

    Raises:
        ApiError: the client has gone; nobody reads this.
    """
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait([task], timeout=GONE_POLL_SECONDS)
            if done:
                return task.result()
            if await request.is_disconnected():
                raise ApiError(499, "the client has gone", code="client_gone")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


class _Completion:
    """One request while it is answered."""

    def __init__(self, service: Service, wanted: Wanted) -> None:
        self._service, self._wanted = service, wanted
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created, self._started = int(time.time()), time.perf_counter()
        self._shown: Shown = []

    async def whole(self) -> Answered:
        """Answer it."""
        return await self._service.answered(await self._ask())

    async def begun(self) -> AsyncIterator[str]:
        """Get everything ready, so that what is wrong is refused with a status, and return the stream of events."""
        pieces: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        ask = await self._ask()

        def hand_over(piece: str) -> None:
            with suppress(RuntimeError):  # the server has stopped
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        ask.on_piece = hand_over
        self._service.submit(ask)
        return self._events(ask, pieces)

    async def _ask(self) -> Ask:
        wanted = self._wanted
        self._shown = await shown_videos(self._service, wanted)
        video = concat([video for _, video in self._shown]) if self._shown else None
        if len(self._shown) > 1:
            video, _ = self._service.queue.kept(video)  # type: ignore[arg-type]
        if video is not None and video.foreign_note and not wanted.anyway:
            raise ApiError(
                400,
                f"no answer: {video.foreign_note}; voco_video.anyway=true answers all the same",
                param="messages",
                code="foreign_video",
            )
        return Ask(
            video,
            wanted.conversation.question,
            wanted.conversation.history,
            wanted.view,
            wanted.num_voco_tokens,
            wanted.options,
            wanted.stop,
            wanted.with_attention,
        )

    async def _events(self, ask: Ask, pieces: asyncio.Queue[str]) -> AsyncIterator[str]:
        answered = asyncio.wrap_future(ask.future)
        has_begun = False
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            while not (answered.done() and pieces.empty()):
                piece = await _next_piece(pieces, answered)
                if piece is None:
                    yield ": the answer is on its way\n\n"
                elif piece:
                    if not has_begun:
                        has_begun = True
                        self._service.metrics.first_piece_seconds.observe(time.perf_counter() - self._started)
                    yield self._chunk({"content": piece})
            try:
                result = answered.result()
            except StoppingError:
                raise stopping() from None
            self._service.count_answer(result)
            yield self._chunk({}, finish=result.finish, extra={"voco_video": self._extras(result)})
            if self._wanted.include_usage:
                yield _event({**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(result)})
            yield "data: [DONE]\n\n"
        except Exception as error:
            yield _event(as_api_error(error).body())
        finally:
            ask.cancel()  # whoever left does not need the rest

    def body(self, answered: Answered) -> dict[str, Any]:
        """Return the whole answer in OpenAI's form."""
        message = {"role": "assistant", "content": answered.answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answered.finish}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": _usage(answered),
            "voco_video": self._extras(answered),
        }

    def _head(self, kind: str) -> dict[str, Any]:
        name = self._service.model.name
        return {"id": self._id, "object": kind, "created": self._created, "model": name, "system_fingerprint": None}

    def _chunk(self, delta: dict[str, Any], *, finish: str | None = None, extra: dict[str, Any] | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice], **(extra or {})})

    def _extras(self, answered: Answered) -> dict[str, Any]:
        return answer_extras(answered.answer, self._shown)


async def _next_piece(pieces: asyncio.Queue[str], answered: asyncio.Future[Answered]) -> str | None:
    """Return the next piece, "" where the answer is over, None where nothing came for a while."""
    get = asyncio.ensure_future(pieces.get())
    both: set[asyncio.Future[Any]] = {get, answered}
    done, _ = await asyncio.wait(both, timeout=KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    if get in done:
        return get.result()
    get.cancel()
    if answered in done:
        await asyncio.sleep(0)  # pieces that the other thread has sent are in the queue by then
        return "" if pieces.empty() else pieces.get_nowait()
    return None


async def shown_videos(service: Service, wanted: Wanted) -> Shown:
    """Get the frames of each video of a request, in order; those that were not compressed before are."""
    shown: Shown = []
    for kind, url in wanted.conversation.media:
        work = service.sources.of_image_url if kind == "image" else service.sources.of_video_url
        source = await service.read(lambda work=work, url=url: work(url))  # type: ignore[misc]
        video = await service.compressed(source, wanted.sampling, wanted.compress)
        start, end = wanted.window
        if kind == "video" and (start is not None or end is not None):
            video, _ = service.queue.kept(video[start:end])
        shown.append((source.name, video))
    return shown


def answer_extras(answer: Answer, shown: Shown) -> dict[str, Any]:
    """Return what OpenAI's protocol has no place for: the note, and where in which video the evidence is."""
    extras: dict[str, Any] = {
        "note": answer.note,
        "confidence": None if answer.is_foreign else answer.confidence,
        "is_foreign": answer.is_foreign,
        "num_frames": answer.num_frames,
        "num_voco_tokens": answer.num_voco_tokens,
        "videos": [
            {
                "video": video.parts[0].entry.key.video_digest,
                "entry": video.parts[0].entry.digest,
                "name": name,
            }
            for name, video in shown
        ],
        "evidence": [{**_moment(moment), "video": _place(moment, answer, shown)} for moment in answer.evidence],
    }
    if answer.frame_attention is not None:
        extras["video_attention"] = answer.video_attention
        extras["frames"] = [
            {"pts_seconds": float(t), "attention": float(a)}
            for t, a in zip(answer.frame_pts_seconds, answer.frame_attention, strict=True)
        ]
    return extras


def _moment(moment: Moment) -> dict[str, Any]:
    return {name: value for name, value in asdict(moment).items() if value is not None}


def _place(moment: Moment, answer: Answer, shown: Shown) -> int:
    """Return the number of the video that a moment is in."""
    if len(shown) < 2:
        return 0
    times = np.concatenate([video.pts_seconds for _, video in shown])
    owners = np.repeat(np.arange(len(shown)), [video.num_frames for _, video in shown])
    at_peak = times == moment.peak_seconds
    if answer.frame_attention is not None and len(answer.frame_attention) == len(times):
        at_peak &= np.isclose(answer.frame_attention, moment.score)
    elif answer.frame_attention is None:
        video = concat([video for _, video in shown])
        at_peak &= np.isclose(video.frame_scores(answer.question), moment.score)
    return int(owners[np.flatnonzero(at_peak)[0]]) if at_peak.any() else 0


def _usage(answered: Answered) -> dict[str, int]:
    prompt, new = answered.num_prompt_tokens, answered.num_new_tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _model_card(service: Service) -> dict[str, Any]:
    created = int(service.started_unix_seconds)
    return {"id": service.model.name, "object": "model", "created": created, "owned_by": "voco-video"}


def _check_model(service: Service, name: str) -> None:
    if name != service.model.name:
        raise ApiError(
            404, f"the model {name!r:.80} does not exist here; this server has {service.model.name!r}",
            param="model", code="model_not_found",
        )  # fmt: skip
