"""``voco-video inspect``."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_video
from voco_video.cli.help import OUTPUT
from voco_video.cli.options import only, with_options
from voco_video.cli.output import format_bytes, print_facts, print_json, unless_none
from voco_video.cli.pictures import check_picture, save_picture
from voco_video.cli.progress import ProgressBar
from voco_video.cli.run_line import kept
from voco_video.cli.tables import Column, print_table, print_wrapped
from voco_video.errors import UsageError
from voco_video.files.urls import short_name
from voco_video.options.compression import CompressOptions, parse_compressor
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.cache import CacheEntry
    from voco_video.video.frames import FrameBatch
    from voco_video.video.scaling import Fit
    from voco_video.video.sources import VideoLike


MaxFrames = Annotated[
    int | None,
    typer.Option(
        help="Draw at most this many, spread evenly over the sampled ones. [default: 60]",
        metavar="N",
        rich_help_panel=OUTPUT,
    ),
]


@with_options
def inspect(
    path: Annotated[str, typer.Argument(help="A video, or its URL.", metavar="PATH")],
    *,
    sampling: Sampling,
    max_frames: MaxFrames = None,
    compressor: Annotated[
        str | None,
        typer.Option(
            help="List only entries of this compressor. [default: all]", metavar="NAME", rich_help_panel=OUTPUT
        ),
    ] = None,
    out: Annotated[
        Path | None, opt.out("Draw the sampled frames into this PNG. [default: none]", metavar="FILE")
    ] = None,
    reading: Annotated[CompressOptions, only("decoder")],
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Show a video's facts, how many frames sampling takes from it, and what the cache holds of it; or draw the frames.

    \b
    Examples:
      voco-video inspect clip.mp4
      voco-video inspect lecture.mkv --num-frames 24 --out lecture.png
      voco-video inspect clip.mp4 --keyframes --json
      voco-video inspect https://example.org/clip.mp4
    """
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"--max-frames {max_frames}: draw at least 1 frame")
    if max_frames is not None and out is None:
        raise UsageError(f"--max-frames {max_frames}: nothing is drawn without --out FILE")
    check_picture(out, option="--out")
    wanted = None if compressor is None else parse_compressor(compressor)
    check_video(path, sampling)
    from voco_video.answer.pictures import contact_sheet, thumbnail_fit
    from voco_video.cache import FrameCache
    from voco_video.entry_keys import video_digest
    from voco_video.video.downloads import Downloads
    from voco_video.video.reading import open_video
    from voco_video.video.sources import local_video

    cache = FrameCache(cache_dir)
    with (
        ProgressBar(short_name(path), quiet=json) as bar,
        local_video(path, downloads=Downloads.beside(cache.cache_dir), on_download=bar.show_bytes) as local,
    ):
        with open_video(local) as opened:
            info, pts = opened.info, opened.plan(sampling)
        digest = video_digest(local)
        count = f"{len(pts)} {'frame' if len(pts) == 1 else 'frames'}"
        note = f"{count} sampled" + ("" if str(sampling) == count else f": {sampling}")
        if out is not None:
            most = 60 if max_frames is None else max_frames
            frames = spread_frames(local, pts, max_frames=most, fit=thumbnail_fit(info), decoder=reading.decoder)
            note += "" if len(frames) == len(pts) else f"; {len(frames)} of them drawn, evenly spread"
            save_picture(contact_sheet(frames, title=short_name(path), note=note), out)
    names = cache.names.by_digest()
    entries = [e for e in cache.entries() if e.key.video_digest == digest]
    entries = [e for e in entries if wanted is None or entry_facts(e)["compressor"] == str(wanted)]
    if json:
        print_json(
            {
                "video": asdict(info),
                "sampling": str(sampling),
                "num_sampled_frames": len(pts),
                "contact_sheet": None if out is None else str(out),
                "entries": [entry_facts(e, name=names.get(e.digest)) for e in entries],
            }
        )
        return
    print_facts(asdict(info))
    print_entries(entries, names=names, video=path)
    print_wrapped(note if out is None else f"{note}: {out}")


def spread_frames(video: VideoLike, pts_seconds: Any, *, max_frames: int, fit: Fit, decoder: str) -> FrameBatch:
    """Read the frames at these times, thinned evenly to ``max_frames``."""
    import numpy as np

    from voco_video.video.reading import read_frames

    num_frames = len(pts_seconds)
    places = np.linspace(0, num_frames - 1, min(num_frames, max_frames)).round().astype(int)
    wanted = Sampling(timestamps=tuple(float(t) for t in pts_seconds[places]))
    return read_frames(video, wanted, fit=fit, backend=decoder)


def entry_facts(entry: CacheEntry, *, name: str | None = None) -> dict[str, Any]:
    """Return a cache entry as plain values; None for facts that entries of other versions lack.

    Args:
        name: that it was given.
    """
    from voco_video.errors import CacheError
    from voco_video.stored_tokens import tokens_per_frame

    settings = entry.key.settings
    num_voco_tokens = None
    with suppress(CacheError):  # it holds something other than tokens
        num_voco_tokens = tokens_per_frame(entry)
    return {
        "digest": entry.digest,
        "name": name or (settings["stream"] if isinstance(settings.get("stream"), str) else None),
        "source": entry.facts.get("source"),
        "source_is_gone": _is_gone(entry.facts.get("source")),
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


def _is_gone(source: object) -> bool | None:
    """Tell whether the file that an entry was made from is gone; None where it was made from no file."""
    return not os.path.exists(source) if isinstance(source, str) and os.path.isabs(source) else None


def print_entries(
    entries: Sequence[CacheEntry], *, names: Mapping[str, str] = MappingProxyType({}), video: str | None = None
) -> None:
    """Print a table of cache entries.

    Args:
        names: that they were given, by digest.
        video: what their video is called here; by default what it was called when it was compressed.
    """
    if not entries:
        print("no entries in the cache")
        return
    columns: list[str | Column] = [
        Column("entry", cut=None),
        Column("name", spare=0),
        "video",
        Column("frames", right=True),
        Column("sampling", spare=3),
        Column("kept", spare=2),
        Column("size", right=True),
        Column("used", right=True, spare=4),
        Column("model", spare=1),
    ]
    rows = []
    for entry in entries:
        facts = entry_facts(entry, name=names.get(entry.digest))
        gone = " (gone)" if facts["source_is_gone"] and video is None else ""
        int8 = " int8" if facts["storage"] == "int8" else ""
        rows.append(
            [
                entry.digest[:8],
                facts["name"] or "",
                short_name(video or unless_none(facts["source"])) + gone,
                f"{facts['num_frames']}, growing" if facts["is_growing"] else str(facts["num_frames"]),
                unless_none(facts["sampling"]),
                kept(facts["compressor"], facts["num_voco_tokens"], facts["form"]).partition(",")[0] + int8,
                format_bytes(facts["size_bytes"]),
                format_age(time.time() - entry.last_used.timestamp()),
                facts["model"],
            ]
        )
    if not any(row[1] for row in rows):
        columns, rows = [columns[0], *columns[2:]], [[row[0], *row[2:]] for row in rows]
    print_table(columns, rows)


def format_age(seconds: float) -> str:
    """Format how long ago something was, in its largest whole unit.

    >>> format_age(20), format_age(90), format_age(3600 * 30), format_age(86400 * 40)
    ('now', '1 min', '30 h', '40 d')
    """
    for unit, size, up_to in (("min", 60, 60), ("h", 3600, 48)):
        if seconds < 60:
            return "now"
        if seconds < up_to * size:
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds / 86400)} d"
