"""The page's session: a cookie for who has the key, since pictures and videos of a page cannot send headers."""

from __future__ import annotations

import hmac

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from voco_video.serve.depends import Served
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.safety.guard import COOKIE, session_value


class SessionRequest(BaseModel):
    """The server's API key."""

    key: str = Field(max_length=1000, examples=["the key that the server was started with"])


router = APIRouter(prefix="/api/session", tags=["Session"])


@router.get("", summary="Whether this server asks for a key.")
async def needs_key(service: Served) -> dict[str, bool]:
    """Tell a page whether to ask for the key."""
    return {"needs_key": service.settings.api_key is not None}


@router.post("", summary="Trade the key for a cookie of this browser.", status_code=204)
async def begin(service: Served, body: SessionRequest, request: Request) -> Response:
    """Set the cookie that stands for the key."""
    key = service.settings.api_key
    if key is None:
        return Response(status_code=204)
    if not hmac.compare_digest(body.key.encode("utf-8", "replace"), key.encode()):
        raise ApiError(401, "this is not the server's API key", code="invalid_api_key")
    response = Response(status_code=204)
    is_secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, session_value(key), httponly=True, samesite="strict", secure=is_secure, path="/")
    return response


@router.delete("", summary="Drop the cookie.", status_code=204)
async def end() -> Response:
    """End the session of this browser."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/")
    return response
