"""``voco-video compress``."""

from __future__ import annotations

import glob
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import follow as following
from voco_video.cli import options as opt
from voco_video.cli.output import format_bytes, print_json, print_table, progress_bar, unless_none
from voco_video.errors import FILE_ERRORS, ModelError, UsageError, VideoError, VocoVideoError, with_name
from voco_video.files.paths import expanded

if TYPE_CHECKING:
    from voco_video.api import CompressedVideo

VIDEO_SUFFIXES = frozenset(
    {
        *(".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov"),
        *(".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
    }
)


def compress(
    paths: Annotated[list[str], typer.Argument(help="Videos, folders of videos, or patterns.", metavar="PATH...")],
    model: opt.Model = "voco-tiny",
    fps: opt.Fps = None,
    num_frames: opt.NumFrames = None,
    keyframes: opt.Keyframes = False,
    timestamps: opt.Timestamps = None,
    start: opt.Start = None,
    end: opt.End = None,
    compressor: opt.Compressor = "voco",
    num_voco_tokens: opt.NumVocoTokens = None,
    form: opt.Form = None,
    storage: opt.Storage = opt.StorageChoice.native,
    batch_size: opt.BatchSize = "16",
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    device_map: opt.DeviceMap = None,
    weight_bits: opt.WeightBits = 16,
    attention: opt.Attention = "auto",
    decoder: opt.Decoder = opt.DecoderChoice.pyav,
    cache_dir: opt.CacheDir = None,
    force: opt.Force = False,
    follow: following.Follow = False,
    name: following.Name = None,
    resume: following.Resume = False,
    publish_seconds: following.PublishSeconds = None,
    idle_seconds: following.IdleSeconds = None,
    end_marker: following.EndMarker = None,
    when_behind: following.WhenBehind = None,
    starts_over: following.StartsOver = None,
    json: opt.Json = False,
) -> None:
    r"""Compress videos into the frame cache.

    A video that is there already is not touched. An interrupted run goes on where it stopped when the same command
    is given again.

    With --follow the source may still be growing, and is asked about while it does. Its entry is addressed by its
    name, not by its bytes: compress a finished recording without --follow to have it found by its bytes.

    \b
    Examples:
      voco-video compress clip.mp4
      voco-video compress lecture.mkv --fps 0.5 --start 600 --end 1200
      voco-video compress videos/ --num-frames 16 --json > compressed.json
      voco-video compress 'videos/*.webm' --model ./my-checkpoint --num-voco-tokens 2 --storage int8
      voco-video compress clip.mp4 --model ./never-trained-to-compress --compressor pool:16
      voco-video compress recording.ts --follow --fps 2
      voco-video compress rtsp://camera.local/1 --follow --name door
      ffmpeg -i camera.sdp -f mpegts - | voco-video compress - --follow --name yard
    """
    from voco_video.api import load_model

    sampling = {
        "fps": fps,
        "num_frames": num_frames,
        "keyframes": keyframes,
        "timestamps": parse_timestamps(timestamps),
        "start_seconds": start,
        "end_seconds": end,
    }
    checked_sampling(sampling)
    checked_compressor(compressor, num_voco_tokens)
    opt.parse_batch_size(batch_size)
    stream: dict[str, Any] = {
        "name": name,
        "resume": resume,
        "publish_seconds": publish_seconds,
        "idle_seconds": idle_seconds,
        "end_marker": end_marker,
        "when_behind": when_behind and when_behind.value,
        "starts_over": starts_over,
    }
    following.checked_options(follow=follow, paths=paths, sampling=sampling, stream=stream, decoder=decoder.value)
    files = [] if follow else expand_paths(paths)
    loaded = load_model(
        model,
        device=device,
        dtype=dtype,
        attn_implementation=attention,
        device_map=device_map,
        weight_bits=weight_bits,  # type: ignore[arg-type]
        cache_dir=cache_dir,
    )
    if follow:
        options = {option: value for option, value in stream.items() if value is not None} | {
            "fps": 1.0 if fps is None else fps,
            "compressor": compressor,
            "num_voco_tokens": num_voco_tokens,
            "form": form.value if form else None,
            "storage": storage.value,
            "batch_size": opt.parse_batch_size(batch_size),
            "force": force,
        }
        following.follow_source(loaded, paths[0], options, json=json)
        return
    rows: list[dict[str, Any]] = []
    num_failed = 0
    for path in files:
        try:
            with progress_bar(path.name, quiet=json) as show:
                video = loaded.compress(
                    path,
                    **sampling,  # type: ignore[arg-type]
                    compressor=compressor,
                    num_voco_tokens=num_voco_tokens,
                    form=form.value if form else None,
                    storage=storage.value,
                    batch_size=opt.parse_batch_size(batch_size),
                    decoder=decoder.value,
                    force=force,
                    on_progress=show,
                )
            rows.append(summary(path, video))
        except (VocoVideoError, *FILE_ERRORS) as error:
            if len(files) == 1 or (isinstance(error, ModelError) and not rows):  # then no other file will do better
                raise
            num_failed += 1
            print(f"error: {with_name(error, path)}", file=sys.stderr)
        except KeyboardInterrupt:
            print_summary(rows, json=json)
            print(
                f"interrupted in {path}; whole batches are kept, so the same command goes on from there",
                file=sys.stderr,
            )
            raise typer.Exit(130) from None
    print_summary(rows, json=json)
    if num_failed:
        print(f"{num_failed} of {len(files)} files failed", file=sys.stderr)
        raise typer.Exit(1)


def expand_paths(paths: list[str]) -> list[Path]:
    """Files as given, videos below folders, and matches of patterns, in order.

    Of several paths, one that stands for nothing is kept as it is: it fails by itself when its turn comes.

    Raises:
        UsageError: nothing but a folder without videos, or a pattern without matches.
        VideoError: not one of the files is there.
    """
    files: list[Path] = []
    for given in paths:
        path = expanded(given)
        if os.path.isdir(path):  # which takes any name, however long
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
            if not found and len(paths) == 1:
                known = ", ".join(sorted(VIDEO_SUFFIXES))
                raise UsageError(f"{path}: no video files in this folder (looked for {known})")
            files += found or [path]
        elif not os.path.exists(path) and glob.has_magic(given):
            found = [Path(match) for match in sorted(glob.glob(given, recursive=True)) if Path(match).is_file()]
            if not found and len(paths) == 1:
                raise UsageError(f"{given!r} matches no file")
            files += found or [path]
        else:
            files.append(path)
    files = list(dict.fromkeys(files))
    if not any(map(os.path.exists, files)):  # of several that are there the others are compressed
        raise VideoError(f"{files[0]}: no such file")
    return files


def parse_timestamps(text: str | None) -> tuple[float, ...] | None:
    """``"1.5,20"`` to seconds.

    Raises:
        UsageError: something in it is not a number.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(f"--timestamps {text!r}: give seconds with commas between them, as in 1.5,20,61") from error


def checked_sampling(sampling: dict[str, Any]) -> None:
    """Refuse options that cannot be right before a model is loaded for them."""
    from voco_video.video.sampling import Sampling

    Sampling(**sampling)


def checked_compressor(compressor: str, num_voco_tokens: int | None) -> None:
    """Refuse a compressor that there is not, or a budget that it cannot have, before a model is loaded for it."""
    from voco_video.model.compressors import parse_compressor

    parse_compressor(compressor).check_budget(num_voco_tokens)


def summary(path: Path, video: CompressedVideo) -> dict[str, Any]:
    """What one compressed video came to, as plain values."""
    entry = video.parts[0].entry
    per_frame = entry.facts.get("num_vision_tokens")  # entries of other versions may lack what this one records
    vision_tokens = per_frame * entry.num_frames if isinstance(per_frame, int) else None
    kept_tokens = video.num_voco_tokens * entry.num_frames
    return {
        "path": str(path),
        "digest": entry.digest,
        "compressor": video.compressor,
        "from_cache": video.from_cache,
        "num_frames": entry.num_frames,
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
    """Vision tokens for each one kept: ``64x``, ``0.98x``, or a dash where none are kept.

    >>> format_ratio(64.0), format_ratio(64 / 66), format_ratio(None)
    ('64x', '0.97x', '–')
    """
    if ratio is None:
        return "–"
    return f"{ratio:.0f}x" if ratio >= 9.5 else f"{ratio:.3g}x"


def print_summary(rows: list[dict[str, Any]], *, json: bool) -> None:
    """A table of compressed videos, or JSON."""
    if json:
        print_json(rows)
        return
    if not rows:
        return
    stages = ["decode", "vision", "LLM", "write", "total"]
    columns = ["video", "entry", "frames", "vision → kept tokens", "ratio", "size", *stages]
    table = []
    for row in rows:
        seconds = row["seconds"]
        stages = (
            ["cache hit", "", "", ""]
            if row["from_cache"]
            else [f"{seconds[stage]:.2f} s" for stage in ("decode", "vision", "llm", "write")]
        )
        table.append(
            [
                Path(row["path"]).name,
                row["digest"][:12],
                str(row["num_frames"]),
                f"{unless_none(row['vision_tokens'])} → {row['kept_tokens']}",
                format_ratio(row["ratio"]),
                format_bytes(row["size_bytes"]),
                *stages,
                f"{seconds['total']:.2f} s",
            ]
        )
    print_table(columns, table)
