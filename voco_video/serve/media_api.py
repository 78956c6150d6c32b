"""What a player shows: the video's file, one frame of it, a stretch of it."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from voco_video.serve.depends import Row, Seconds, Served
from voco_video.serve.media_files import MAX_CLIP_SECONDS, clip_suffix, write_clip
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.safety.media import media_type
from voco_video.serve.service import Service
from voco_video.serve.videos import VideoRow

_KEPT = {"Cache-Control": "private, max-age=3600"}

router = APIRouter(prefix="/api/videos/{video}", tags=["Pictures and clips"])


@router.get("/thumbnail", summary="The frame that is shown at a time, as JPEG.", response_class=Response,
            responses={200: {"content": {"image/jpeg": {}}}})  # fmt: skip
async def thumbnail(
    service: Served, row: Row, t: Seconds = 0.0, width: Annotated[int, Query(ge=16, le=1920)] = 320
) -> Response:
    """Return one frame, no wider than asked for."""

    def make() -> bytes:
        with service.videos.file_of(row) as local:
            return service.thumbnails.jpeg(local, row.id, t, width)

    return Response(await service.read(make), media_type="image/jpeg", headers=_KEPT)


@router.get("/media", summary="The video's file, in ranges where asked.", response_class=FileResponse,
            responses={200: {"content": {"video/*": {}}}, 206: {"description": "A part of it."}})  # fmt: skip
async def media(service: Served, row: Row) -> Response:
    """Return the file as it was brought."""
    path = await service.read(partial(service.videos.path_of, row))
    if path is None:
        raise ApiError(404, f"the file of {row.name!r} is not here", code="no_media")
    kind = media_type(str(row.video_facts.get("container") or ""))
    return FileResponse(path, media_type=kind, headers=_KEPT)


@router.get("/clip", summary="A stretch of the video, not encoded again.", response_class=FileResponse,
            responses={200: {"content": {"video/mp4": {}, "video/x-matroska": {}}}})  # fmt: skip
async def clip(service: Served, row: Row, start: Seconds, end: Seconds) -> Response:
    """Return a clip; it begins at the keyframe at or before the start, which ``X-Clip-Start-Seconds`` tells."""
    return await service.read(partial(_clip, service, row, start, end))


def _clip(service: Service, row: VideoRow, start: float, end: float) -> Response:
    if not 0 < end - start <= MAX_CLIP_SECONDS:
        raise ApiError(400, f"end has to lie after start, by at most {MAX_CLIP_SECONDS:g} s", param="end")
    with service.videos.file_of(row) as local:
        suffix = clip_suffix(str(row.video_facts.get("codec") or ""))
        handle, out = tempfile.mkstemp(prefix="voco-video-clip-", suffix=suffix)
        os.close(handle)
        try:
            assert local.path is not None
            begins = write_clip(local.path, row.name, start, end, Path(out))
        except BaseException:
            os.unlink(out)
            raise
    return FileResponse(
        out,
        media_type="video/mp4" if suffix == ".mp4" else "video/x-matroska",
        filename=f"clip-{row.id[:8]}-{start:g}-{end:g}{suffix}",
        headers={"X-Clip-Start-Seconds": f"{begins:.3f}"},
        background=BackgroundTask(os.unlink, out),
    )
