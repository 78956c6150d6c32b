"""``voco-video find``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.ask import is_entry, open_compressed, source_of
from voco_video.cli.compress import checked_compressor, checked_sampling, expand_paths, parse_timestamps
from voco_video.cli.output import count_bar, print_json, print_table
from voco_video.errors import FILE_ERRORS, ModelError, UsageError, VideoError, VocoVideoError, with_name

if TYPE_CHECKING:
    from voco_video.api import CompressedVideo, Found


def find(
    arguments: Annotated[
        list[str],
        typer.Argument(
            help="Videos, folders, patterns, or cache entries; then what to look for.", metavar="PATH... QUERY"
        ),
    ],
    num_moments: Annotated[int, typer.Option(help="Show this many moments.")] = 5,
    strip: Annotated[
        Path | None, typer.Option(help="Draw a frame of each moment into this PNG.", metavar="FILE")
    ] = None,
    model: opt.Model = "voco-tiny",
    fps: opt.Fps = None,
    num_frames: opt.NumFrames = None,
    keyframes: opt.Keyframes = False,
    timestamps: opt.Timestamps = None,
    start: opt.Start = None,
    end: opt.End = None,
    compressor: opt.Compressor = "voco",
    form: opt.Form = None,
    storage: opt.Storage = opt.StorageChoice.native,
    batch_size: opt.BatchSize = "16",
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    attention: opt.Attention = "auto",
    decoder: opt.Decoder = opt.DecoderChoice.pyav,
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    r"""Find the moments of videos that have most to do with a query; nothing is generated, no pixel looked at.

    Videos that the cache does not have are compressed first; one that cannot be read is named, and the others are
    searched. With a model that has learned to find frames, a score above 0 says that the moment likelier than not
    shows what was asked for; else only the order of scores counts.

    \b
    Examples:
      voco-video find holiday.mp4 "the red car"
      voco-video find recordings/ "where does the ball go?" --num-moments 10 --json
      voco-video find 'cam-*.mkv' "a person at the door" --strip moments.png
      voco-video find 3f9a2c41 "the blue star" --start 3600
    """
    if len(arguments) < 2:
        raise UsageError("give one video or more, and then what to look for")
    *paths, query = arguments
    if num_moments < 1:
        raise UsageError(f"--num-moments {num_moments}: look for 1 moment at least")
    if not query.strip():
        raise UsageError("the query is empty; say what to look for")
    sampling = {
        "fps": fps,
        "num_frames": num_frames,
        "keyframes": keyframes,
        "timestamps": parse_timestamps(timestamps),
    }
    checked_sampling(sampling | {"start_seconds": start, "end_seconds": end})
    checked_compressor(compressor, None)
    names = _names(paths)
    from voco_video.api import find as find_moments
    from voco_video.api import load_model

    loaded = load_model(model, device=device, dtype=dtype, attn_implementation=attention, cache_dir=cache_dir)
    options = {
        "compressor": compressor,
        "form": form.value if form else None,
        "storage": storage.value,
        "batch_size": opt.parse_batch_size(batch_size),
        "decoder": decoder.value,
    }
    videos: list[CompressedVideo] = []
    num_failed = 0

    def count_failed(name: object, error: Exception) -> None:
        nonlocal num_failed
        num_failed += 1
        print(f"error: {with_name(error, name)}", file=sys.stderr)

    for name in names:
        try:
            video = open_compressed(loaded, name, sampling=sampling, options=options, quiet=json)
            videos.append(video if start is None and end is None else video[start:end])
        except (VocoVideoError, *FILE_ERRORS) as error:
            if len(names) == 1 or (isinstance(error, ModelError) and not videos):  # then no other will do better
                raise
            count_failed(name, error)
    with count_bar("searching", sum(video.num_frames for video in videos), quiet=json) as show:
        found = find_moments(
            videos,
            query,
            num_moments=num_moments,
            on_progress=show,
            on_error=None if len(names) == 1 else lambda video, error: count_failed(source_of(video), error),
        )
    if json:
        print_json({"query": query, "moments": [moment_facts(one) for one in found]})
    else:
        print_moments(found)
    if strip is not None and found:
        write_moments(found, query, strip)
    if num_failed:
        print(f"{num_failed} of {len(names)} videos failed", file=sys.stderr)
        raise typer.Exit(1)


def _names(given: list[str]) -> list[str]:
    """Cache entries as they are, then paths and patterns as the videos that they stand for."""
    entries = [name for name in given if is_entry(name)]
    paths = [name for name in given if name not in entries]
    try:
        return [*dict.fromkeys(entries), *map(str, expand_paths(paths) if paths else ())]
    except VideoError:  # none of the files is there; beside entries each fails by itself
        if not entries:
            raise
        return [*dict.fromkeys(entries), *paths]


def moment_facts(one: Found) -> dict[str, Any]:
    """A moment as plain values."""
    return {"path": str(source_of(one.video)), "entry": one.video.parts[0].entry.digest, **asdict(one.moment)}


def print_moments(found: list[Found]) -> None:
    """A table, best first."""
    from voco_video.answer.moments import format_seconds

    rows = [
        [
            source_of(one.video).name,
            format_seconds(one.moment.start_seconds),
            format_seconds(one.moment.end_seconds),
            f"{one.moment.score:.2f}",
            f"{one.moment.weight:.0%}",
        ]
        for one in found
    ]
    print_table(["video", "from", "to", "score", "weight"], rows)


def write_moments(found: list[Found], query: str, path: Path) -> None:
    """One PNG with the best frame of each moment."""
    from voco_video.answer.pictures import moment_strip

    sources = [source_of(one.video) for one in found]
    moment_strip([one.moment for one in found], sources=sources, title=query).save(path)
