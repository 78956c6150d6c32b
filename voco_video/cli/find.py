"""``voco-video find``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.ask import ENTRY_DIGEST, open_compressed, source_of
from voco_video.cli.compress import expand_paths
from voco_video.cli.options import with_options, without
from voco_video.cli.output import ProgressBar, print_json, print_table
from voco_video.errors import UsageError
from voco_video.options.compression import CompressOptions
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.api import Found


@with_options
def find(
    arguments: Annotated[
        list[str],
        typer.Argument(
            help="Videos, folders, patterns, or cache entries; then what to look for.", metavar="PATH... QUERY"
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

    Videos that the cache does not have are compressed first. With a model that has learned to find frames, a score
    above 0 says that the moment more likely than not shows what was asked for; with others only the order counts.

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
    names = [name for given in paths for name in _names(given)]
    from voco_video.api import find as find_moments
    from voco_video.api import load_model

    loaded = load_model(model, **asdict(load), cache_dir=cache_dir)
    videos = [open_compressed(loaded, name, sampling, compression, quiet=json) for name in names]
    with ProgressBar("searching", total=sum(video.num_frames for video in videos), quiet=json) as bar:
        found = find_moments(videos, query, num_moments=num_moments, on_progress=bar.advance)
    if json:
        print_json({"query": query, "moments": [moment_facts(one) for one in found]})
    else:
        print_moments(found)
    if strip is not None and found:
        write_moments(found, query, strip)


def _names(given: str) -> list[str]:
    """List the videos that a path or a pattern names; a cache entry stays as it is."""
    if not Path(given).exists() and ENTRY_DIGEST.fullmatch(given):
        return [given]
    return [str(path) for path in expand_paths([given])]


def moment_facts(one: Found) -> dict[str, Any]:
    """Return a moment as plain values."""
    return {"path": str(source_of(one.video)), "entry": one.video.parts[0].entry.digest, **asdict(one.moment)}


def print_moments(found: list[Found]) -> None:
    """Print a table of moments, best first."""
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
    """Write one PNG with the best frame of each moment."""
    from voco_video.answer.pictures import moment_strip

    sources = [source_of(one.video) for one in found]
    moment_strip([one.moment for one in found], sources=sources, title=query).save(path)
