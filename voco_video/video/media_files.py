"""Files to be read as videos or pictures: whether they can be, and one kind of error for all that goes wrong."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from voco_video.errors import VideoError, VocoVideoError, used_wrongly

_KINDS = (
    (stat.S_ISDIR, "is a directory, not a video file"),
    (stat.S_ISFIFO, "is a named pipe, not a file; `voco-video compress --follow` reads those"),
    (stat.S_ISSOCK, "is a socket, not a video file"),
    (stat.S_ISCHR, "is a device, not a video file"),
    (stat.S_ISBLK, "is a device, not a video file"),
)


def check_readable(path: Path) -> None:
    """Raise VideoError for what is no file that holds something and may be read, without waiting for it."""
    try:
        status = path.stat()
        for is_kind, what in _KINDS:
            if is_kind(status.st_mode):
                raise used_wrongly(VideoError(f"{path}: {what}"))
        if status.st_size == 0:
            raise VideoError(f"{path}: the file is empty")
        if not os.access(path, os.R_OK):
            raise VideoError(f"{path}: no permission to read it")
    except FileNotFoundError as error:
        raise used_wrongly(VideoError(f"{path}: no such file")) from error
    except (OSError, ValueError) as error:  # a loop of links, a name that is too long or has a zero in it
        raise VideoError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


@contextlib.contextmanager
def as_video_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make a VideoError, which names the file, of whatever reading it fails with.

    FFmpeg's own errors, memory that runs out, and what PyAV stumbles over in damaged files (a stream that appears
    while packets are read is an IndexError). Errors that are voco-video's own pass.
    """
    import av

    try:
        yield
    except VocoVideoError:
        raise
    except (av.error.FFmpegError, MemoryError, OSError, ArithmeticError, LookupError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"
        raise VideoError(f"{path}: cannot be read ({type(error).__name__}: {reason})") from error
