"""``voco-video compress SOURCE --follow``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from voco_video.cli.early import similar_file
from voco_video.cli.entries import is_there
from voco_video.cli.output import format_bytes, print_json, unless_none
from voco_video.cli.progress import ProgressBar
from voco_video.cli.run_line import print_line, run_facts, run_line
from voco_video.cli.tables import Column, print_table, print_wrapped
from voco_video.errors import UsageError, VideoError, used_wrongly
from voco_video.files.urls import is_url, short_name
from voco_video.options.compression import CompressOptions, StreamOptions
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.api import VideoModel, VideoStream
    from voco_video.follow import StreamProgress


def check_followed(paths: list[str], sampling: Sampling, compression: CompressOptions) -> None:
    """Refuse what --follow cannot do, before a model is loaded for it.

    Raises:
        UsageError: several sources, or options that need a finished file.
        VideoError: the source is a path, and not there.
    """
    from voco_video.video.live_source import parse_source

    if len(paths) != 1:
        raise UsageError(f"--follow takes one source, not {len(paths)}; run one command for each")
    for name, value in asdict(sampling).items():
        if name != "fps" and value not in (None, False):
            raise UsageError(f"--follow samples by --fps, from where the source is; leave out {name}={value!r}")
    if compression.decoder != "pyav":
        decoder = f"decoder={compression.decoder!r}"
        raise UsageError(f"--follow decodes with pyav; leave out {decoder}, which reads whole files only")
    source = paths[0]
    if source != "-" and not is_url(source) and not is_there(source):
        meant = similar_file(source)
        raise used_wrongly(VideoError(f"{source}: no such file{meant or '; start the recording first'}"))
    parse_source(source)


def follow_source(
    model: VideoModel, source: str, options: StreamOptions, compression: CompressOptions, *, json: bool
) -> None:
    """Follow a source to its end and print the result; Ctrl-C keeps what is compressed and exits with 130."""
    from voco_video.api import VideoStream

    stream = VideoStream(model, source, options, compression)
    if stream.choice and not json:
        print_wrapped(stream.choice, file=sys.stderr)
    try:
        with stream, ProgressBar(short_name(stream.source_name), quiet=json) as bar:
            is_announced = json
            for progress in stream:
                if progress.num_published_frames and not is_announced:
                    is_announced = True
                    print_line(
                        [run_facts(stream.video, source if is_there(source) else stream.source_name)], quiet=json
                    )
                    print_wrapped(f"ask while it grows: voco-video ask {asked_as(stream)} ...", file=sys.stderr)
                bar.show_state(format_progress(progress))
    except KeyboardInterrupt:
        print_followed(stream, source, json=json)
        print_wrapped(f"interrupted; go on with the same command and --name {stream.name!r}", file=sys.stderr)
        raise typer.Exit(130) from None
    print_followed(stream, source, json=json)


def asked_as(stream: VideoStream) -> str:
    """Return what is written to ask a stream's entry: its name, else its source's path, else its digest."""
    given_name = stream.options.name
    if given_name is not None:
        return shlex.quote(given_name)
    return shlex.quote(stream.source_name) if is_there(stream.source_name) else stream.key.digest[:12]


def print_followed(stream: VideoStream, source: str, *, json: bool) -> None:
    """Print what is in the entry of a followed source: a table, or JSON."""
    if stream.entry is None:
        return
    video = stream.video
    entry = video.parts[0].entry
    facts = {
        **run_facts(video, source if is_there(source) else stream.source_name),
        "compressor_choice": stream.choice,
        "source": stream.source_name,
        "name": stream.name,
        "digest": entry.digest,
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
    print_wrapped(run_line([facts]))
    columns: list[str | Column] = [
        "source",
        Column("entry", cut=None),
        "frames",
        Column("dropped", right=True, spare=1),
        Column("seconds", right=True, spare=2),
        Column("gaps", spare=3),
        "size",
    ]
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
    """Format one line: frames, length of the video, delay behind the source, and dropped frames.

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
