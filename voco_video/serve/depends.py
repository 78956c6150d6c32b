"""What routes get from a request: the service, and the video or job that its path names."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request

from voco_video.serve.jobs import Job
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.service import Service
from voco_video.serve.videos import VideoRow

Seconds = Annotated[float, Query(ge=-1e7, le=1e7, allow_inf_nan=False)]
EVENT_HEADERS = {"X-Accel-Buffering": "no"}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def service_of(request: Request) -> Service:
    """Return what the routes of this application share."""
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(service_of)]


async def row_of(
    service: Served, video: Annotated[str, Path(description="Its id, or the name or digest of an entry.")]
) -> VideoRow:
    """Return the video that the path names."""
    return await service.read(partial(service.videos.row, video))


def job_of(service: Served, job: Annotated[str, Path()]) -> Job:
    """Return the job that the path names."""
    found = service.jobs.get(job)
    if found is None:
        raise ApiError(404, f"there is no job {job!r:.60}", code="no_such_job")
    return found


Row = Annotated[VideoRow, Depends(row_of)]
NamedJob = Annotated[Job, Depends(job_of)]
