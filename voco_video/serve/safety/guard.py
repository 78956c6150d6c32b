"""The first thing that a request meets: whose it is, what page sent it, how large it is, and how it is answered."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voco_video.serve.openai_errors import ApiError
from voco_video.serve.settings import ServeOptions

COOKIE = "voco_video_session"
OPEN_PATHS = frozenset({"/health", "/ready", "/", "/api/session"})
_PAGE_PREFIX = "/page/"
MAX_HEADER_BYTES = 16 << 10
SILENT_SECONDS = 60.0
_CLOSE = {"Connection": "close"}  # so that the rest of the body is not waited for
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Guard:
    """ASGI middleware that refuses what must not reach a route, and adds the headers that browsers obey.

    Args:
        is_upload: tells by method and path whether a request's body is a video.
    """

    def __init__(self, app: ASGIApp, settings: ServeOptions, is_upload: Callable[[str, str], bool]) -> None:
        self._app, self._settings, self._is_upload = app, settings, is_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request and pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none here
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in _HEADERS if h[0] not in names)]
                if b"cache-control" not in names:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        try:
            limit = self._check(scope)
        except ApiError as error:
            await _answer(error, send_with_headers)
            return
        await self._app(scope, _Limited(receive, limit), send_with_headers)

    def _check(self, scope: Scope) -> int:
        """Refuse a request by its head, or return how many bytes its body may have."""
        raw: list[tuple[bytes, bytes]] = scope["headers"]
        if sum(len(name) + len(value) for name, value in raw) > MAX_HEADER_BYTES:
            raise ApiError(431, "the request's headers are too large")
        if len([1 for name, _ in raw if name == b"host"]) > 1:
            raise ApiError(400, "the request names two hosts")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
        self._check_host(headers.get("host", ""))
        self._check_origin(headers, scope["method"])
        path = scope["path"]
        if not (path in OPEN_PATHS or path.startswith(_PAGE_PREFIX)):
            self._check_key(headers)
        is_upload = self._is_upload(scope["method"], path)
        limit = self._settings.max_upload_bytes + (1 << 20) if is_upload else self._settings.max_body_bytes
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise ApiError(400, "Content-Length is no number")
        if int(length[:20]) > limit:
            raise _too_large(limit)
        return limit

    def _check_host(self, given: str) -> None:
        """Refuse names of this server that it does not have: a page elsewhere may have had its name point here."""
        try:
            host = urlsplit(f"//{given}").hostname or ""
        except ValueError:
            host = ""
        allowed = {"localhost", self._settings.host.strip("[]").lower(), *map(str.lower, self._settings.allowed_hosts)}
        if host in allowed:
            return
        try:  # a number cannot be had to point elsewhere
            ipaddress.ip_address(host)
        except ValueError:
            raise ApiError(
                403, "this server does not have the name in Host; start it with --allowed-host", code="wrong_host"
            ) from None

    def _check_origin(self, headers: Mapping[str, str], method: str) -> None:
        """Refuse what pages of other sites send."""
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site") and method not in ("GET", "HEAD"):
                raise ApiError(403, "requests from pages of other sites are refused", code="wrong_origin")
            return
        try:
            is_same = urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
        except ValueError:
            is_same = False
        if not is_same:
            raise ApiError(403, "requests from pages of other sites are refused", code="wrong_origin")

    def _check_key(self, headers: Mapping[str, str]) -> None:
        key = self._settings.api_key
        if key is None:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        has_key = hmac.compare_digest(given.encode("latin-1", "replace"), key.encode())
        has_session = hmac.compare_digest(
            _cookie(headers.get("cookie", "")).encode("latin-1", "replace"), session_value(key).encode()
        )
        if not (has_key or has_session):
            raise ApiError(
                401,
                "give the server's API key: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def session_value(key: str) -> str:
    """Return what the cookie of the page's session holds: it proves the key without being it."""
    return hmac.new(key.encode(), b"voco-video page session", "sha256").hexdigest()


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


class _TooLargeError(HTTPException):
    """More bytes came than a request may have; FastAPI passes on exceptions of this kind."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, _too_large(limit).message, headers=dict(_CLOSE))


class _Limited:
    """Counts the bytes of a body as they come, and does not wait for them for ever."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._left = receive, limit, limit
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), SILENT_SECONDS)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"nothing came for {SILENT_SECONDS:g} s", headers=dict(_CLOSE)) from None
        if message["type"] == "http.request":
            self._is_whole = not message.get("more_body", False)
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise _TooLargeError(self._limit)
        return message


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the request has more than {limit} bytes, the most that is taken here",
        code="too_large",
        headers=dict(_CLOSE),
    )


async def _answer(error: ApiError, send: Callable[[Message], Any]) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
