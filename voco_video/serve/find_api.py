"""Search: the moments of one video, several or all that have most to do with a query."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.generate import model_note
from voco_video.answer.several_videos import Found, find
from voco_video.errors import VocoVideoError
from voco_video.serve.depends import Served
from voco_video.serve.service import Service
from voco_video.serve.videos import VideoRow

router = APIRouter(prefix="/api", tags=["Search"])


class FindRequest(BaseModel):
    """What to look for, and where."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"query": "the red star"}})
    query: str = Field(min_length=1, max_length=2000)
    videos: list[str] | None = Field(
        default=None, min_length=1, max_length=1000, description="Ids or names; all by default."
    )
    num_moments: int = Field(default=5, ge=1, le=100)


@router.post("/find", summary="Find moments, best first; nothing is generated.")
async def find_moments(service: Served, body: FindRequest) -> dict[str, Any]:
    """Search compressed videos; one that cannot be searched is listed, and the others are searched all the same."""
    rows = await service.read(partial(_rows, service, body.videos))
    opened, failed = await service.read(partial(_opened, service, rows))

    def search() -> list[Found]:
        def note_failure(video: CompressedVideo, error: Exception) -> None:
            failed.append({"video": video.parts[0].entry.key.video_digest, "error": str(error)})

        return find([video for _, video in opened], body.query, num_moments=body.num_moments, on_error=note_failure)

    found = await service.in_model_thread(search)
    names = {video.parts[0].entry.digest: row.name for row, video in opened}
    return {
        "query": body.query,
        "note": model_note(service.model.voco),
        "num_videos": len(opened),
        "moments": [_moment(one, names) for one in found],
        "failed": failed,
    }


def _rows(service: Service, given: list[str] | None) -> list[VideoRow]:
    if given is None:
        return [row for row in service.videos.rows() if row.best_label() is not None]
    return list({row.id: row for row in map(service.videos.row, given)}.values())


def _opened(
    service: Service, rows: list[VideoRow]
) -> tuple[list[tuple[VideoRow, CompressedVideo]], list[dict[str, str]]]:
    opened: list[tuple[VideoRow, CompressedVideo]] = []
    failed: list[dict[str, str]] = []
    for row in rows:
        label = row.best_label()
        if label is None:
            failed.append({"video": row.id, "error": f"{row.name} is not compressed yet"})
            continue
        try:
            opened.append((row, service.queue.kept(service.videos.open(label))[0]))
        except VocoVideoError as error:
            failed.append({"video": row.id, "error": str(error)})
    return opened, failed


def _moment(one: Found, names: dict[str, str]) -> dict[str, Any]:
    entry = one.video.parts[0].entry
    moment = asdict(one.moment)
    del moment["share"]  # of an answer's attention, and there is no answer
    where = {"video": entry.key.video_digest, "entry": entry.digest, "name": names[entry.digest]}
    picture = f"/api/videos/{entry.key.video_digest}/thumbnail?t={one.moment.peak_seconds:.3f}"
    return {**where, **moment, "is_foreign": bool(one.video.foreign_note), "thumbnail": picture}
