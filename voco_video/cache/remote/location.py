"""Which places are stores rather than folders, and where on this machine copies of what they hold are kept."""

from __future__ import annotations

import os
import re
from pathlib import Path

from blake3 import blake3

from voco_video.errors import UsageError
from voco_video.files.paths import default_cache, default_cache_dir
from voco_video.files.urls import is_url, scheme_of, without_secrets

# Where a name without a password stands before an @ as a matter of course.
_WITH_USERS = frozenset({"abfs", "abfss", "az", "adl", "sftp", "ssh", "ftp", "smb", "hdfs"})
_READ_ONLY = frozenset({"http", "https", "data", "github", "git", "zip", "tar"})
_SHRUNK_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")  # what pathlib makes of a URL
OUTSIDE = "the environment (AWS_ACCESS_KEY_ID and the like), a profile (AWS_PROFILE), or FSSPEC_ settings"


def store_url(cache_dir: str | Path | None) -> str | None:
    """Return the URL of a cache that is on a store, checked; None for a folder of this machine.

    Args:
        cache_dir: as the user gave it; the default cache when None.

    Raises:
        UsageError: no cache can be there, or the URL holds credentials.

    >>> store_url("s3://bucket/frames/"), store_url("/data/frames")
    ('s3://bucket/frames', None)
    """
    given = default_cache() if cache_dir is None else cache_dir
    if isinstance(given, Path):
        if _SHRUNK_URL.match(str(given)) and not os.path.lexists(given):
            raise UsageError(f"{given}: give a URL as text; a Path drops one of its slashes")
        return None
    return checked_store_url(given) if is_url(given) else None


def checked_store_url(url: str) -> str:
    """Return the URL of a store without slashes at its end.

    Raises:
        UsageError: see `store_url`. No part that could be secret is in the message.

    >>> checked_store_url("s3://key:secret@bucket/frames")
    Traceback (most recent call last):
    voco_video.errors.UsageError: s3://bucket/frames: a cache's URL must hold no credentials; ...
    """
    name, scheme = without_secrets(url), scheme_of(url)
    place = url.partition("://")[2]
    user, at, _ = place.partition("/")[0].rpartition("@")
    if at and (":" in user or scheme not in _WITH_USERS):
        raise UsageError(f"{name}: a cache's URL must hold no credentials; they come from {OUTSIDE}")
    if "?" in url or "#" in url:
        raise UsageError(f"{name}: a cache's URL has no ? and no #; options and credentials come from {OUTSIDE}")
    if scheme in _READ_ONLY or "::" in url:
        raise UsageError(
            f"{name}: no cache can be there, because nothing can be written there; give s3://bucket/prefix"
        )
    if not place.strip("/") or any(ord(character) < 32 or character in "*[]\x7f" for character in url):
        raise UsageError(f"{name!r}: names no place for a cache; give s3://bucket/prefix, without * and brackets")
    return url.rstrip("/")


def tier_folder(url: str) -> Path:
    """Return the folder of this machine where copies of what a store holds are kept.

    It is in the local cache's folder, which `default_cache_dir` names, called by the digest of the URL.
    """
    return (default_cache_dir() / "stores" / blake3(url.encode()).hexdigest()[:16]).absolute()


def following_refused(location: str) -> str:
    """Say why live sources are not followed into a store, and what to do."""
    return (
        f"{location}: a live source cannot be followed into a store, because objects cannot grow; follow it into a "
        f"folder, and when it has ended copy it: voco-video cache push {location}"
    )
