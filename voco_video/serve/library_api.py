"""The library: videos listed, added, compressed and deleted."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from voco_video.cache.names import check_name
from voco_video.serve.depends import Row, Served
from voco_video.serve.kept_jobs import Again
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.openai_request import MAX_FPS
from voco_video.serve.safety.paths import below
from voco_video.serve.service import Service
from voco_video.serve.videos import VideoRow

_MAX_LISTED = 5000
_VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".flv", ".wmv", ".asf",
    ".ogv", ".3gp", ".mxf", ".gif",
})  # fmt: skip

router = APIRouter(prefix="/api", tags=["Library"])


class CompressRequest(BaseModel):
    """How a video is compressed."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"fps": 1}})
    fps: float | None = Field(default=None, gt=0, le=MAX_FPS, description="Frames a second; 1 by default.")
    num_frames: int | None = Field(default=None, ge=1, description="So many frames, spread evenly.")
    compressor: str | None = Field(default=None, max_length=40, description="voco, full, pool:K, none or auto.")
    name: str | None = Field(default=None, max_length=100, description="A name for the entry.")


class AddRequest(CompressRequest):
    """A video that the server can reach: a file below its media root, or a URL."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"path": "clips/street.mp4"}})
    path: str | None = Field(default=None, max_length=4096, description="Below the media root.")
    url: str | None = Field(default=None, max_length=4096, description="http or https, where URLs are allowed.")


@router.get("/videos", summary="All videos: uploads, and what this model has compressed.")
async def list_videos(
    service: Served,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> dict[str, Any]:
    """List the videos, the latest upload first."""
    rows = await service.read(service.videos.rows)
    shown = [_shown_row(service, row) for row in rows[offset : offset + limit]]
    return {"videos": shown, "total": len(rows)}


@router.post("/videos/add", summary="Add a file below the media root, or a URL, and compress it.", status_code=202)
async def add(service: Served, body: AddRequest) -> dict[str, Any]:
    """Begin a job that fetches and compresses a video."""
    if (body.path is None) == (body.url is None):
        raise ApiError(400, "give either path or url", param="path")
    kind: Literal["path", "url"] = "url" if body.path is None else "path"
    again = _again(kind, str(body.url if body.path is None else body.path), body)
    return {"job": (await service.read(partial(service.compress_again, again))).facts()}


@router.get("/folder", summary="Folders and videos below the media root.")
async def folder(service: Served, path: Annotated[str, Query(max_length=4096)] = "") -> dict[str, Any]:
    """List one folder."""
    return await service.read(partial(_listed_folder, service, path))


@router.get("/videos/{video}", summary="What is known of a video.")
async def facts(service: Served, row: Row) -> dict[str, Any]:
    """Return one video, with what its entry holds."""
    return await service.read(partial(_all_facts, service, row))


@router.delete("/videos/{video}", summary="Delete a video's upload and its entries.")
async def delete(service: Served, row: Row) -> dict[str, Any]:
    """Delete a video; files below the media root stay."""
    for job in service.jobs.of_video(row.id):
        service.jobs.cancel(job)
    num_entries = await service.read(partial(service.videos.delete, row))
    for label in row.labels:
        service.queue.forget(label.digest)
    service.thumbnails.forget(row.id)
    return {"id": row.id, "deleted": True, "num_entries": num_entries}


@router.post("/videos/{video}/compress", summary="Compress a video: a job.", status_code=202)
async def compress(service: Served, row: Row, body: CompressRequest) -> dict[str, Any]:
    """Begin a job that compresses a video whose file is here."""
    if await service.read(partial(service.videos.path_of, row)) is None:
        raise ApiError(404, f"the file of {row.name!r} is not here", code="no_media")
    return {"job": (await service.read(partial(service.compress_again, _again("video", row.id, body)))).facts()}


def _again(kind: Literal["video", "path", "url"], where: str, body: CompressRequest) -> Again:
    if body.name is not None:
        check_name(body.name)
    return Again(kind, where, body.fps, body.num_frames, body.compressor, body.name)


def _shown_row(service: Service, row: VideoRow) -> dict[str, Any]:
    """Return a video as the library shows it, with the job that is at work on it."""
    jobs = service.jobs.of_video(row.id)
    return {**row.facts(), "job": jobs[0].facts() if jobs else None}


def _all_facts(service: Service, row: VideoRow) -> dict[str, Any]:
    label = row.best_label()
    more: dict[str, Any] = {"has_media": service.videos.path_of(row) is not None}
    if label is not None:
        video = service.videos.open(label)
        pts = video.pts_seconds
        more |= {
            "num_frames": video.num_frames,
            "num_voco_tokens": video.num_voco_tokens,
            "compressor": video.compressor,
            "form": video.form,
            "start_seconds": float(pts[0]) if len(pts) else None,
            "end_seconds": float(pts[-1]) if len(pts) else None,
            "foreign_note": video.foreign_note,
        }
    return {**_shown_row(service, row), **more}


def _listed_folder(service: Service, given: str) -> dict[str, Any]:
    root = service.settings.media_root
    path = below(given, root, folder=True)
    assert root is not None
    real_root = Path(os.path.realpath(root))
    folders, videos = [], []
    with os.scandir(path) as items:
        for item in sorted(items, key=lambda item: item.name)[:_MAX_LISTED]:
            name = item.name.encode("utf-8", "replace").decode()
            if name.startswith(".") or name != item.name:
                continue
            inside = str((path / name).relative_to(real_root))
            if item.is_dir(follow_symlinks=False):
                folders.append({"name": name, "path": inside})
            elif item.is_file(follow_symlinks=False) and Path(name).suffix.lower() in _VIDEO_SUFFIXES:
                videos.append({"name": name, "path": inside, "size_bytes": item.stat().st_size})
    return {"path": str(path.relative_to(real_root)), "folders": folders, "videos": videos}
