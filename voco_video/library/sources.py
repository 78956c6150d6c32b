"""What people name when they mean many videos: files, folders, patterns, URLs, prefixes of object stores, manifests."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from voco_video.errors import UsageError, VideoError, passing, used_wrongly
from voco_video.files.paths import expanded
from voco_video.files.urls import is_url, scheme_of, scrubbed, without_secrets
from voco_video.library.manifest import VideoRow, is_manifest, read_manifest, without_result
from voco_video.video.filesystem_files import FilesystemFile

VIDEO_SUFFIXES = frozenset(
    {
        *(".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov"),
        *(".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
    }
)
_NO_FOLDERS = frozenset({"http", "https", "data", "file", "local"})


def list_videos(
    sources: Iterable[str | os.PathLike[str] | VideoRow] | str | os.PathLike[str] | VideoRow,
) -> list[VideoRow]:
    """List the videos that sources stand for, in order, each once.

    Args:
        sources: files; folders, with all videos below them; patterns such as ``talks/*.mp4`` or
            ``s3://bucket/talks/*.mp4``; URLs; prefixes of object stores, ``s3://bucket/talks/``; manifests; rows. A
            file that is not there is a row like others, and fails when its turn comes.

    Raises:
        UsageError: there are no sources, or one of them stands for no video.
        DataError: a manifest cannot be read.
        VideoError: a prefix cannot be listed.

    >>> [row.uri for row in list_videos("s3://bucket/talk.mp4")]
    ['s3://bucket/talk.mp4']
    """
    if isinstance(sources, (str, os.PathLike, VideoRow)):
        sources = [sources]
    found: dict[tuple[str, float | None, float | None], VideoRow] = {}
    ids: dict[str, VideoRow] = {}
    for row in (row for source in sources for row in _rows_of(source)):
        known = found.setdefault((row.uri, row.start_seconds, row.end_seconds), row)
        if known is row and ids.setdefault(row.id, row) is not row:
            raise UsageError(f"the id {row.id!r} is that of two videos, {ids[row.id].uri} and {row.uri}")
    if not found:
        raise UsageError("give one source or more: files, folders, patterns, URLs or manifests")
    return list(found.values())


def _rows_of(source: Any) -> Iterator[VideoRow]:
    if isinstance(source, VideoRow):
        yield without_result(source)
    elif is_manifest(source):
        yield from map(without_result, read_manifest(source))
    elif is_url(source):
        yield from map(VideoRow, urls_of(source))
    elif isinstance(source, (str, os.PathLike)) and isinstance(os.fspath(source), str):
        yield from (VideoRow(os.path.abspath(path)) for path in _paths_of(os.fspath(source)))
    else:
        raise UsageError(f"a {type(source).__name__} is no source of videos: give paths, URLs, manifests or rows")


def _paths_of(name: str) -> list[Path]:
    path = expanded(name)
    if os.path.isdir(path):  # which takes any name, however long
        found = videos_below(path)
        if not found:
            raise UsageError(f"{path}: no video files in this folder (looked for {', '.join(sorted(VIDEO_SUFFIXES))})")
        return found
    if not os.path.exists(path) and glob.has_magic(name):
        found = files_matching(name)
        if not found:
            raise UsageError(f"{name!r} matches no file")
        return found
    return [path]


def videos_below(folder: Path) -> list[Path]:
    """List the files below a folder that are called like videos, by name."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())


def files_matching(pattern: str) -> list[Path]:
    """List the files that match a pattern, by name."""
    return [Path(match) for match in sorted(glob.glob(pattern, recursive=True)) if Path(match).is_file()]


def is_prefix(url: str) -> bool:
    """Tell whether a URL stands for many files of a filesystem that fsspec knows: a folder or a pattern.

    >>> [is_prefix(url) for url in ("s3://bucket/talks/", "s3://bucket/*.mp4", "s3://bucket/a.mp4", "https://host/a/")]
    [True, True, False, False]
    """
    return scheme_of(url) not in _NO_FOLDERS and "?" not in url and (url.endswith("/") or glob.has_magic(url))


def urls_of(url: str) -> list[str]:
    """List the files that a URL stands for: itself, the videos below a prefix, or those that match a pattern.

    Raises:
        UsageError: a package is missing that this takes.
        VideoError: nothing is there, or it cannot be listed.
    """
    if not is_prefix(url):
        return [url]
    name = without_secrets(url)
    filesystem, path = FilesystemFile(url).opened()
    try:
        filesystem.invalidate_cache()  # of listings
        has_magic = glob.has_magic(url)
        names = filesystem.glob(path) if has_magic else filesystem.find(path)
        if not has_magic:
            names = [one for one in names if os.path.splitext(one)[1].lower() in VIDEO_SUFFIXES]
        found = sorted(filesystem.unstrip_protocol(one) for one in names if not has_magic or filesystem.isfile(one))
    except FileNotFoundError:
        found = []
    except PermissionError as error:
        raise VideoError(f"{name}: no permission to list it ({scrubbed(str(error), url)})") from None
    except Exception as error:  # filesystems have errors of their own
        said = scrubbed(f"{type(error).__name__}: {error}", url)[:300]
        raise passing(VideoError(f"{name}: cannot be listed ({said})")) from None
    if not found:
        raise used_wrongly(VideoError(f"{name}: no videos there"))
    return found
