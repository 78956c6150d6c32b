"""Jobs: how far each has come, as they go, and cancelling them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from voco_video.serve.depends import EVENT_HEADERS, EVENTS, NamedJob, Served
from voco_video.serve.jobs import OVER, Job

KEEP_ALIVE_SECONDS = 10.0
POLL_SECONDS = 0.1

router = APIRouter(prefix="/api/jobs", tags=["Jobs"])


@router.get("", summary="The jobs, latest first.")
async def jobs(service: Served) -> dict[str, Any]:
    """List what was asked for, what runs and what is over."""
    return {"jobs": [job.facts() for job in service.jobs.all()]}


@router.get("/{job}", summary="How far a job has come.")
async def job_facts(job: NamedJob) -> dict[str, Any]:
    """Return one job."""
    return job.facts()


@router.delete("/{job}", summary="Cancel a job; what is compressed stays for the next.")
async def cancel(service: Served, job: NamedJob) -> dict[str, Any]:
    """Stop a job at its next step."""
    service.jobs.cancel(job)
    return job.facts()


@router.get("/{job}/events", summary="How far a job comes, as server-sent events.", response_class=StreamingResponse,
            responses=EVENTS)  # fmt: skip
async def events(job: NamedJob) -> StreamingResponse:
    """Send ``progress`` events, and one that is named by how the job ended."""
    return StreamingResponse(job_events(job), media_type="text/event-stream", headers=EVENT_HEADERS)


async def job_events(job: Job) -> AsyncIterator[str]:
    """Yield an event when a job has come further, at most ten a second."""
    seen, waited = -1, 0.0
    while True:
        version, state = job.version, job.state
        if version != seen or state in OVER:
            seen, waited = version, 0.0
            yield f"event: {state if state in OVER else 'progress'}\ndata: {json.dumps(job.facts())}\n\n"
            if state in OVER:
                return
        await asyncio.sleep(POLL_SECONDS)
        waited += POLL_SECONDS
        if waited >= KEEP_ALIVE_SECONDS:
            waited = 0.0
            yield ": still here\n\n"
