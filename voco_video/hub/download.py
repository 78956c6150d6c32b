"""Files of a model at a hub: found in the local cache, listed, fetched and checked."""

from __future__ import annotations

import glob
import hashlib
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError
from tqdm.auto import tqdm

from voco_video.errors import ModelError
from voco_video.hub.failures import FAILURES, explained
from voco_video.hub.names import LIBRARY, TIMEOUT_SECONDS, HubName, api, cache_folder, endpoint
from voco_video.hub.watching import watcher
from voco_video.version import __version__

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFile:
    """A file at a hub.

    Attributes:
        size_bytes: None where the hub does not say.
        digest: of its content: the SHA-256 (64 hex digits) of a large file, git's SHA-1 (40) of others; "" where the
            hub does not say.
    """

    size_bytes: int | None
    digest: str


@dataclass(frozen=True)
class Listing:
    """All files of one commit.

    Attributes:
        commit: 40 hex digits.
        files: by their names.
    """

    commit: str
    files: dict[str, HubFile]


@dataclass(frozen=True)
class Snapshot:
    """A commit in the local cache; some of its files may be missing.

    Attributes:
        folder: its name is the commit.
        names: of all files that the hub has; None where that was not kept.
    """

    folder: Path
    names: tuple[str, ...] | None

    def has_all(self, names: Iterable[str]) -> bool:
        """Tell whether none of these files is missing."""
        return all((self.folder / name).is_file() for name in names)


def cached_snapshot(name: HubName) -> Snapshot | None:
    """Find in the local cache what a name stood for when it was last fetched; no hub is asked."""
    try:
        found = snapshot_download(name.repo_id, revision=name.revision, local_files_only=True, allow_patterns=[])
    except LocalEntryNotFoundError:
        return None
    folder = Path(found)
    try:
        names = tuple(file.path for file in get_cached_repo_tree(name.repo_id, revision=folder.name))
    except CachedRepoTreeNotFoundError:
        names = None
    return Snapshot(folder, names)


def list_files(name: HubName) -> Listing:
    """Ask the hub what a name stands for now.

    Raises:
        ModelError: there is no such model or revision, it may not be read, or the hub cannot be reached.
    """
    try:
        info = api().model_info(name.repo_id, revision=name.revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
        siblings = info.siblings or []
        files = {s.rfilename: HubFile(s.size, s.lfs.sha256 if s.lfs else s.blob_id or "") for s in siblings}
        if info.sha is None:
            raise KeyError("sha")
        return Listing(info.sha, files)
    except (KeyError, TypeError) as error:  # JSON, but not a hub's
        raise explained(ValueError(f"its answer lacks {error}"), name) from error
    except FAILURES as error:
        raise explained(error, name) from error


def download(name: HubName, listing: Listing, names: Iterable[str]) -> Path:
    """Fetch files of a model that are not in the local cache yet.

    What was fetched before an interruption stays. What comes is compared with what the hub announced.

    Args:
        listing: from `list_files`.
        names: of the files.

    Returns:
        The commit's folder in the cache.

    Raises:
        ModelError: as of `list_files`; or there is no room, or what came is not what was announced.
    """
    names = sorted(names)
    snapshot = cached_snapshot(HubName(name.repo_id, listing.commit))
    missing = [one for one in names if snapshot is None or not snapshot.has_all([one])]
    size_bytes = sum(listing.files[one].size_bytes or 0 for one in missing)
    if missing:
        _check_room(name, size_bytes)
        size = f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"
        files = "1 file" if len(missing) == 1 else f"{len(missing)} files"
        logger.info("fetching %s: %s in %s, from %s", name, size, files, endpoint())
    try:
        with _bars(size_bytes) as bar_class:
            folder = Path(
                snapshot_download(
                    name.repo_id,
                    revision=name.revision,
                    allow_patterns=[glob.escape(one) for one in names],
                    endpoint=endpoint(),
                    library_name=LIBRARY,
                    library_version=__version__,
                    tqdm_class=bar_class,
                )
            )
    except FAILURES as error:
        raise explained(error, name) from error
    if folder.name != listing.commit:
        raise ModelError(f"{name} changed at {endpoint()} while it was being fetched; run it again")
    if lost := [one for one in names if not (folder / one).is_file()]:
        raise ModelError(f"{name} cannot be fetched: {endpoint()} did not give {lost[0]}; run it again")
    for one in missing:
        _check_content(name, folder / one, listing.files[one])
    return folder


@contextmanager
def _bars(size_bytes: int) -> Iterator[type[tqdm[Any]] | None]:
    """Give the class of bars that tells who watches how many of so many bytes have come; None for the library's own."""
    watch = watcher()
    if watch is None or not size_bytes:
        yield None
        return
    with watch() as on_bytes:
        counting: list[tqdm[Any]] = []  # what came, and what of it is on the disk

        class Counter(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **options: Any) -> None:
                options.pop("name", None)  # which is the library's own
                super().__init__(*args, **{**options, "disable": True})
                if options.get("unit") == "B":
                    counting.append(self)

            def update(self, n: float | None = 1) -> bool | None:
                self.n += n or 0
                if self in counting:
                    on_bytes(min(size_bytes, int(max(bar.n for bar in counting))), size_bytes)
                return None

        yield Counter


def _check_room(name: HubName, size_bytes: int) -> None:
    folder = cache_folder()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if size_bytes > free_bytes:
        raise ModelError(
            f"{name} takes {size_bytes / 1e9:.2f} GB, and {cache_folder()} has room for {free_bytes / 1e9:.2f} GB; "
            "free some, or set HF_HOME to a folder elsewhere"
        )


def _check_content(name: HubName, path: Path, announced: HubFile) -> None:
    """Compare a file with what the hub announced; one that differs is deleted, so that it is fetched anew."""
    digests = [announced.digest, path.resolve().name]  # a mirror may list a large file by the digest of its pointer
    known = [digest for digest in digests if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digest)]
    is_same = announced.size_bytes in (None, path.stat().st_size)
    if is_same and known:
        is_same = any(_digest(path, len(digest)) == digest for digest in dict.fromkeys(known))
    if not is_same:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise ModelError(
            f"{name} cannot be fetched: {path.name} is not what {endpoint()} announced, so it was deleted; run it again"
        )


def _digest(path: Path, num_digits: int) -> str:
    """Compute the SHA-256 of a file (64 digits), or the SHA-1 that git gives it (40)."""
    digest = hashlib.sha256() if num_digits == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 22), b""):
            digest.update(block)
    return digest.hexdigest()
