"""What answers rest on, as evaluation writes it down: the frames that a question saw, and the words that were read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from blake3 import blake3

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.frame_budget import FrameSelection
from voco_video.errors import ModelError, UsageError
from voco_video.evaluate.options import EvalOptions
from voco_video.evaluate.plan import VideoQuestions
from voco_video.model.backbone import Backbone
from voco_video.scoring.basis import Asked, FramesSeen
from voco_video.stored_tokens import pixel_digests

FRAMES = "<frames>"
"""Stands for the frames in the words that a model read."""
_DIGEST_BYTES = 16


def bases_of(
    video: CompressedVideo,
    num_voco_tokens: int | None,
    questions: VideoQuestions,
    options: EvalOptions,
) -> tuple[list[FramesSeen], list[Asked]]:
    """Write down what the answers to a video's questions rest on; questions that cannot be asked are left out.

    Args:
        num_voco_tokens: k tokens of each frame.

    Returns:
        The frames that they saw, each selection once, and what each question was.
    """
    backbone = video.model.voco.backbone
    seen: dict[tuple[bytes, bytes], FramesSeen] = {}
    asked = []
    for turn in questions.turns:
        is_searched = options.answer_by == "find"
        prompt = turn.question if is_searched else options.prompt_of(turn)
        if not can_be_asked(backbone, prompt):
            continue
        if is_searched:
            selection = all_frames(video)
        else:
            selection = video.view(prompt, num_voco_tokens=num_voco_tokens, options=options.view)
        if selection.key not in seen:
            seen[selection.key] = frames_seen(video, selection, name=questions.video, path=questions.path)
        told = "" if is_searched else words_read(backbone, prompt, has_frames=selection.num_tokens > 0)
        asked.append(Asked(turn.question_id, turn.question_type, prompt, told, seen[selection.key].view))
    return list(seen.values()), asked


def all_frames(video: CompressedVideo) -> FrameSelection:
    """Select all frames with all their tokens, which is what a search looks at."""
    counts = np.full(video.num_frames, video.num_voco_tokens, np.int64)
    return FrameSelection(np.arange(video.num_frames), counts, video.num_frames)


def can_be_asked(backbone: Backbone, prompt: str) -> bool:
    """Tell whether a question is text, and short enough for the model."""
    try:
        backbone.conversation_ids([{"role": "user", "content": prompt.strip()}])
    except UsageError:
        return False
    return True


def frames_seen(
    video: CompressedVideo, selection: FrameSelection, *, name: str, path: Path | None = None
) -> FramesSeen:
    """Describe the frames of a selection.

    Args:
        video: frames of one cache entry.
        name: the video's name in its set.
        path: its file.
    """
    (part,) = video.parts
    sees_any = selection.num_tokens > 0
    frames = selection.frames.tolist() if sees_any else []
    digests = pixel_digests(part.entry, part.start, part.stop) if sees_any else None
    backbone, facts = video.model.voco.backbone, part.entry.facts
    size = grid = None
    match facts.get("video"):
        case {"width": int(width), "height": int(height)} if sees_any:
            fit = backbone.images.fit_for(width, height)
            size, grid = (fit.height, fit.width), backbone.grid_of(fit.height, fit.width)
    return FramesSeen(
        video=name,
        source=str(path or ""),
        file=part.entry.key.video_digest,
        times=tuple(video.pts_seconds[frames].tolist()),
        pixels=None if digests is None else _joined(digests[frame] for frame in frames),
        frame_size=size,
        vision_tokens=None if grid is None else grid[0] * grid[1],
        seen_tokens=selection.num_tokens,
        compressor=video.compressor,
    )


def _joined(digests: Iterable[bytes]) -> str:
    return blake3(b"".join(digests)).hexdigest(length=_DIGEST_BYTES)


def words_read(backbone: Backbone, prompt: str, *, has_frames: bool) -> str:
    """Write all words that a model reads for a prompt; `FRAMES` stands for the frames and the words between them.

    "" for a checkpoint that cannot write conversations.
    """
    messages = [{"role": "user", "content": prompt.strip()}]
    try:
        closing = backbone.conversation_text(messages, has_frames=has_frames)
        as_trained = backbone.template.as_trained
        if not has_frames:
            return closing
        opening = "" if as_trained is None else backbone.writer.around_frames(messages, as_trained.variant).opening
    except ModelError:
        return ""
    return f"{opening}{FRAMES}{closing}"
