"""The application: routes behind the guard, and what happens when it starts and stops."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voco_video.api import VideoModel
from voco_video.serve import (
    chapters_api,
    find_api,
    jobs_api,
    library_api,
    live_api,
    media_api,
    openai_chat,
    page_api,
    session_api,
    uploads_api,
)
from voco_video.serve.openai_errors import add_error_handlers
from voco_video.serve.safety.addresses import IsAllowed, is_public
from voco_video.serve.safety.guard import Guard
from voco_video.serve.service import Service
from voco_video.serve.settings import ServeOptions
from voco_video.version import __version__

log = logging.getLogger("voco_video.serve")
_ROUTES = (
    *(openai_chat, library_api, uploads_api, media_api, find_api, chapters_api, live_api, jobs_api, session_api),
)
PAGE = Path(__file__).parent / "page"
_ABOUT = """Ask questions of videos that were compressed once. `/v1` speaks OpenAI's protocol, `/api` keeps the library.

With an API key every request sends `Authorization: Bearer KEY`. Errors have OpenAI's form."""


def create_app(model: VideoModel, settings: ServeOptions, *, is_allowed: IsAllowed = is_public) -> FastAPI:
    """Make the application of a server.

    Args:
        model: is computed with in one thread.
        is_allowed: tells which addresses URLs may lead to, where URLs are allowed at all.

    Returns:
        An ASGI application; ``app.state.service`` is what its routes share.
    """
    service = Service(model, settings, is_allowed=is_allowed)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if num_begun := await asyncio.to_thread(service.take_up):
            log.info(json.dumps({"event": "taken up", "jobs": num_begun}))
        yield
        handed_back = await asyncio.to_thread(service.stop)
        log.info(json.dumps({"event": "stopped", "handed_back": handed_back}))

    app = FastAPI(
        title="voco-video", version=__version__, description=_ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None,
        openapi_url="/openapi.json",
    )  # fmt: skip
    app.state.service = service
    add_error_handlers(app)
    for routes in (
        openai_chat,
        library_api,
        uploads_api,
        media_api,
        find_api,
        chapters_api,
        live_api,
        jobs_api,
        session_api,
        page_api,
    ):
        app.include_router(routes.router)
    _add_health(app, service)
    _add_page(app)
    app.add_middleware(Guard, settings=settings, is_upload=_is_upload)
    app.add_middleware(_Logged, service=service)
    return app


def _is_upload(method: str, path: str) -> bool:
    return (method == "POST" and path == "/api/videos") or (method == "PATCH" and path.startswith("/api/uploads/"))


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["Operation"], summary="Whether the server runs.")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", tags=["Operation"], summary="Whether questions are taken.")
    async def ready() -> Response:
        is_ready = service.queue.is_alive and not service.is_stopping
        return JSONResponse({"status": "ready" if is_ready else "stopping"}, 200 if is_ready else 503)

    @app.get("/metrics", tags=["Operation"], summary="What Prometheus reads.", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    index = PAGE / "index.html"

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        if not index.is_file():
            return PlainTextResponse("voco-video serves /v1 and /api; see /openapi.json\n")
        return Response(index.read_bytes(), media_type="text/html; charset=utf-8")

    if PAGE.is_dir():
        app.mount("/page", StaticFiles(directory=PAGE, follow_symlink=False))


class _Logged:
    """ASGI middleware that counts and logs requests, as one line of JSON each, by route and not by path."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log it when it is over."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            self._log(scope, status, time.perf_counter() - started)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._service.metrics.requests.labels(route, method, str(status)).inc()
        self._service.metrics.request_seconds.labels(route).observe(seconds)
        client = scope.get("client") or ("",)
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "event": "request",
            "method": method,
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
            "client": client[0],
        }
        if self._service.settings.log_questions:
            state = scope.get("state") or {}
            line |= {name: state[name] for name in ("question", "answer") if name in state}
        log.info(json.dumps(line, ensure_ascii=False))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
