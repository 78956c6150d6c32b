"""What a command worked with, in one line for people and in the same fields for machines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from voco_video.cli.tables import print_wrapped

if TYPE_CHECKING:
    from voco_video.answer.compressed_video import CompressedVideo


def run_facts(video: CompressedVideo, path: str) -> dict[str, Any]:
    """Return which model made what of which video, as plain values.

    Args:
        video: all of its frames.
        path: the video as it was asked for.
    """
    entry = video.parts[0].entry
    return {
        "path": path,
        "entry": entry.digest,
        "name": entry.name,
        "model": video.model.name or video.model.fingerprint[:8],
        "compressor": video.compressor,
        "compressor_choice": video.result.choice if video.result else "",
        "num_voco_tokens": video.num_voco_tokens,
        "form": video.form,
        "sampling": str(entry.facts.get("sampling", "")),
        "num_frames": video.num_frames,
        "pictures_per_frame": _pictures_per_frame(video),
        "from_cache": video.from_cache,
        "is_growing": entry.is_growing,
        "total_seconds": video.result.total_seconds if video.result else 0.0,
    }


def run_line(videos: Sequence[Mapping[str, Any]]) -> str:
    """Write one line on videos of one model, from their `run_facts`.

    >>> facts = {"model": "voco-tiny", "compressor": "voco", "num_voco_tokens": 8, "form": "embeds", "num_frames": 10,
    ...          "sampling": "1 fps", "from_cache": True, "is_growing": False, "total_seconds": 0.1}
    >>> run_line([facts])
    'voco-tiny · voco K=8 embeds · 10 frames at 1 fps · cached'
    >>> run_line([facts, facts | {"from_cache": False, "total_seconds": 2.0}])
    'voco-tiny · voco K=8 embeds · 2 videos, 20 frames at 1 fps · 1 cached, 1 compressed in 2.0 s'
    >>> run_line([facts | {"sampling": "10 frames"}])
    'voco-tiny · voco K=8 embeds · 10 frames · cached'
    >>> run_line([facts | {"sampling": "10 frames"}] * 2)
    'voco-tiny · voco K=8 embeds · 2 videos, 20 frames (10 each) · cached'
    >>> run_line([facts | {"num_frames": 5, "sampling": "10 frames", "pictures_per_frame": 2}])
    'voco-tiny · voco K=8 embeds · 5 frames of 2 pictures · cached'
    """
    kinds = dict.fromkeys(kept(v["compressor"], v["num_voco_tokens"], v["form"]) for v in videos)
    many = f"{len(videos)} videos, " if len(videos) > 1 else ""
    num_frames = sum(v["num_frames"] for v in videos)
    samplings = " or ".join(dict.fromkeys(v["sampling"] for v in videos if v["sampling"]))
    most = max(v.get("pictures_per_frame", 1) for v in videos)
    pictures = f" of {most} pictures" if most > 1 else ""
    if {f"{v['num_frames'] * v.get('pictures_per_frame', 1)} frames" for v in videos} == {samplings}:  # as asked for
        samplings = f"{videos[0]['num_frames']} each" if many else ""
    frames = f"{num_frames} {'frame' if num_frames == 1 else 'frames'}{pictures}{_sampled(samplings)}"
    return " · ".join([videos[0]["model"], ", ".join(kinds), many + frames, _state(videos)])


def print_line(videos: Sequence[Mapping[str, Any]], *, quiet: bool) -> None:
    """Print the line of these `run_facts` on standard error, for a person."""
    if videos and not quiet:
        print_wrapped(run_line(videos), file=sys.stderr)


def _pictures_per_frame(video: CompressedVideo) -> int:
    """Return how many sampled pictures a frame of the entry was made from: 2 where a model merges pairs."""
    from voco_video.options.compression import parse_compressor

    if video.compressor == "none" or not parse_compressor(video.compressor).sees_frames:
        return 1
    merges = video.parts[0].entry.key.settings.get("merge_pictures", True)
    return video.model.voco.backbone.template.pictures_per_frame if merges else 1


def kept(compressor: str, num_voco_tokens: int, form: str | None) -> str:
    """Write what is kept of a frame.

    >>> kept("voco", 8, "embeds"), kept("pool:4", 4, "embeds"), kept("none", 0, None)
    ('voco K=8 embeds', 'pool:4 embeds, 4 tokens a frame', 'none')
    """
    if compressor == "none":
        return compressor
    if compressor == "voco":
        return f"voco K={num_voco_tokens} {form}"
    return f"{compressor} {form}, {num_voco_tokens} tokens a frame"


def _sampled(sampling: str) -> str:
    """Write how frames were sampled behind their number.

    >>> [_sampled(text) for text in ("2 fps, 5-9 s", "at 1, 2 s (2 times)", "8 frames", "8 frames, 5-9 s", "keyframes")]
    [' at 2 fps, 5-9 s', ' at 1, 2 s (2 times)', ' (8 asked for)', ' (8 frames, 5-9 s)', ' (keyframes)']
    """
    if not sampling:
        return ""
    if sampling.startswith("at "):
        return f" {sampling}"
    if " fps" in sampling:
        return f" at {sampling}"
    return f" ({sampling.removesuffix(' frames')} asked for)" if sampling.endswith(" frames") else f" ({sampling})"


def _state(videos: Sequence[Mapping[str, Any]]) -> str:
    """Write whether videos came from the cache, and how long it took where they did not."""
    cached = [video for video in videos if video["from_cache"]]
    made = [video for video in videos if not video["from_cache"]]
    seconds = f"compressed in {sum(video['total_seconds'] for video in made):.1f} s"
    if not made:
        return "growing" if any(video["is_growing"] for video in cached) else "cached"
    return f"{len(cached)} cached, {len(made)} {seconds}" if cached else seconds
