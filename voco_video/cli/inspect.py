"""``voco-video inspect``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_video
from voco_video.cli.options import only, with_options
from voco_video.cli.output import format_bytes, print_facts, print_json, unless_none
from voco_video.cli.progress import ProgressBar
from voco_video.cli.tables import Column, print_table, print_wrapped
from voco_video.errors import UsageError
from voco_video.files.urls import short_name
from voco_video.options.compression import CompressOptions, parse_compressor
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.cache import CacheEntry
    from voco_video.video.sources import VideoLike


@with_options
def inspect(
    path: Annotated[str, typer.Argument(help="A video, or its URL.", metavar="PATH")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the contact sheet goes. [default: <video>-sheet.png]")
    ] = None,
    sampling: Sampling,
    max_frames: Annotated[int, typer.Option(help="Draw at most this many, spread evenly over the sampled ones.")] = 60,
    compressor: Annotated[
        str | None,
        typer.Option(help="List only entries of this compressor. [default: all]", metavar="NAME"),
    ] = None,
    reading: Annotated[CompressOptions, only("decoder")],
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Show a video's facts, the frames that sampling takes from it, and what the cache holds of it.

    \b
    Examples:
      voco-video inspect clip.mp4
      voco-video inspect lecture.mkv --num-frames 24 -o lecture.png
      voco-video inspect clip.mp4 --keyframes --json
      voco-video inspect https://example.org/clip.mp4
    """
    if max_frames < 1:
        raise UsageError(f"--max-frames {max_frames}: draw at least 1 frame")
    wanted = None if compressor is None else parse_compressor(compressor)
    check_video(path, sampling)
    from voco_video.answer.pictures import contact_sheet
    from voco_video.cache import FrameCache
    from voco_video.compress import video_digest
    from voco_video.video.downloads import Downloads
    from voco_video.video.reading import probe
    from voco_video.video.sources import local_video

    cache = FrameCache(cache_dir)
    with (
        ProgressBar(short_name(path), quiet=json) as bar,
        local_video(path, downloads=Downloads.beside(cache.cache_dir), on_download=bar.show_bytes) as local,
    ):
        info = probe(local)
        frames, num_sampled = sampled_frames(local, sampling, max_frames=max_frames, decoder=reading.decoder)
        digest = video_digest(local)
    target = output or Path(f"{Path(short_name(path)).stem}-sheet.png")
    contact_sheet(frames).save(target)
    entries = [e for e in cache.entries() if e.key.video_digest == digest]
    entries = [e for e in entries if wanted is None or entry_facts(e)["compressor"] == str(wanted)]
    if json:
        print_json(
            {
                "video": asdict(info),
                "sampling": str(sampling),
                "num_sampled_frames": num_sampled,
                "contact_sheet": str(target),
                "entries": [entry_facts(e) for e in entries],
            }
        )
        return
    print_facts(asdict(info))
    print_entries(entries, name=short_name(path))
    drawn = "" if len(frames) == num_sampled else f", {len(frames)} of them drawn"
    print_wrapped(f"contact sheet of {sampling}{drawn}: {target}")


def sampled_frames(video: VideoLike, sampling: Sampling, *, max_frames: int, decoder: str) -> tuple[Any, int]:
    """Return the sampled frames, thinned evenly to ``max_frames``, and how many there were."""
    import numpy as np

    from voco_video.answer.pictures import thumbnail_fit
    from voco_video.video.reading import open_video, read_frames

    with open_video(video) as opened:
        pts = opened.plan(sampling)
        box = thumbnail_fit(opened.info)
    chosen = pts if len(pts) <= max_frames else pts[np.linspace(0, len(pts) - 1, max_frames).round().astype(int)]
    wanted = Sampling(timestamps=tuple(float(t) for t in chosen))
    return read_frames(video, wanted, fit=box, backend=decoder), len(pts)


def entry_facts(entry: CacheEntry) -> dict[str, Any]:
    """Return a cache entry as plain values; None for facts that entries of other versions lack."""
    from voco_video.errors import CacheError
    from voco_video.stored_tokens import tokens_per_frame

    settings = entry.key.settings
    num_voco_tokens = None
    with suppress(CacheError):  # it holds something other than tokens
        num_voco_tokens = tokens_per_frame(entry)
    return {
        "digest": entry.digest,
        "source": entry.facts.get("source"),
        "stream": settings.get("stream"),
        "is_growing": entry.is_growing,
        "num_frames": entry.num_frames,
        "first_pts_seconds": float(entry.pts_seconds[0]),
        "last_pts_seconds": float(entry.pts_seconds[-1]),
        "compressor": settings.get("compressor", "voco"),
        "num_voco_tokens": num_voco_tokens,
        "form": settings.get("form"),
        "storage": settings.get("storage"),
        "dtype": settings.get("dtype"),
        "sampling": entry.facts.get("sampling"),
        "model": entry.facts.get("model") or entry.key.model_fingerprint[:8],
        "model_fingerprint": entry.key.model_fingerprint,
        "size_bytes": entry.size_bytes,
        "bytes_per_frame": entry.bytes_per_frame,
        "last_used": entry.last_used,
    }


def print_entries(entries: list[CacheEntry], *, name: str | None = None) -> None:
    """Print a table of cache entries.

    Args:
        name: what their video is called here; by default what it was called when it was compressed.
    """
    if not entries:
        print("no entries in the cache")
        return
    columns: list[str | Column] = [
        Column("entry", cut=None),
        "video",
        Column("frames", right=True),
        Column("seconds", right=True, spare=4),
        Column("sampling", spare=3),
        Column("compressor", spare=1),
        Column("K", right=True, spare=5),
        Column("form", spare=7),
        Column("type", spare=8),
        Column("size", right=True),
        Column("model", spare=2),
    ]
    rows = []
    for entry in entries:
        facts = entry_facts(entry)
        rows.append(
            [
                entry.digest[:12],
                name or short_name(unless_none(facts["stream"] or facts["source"])),
                f"{facts['num_frames']}, growing" if facts["is_growing"] else str(facts["num_frames"]),
                f"{facts['first_pts_seconds']:.1f}-{facts['last_pts_seconds']:.1f}",
                unless_none(facts["sampling"]),
                unless_none(facts["compressor"]),
                unless_none(facts["num_voco_tokens"]),
                unless_none(facts["form"]),
                unless_none(facts["dtype"] if facts["storage"] == "native" else facts["storage"]),
                format_bytes(facts["size_bytes"]),
                facts["model"],
            ]
        )
    print_table(columns, rows)
