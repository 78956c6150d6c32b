"""Choosing a compressor where none is named: the learned one where there is one, else as many tokens as fit.

    voco       where it is trained
    full       where all frames fit the model's context with all of their vision tokens
    pool:k     else, with the largest k for which all frames fit

The choice depends on the model, the options and the number and shape of frames alone, and is made before an entry's
key is. So ``auto`` and the name of what it chooses share their entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from voco_video.cache import CacheEntry, CacheKey, FrameCache
from voco_video.model.compressors import pooled_shape
from voco_video.model.families.layout import FrameTimes
from voco_video.model.inference import undisturbed
from voco_video.model.voco import VocoModel
from voco_video.options.compression import AUTO, CompressOptions, Compressor, Form, parse_compressor
from voco_video.options.sampling import Sampling
from voco_video.video.reading import Video, open_video
from voco_video.video.sources import LocalVideo

TEXT_ROOM_TOKENS = 1024  # positions of the context left to question and answer; at most a quarter of it
LIVE_TOKENS = 16  # of a frame, at most, where it is not known how many frames will come


@dataclass(frozen=True)
class Choice:
    """A compressor and why it was chosen, in one line; no reason where it was named, or is the learned one."""

    compressor: Compressor
    reason: str = ""


@dataclass(frozen=True)
class PlannedFrames:
    """Frames that are going to be compressed, as far as the choice depends on them.

    Attributes:
        num_frames: F.
        grids: rows and columns that vision tokens stand in: one pair, or several where videos of different shapes are
            joined.
        first_seconds, last_seconds: times of the first and the last frame, which a model may be told in words.
    """

    num_frames: int
    grids: tuple[tuple[int, int], ...]
    first_seconds: float = 0.0
    last_seconds: float = 0.0


def context_budget(context_length: int | None, *, frame_length: int) -> int | None:
    """Compute how many tokens of frames the model's context has room for; None if it has no limit.

    Args:
        context_length: positions that the model was trained on.
        frame_length: positions before the first kept token.

    >>> context_budget(4096, frame_length=578)
    2494
    """
    if context_length is None:
        return None
    return max(1, context_length - frame_length - min(TEXT_ROOM_TOKENS, context_length // 4))


def settled(model: VocoModel, name: str, *, num_voco_tokens: int | None = None) -> Compressor | None:
    """Return the compressor of a name; None where ``auto`` depends on the frames.

    Args:
        num_voco_tokens: k that was asked for, which only the learned compressor makes.
    """
    if name != AUTO:
        return parse_compressor(name)
    is_learned = model.num_voco_tokens > 0 and model.trained
    return Compressor("voco") if is_learned or num_voco_tokens is not None else None


def with_compressor(
    model: VocoModel, options: CompressOptions, plan: Callable[[CompressOptions], PlannedFrames | None]
) -> tuple[CompressOptions, str]:
    """Replace ``auto`` by the compressor that it stands for.

    Args:
        plan: the frames to be compressed with these options, looked for only where the choice depends on them. None
            where nobody knows.

    Returns:
        The options with a compressor, and why that one.
    """
    named = settled(model, options.compressor, num_voco_tokens=options.num_voco_tokens)
    choice = choose(model, options, plan(options)) if named is None else Choice(named)
    return replace(options, compressor=str(choice.compressor)), choice.reason


def choose(model: VocoModel, options: CompressOptions, frames: PlannedFrames | None) -> Choice:
    """Choose among the compressors that need no training.

    Args:
        frames: None for a source that is still being made.
    """
    if frames is None:
        small = (c for c in untrained_compressors(model) if c.num_tokens is not None and c.num_tokens <= LIVE_TOKENS)
        found = next(small)
        return Choice(found, f"compressor {found}: nobody knows how many frames a live source will have")
    candidates = untrained_compressors(model, frames.grids)
    opening, words = _words(model, options, frames)
    room = context_budget(model.backbone.context_length, frame_length=opening)
    count = frames.num_frames
    for one in candidates:
        form = model.form_of(one, options.form)
        kept = max(tokens_per_frame(model, one, form=form, grid=grid) for grid in frames.grids)
        if room is None or count * (kept + words) <= room:
            which = "all their" if one.name == "full" else f"{one.num_tokens}"
            return Choice(one, f"compressor {one}: {count} frames fit the context with {which} vision tokens each")
    return Choice(
        candidates[-1],
        f"compressor {candidates[-1]}: {count} frames do not fit the context even so, and a question sees some of "
        "them; take fewer (--num-frames, --fps)",
    )


def untrained_compressors(model: VocoModel, grids: tuple[tuple[int, int], ...] = ()) -> list[Compressor]:
    """List the compressors among which ``auto`` chooses where none is trained, those that keep most first.

    Args:
        grids: of the videos; the model's largest one counts too.
    """
    every = {model.backbone.vision_grid, *grids}
    most = min(rows * columns for rows, columns in grids or every)
    pooled = [k for k in range(most - 1, 0, -1) if all(pooled_shape(grid, k) for grid in every)]
    return [Compressor("full"), *(Compressor("pool", k) for k in pooled or (1,))]


@undisturbed()
def tokens_per_frame(model: VocoModel, compressor: Compressor, *, form: Form, grid: tuple[int, int]) -> int:
    """Count the tokens that ``full`` or ``pool:k`` keeps of a frame, with those that open and close it."""
    backbone, template = model.backbone, model.backbone.template
    count = grid[0] * grid[1] if compressor.num_tokens is None else compressor.num_tokens
    one_token = torch.zeros(1, 1, backbone.hidden_size, dtype=backbone.dtype, device=backbone.device)
    around = model.frame_sequence(one_token, 0).shape[1] - 1
    comes_once = form == "embeds" and template.as_trained is None  # what opens a frame
    return count + around - len(template.frame_before_ids if comes_once else template.context_ids)


def _words(model: VocoModel, options: CompressOptions, frames: PlannedFrames) -> tuple[int, int]:
    """Count the positions before the first frame, and the tokens of text before each other one."""
    template = model.backbone.template
    if template.as_trained is None:
        is_kv = model.form_of(Compressor("full"), options.form) == "kv"
        return (0 if is_kv else len(template.frame_before_ids)), 0
    leads = model.backbone.lead_ids(FrameTimes.of(np.array([frames.first_seconds, frames.last_seconds])))
    return len(leads[0]), len(leads[-1])


def pictures_per_frame(model: VocoModel, compressor: Compressor, options: CompressOptions) -> int:
    """Return how many pictures of a video become one frame."""
    merges = compressor.sees_frames and options.merge_pictures
    return model.backbone.template.pictures_per_frame if merges else 1


def frames_of_sampling(
    model: VocoModel,
    local: LocalVideo,
    cache: FrameCache,
    sampling: Sampling,
    options: CompressOptions,
    key_with: Callable[..., CacheKey],
) -> PlannedFrames:
    """Describe the frames that a sampling takes; where the cache has an entry that ``auto`` chooses, by that alone."""
    for one in () if options.force else untrained_compressors(model):
        entry = cache.get(key_with(options=replace(options, compressor=str(one))))
        if entry is not None and choose(model, options, frames := _frames_of_entry(model, entry)).compressor == one:
            return frames
    with open_video(local, backend=options.decoder) as video:
        return planned_frames(model, video, sampling, options)


def planned_frames(model: VocoModel, video: Video, sampling: Sampling, options: CompressOptions) -> PlannedFrames:
    """Describe the frames that a sampling takes of a video, as far as the choice of a compressor depends on them."""
    plan, per_frame = video.plan(sampling), pictures_per_frame(model, Compressor("full"), options)
    grid = _grid_of_video(model, video.info.width, video.info.height)
    return PlannedFrames(-(-len(plan) // per_frame), (grid,), float(plan[0]), float(plan[-1]))


def _frames_of_entry(model: VocoModel, entry: CacheEntry) -> PlannedFrames:
    match entry.facts.get("video"):
        case {"width": int(width), "height": int(height)}:
            grid = _grid_of_video(model, width, height)
        case _:
            grid = model.backbone.vision_grid
    pts = entry.pts_seconds
    return PlannedFrames(entry.num_frames, (grid,), float(pts[0]), float(pts[-1]))


def _grid_of_video(model: VocoModel, width: int, height: int) -> tuple[int, int]:
    fit = model.backbone.images.fit_for(width, height)
    return model.backbone.grid_of(fit.height, fit.width)
