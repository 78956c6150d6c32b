"""Small files that a folder brings, read whole or refused with one clear error that names the file.

Folders come from anywhere: copied halfway, fetched without Git LFS, edited by hand.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from voco_video.errors import ModelError

FETCH_AGAIN = "fetch it again from where the checkpoint came from"


def is_there(path: Path) -> bool:
    """Tell whether anything has this name: a file, a folder, a link to nowhere.

    Raises:
        ModelError: a folder above it may not be read, or the name cannot be one.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return True


def has_file(folder: Path, name: str) -> bool:
    """Tell whether a folder has a file of this name; False where nothing has.

    Raises:
        ModelError: something else has the name, or the file may not be read. A checkpoint never goes on as if it were
            not there.
    """
    path = folder / name
    if not is_there(path):
        return False
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ModelError(f"{path} is a link to nowhere ({os.readlink(path)}); {FETCH_AGAIN}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no file"
        raise ModelError(f"{path} is {kind} where a file has to be; {FETCH_AGAIN}")
    if not os.access(path, os.R_OK):
        raise ModelError(f"{path} may not be read: change its permissions")
    return True


def read_bytes(path: Path) -> bytes:
    """Read a file's bytes.

    Raises:
        ModelError: it is missing, empty, no file, or a Git LFS pointer.
    """
    check_content(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def check_content(path: Path) -> None:
    """Refuse what is no file, and what people often have in place of one."""
    if not has_file(path.parent, path.name):
        raise ModelError(f"{path} does not exist: the checkpoint is not complete; {FETCH_AGAIN}")
    try:
        with path.open("rb") as file:
            head = file.read(64).lstrip()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise ModelError(f"{path} is empty; {FETCH_AGAIN}")
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository")
    if head.lower().startswith((b"<!doctype", b"<html")):
        raise ModelError(f"{path} is a web page, not the file itself: download the file")


def read_text(path: Path) -> str:
    """Read a text file's content.

    Raises:
        ModelError: as `read_bytes`, or it is not UTF-8.
    """
    data = read_bytes(path)
    if data.startswith(b"\xef\xbb\xbf"):
        raise ModelError(f"{path} begins with a byte-order mark: save it as UTF-8 without one")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8, or {FETCH_AGAIN}"
        ) from error


def read_settings(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        ModelError: as `read_text`, or it is no JSON, or JSON but no object.
    """
    text = read_text(path)
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {first_line(error)}; correct it, or {FETCH_AGAIN}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path} has to hold a JSON object {{...}}, not {shown(settings)}")
    return settings


def shown(value: Any) -> str:
    """Write a value for an error message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def first_line(error: BaseException) -> str:
    """Return what the library says of a failure, in one line of at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    text = f"there is no {text}" if isinstance(error, KeyError) else text
    return text if len(text) <= 300 else f"{text[:297]}..."
