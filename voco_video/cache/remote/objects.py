"""Objects of a store by their paths: whole and in ranges, many at a time.

Everything goes through fsspec, so credentials, endpoints, retries and waits are those of the package that fsspec names
for the kind of URL (s3fs and botocore for ``s3://``). Their errors become `CacheError`, without what is secret in them.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from voco_video.cache.remote.location import OUTSIDE, checked_store_url
from voco_video.errors import CacheError, UsageError, used_wrongly
from voco_video.files.urls import scheme_of, scrubbed, without_secrets

# Where an object appears whole or not at all. Elsewhere it is written under another name first.
_WHOLE_AT_ONCE = frozenset({
    "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "cos", "obs", "tos", "r2", "memory", "hf"
})  # fmt: skip
_SECRET_NAME = re.compile("secret|token|password|credential|key", re.IGNORECASE)
_MIN_SECRET_CHARACTERS = 6
_MAX_SHOWN = 300
_ASIDE = ".aside"


class WrongObjectError(CacheError):
    """An object that is not there, or holds something else than was written."""


@dataclass(frozen=True)
class StoredObject:
    """What a listing says of an object.

    Attributes:
        path: below the store's root.
        modified: Unix seconds of when it was written; None where the store does not say.
    """

    path: str
    size_bytes: int
    modified: float | None


@dataclass(frozen=True)
class Range:
    """Bytes [begin, end) of an object."""

    path: str
    begin: int
    end: int


class ObjectStore:
    """The objects below a URL. Threads may share it; another process opens its own.

    >>> store = ObjectStore("memory://doctest/objects")
    >>> store.write({"a/b": b"0123456789"})
    >>> store.read("a/b"), store.read("a/c"), store.read_ranges([Range("a/b", 2, 5)])
    (b'0123456789', None, [b'234'])
    """

    def __init__(self, url: str) -> None:
        self.url = checked_store_url(url)
        self._opened: tuple[int, Any, str] | None = None

    @property
    def name(self) -> str:
        """The URL as it may be shown."""
        return without_secrets(self.url)

    def read(self, path: str) -> bytes | None:
        """Return an object's bytes; None where there is no such object.

        Raises:
            CacheError: the store cannot be reached, or does not let us.
        """
        return self.read_many([path])[0]

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return the bytes of several objects, None for those that are not there; side by side where the store can."""
        return [None if isinstance(found, FileNotFoundError) else found for found in self._ranges(paths, None)]

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of ranges, side by side where the store can.

        Raises:
            WrongObjectError: an object is not there, or is shorter.
            CacheError: the store cannot be reached.
        """
        found = self._ranges([one.path for one in ranges], ranges)
        for one, data in zip(ranges, found, strict=True):
            if isinstance(data, FileNotFoundError):
                raise WrongObjectError(f"{one.path} is gone")
            if len(data) != one.end - one.begin:
                raise WrongObjectError(
                    f"{one.path} gave {len(data)} of {one.end - one.begin} bytes from byte {one.begin}"
                )
        return found

    def exists(self, path: str) -> bool:
        """Tell whether there is such an object, which is not empty."""
        # By its first byte: where an object is missing, s3fs's own way lists what may be below it.
        return not isinstance(self._ranges([path], [Range(path, 0, 1)])[0], FileNotFoundError)

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write whole objects, in the place of those that are there; side by side where the store can.

        Raises:
            CacheError: not all could be written.
        """
        filesystem, root = self._filesystem()
        with self._in_words("write", missing="no such bucket or folder"):
            if scheme_of(self.url) in _WHOLE_AT_ONCE:
                filesystem.pipe({f"{root}/{path}": data for path, data in contents.items()})
                return
            for path, data in contents.items():
                whole = f"{root}/{path}"
                aside = f"{whole}.{uuid.uuid4().hex}{_ASIDE}"
                filesystem.makedirs(whole.rpartition("/")[0], exist_ok=True)
                filesystem.pipe_file(aside, data)
                filesystem.mv(aside, whole)

    def listed(self, folder: str) -> list[StoredObject]:
        """List all objects below a folder, by path."""
        filesystem, root = self._filesystem()
        try:
            with self._in_words(f"list {folder}"):
                filesystem.invalidate_cache()
                found: Mapping[str, Any] = filesystem.find(f"{root}/{folder}", detail=True)
        except FileNotFoundError:
            return []
        objects = [
            StoredObject(path[len(root) + 1 :], int(info.get("size") or 0), _modified(info))
            for path, info in found.items()
            if info.get("type") != "directory" and not path.endswith(_ASIDE)
        ]
        return sorted(objects, key=lambda one: one.path)

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; those that are gone already are no error."""
        filesystem, root = self._filesystem()
        if scheme_of(self.url) in ("s3", "s3a"):  # deletes a thousand with one request, and none is missed
            with self._in_words("delete"):
                for begin in range(0, len(paths), 1000):
                    filesystem.rm([f"{root}/{path}" for path in paths[begin : begin + 1000]])
            return
        for path in paths:
            try:
                with self._in_words("delete"):
                    filesystem.rm_file(f"{root}/{path}")
            except FileNotFoundError:
                continue

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_opened": None}

    def __repr__(self) -> str:
        return f"ObjectStore({self.name!r})"

    def _ranges(self, paths: Sequence[str], ranges: Sequence[Range] | None) -> list[Any]:
        """Return bytes, or FileNotFoundError where an object is not there."""
        if not paths:
            return []
        filesystem, root = self._filesystem()
        # An end of None rather than no range at all: for a whole object s3fs asks for its size first.
        starts = [one.begin for one in ranges] if ranges else [0] * len(paths)
        ends = [one.end for one in ranges] if ranges else [None] * len(paths)
        with self._in_words("read"):
            found = filesystem.cat_ranges([f"{root}/{path}" for path in paths], starts, ends, on_error="return")
        for one in found:
            with self._in_words("read"):
                if isinstance(one, FileNotFoundError):
                    self._check_bucket(one)
                elif isinstance(one, BaseException):
                    raise one
        return list(found)

    def _check_bucket(self, error: FileNotFoundError) -> None:
        """Raise CacheError where not the object is missing but all of its bucket: that is a mistake in the URL."""
        if "bucket" in str(error).lower() and "exist" in str(error).lower():
            raise used_wrongly(CacheError(f"{self.name}: there is no such bucket"))

    def _filesystem(self) -> tuple[Any, str]:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *self._open())
        return self._opened[1:]

    def _open(self) -> tuple[Any, str]:
        scheme = scheme_of(self.url)
        try:
            import fsspec
        except ImportError as error:
            raise UsageError(
                f"{self.name}: a cache on {scheme}:// takes fsspec; run: pip install 'voco-video[sources]'"
            ) from error
        try:
            filesystem, root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:  # of the package for this kind
            extra = "; run: pip install 'voco-video[s3]'" if scheme in ("s3", "s3a") else ""
            raise UsageError(
                f"{self.name}: a cache on {scheme}:// takes a package that is not installed: {self._said(error)}{extra}"
            ) from None
        except Exception as error:  # fsspec's own, of names that it cannot take, and errors of filesystems
            raise used_wrongly(
                CacheError(f"{self.name}: cannot be opened ({self._said(error)}); give s3://bucket/prefix")
            ) from None
        return filesystem, str(root).rstrip("/")

    @contextmanager
    def _in_words(self, action: str, *, missing: str = "") -> Iterator[None]:
        """Turn what filesystems raise into CacheError; FileNotFoundError only where `missing` says what it means."""
        try:
            yield
        except CacheError:
            raise
        except FileNotFoundError as error:
            self._check_bucket(error)
            if not missing:
                raise
            raise CacheError(f"{self.name}: cannot {action}: {missing} ({self._said(error)})") from None
        except PermissionError as error:
            raise CacheError(
                f"{self.name}: cannot {action}: no permission ({self._said(error)}); reading takes the right to list, "
                f"too, and credentials come from {OUTSIDE}"
            ) from None
        except Exception as error:  # filesystems have errors of their own
            is_unknown = "credential" in type(error).__name__.lower()
            advice = f"credentials come from {OUTSIDE}" if is_unknown else "try again later"
            raise CacheError(f"{self.name}: cannot {action} ({self._said(error)}); {advice}") from None

    def _said(self, error: BaseException) -> str:
        said = scrubbed(f"{type(error).__name__}: {error}", self.url)
        for secret in sorted(_known_secrets(), key=len, reverse=True):
            said = said.replace(secret, "...")
        return said[:_MAX_SHOWN]


def _known_secrets() -> set[str]:
    """Collect what must not be shown: secrets of the environment, and of fsspec's settings."""
    from fsspec.config import conf

    named = [(name, value) for name, value in os.environ.items()]
    named += [
        (name, value) for options in conf.values() if isinstance(options, dict) for name, value in options.items()
    ]
    values = {str(value) for name, value in named if _SECRET_NAME.search(name)}
    return {value for value in values if len(value) >= _MIN_SECRET_CHARACTERS}


def _modified(info: Mapping[str, Any]) -> float | None:
    """Read when an object was written, whatever its filesystem calls that."""
    for name in ("LastModified", "last_modified", "mtime", "updated", "modified", "created"):
        value = info.get(name)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                continue
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None
