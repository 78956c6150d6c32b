"""What the page asks first: the model, what may be added here, questions to begin with, a clip to try."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from voco_video.answer.generate import model_note
from voco_video.files.urls import without_secrets
from voco_video.serve.depends import Served
from voco_video.shapes.questions import demo_questions
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene
from voco_video.version import __version__

_ANY_VIDEO = ("What happens in this video?", "What is seen at the beginning?", "Who or what moves?")

router = APIRouter(prefix="/api", tags=["Page"])


@router.get("/about", summary="What this server is, and what may be added to its library.")
async def about(service: Served) -> dict[str, Any]:
    """Tell a page what to offer."""
    settings, model = service.settings, service.model
    note = model_note(model.voco)
    return {
        "version": __version__,
        "model": model.name,
        "note": note,
        "questions": [one.question for one in demo_questions()] if note else list(_ANY_VIDEO),
        "measures_attention": model.voco.backbone.keeps_all_keys,
        "takes_urls": settings.allow_urls,
        "has_media_root": settings.media_root is not None,
        "can_follow": settings.max_streams > 0,
        "live_sources": [url for url in settings.live_sources if without_secrets(url) == url],
        "max_upload_bytes": settings.max_upload_bytes,
    }


@router.get("/demo-clip", summary="The clip of `voco-video demo`, to upload and ask about.", response_class=Response,
            responses={200: {"content": {"video/mp4": {}}}})  # fmt: skip
async def demo_clip(service: Served) -> Response:
    """Return 8 seconds of coloured shapes as MP4."""
    return Response(await service.read(_demo_clip), media_type="video/mp4")


@cache
def _demo_clip() -> bytes:
    with tempfile.TemporaryDirectory(prefix="voco-video-") as folder:
        path = Path(folder) / "demo.mp4"
        write_clip(demo_scene(), path)
        return path.read_bytes()
