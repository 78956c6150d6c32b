"""The names that people give to entries: small files beside the entries, one a name.

    names/<BLAKE3 of the name>.json        {"digest": "3f9a…", "name": "front door"}

A name stands for one entry, and an entry has one name. Each file appears whole or not at all, and is found by the
name's digest, so a name may hold any characters. Writers take turns by a lock on the folder; readers need none. A name
whose entry is gone is free.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from voco_video.cache.key import is_digest
from voco_video.cache.locks import os_errors_as_cache_errors
from voco_video.cache.paths import CachePaths
from voco_video.errors import UsageError
from voco_video.files.atomic_write import write_atomically
from voco_video.files.urls import is_url

MAX_NAME_CHARACTERS = 100


def check_name(name: str) -> None:
    """Refuse a name that could be taken for something else.

    Raises:
        UsageError: it is empty or long, begins or ends with a space, holds a slash or control characters, looks like an
            option, a URL or a whole digest, or is that of a file in the current folder.

    >>> check_name("front door")
    """
    reason = ""
    if not name.strip() or name != name.strip():
        reason = "is an empty name" if not name.strip() else "begins or ends with a space"
    elif len(name) > MAX_NAME_CHARACTERS:
        reason = f"is longer than {MAX_NAME_CHARACTERS} characters"
    elif any(ord(c) < 32 or c in "/\\\x7f" for c in name) or name in (".", "..") or is_url(name):
        reason = "looks like a path or a URL: use no slashes and no control characters"
    elif name.startswith(("-", "~")):
        reason = f"begins with {name[0]!r}, as an option or a home folder does"
    elif is_digest(name):
        reason = "is a whole digest"
    elif os.path.isfile(name):
        reason = "is a file here, and a file comes before a name"
    if reason:
        raise UsageError(f"name={name!r} {reason}; choose another name")


class Names(Protocol):
    """The names of a cache's entries, in a folder or on a store; see `EntryNames`."""

    def digest_of(self, name: str) -> str | None:
        """Return the digest of the entry of a name; None where no entry has it."""

    def by_digest(self) -> dict[str, str]:
        """Return the names of all entries that have one, by their digests."""

    def give(self, name: str, digest: str) -> None:
        """Name an entry, in the place of the name that it had; UsageError where it cannot get it."""

    def check_free(self, name: str, digest: str) -> None:
        """Raise UsageError for a name that an entry cannot get."""

    def drop(self, digest: str) -> None:
        """Take an entry's name away, if it has one."""

    def tidy(self) -> None:
        """Drop the names of entries that are gone."""


class EntryNames:
    """The names of a cache's entries.

    >>> import tempfile
    >>> paths = CachePaths(Path(tempfile.mkdtemp()))
    >>> paths.directory("ab" * 32).mkdir(parents=True)
    >>> names = EntryNames(paths)
    >>> names.give("door", "ab" * 32)
    >>> names.digest_of("door") == "ab" * 32, names.digest_of("yard")
    (True, None)
    """

    def __init__(self, paths: CachePaths) -> None:
        self._paths, self._folder = paths, paths.cache_dir / "names"

    def digest_of(self, name: str) -> str | None:
        """Return the digest of the entry of a name; None where no entry has it."""
        found = _read(self._path(name))
        return found[1] if found is not None and self._is_there(found[1]) else None

    def by_digest(self) -> dict[str, str]:
        """Return the names of all entries that have one, by their digests."""
        found = (_read(path) for path in sorted(self._folder.glob("*.json")))
        return {digest: name for name, digest in filter(None, found)}

    def give(self, name: str, digest: str) -> None:
        """Name an entry, in the place of the name that it had.

        Raises:
            UsageError: another entry has this name, or it is no name (`check_name`).
            CacheError: the cache cannot be written.
        """
        if self.digest_of(name) == digest:
            return
        self.check_free(name, digest)
        with self._writing(f"name entry {digest[:12]} in"):
            self.check_free(name, digest)
            content = json.dumps({"name": name, "digest": digest})
            write_atomically(self._path(name), content, is_durable=True)
            self._drop(digest, but=name)

    def check_free(self, name: str, digest: str) -> None:
        """Refuse a name that an entry cannot get.

        Raises:
            UsageError: another entry has it, or it is no name (`check_name`).
        """
        holder = self.digest_of(name)
        if holder is None:
            check_name(name)
        elif holder != digest:
            raise UsageError(taken(name, holder))

    def drop(self, digest: str) -> None:
        """Take an entry's name away, if it has one."""
        if digest in self.by_digest():
            with self._writing(f"unname entry {digest[:12]} in"):
                self._drop(digest)

    def tidy(self) -> None:
        """Drop the names of entries that are gone."""
        if any(not self._is_there(digest) for digest in self.by_digest()):
            with self._writing("drop names in"):
                for digest in self.by_digest():
                    if not self._is_there(digest):
                        self._drop(digest)

    def _drop(self, digest: str, *, but: str | None = None) -> None:
        for path in self._folder.glob("*.json"):
            found = _read(path)
            if found is not None and found[1] == digest and found[0] != but:
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{blake3(name.encode(errors='surrogatepass')).hexdigest()}.json"

    def _is_there(self, digest: str) -> bool:
        return self._paths.directory(digest).exists() or self._paths.is_being_written(digest)

    @contextmanager
    def _writing(self, action: str) -> Iterator[None]:
        with os_errors_as_cache_errors(f"{action} cache directory {self._paths.cache_dir}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)


def taken(name: str, digest: str) -> str:
    """Say that another entry has a name, and the way out."""
    return (
        f"name={name!r} is the name of entry {digest[:12]} already; choose another one, or give that entry another: "
        f"`voco-video cache name {digest[:12]} OTHER`"
    )


def _read(path: Path) -> tuple[str, str] | None:
    """Read the name and the digest in a file; None where it is gone or holds something else."""
    try:
        content = json.loads(path.read_bytes())
        name, digest = content["name"], content["digest"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return (name, digest) if isinstance(name, str) and is_digest(digest) else None
