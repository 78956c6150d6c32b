"""Files below one folder, named by clients: symbolic links are followed before it is looked where they lead."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from voco_video.serve.openai_errors import ApiError

_NOT_BELOW = "is no file below this server's media root"


def path_of_file_url(url: str, root: Path | None) -> Path:
    """Return the file of a ``file://`` URL below the root.

    Raises:
        ApiError: there is no root, or no such file below it; both sound the same, so nothing is learned of others.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ApiError(400, "this file:// URL is not whole", param="url") from error
    if parts.netloc.lower() not in ("", "localhost") or parts.query or parts.fragment:
        raise ApiError(400, "write file:///, then the whole path", param="url", code="bad_file_url")
    return below(os.fsdecode(unquote_to_bytes(parts.path)), root)


def below(given: str, root: Path | None, *, folder: bool = False) -> Path:
    """Return the real path of a file, or of a folder, below the root; relative paths begin at the root.

    Raises:
        ApiError: see `path_of_file_url`.
    """
    if root is None:
        raise ApiError(403, "this server opens no files: it was started without --media-root", code="no_media_root")
    if "\0" in given:
        raise ApiError(400, f"{given!r} {_NOT_BELOW}", code="not_below_media_root")
    real_root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(real_root, given))
    is_inside = real == real_root or real.startswith(real_root.rstrip("/") + "/")
    refused = ApiError(403, f"{given!r} {_NOT_BELOW}", code="not_below_media_root")
    if not is_inside:
        raise refused
    try:
        mode = os.stat(real, follow_symlinks=False).st_mode
    except OSError:
        raise refused from None
    if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
        raise refused
    return Path(real)
