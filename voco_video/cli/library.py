"""``voco-video compress --engine``: many videos by many workers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from voco_video.cli.early import check_model
from voco_video.cli.output import format_bytes, print_json
from voco_video.cli.progress import ProgressBar
from voco_video.cli.tables import print_error, print_wrapped
from voco_video.errors import UsageError
from voco_video.library.manifest import VideoRow, check_can_write
from voco_video.options.cluster import ClusterOptions
from voco_video.options.compression import CompressOptions
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.cluster.run import ClusterResult

DEFAULT_MANIFEST = "library.parquet"
SHOWN_FAILURES = 20


def compress_library(
    sources: Sequence[str],
    given: Mapping[str, Any],
    manifest: Path | None,
    *,
    model: str,
    sampling: Sampling,
    compression: CompressOptions,
    load: LoadOptions,
    cache_dir: str | Path | None,
    strict: bool,
    json: bool,
) -> None:
    """Compress many videos, show how far that is, and print what came of them.

    Args:
        manifest: where the videos are listed; `DEFAULT_MANIFEST` when None.
        given: options of `ClusterOptions` that stand on the command line.

    Raises:
        UsageError: an option without the engine that it goes with, or a manifest that cannot be written.
        typer.Exit: videos failed and ``strict`` is set, all failed, or Ctrl-C.
    """
    if "engine" not in given:
        raise UsageError(
            "--manifest, --strict and the options of many workers go with --engine processes, ray or shares"
        )
    manifest = manifest or Path(DEFAULT_MANIFEST)
    check_can_write(manifest)
    cluster = ClusterOptions(**given)
    check_model(
        model, revision=load.revision, offline=load.offline, num_voco_tokens=filter(None, [compression.num_voco_tokens])
    )
    from voco_video.cluster.run import ClusterProgress, InterruptedRunError, compress_many

    failures: list[VideoRow] = []
    with ProgressBar("starting workers", unit="video", quiet=json) as bar:

        def show(progress: ClusterProgress) -> None:
            row = progress.latest
            if row is not None and row.status == "failed" and (not failures or failures[-1] is not row):
                failures.append(row)
                if len(failures) <= SHOWN_FAILURES:
                    print_error(row.error)
            if progress.num_workers or progress.num_done:
                failed = f", {progress.num_failed} failed" if progress.num_failed else ""
                bar.rename(f"{progress.num_workers} workers{failed}", unit="video")
                bar.show(progress.num_done, progress.num_videos)

        try:
            with redirect_stdout(sys.stderr):  # where Ray tells of workers that ended; standard output is for results
                result = compress_many(
                    sources, model=model, sampling=sampling, compression=compression, load=load, cluster=cluster,
                    cache_dir=cache_dir, manifest=manifest, on_progress=show,
                )  # fmt: skip
        except InterruptedRunError as interrupted:
            result = interrupted.result
            is_whole = False
        else:
            is_whole = True
    if len(failures) > SHOWN_FAILURES:
        print(f"... and {len(failures) - SHOWN_FAILURES} more", file=sys.stderr)
    _print_result(result, manifest, json=json)
    if not is_whole:
        print_wrapped("interrupted; what is done is kept, so the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130)
    num_failed = result.num_of["failed"]
    if num_failed and (strict or num_failed == len(result.rows)):
        print(f"{num_failed} of {len(result.rows)} videos failed", file=sys.stderr)
        raise typer.Exit(1)


def _print_result(result: ClusterResult, manifest: Path, *, json: bool) -> None:
    """Print what came of the videos, for a person or as JSON."""
    if json:
        print_json(
            {
                "num_videos": len(result.rows),
                **{f"num_{status}": result.num_of[status] for status in ("compressed", "cached", "failed")},
                "seconds": result.seconds,
                "manifest": str(result.manifest) if result.manifest else None,
                "num_missing_shares": result.num_missing_shares,
                "videos": [row.to_values() for row in result.rows],
            }
        )
    else:
        for line in summary_lines(result.rows, result.seconds, manifest, result.num_missing_shares):
            print_wrapped(line)


def summary_lines(rows: Sequence[VideoRow], seconds: float, manifest: Path, num_missing_shares: int) -> list[str]:
    """Say what came of videos, in a line or two.

    >>> row = VideoRow("a.mp4", status="cached", num_frames=30, duration_seconds=30.0, size_bytes=2000)
    >>> summary_lines([row], 1.25, Path("talks.csv"), 0)
    ['1 video: 1 cached, nothing to do · 30 frames of 0:00:30 · 2.0 KiB · 1.2 s', 'listed in talks.csv']
    """
    statuses = [row.status for row in rows]
    counts = [f"{statuses.count(s)} {s}" for s in ("compressed", "cached", "failed") if s in statuses]
    if "compressed" not in statuses and "cached" in statuses:
        counts.append("nothing to do")
    minutes, rest = divmod(round(sum(row.duration_seconds or 0.0 for row in rows)), 60)
    length = f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
    num_frames = sum(row.num_frames or 0 for row in rows)
    size = format_bytes(sum(row.size_bytes or 0 for row in rows))
    videos = f"{len(rows)} {'video' if len(rows) == 1 else 'videos'}: {', '.join(counts)}"
    lines = [" · ".join([videos, f"{num_frames} frames of {length}", size, f"{seconds:.1f} s"])]
    if num_missing_shares:
        shares = "share has" if num_missing_shares == 1 else "shares have"
        return [*lines, f"{num_missing_shares} {shares} not ended yet; the last one writes {manifest}"]
    return [*lines, f"listed in {manifest}"]
