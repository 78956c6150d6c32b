"""``voco-video compress``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_model, check_not_on_a_store, check_video, similar_file
from voco_video.cli.entries import check_can_name
from voco_video.cli.follow import check_followed, follow_source
from voco_video.cli.help import OUTPUT
from voco_video.cli.library import DEFAULT_MANIFEST, compress_library
from voco_video.cli.options import given, with_options
from voco_video.cli.output import format_bytes, print_json, unless_none
from voco_video.cli.progress import ProgressBar, loading
from voco_video.cli.run_line import run_facts, run_line
from voco_video.cli.tables import Column, print_error, print_table, print_wrapped
from voco_video.errors import UsageError, VideoError, used_wrongly, with_name
from voco_video.files.paths import expanded
from voco_video.files.urls import is_url, short_name, shown_name
from voco_video.library.manifest import is_manifest
from voco_video.library.sources import VIDEO_SUFFIXES, files_matching, urls_of, videos_below
from voco_video.options.cluster import CLUSTER, ClusterOptions
from voco_video.options.compression import FOLLOWING, STORAGE, CompressOptions, StreamOptions
from voco_video.options.fields import option_of
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.answer.compressed_video import CompressedVideo
    from voco_video.answer.several_videos import Compressed
    from voco_video.api import VideoModel


Manifest = Annotated[
    Path | None,
    typer.Option(
        help="With --engine: list the videos and what came of them in this .parquet, .csv or .jsonl. "
        f"[default: {DEFAULT_MANIFEST}]",
        metavar="FILE",
        rich_help_panel=CLUSTER,
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="With --engine: exit with 1 where a video failed.", rich_help_panel=CLUSTER)
]
Follow = Annotated[
    bool,
    typer.Option(
        "--follow",
        help="Compress a source that is still being made: a growing file, - for a pipe, or a URL.",
        rich_help_panel=FOLLOWING,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        help="Name the entry, by which every command finds it. With --follow the same name goes on with its entry.",
        metavar="NAME",
        rich_help_panel=STORAGE,
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Also show how many seconds each stage took.", rich_help_panel=OUTPUT)
]


@with_options
def compress(
    paths: Annotated[
        list[str], typer.Argument(help="Videos, folders, patterns, URLs; with --engine manifests.", metavar="PATH...")
    ],
    *,
    model: opt.Model = "voco-tiny",
    sampling: Sampling,
    compression: CompressOptions,
    load: LoadOptions,
    cache_dir: opt.CacheDir = None,
    cluster: Annotated[dict[str, Any], given(ClusterOptions)],
    manifest: Manifest = None,
    strict: Strict = False,
    follow: Follow = False,
    name: Name = None,
    stream: Annotated[dict[str, Any], given(StreamOptions, "fps", "force", "name")],
    verbose: Verbose = False,
    json: opt.Json = False,
) -> None:
    """Compress videos into the frame cache.

    A video that is in the cache already is not compressed again. An interrupted run continues where it stopped when
    the same command is given again.

    With --follow the source may still be growing, and can be asked about meanwhile. Its entry is found by its name, not
    by the bytes of the file: compress a finished recording without --follow to have it found by its bytes.

    With --engine many workers compress, here or on a Ray cluster, and --manifest lists the videos for `find`, `ask` and
    `eval`. A video that fails is a row of the list, and the exit code is 0 unless none succeeds, or --strict is given.

    \b
    Examples:
      voco-video compress clip.mp4
      voco-video compress lecture.mkv --fps 0.5 --start 600 --end 1200
      voco-video compress videos/ --num-frames 16 --json > compressed.json
      voco-video compress 'videos/*.webm' --model ./my-checkpoint --num-voco-tokens 2 --storage int8
      voco-video compress https://example.org/clip.mp4 s3://bucket/clip.mp4
      voco-video compress recording.ts --follow --fps 2
      voco-video compress rtsp://camera.local/1 --follow --name door
      ffmpeg -i camera.sdp -f mpegts - | voco-video compress - --follow --name yard
      voco-video compress talks/ --engine processes --concurrency 4 --manifest talks.csv
      voco-video compress s3://bucket/talks/ --engine ray --address auto --num-gpus 1 --manifest talks.parquet
    """
    if cluster or manifest is not None or strict:
        if follow or name is not None or stream:
            raise UsageError("--engine shares many whole videos out; leave out --follow and --name")
        compress_library(
            paths, cluster, manifest, model=model, sampling=sampling, compression=compression, load=load,
            cache_dir=cache_dir, strict=strict, json=json,
        )  # fmt: skip
        return
    check_model(
        model, revision=load.revision, offline=load.offline, num_voco_tokens=filter(None, [compression.num_voco_tokens])
    )
    if follow:
        check_followed(paths, sampling, compression)
        check_not_on_a_store(cache_dir)
        streaming = StreamOptions(fps=sampling.fps or 1.0, force=compression.force, name=name, **stream)
        with loading(model, quiet=json):
            from voco_video.api import load_model

            loaded = load_model(model, **asdict(load), cache_dir=cache_dir)
        follow_source(loaded, paths[0], streaming, compression, json=json)
        return
    if stream:
        raise UsageError(f"{option_of(StreamOptions, next(iter(stream))).flags[0]} goes with --follow")
    files = expand_paths(paths)
    if name is not None:
        check_can_name(name, files, cache_dir)
    if len(files) == 1:
        check_video(str(files[0]), sampling)
    options = {**asdict(sampling), **asdict(compression)}
    with loading(model, quiet=json):
        from voco_video.api import load_model

        loaded = load_model(model, **asdict(load), cache_dir=cache_dir)
    num_failed = compress_files(loaded, files, options, name=name, verbose=verbose, json=json)
    if num_failed:
        print(f"{num_failed} of {len(files)} files failed", file=sys.stderr)
        raise typer.Exit(1)


def compress_files(
    model: VideoModel, files: list[Path | str], options: dict[str, Any], *, name: str | None, verbose: bool, json: bool
) -> int:
    """Compress files and print what came of them; one that fails is named, and the others are compressed.

    Returns:
        How many failed. A single file's error is raised.
    """
    rows: list[dict[str, Any]] = []
    num_failed = 0
    path = files[0]

    def begun(bar: ProgressBar) -> Iterator[Path | str]:
        nonlocal path
        for path in files:
            bar.begin(short_name(path))
            yield path

    def compressed(bar: ProgressBar) -> Iterator[Compressed]:
        from voco_video.answer.several_videos import Compressed

        if name is None:
            return model.compress_many(begun(bar), **options, on_progress=bar.show_frames)
        (only,) = begun(bar)
        return iter([Compressed(only, model.compress(only, **options, name=name, on_progress=bar.show_frames))])

    try:
        with ProgressBar(num_items=len(files), quiet=json) as bar:
            for item in compressed(bar):
                if item.video is not None:
                    rows.append(summary(path, item.video))
                    bar.finish(is_free=item.video.from_cache)
                elif item.error is not None:
                    if len(files) == 1:
                        raise item.error
                    num_failed += 1
                    print_error(str(with_name(item.error, shown_name(path))))
    except KeyboardInterrupt:
        print_summary(rows, verbose=verbose, json=json)
        print_wrapped(
            f"interrupted in {shown_name(path)}; whole batches are kept, so the same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    print_summary(rows, verbose=verbose, json=json)
    return num_failed


def expand_paths(paths: list[str]) -> list[Path | str]:
    """List files as given, videos below folders, matches of patterns, and URLs as text, in order.

    Of several paths, one that names nothing is kept as it is, and fails alone when its turn comes.

    Raises:
        UsageError: nothing but a folder without videos, or a pattern without matches.
        VideoError: not one of the files is there.
    """
    files: list[Path | str] = []
    for name in paths:
        if is_url(name):
            files += urls_of(name)
            continue
        if is_manifest(name):
            raise UsageError(
                f"{name} is a manifest, a list of videos; compress those with --engine processes, or --engine ray"
            )
        path = expanded(name)
        if os.path.isdir(path):  # which takes any name, however long
            found = videos_below(path)
            if not found and len(paths) == 1:
                known = ", ".join(sorted(VIDEO_SUFFIXES))
                raise UsageError(f"{path}: no video files in this folder (looked for {known})")
            files += found or [path]
        elif not os.path.exists(path) and has_magic(name):
            found = files_matching(name)
            if not found and len(paths) == 1:
                raise UsageError(f"{name!r} matches no file")
            files += found or [path]
        else:
            files.append(path)
    files = list(dict.fromkeys(files))
    # Of several of which some are there, those are compressed.
    if not any(is_url(file) or os.path.exists(file) for file in files):
        raise used_wrongly(VideoError(f"{files[0]}: no such file{similar_file(str(files[0]))}"))
    return files


def summary(path: Path | str, video: CompressedVideo) -> dict[str, Any]:
    """Return what compressing one video gave, as plain values."""
    entry = video.parts[0].entry
    per_frame = entry.facts.get("num_vision_tokens")  # entries of other versions may lack what this one records
    vision_tokens = per_frame * entry.num_frames if isinstance(per_frame, int) else None
    kept_tokens = video.num_voco_tokens * entry.num_frames
    return {
        **run_facts(video, shown_name(path)),
        "digest": entry.digest,
        "is_foreign": bool(video.foreign_note),
        "num_resumed_frames": video.result.num_resumed_frames if video.result else 0,
        "num_undecodable_frames": entry.facts.get("num_undecodable_frames"),
        "first_pts_seconds": float(entry.pts_seconds[0]),
        "last_pts_seconds": float(entry.pts_seconds[-1]),
        "vision_tokens": vision_tokens,
        "kept_tokens": kept_tokens,
        "ratio": vision_tokens / kept_tokens if vision_tokens is not None and kept_tokens else None,
        "size_bytes": entry.size_bytes,
        "bytes_per_frame": entry.bytes_per_frame,
        "seconds": asdict(video.stage_seconds) | {"total": video.result.total_seconds if video.result else 0.0},
    }


def format_ratio(ratio: float | None) -> str:
    """Format vision tokens per kept token: ``64x``, ``0.98x``, or a dash where none are kept.

    >>> format_ratio(64.0), format_ratio(64 / 66), format_ratio(None)
    ('64x', '0.97x', '–')
    """
    if ratio is None:
        return "–"
    return f"{ratio:.0f}x" if ratio >= 9.5 else f"{ratio:.3g}x"


def print_summary(rows: list[dict[str, Any]], *, verbose: bool = False, json: bool) -> None:
    """Print a table of compressed videos, with ``verbose`` one of the seconds of each stage, too; or JSON."""
    if json:
        print_json(rows)
        return
    if not rows:
        return
    print_choices(rows)
    print_wrapped(run_line(rows))
    columns: list[str | Column] = [
        "video",
        Column("entry", cut=None, spare=3),
        Column("frames", spare=1),
        Column("tokens → kept", right=True, spare=5),
        Column("ratio", right=True, spare=4),
        Column("size", spare=2),
        Column("seconds", right=True),
    ]
    print_table(columns, [_row(row) for row in rows])
    if verbose:
        stages = ("decode", "wait", "vision", "llm", "write", "total")
        print_table(
            ["seconds", *stages], [[short_name(r["path"]), *(f"{r['seconds'][s]:.2f}" for s in stages)] for r in rows]
        )


def _row(row: dict[str, Any]) -> list[str]:
    return [
        short_name(row["path"]),
        row["digest"][:12],
        str(row["num_frames"]),
        f"{unless_none(row['vision_tokens'])} → {row['kept_tokens']}",
        format_ratio(row["ratio"]),
        format_bytes(row["size_bytes"]),
        "cached" if row["from_cache"] else f"{row['seconds']['total']:.2f}",
    ]


def print_choices(videos: Sequence[Mapping[str, Any]]) -> None:
    """Say on standard error why compressors were chosen, from `run_facts`: one line for each compressor."""
    chosen: dict[str, list[Mapping[str, Any]]] = {}
    for video in videos:
        if video["compressor_choice"]:
            chosen.setdefault(video["compressor"], []).append(video)
    for first, *others in chosen.values():
        which = f" ({short_name(first['path'])}; and {len(others)} more)" if others else ""
        print_wrapped(first["compressor_choice"] + which, file=sys.stderr)
