"""Live sources: follow one, ask standing questions of each new stretch, and hear the answers."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from voco_video.errors import VocoVideoError
from voco_video.files.urls import scheme_of
from voco_video.serve.depends import EVENT_HEADERS, EVENTS, Served
from voco_video.serve.live import Follow, Opened, Standing
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.openai_request import MAX_FPS
from voco_video.serve.safety.paths import below
from voco_video.serve.service import Service

log = logging.getLogger(__name__)
POLL_SECONDS, KEEP_ALIVE_SECONDS = 0.2, 10.0

router = APIRouter(prefix="/api/follow", tags=["Live sources"])


class FollowRequest(BaseModel):
    """A source that is still being made."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "source": "recordings/door.ts",
                "name": "door",
                "questions": ["Is somebody at the door?"],
                "every_seconds": 10,
            }
        },
    )
    source: str = Field(
        min_length=1,
        max_length=4096,
        description="A file below the media root that is being written, an http(s) URL where those are allowed, or a "
        "source that the server was started with (--live).",
    )
    name: str = Field(min_length=1, max_length=100, description="Of the entry; the same name continues it.")
    fps: float = Field(default=1.0, gt=0, le=MAX_FPS)
    idle_seconds: float = Field(default=30.0, gt=0, le=86400, description="It has ended when nothing came for so long.")
    questions: list[Annotated[str, Field(min_length=1, max_length=2000)]] = Field(default=[], max_length=8)
    every_seconds: float = Field(default=10.0, ge=1, le=86400, description="Ask of stretches of this length.")
    max_tokens: int = Field(default=64, ge=1, le=1024)
    webhook: str | None = Field(default=None, max_length=4096, description="URL that each answer is sent to.")


def follow_of(service: Served, follow: Annotated[str, InPath()]) -> Follow:
    """Return the followed source that the path names."""
    found = service.follows.get(follow)
    if found is None:
        raise ApiError(404, f"no source {follow!r:.60} is followed", code="no_such_follow")
    return found


NamedFollow = Annotated[Follow, Depends(follow_of)]


@router.post("", status_code=201, summary="Follow a live source, and ask standing questions.")
async def begin(service: Served, body: FollowRequest) -> dict[str, Any]:
    """Begin to compress a source while it is made; it is a video of the library from its first frames on."""
    if body.webhook is not None:
        service.sources.remote(body.webhook, 1)
        if scheme_of(body.webhook) not in ("http", "https"):
            raise ApiError(400, "webhook: give an http(s) URL", param="webhook")
    if body.webhook is not None and not body.questions:
        raise ApiError(400, "webhook: there are no questions whose answers it could get", param="webhook")
    most = min(body.max_tokens, service.settings.max_answer_tokens)
    standing = Standing(tuple(body.questions), body.every_seconds, body.webhook or "", most)
    opening = partial(_open_stream, service, body)
    follow = await service.read(partial(service.follows.begin, opening, body.name, standing))
    return follow.facts()


def _open_stream(service: Service, body: FollowRequest) -> Opened:
    address, marker, fetching, folder = body.source, None, None, None
    if body.source not in service.settings.live_sources:
        if scheme_of(body.source) in ("http", "https"):
            folder = Path(tempfile.mkdtemp(prefix="voco-video-live-"))
            path, marker, fetching = _growing_download(service, body.source, folder)
            address = str(path)
        elif "://" in body.source or body.source == "-":
            raise ApiError(
                403, "this source is none of those that the server was started with (--live)", code="source_not_allowed"
            )
        else:
            address = str(below(body.source, service.settings.media_root))
    try:
        stream = service.model.open_stream(
            address, fps=body.fps, name=body.name, idle_seconds=body.idle_seconds, end_marker=marker
        )
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if fetching is not None:
        fetching.start()

    def close() -> None:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    return stream, close


def _growing_download(service: Service, url: str, folder: Path) -> tuple[Path, Path, threading.Thread]:
    """Fetch a URL into a file that can be followed meanwhile; returns it, the path that marks its end, and the thread.

    Raises:
        ApiError: this server fetches no URLs.
    """
    remote = service.sources.remote(url, service.settings.max_upload_bytes)
    path, marker = folder / "live", folder / "ended"
    path.touch()

    def fetch() -> None:
        try:
            with open(path, "wb", buffering=0) as out:
                remote.fetch(out, {}, lambda done, total: None)
        except VocoVideoError as error:
            log.warning("%s", error)
        finally:
            marker.touch()

    thread = threading.Thread(target=fetch, name="voco-video fetch", daemon=True)
    return path, marker, thread


@router.get("", summary="The sources that are followed, and those that were.")
async def follows(service: Served) -> dict[str, Any]:
    """List them, the latest first."""
    return {"follows": [one.facts() for one in service.follows.all()]}


@router.get("/{follow}", summary="How far a followed source has come, and its latest answers.")
async def follow_facts(follow: NamedFollow, after: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
    """Return one, with the events behind a number."""
    return {**follow.facts(), "events": [event for event in list(follow.events) if event["number"] > after]}


@router.delete("/{follow}", summary="Stop following a source; what is compressed stays.")
async def stop(service: Served, follow: NamedFollow) -> dict[str, Any]:
    """Stop, and publish what is compressed."""
    follow.stop.set()
    return follow.facts()


@router.get("/{follow}/events", summary="Progress and answers as they come, as server-sent events.",
            response_class=StreamingResponse, responses=EVENTS)  # fmt: skip
async def events(follow: NamedFollow, after: Annotated[int, Query(ge=0)] = 0) -> StreamingResponse:
    """Send ``progress`` with the state, and ``answer``, ``skipped`` or ``failed`` for each question of a stretch."""
    return StreamingResponse(_events(follow, after), media_type="text/event-stream", headers=EVENT_HEADERS)


async def _events(follow: Follow, after: int) -> AsyncIterator[str]:
    seen, waited = -1, 0.0
    while True:
        version, is_over = follow.version, follow.state != "running"
        for event in [event for event in list(follow.events) if event["number"] > after]:
            after = event["number"]
            yield f"id: {after}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n"
        if version != seen:
            seen, waited = version, 0.0
            yield f"event: {follow.state if is_over else 'progress'}\ndata: {json.dumps(follow.facts())}\n\n"
        if is_over and version == follow.version:
            return
        await asyncio.sleep(POLL_SECONDS)
        waited += POLL_SECONDS
        if waited >= KEEP_ALIVE_SECONDS:
            waited = 0.0
            yield ": still here\n\n"
