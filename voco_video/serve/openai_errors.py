"""Errors in the form that OpenAI's clients read: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from voco_video.errors import CacheError, EngineError, ModelError, UsageError, VideoError, VocoVideoError

log = logging.getLogger(__name__)
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A request that is refused.

    Attributes:
        status: of HTTP.
        message: what is wrong, and the way out.
        param: the part of the request that is at fault.
        code: a word for programs.
        headers: for the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers or {}

    def body(self) -> dict[str, Any]:
        """Return the response's JSON."""
        return error_body(self.status, self.message, param=self.param, code=self.code)


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return an error as OpenAI's API writes it."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def as_api_error(error: BaseException) -> ApiError:
    """Say what a failure means for a client; what is no fault of the request is logged, and told without details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, CacheError) and error.exit_code != 2:
        log.error("%s", error)
        return ApiError(500, "the frame cache failed; the server's log says more", code="cache_error")
    if isinstance(error, (UsageError, VideoError, ModelError, CacheError)):
        return ApiError(400, str(error), code=type(error).__name__.removesuffix("Error").lower() + "_error")
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return ApiError(507, "there is no room left on the server's disk", code="no_room")
    if isinstance(error, EngineError):  # its message names machines that are nobody's business
        log.error("%s", error)
        return ApiError(503, "the engine does not answer; the server's log says more", code="engine_error")
    if isinstance(error, VocoVideoError):
        return ApiError(400, str(error))
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed; its log says more", code="internal_error")


_NO_ROOM = (28, 122)  # ENOSPC, EDQUOT


def add_error_handlers(app: FastAPI) -> None:
    """Have every error of an application answered in this form."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        shown = as_api_error(error)
        return JSONResponse(shown.body(), shown.status, headers=shown.headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or None
        said = f"{where}: {first['msg']}" if where else str(first["msg"])
        return JSONResponse(error_body(400, said, param=where, code="invalid_value"), 400)

    async def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, headers=error.headers)

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(VocoVideoError, refused)
    app.add_exception_handler(OSError, refused)
    app.add_exception_handler(Exception, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_http)
