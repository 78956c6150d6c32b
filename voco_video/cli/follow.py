"""``voco-video compress SOURCE --follow``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli.output import format_bytes, print_json, print_table, unless_none
from voco_video.errors import UsageError

if TYPE_CHECKING:
    from voco_video.api import VideoModel
    from voco_video.follow import Stream, StreamProgress


class WhenBehindChoice(str, Enum):
    """What happens when the model is slower than the source."""

    wait = "wait"
    thin = "thin"


Follow = Annotated[
    bool,
    typer.Option(
        "--follow", help="Compress a source that is still being made: a growing file, - for a pipe, or a URL."
    ),
]
Name = Annotated[
    str | None,
    typer.Option(help="With --follow: call the entry so; the same name goes on with it.", metavar="NAME"),
]
Resume = Annotated[bool, typer.Option("--resume", help="With --follow: go on with this source's latest entry.")]
PublishSeconds = Annotated[
    float | None, typer.Option(help="With --follow: let others read what is new this often. [default: 1]")
]
IdleSeconds = Annotated[
    float | None,
    typer.Option(help="With --follow: a file or URL with nothing new for so long has ended. [default: 30]"),
]
EndMarker = Annotated[
    Path | None, typer.Option(help="With --follow: a file has also ended when this one exists.", metavar="PATH")
]
WhenBehind = Annotated[
    WhenBehindChoice | None,
    typer.Option(help="With --follow: if the model is slower, wait or drop. [default: thin for URLs, else wait]"),
]
StartsOver = Annotated[
    bool | None,
    typer.Option(
        "--starts-over/--goes-on",
        help="With --follow: the source, opened again, repeats itself, or gives what is new. [default: files repeat]",
    ),
]


def checked_options(
    *, follow: bool, paths: list[str], sampling: dict[str, Any], stream: dict[str, Any], decoder: str
) -> None:
    """Refuse options that cannot be right before a model is loaded for them.

    Args:
        sampling, stream: options by name; those that were not given are None or False.

    Raises:
        UsageError: options that belong to --follow without it, or the other way round.
        VideoError: the source is a path, and not there.
    """
    from voco_video.follow import StreamOptions
    from voco_video.video.live_source import parse_source

    given = [_flag(name) for name, value in stream.items() if value not in (None, False)]
    if not follow:
        if given:
            raise UsageError(f"{given[0]} goes with --follow")
        return
    if len(paths) != 1:
        raise UsageError(f"--follow takes one source, not {len(paths)}; run one command for each")
    other = [_flag(name) for name, value in sampling.items() if name != "fps" and value not in (None, False)]
    if other:
        raise UsageError(f"--follow samples by --fps, from where the source is; leave out {other[0]}")
    if decoder != "pyav":
        raise UsageError(f"--follow decodes with pyav; leave out --decoder {decoder}, which reads whole files only")
    StreamOptions(**{name: value for name, value in stream.items() if value is not None})
    parse_source(paths[0])


def follow_source(model: VideoModel, source: str, options: dict[str, Any], *, json: bool) -> None:
    """Follow a source to its end, and say what came of it; Ctrl-C keeps what is compressed and exits with 130."""
    stream = model.open_stream(source, **options)
    try:
        with stream, _progress_line(quiet=json) as show:
            is_announced = json
            for progress in stream:
                if progress.num_published_frames and not is_announced:
                    is_announced = True
                    print(
                        f'{stream.source_name}: ask while it grows: voco-video ask {stream.key.digest[:12]} "..."',
                        file=sys.stderr,
                    )
                show(progress)
    except KeyboardInterrupt:
        print_followed(stream, json=json)
        print(f"interrupted; go on with the same command and --name {stream.name!r}", file=sys.stderr)
        raise typer.Exit(130) from None
    print_followed(stream, json=json)


def print_followed(stream: Stream, *, json: bool) -> None:
    """What is in a followed source's entry: a table, or JSON."""
    entry = stream.entry
    if entry is None:
        return
    facts = {
        "source": stream.source_name,
        "name": stream.name,
        "digest": entry.digest,
        "is_growing": entry.is_growing,
        "num_frames": entry.num_frames,
        "num_dropped_frames": entry.facts.get("num_dropped_frames"),
        "num_undecodable_frames": entry.facts.get("num_undecodable_frames"),
        "first_pts_seconds": float(entry.pts_seconds[0]),
        "last_pts_seconds": float(entry.pts_seconds[-1]),
        "gaps": entry.facts.get("gaps", []),
        "size_bytes": entry.size_bytes,
    }
    if json:
        print_json(facts)
        return
    columns = ["source", "entry", "frames", "dropped", "seconds", "gaps", "size"]
    row = [
        stream.source_name.rpartition("/")[2],
        entry.digest[:12],
        str(entry.num_frames),
        unless_none(facts["num_dropped_frames"]),
        f"{facts['first_pts_seconds']:.1f}-{facts['last_pts_seconds']:.1f}",
        str(len(facts["gaps"])),
        format_bytes(entry.size_bytes),
    ]
    print_table(columns, [row])


def format_progress(progress: StreamProgress) -> str:
    """One line: frames, how much video that is, how far behind the source, and what was dropped.

    >>> from voco_video.follow import StreamProgress
    >>> format_progress(StreamProgress(75, 70, 2, 3674.0, 1.25))
    '75 frames, 1:01:14 of video, 1.2 s behind, 2 dropped'
    """
    from voco_video.answer.moments import format_seconds

    if not progress.num_frames:
        return "waiting for the first frame"
    return (
        f"{progress.num_frames} frames, {format_seconds(progress.media_seconds, digits=0, with_hours=True)} of video, "
        f"{progress.lag_seconds:.1f} s behind, {progress.num_dropped_frames} dropped"
    )


@contextmanager
def _progress_line(*, quiet: bool) -> Iterator[Callable[[StreamProgress], None]]:
    """A line that is written over, on standard error; silent where that is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda progress: None
        return
    try:
        yield lambda progress: print(f"\r\x1b[K{format_progress(progress)}", end="", file=sys.stderr, flush=True)
    finally:
        print(file=sys.stderr)


def _flag(option: str) -> str:
    return "--" + option.removesuffix("_seconds" if option in ("start_seconds", "end_seconds") else "").replace(
        "_", "-"
    )
