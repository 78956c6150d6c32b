"""Words on the command line that stand for entries of the cache. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voco_video.errors import CacheError, UsageError
from voco_video.files.paths import default_cache_dir, expanded
from voco_video.files.urls import is_url

if TYPE_CHECKING:
    from voco_video.cache.lookup import Catalogue, EntryLabel


def is_there(name: str) -> bool:
    """Tell whether a file or folder has this name, of any length and of any characters."""
    try:
        return os.path.exists(expanded(name))
    except ValueError:  # a zero character
        return False


def catalogue_of(cache_dir: str | Path | None) -> Catalogue:
    """Return what the entries of the cache of ``--cache-dir`` are looked up in, a folder or a store."""
    from voco_video.cache.lookup import FolderCatalogue
    from voco_video.cache.paths import CachePaths
    from voco_video.cache.remote.catalogue import RemoteCatalogue
    from voco_video.cache.remote.location import store_url
    from voco_video.cache.remote.objects import ObjectStore

    url = store_url(cache_dir)
    if url is not None:
        return RemoteCatalogue(ObjectStore(url))
    return FolderCatalogue(CachePaths(expanded(cache_dir or default_cache_dir()).absolute()))


def live_entries(cache_dir: str | Path | None) -> list[EntryLabel]:
    """List the entries that processes are making of growing sources right now."""
    return catalogue_of(cache_dir).followed_now()


def entry_of(given: str, cache_dir: str | Path | None, *, live: Sequence[EntryLabel] | None = None) -> str | None:
    """Return the entry that is asked where a video is named: as its name, or the beginning of its digest.

    That is what was given, where it is the name of an entry, the beginning of a digest, or the path of a video that is
    gone; and of a file that a process is following now, its live entry. None for every other file, URL or word.

    Args:
        live: `live_entries`, where they were listed already.

    Raises:
        CacheError: a process follows this file, and has published nothing yet.
    """
    from voco_video.cache.lookup import candidates, is_prefix

    catalogue = catalogue_of(cache_dir)
    if is_there(given):
        if expanded(given).is_dir():
            return given if catalogue.names.digest_of(given) else None
        of_file = [one for one in (live_entries(cache_dir) if live is None else live) if one.is_of(given)]
        if not of_file and catalogue.begun_of(given):
            raise CacheError(f"{given} is being followed, and nothing of it can be read yet; ask again in a moment")
        return (of_file[0].name or of_file[0].digest) if of_file else None
    if is_prefix(given):
        return given
    if is_url(given):
        return None  # its server may have another file by now
    return given if candidates(catalogue, given) else None


def check_entry(given: str, cache_dir: str | Path | None) -> None:
    """Refuse what stands for no entry of the cache, or for more than one of different videos.

    Raises:
        CacheError: it does.
    """
    from voco_video.cache.lookup import candidates, one_entry

    catalogue = catalogue_of(cache_dir)
    if (
        len({label.video_digest for label in candidates(catalogue, given)}) != 1
    ):  # of one video's the model's own is opened
        one_entry(catalogue, given)


def check_can_name(name: str, files: Sequence[Path | str], cache_dir: str | Path | None) -> None:
    """Refuse a name that an entry of these files cannot get, as far as that is known before it is compressed.

    Raises:
        UsageError: the files are several, it is no name, or an entry of another video has it.
    """
    from voco_video.cache.lookup import candidates
    from voco_video.cache.names import check_name, taken

    if len(files) > 1:
        raise UsageError(
            f"--name {name}: {len(files)} videos cannot all have one name; compress the one to be named alone"
        )
    catalogue = catalogue_of(cache_dir)
    holder = catalogue.names.digest_of(name)
    if holder is None:
        check_name(name)
    elif is_there(str(files[0])) and holder not in {label.digest for label in candidates(catalogue, str(files[0]))}:
        raise UsageError(taken(name, holder))


def similar_entry(given: str, cache_dir: str | Path | None) -> str:
    """Return a question after the name of an entry that is spelt nearly so; empty where there is none."""
    from voco_video.cache.lookup import similar_name

    return similar_name(catalogue_of(cache_dir), given)


def labels_of(given: str, cache_dir: str | Path | None) -> list[EntryLabel]:
    """List all entries that a word stands for.

    Raises:
        CacheError: there is none.
    """
    from voco_video.cache.lookup import candidates, one_entry

    catalogue = catalogue_of(cache_dir)
    return candidates(catalogue, given) or [one_entry(catalogue, given)]
