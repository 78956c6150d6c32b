"""Paths that begin with ``~``, and text files in any Unicode encoding."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from voco_video.errors import UsageError
from voco_video.files.urls import is_url

_MARKED = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the same bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def expanded(path: str | Path) -> Path:
    """Put home folders in the place of ``~`` and ``~name`` at a path's beginning.

    A file or folder of exactly this name comes first, and a name alone, such as ``~clip.mp4``, stays as it is where no
    user has it.

    Raises:
        UsageError: the path begins with the home folder of an unknown user.

    >>> expanded("~no such user.mp4")
    PosixPath('~no such user.mp4')
    """
    path = Path(path)
    if not str(path).startswith("~") or os.path.lexists(path):
        return path
    try:
        return path.expanduser()
    except RuntimeError as error:
        who = path.parts[0]
        if who == "~":
            raise UsageError(f"{path}: no home directory is known; set HOME, or give the whole path") from error
        if len(path.parts) == 1:
            return path
        raise UsageError(f"{path}: there is no user {who[1:]!r}; write ./{path} for a folder of that name") from error


def default_cache() -> Path | str:
    """Return where compressed videos are kept by default: a folder, or the URL of a store.

    See `voco_video.cache.FrameCache`.
    """
    given = os.environ.get("VOCO_VIDEO_CACHE_DIR")
    return given if given and is_url(given) else default_cache_dir()


def default_cache_dir() -> Path:
    """Return the local folder of the default cache; that of downloads and copies where the cache is on a store."""
    cache_dir = os.environ.get("VOCO_VIDEO_CACHE_DIR")
    if cache_dir and not is_url(cache_dir):
        return Path(cache_dir)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voco-video"
    except RuntimeError as error:
        raise UsageError(
            "no home directory is known, so there is no place for the frame cache; give one with --cache-dir, "
            "VOCO_VIDEO_CACHE_DIR or HOME"
        ) from error


def read_text_file(path: Path) -> str:
    """Read a text file in UTF-8, or in the encoding of its byte-order mark; the mark is left out.

    Raises:
        UsageError: it cannot be read, or is not text.
    """
    try:
        data = path.read_bytes()
        encoding = next((name for mark, name in _MARKED if data.startswith(mark)), "utf-8")
        return data.decode(encoding)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); save it so") from error


def checked_out(out: str | Path) -> Path:
    """Check that a folder is empty or not there yet.

    Raises:
        UsageError: it is neither.
    """
    folder = expanded(out)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} is there already; name a folder that is empty or does not exist")
    except OSError as error:
        raise UsageError(f"{folder} cannot be looked into: {error.strerror}; name another folder") from error
    return folder
