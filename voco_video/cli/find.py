"""``voco-video find``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.ask import file_of, is_entry, open_compressed, source_of
from voco_video.cli.compress import expand_paths
from voco_video.cli.options import with_options, without
from voco_video.cli.output import ProgressBar, print_json, print_table
from voco_video.errors import FILE_ERRORS, ModelError, UsageError, VideoError, VocoVideoError, with_name
from voco_video.files.urls import short_name, shown_name
from voco_video.options.compression import CompressOptions
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.answer.compressed_video import CompressedVideo
    from voco_video.answer.several_videos import Found


@with_options
def find(
    arguments: Annotated[
        list[str],
        typer.Argument(
            help="Videos, folders, patterns, URLs, or cache entries; then what to look for.", metavar="PATH... QUERY"
        ),
    ],
    *,
    num_moments: Annotated[int, typer.Option(help="Show this many moments.")] = 5,
    strip: Annotated[
        Path | None, typer.Option(help="Draw a frame of each moment into this PNG.", metavar="FILE")
    ] = None,
    model: opt.Model = "voco-tiny",
    sampling: Sampling,
    compression: Annotated[CompressOptions, without("num_voco_tokens", "force")],
    load: LoadOptions,
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Find the moments of videos that have most to do with a query; nothing is generated, and no pixel is read.

    Videos that the cache does not have are compressed first. One that cannot be read is named, and the others are
    searched. With a model that has learned to find frames, a score above 0 says that the moment more likely than not
    shows what was asked for; with others only the order counts. Where a video is nothing that the model was trained on,
    as real footage is for voco-tiny, scores mean nothing, and a note says so.

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
    names = _names(paths)
    from voco_video.api import find as find_moments
    from voco_video.api import load_model

    loaded = load_model(model, **asdict(load), cache_dir=cache_dir)
    videos: list[CompressedVideo] = []
    asked: dict[int, str] = {}  # how each video is shown: as it was given
    num_failed = 0

    def count_failed(name: object, error: Exception) -> None:
        nonlocal num_failed
        num_failed += 1
        print(f"error: {with_name(error, name)}", file=sys.stderr)

    for name in names:
        try:
            video = open_compressed(loaded, name, sampling, compression, quiet=json)
            videos.append(video)
            asked[id(video)] = source_of(video) if is_entry(name) else shown_name(name)
        except (VocoVideoError, *FILE_ERRORS) as error:
            if len(names) == 1 or (isinstance(error, ModelError) and not videos):  # then no other will do better
                raise
            count_failed(shown_name(name), error)
    with ProgressBar("searching", total=sum(video.num_frames for video in videos), quiet=json) as bar:
        found = find_moments(
            videos,
            query,
            num_moments=num_moments,
            on_progress=bar.advance,
            on_error=None if len(names) == 1 else lambda video, error: count_failed(asked[id(video)], error),
        )
    show_moments(found, query, asked, json=json)
    for note in dict.fromkeys(f"{short_name(asked[id(v)])}: {v.foreign_note}" for v in videos if v.foreign_note):
        print(f"note: scores mean nothing here: {note}", file=sys.stderr)
    if strip is not None and found:
        write_moments(found, query, strip)
    if num_failed:
        print(f"{num_failed} of {len(names)} videos failed", file=sys.stderr)
        raise typer.Exit(1)


def _names(given: list[str]) -> list[str]:
    """List the cache entries as they are, then paths and patterns as the videos that they stand for."""
    entries = [name for name in given if is_entry(name)]
    paths = [name for name in given if name not in entries]
    try:
        return [*dict.fromkeys(entries), *map(str, expand_paths(paths) if paths else ())]
    except VideoError:  # none of the files is there; beside entries each fails by itself
        if not entries:
            raise
        return [*dict.fromkeys(entries), *paths]


def show_moments(found: list[Found], query: str, names: dict[int, str], *, json: bool) -> None:
    """Print moments as a table or as JSON.

    Args:
        names: how each video is shown, by its ``id``.
    """
    if json:
        print_json({"query": query, "moments": [moment_facts(one, names[id(one.video)]) for one in found]})
    else:
        print_moments(found, [short_name(names[id(one.video)]) for one in found])


def moment_facts(one: Found, path: str) -> dict[str, Any]:
    """Return a moment of the video that is shown as ``path`` as plain values."""
    where = {"path": path, "entry": one.video.parts[0].entry.digest}
    return {**where, **asdict(one.moment), "is_foreign": bool(one.video.foreign_note)}


def print_moments(found: list[Found], names: list[str]) -> None:
    """Print a table of moments, best first, each with the name of its video."""
    from voco_video.answer.moments import format_seconds

    rows = [
        [
            name,
            format_seconds(one.moment.start_seconds),
            format_seconds(one.moment.end_seconds),
            *(("–", "–") if one.video.foreign_note else (f"{one.moment.score:.2f}", f"{one.moment.weight:.0%}")),
        ]
        for one, name in zip(found, names, strict=True)
    ]
    print_table(["video", "from", "to", "score", "weight"], rows)


def write_moments(found: list[Found], query: str, path: Path) -> None:
    """Write one PNG with the best frame of each moment."""
    from voco_video.answer.pictures import moment_strip

    sources = [file_of(one.video) for one in found]
    moment_strip([one.moment for one in found], sources=sources, title=query).save(path)
