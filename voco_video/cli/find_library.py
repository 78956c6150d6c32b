"""What `voco-video find` does with a manifest, and with all entries of the cache."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from voco_video.cli.early import check_fits_entries, check_is_no_name
from voco_video.cli.progress import ProgressBar
from voco_video.cli.run_line import kept, run_facts
from voco_video.cli.tables import print_wrapped
from voco_video.errors import FILE_ERRORS, ModelError, UsageError, VideoError, VocoVideoError
from voco_video.files.urls import short_name, shown_name
from voco_video.options.compression import CompressOptions
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.answer.compressed_video import CompressedVideo
    from voco_video.answer.several_videos import Found
    from voco_video.api import VideoModel
    from voco_video.library.find import LibraryMoments, LibraryProgress
    from voco_video.library.manifest import VideoRow

FEWEST_VIDEOS = 16  # for which an index is made; fewer are read in less time than it takes

ManifestRows = list[tuple[str, "VideoRow"]]
OnFailure = Callable[[object, Exception], None]


def library_of(arguments: Sequence[str], sampling: Sampling, *, whole_cache: bool) -> tuple[ManifestRows | None, str]:
    """Tell whether a library is searched, and which.

    Returns:
        The rows of manifests, each with the manifest's name, none where the whole cache is searched; or None, where
        videos are named one by one. And the query.

    Raises:
        UsageError: videos stand beside a manifest or beside --all, or options cannot apply.
        DataError: a manifest cannot be read.
    """
    from voco_video.library.manifest import is_manifest, read_manifest

    *paths, query = arguments
    manifests = [path for path in paths if is_manifest(path)]
    if not whole_cache and not manifests:
        return None, query
    if whole_cache and paths:
        raise UsageError(f"--all searches every entry of the cache, so leave out {paths[0]}, or --all")
    if others := [path for path in paths if path not in manifests]:
        raise UsageError(f"{others[0]} stands beside a manifest; search it by itself, or give it a row")
    if not query.strip():
        raise UsageError("the query is empty; say what to look for")
    if is_manifest(query):
        raise UsageError(f"{query!r} is a manifest, and no query; say what to look for after it")
    check_is_no_name(query, "query")
    if sampling.start_seconds is not None or sampling.end_seconds is not None:
        raise UsageError("--start and --end cut a window of videos that are named; a library is searched whole")
    if whole_cache:
        check_fits_entries(["what --all searches"])
        return [], query
    rows = [(path, row) for path in manifests for row in read_manifest(path)]
    if not rows:
        raise UsageError(f"{manifests[0]} lists no video")
    if any(row.entry for _, row in rows):
        check_fits_entries([f"a video of {manifests[0]}"])
    return rows, query


def entries_of(
    model: VideoModel,
    rows: ManifestRows,
    sampling: Sampling,
    compression: CompressOptions,
    *,
    on_failure: OnFailure,
    quiet: bool,
) -> dict[str, str]:
    """Return the entries of a manifest's videos by digest, each with its video's name; compress those without one."""
    entries: dict[str, str] = {}
    waiting = [(manifest, row) for manifest, row in rows if not row.entry and not row.error]
    with ProgressBar(num_items=len(waiting), quiet=quiet) as bar:
        for _, row in rows:
            if row.entry:
                entries[row.entry] = shown_name(row.uri)
            elif row.error:
                on_failure(shown_name(row.uri), VideoError(row.error))
            else:
                window = replace(sampling, start_seconds=row.start_seconds, end_seconds=row.end_seconds)
                bar.begin(short_name(row.uri))
                try:
                    options = {**asdict(window), **asdict(compression)}
                    video = model.compress(row.uri, **options, on_progress=bar.show_frames)
                except (VocoVideoError, *FILE_ERRORS) as error:
                    if isinstance(error, ModelError) and not entries:  # then no other will do better
                        raise
                    on_failure(shown_name(row.uri), error)
                    continue
                bar.finish(is_free=video.from_cache)
                entry = video.parts[0].entry
                entry.close()  # or many entries would take all file descriptors
                entries[entry.digest] = shown_name(row.uri)
    return entries


def search_entries(
    model: VideoModel,
    entries: dict[str, str] | None,
    query: str,
    *,
    num_moments: int,
    approximate: bool,
    on_failure: OnFailure,
    quiet: bool,
) -> LibraryMoments:
    """Search entries by the index.

    Args:
        entries: names of videos by the digests of their entries; None for the whole cache.
        on_failure: called with the name of what cannot be read, and why. Where nothing can be, that is raised.
    """
    library = model.library(entries)
    with ProgressBar("searching", unit="video", quiet=quiet) as bar:

        def show(progress: LibraryProgress) -> None:
            bar.rename("indexing" if progress.is_indexing else "searching", unit="video")
            bar.show(progress.num_done, progress.num_videos)

        result = library.search(query, num_moments=num_moments, approximate=approximate, on_progress=show)
    for digest, error in result.failed.items():
        if not result.num_videos:
            raise error
        on_failure(digest[:12] if entries is None else entries[digest], error)
    return result


def facts_of(found: Sequence[Found], entries: dict[str, str] | None) -> dict[int, dict[str, Any]]:
    """Return the `run_facts` of the videos that moments are in, by the videos' ids."""
    facts: dict[int, dict[str, Any]] = {}
    for one in found:
        if id(one.video) not in facts:
            entry = one.video.parts[0].entry
            name = entries[entry.digest] if entries is not None else str(entry.facts.get("source") or entry.digest[:12])
            facts[id(one.video)] = run_facts(one.video, name)
            entry.close()
    return facts


def library_facts(result: LibraryMoments) -> dict[str, Any]:
    """Return what a search took as plain values."""
    return {
        "num_videos": result.num_videos,
        "num_frames": result.num_frames,
        "num_added": result.num_added,
        "num_opened": result.num_opened,
        "unindexed": result.unindexed,
        "is_approximate": result.is_approximate,
    }


def print_library(model: VideoModel, result: LibraryMoments, videos: Sequence[CompressedVideo]) -> None:
    """Say on standard error what was searched and how, for a person."""
    kinds = dict.fromkeys(kept(one.compressor, one.num_voco_tokens, one.form) for one in videos)
    frames = f"{result.num_frames:,} frames indexed" if result.num_frames else "no index"
    print_wrapped(
        " · ".join([model.name, *kinds, f"{result.num_videos:,} videos, {frames}", f"{result.num_opened:,} opened"]),
        file=sys.stderr,
    )
    print_library_notes(result)


def print_library_notes(result: LibraryMoments) -> None:
    """Say on standard error what the index was not ready for, or cannot do."""
    if result.num_added:
        entries = "1 entry was" if result.num_added == 1 else f"{result.num_added:,} entries were"
        print_wrapped(f"note: {entries} read into the index; the next search has them", file=sys.stderr)
    for reason, count in result.unindexed.items():
        entries = "1 entry was" if count == 1 else f"{count:,} entries were"
        print_wrapped(f"note: {entries} read from beginning to end, as always: {reason}", file=sys.stderr)
    if result.is_approximate and sum(result.unindexed.values()) < result.num_videos:
        print_wrapped("note: approximate, so a moment may be missing; without --approximate none is", file=sys.stderr)


def with_first_videos(found: Sequence[Found], videos: Sequence[CompressedVideo]) -> list[Found]:
    """Return moments in these videos, which are whole entries, in place of other objects that stand for the same."""
    of_entry = {video.parts[0].entry.digest: video for video in reversed(videos)}
    return [replace(one, video=of_entry[one.video.parts[0].entry.digest]) for one in found]
