"""Chapters and a summary of a video, from its cached frames alone, as structured JSON."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.options.answering import AnswerOptions
from voco_video.serve.answering import Answered, Ask
from voco_video.serve.chapters import Chapter, find_chapters
from voco_video.serve.depends import Row, Served
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.service import Service
from voco_video.serve.videos import VideoRow

TITLE = "Describe the video in one short sentence."
SUMMARY = "Describe the video."
_TITLE_TOKENS, _SUMMARY_TOKENS = 48, 256

Question = Annotated[str | None, Query(min_length=1, max_length=500, description="What is asked of each stretch.")]
Most = Annotated[int, Query(ge=1, le=30, description="Chapters at most.")]
Anyway = Annotated[bool, Query(description="Also where the video is nothing that the model was trained on.")]

router = APIRouter(prefix="/api/videos/{video}", tags=["Chapters"])


@router.get("/chapters", summary="Where a video changes, and what happens in between.")
async def chapters(
    service: Served, row: Row, most: Most = 8, question: Question = None, anyway: Anyway = False
) -> dict[str, Any]:
    """Cut the video where its cached frames change, and ask the same question of each stretch."""
    video = await _opened(service, row, anyway)
    return {**_head(service, row, video), "chapters": await _chapters(service, row, video, most, question or TITLE)}


@router.get("/summary", summary="What happens in a video, and its chapters.")
async def summary(
    service: Served, row: Row, most: Most = 8, question: Question = None, anyway: Anyway = False
) -> dict[str, Any]:
    """Ask the whole video, and each of its chapters."""
    video = await _opened(service, row, anyway)
    whole, parts = await asyncio.gather(
        _asked(service, video, question or SUMMARY, _SUMMARY_TOKENS), _chapters(service, row, video, most, TITLE)
    )
    answer = whole.answer
    return {
        **_head(service, row, video),
        "summary": answer.text,
        "confidence": None if answer.is_foreign else answer.confidence,
        "is_cut": answer.is_cut,
        "note": answer.note,
        "chapters": parts,
    }


async def _opened(service: Service, row: VideoRow, anyway: bool) -> CompressedVideo:
    label = row.best_label()
    if label is None:
        raise ApiError(409, f"{row.name!r} is not compressed yet", code="not_compressed")
    video, _ = service.queue.kept(await service.read(partial(service.videos.open, label)))
    foreign = await service.read(lambda: video.foreign_note)
    if foreign and not (anyway or service.settings.anyway):
        raise ApiError(400, f"{foreign}; anyway=true tells all the same", code="foreign_video")
    return video


async def _chapters(
    service: Service, row: VideoRow, video: CompressedVideo, most: int, question: str
) -> list[dict[str, Any]]:
    found = await service.in_model_thread(partial(find_chapters, video, max_chapters=most))
    answers = []
    for chapter in found:  # in turn, so that one request does not fill the queue
        stretch, _ = service.queue.kept(video[chapter.start_seconds : _behind(chapter)])
        answers.append(await _asked(service, stretch, question, _TITLE_TOKENS))
    return [
        {
            "start_seconds": chapter.start_seconds,
            "end_seconds": chapter.end_seconds,
            "change": chapter.change,
            "title": answered.answer.text,
            "confidence": None if answered.answer.is_foreign else answered.answer.confidence,
            "is_cut": answered.answer.is_cut,
            "thumbnail": f"/api/videos/{row.id}/thumbnail?t={chapter.start_seconds:.3f}",
        }
        for chapter, answered in zip(found, answers, strict=True)
    ]


def _behind(chapter: Chapter) -> float | None:
    return chapter.end_seconds if chapter.end_seconds > chapter.start_seconds else None


async def _asked(service: Service, video: CompressedVideo, question: str, num_tokens: int) -> Answered:
    most = min(num_tokens, service.settings.max_answer_tokens)
    return await service.answered(Ask(video, question, options=AnswerOptions(max_new_tokens=most)))


def _head(service: Service, row: VideoRow, video: CompressedVideo) -> dict[str, Any]:
    entry = video.parts[0].entry.digest
    return {"video": row.id, "entry": entry, "name": row.name, "model": service.model.name}
