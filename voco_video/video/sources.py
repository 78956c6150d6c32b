"""Whatever a video may be given as, brought to where it can be read: a path, a URL, bytes, an open file, pictures."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

from voco_video.errors import UsageError, VideoError, VocoVideoError
from voco_video.files.paths import expanded
from voco_video.files.urls import checked_url, is_url, scheme_of, short_name, without_secrets
from voco_video.video.downloads import Downloads
from voco_video.video.filesystem_files import FilesystemFile
from voco_video.video.pictures import Pictures
from voco_video.video.transfers import RemoteFile, Report

VideoLike: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Pictures | LocalVideo"
"""A path, a URL, a file's bytes, a file opened for reading bytes, or `Pictures`."""

_LIVE_SCHEMES = frozenset({
    "rtsp", "rtsps", "rtmp", "rtmps", "rtmpe", "rtmpt", "rtp", "srtp", "udp", "srt", "tcp", "mms"
})  # fmt: skip
_SHRUNK_URL = re.compile(r"(?:https?|s3|hf|gs|file|memory):/[^/]")  # what pathlib makes of a URL


@dataclass(frozen=True)
class LocalVideo:
    """A video that can be read on this machine, as long as the `local_video` that gave it is open.

    Attributes:
        name: as the caller knows it: the path given, a URL without its secrets, or what it is.
        path: of the file; None for pictures in memory.
        digest: the BLAKE3 of the bytes where it had to be computed anyway.
        pictures: those in memory, else None.
        is_own_file: whether the path is the caller's own, rather than a copy that goes again.
    """

    name: str | Path
    path: Path | None
    digest: str | None = None
    pictures: Pictures | None = None
    is_own_file: bool = False

    @property
    def recorded_name(self) -> str:
        """What the cache records: the whole path of a file, else the name."""
        return str(self.path.resolve()) if self.is_own_file and self.path else str(self.name)

    @contextlib.contextmanager
    def named_errors(self) -> Iterator[None]:
        """Have errors speak of the video by its name, where they name the file that it was copied to."""
        try:
            yield
        except VocoVideoError as error:
            if self.path is not None and str(self.path) != str(self.name):
                error.args = (str(error).replace(str(self.path), str(self.name)),)
            raise


@contextlib.contextmanager
def local_video(
    video: VideoLike, *, downloads: Downloads | None = None, on_download: Report | None = None
) -> Iterator[LocalVideo]:
    """Yield a video as something that can be read here.

    A URL is fetched into the folder of downloads, unless it is there and its server says that it has not changed. Bytes
    and open files go to a temporary file. An open file is read from where it stands to its end, and set back to there
    where it can be.

    Args:
        downloads: the folder; that of the default cache when None.
        on_download: called with the bytes that have come and those there are in all, None where that is not known.

    Raises:
        UsageError: nothing that can be a video, or a URL that cannot be right.
        VideoError: it is not there, cannot be reached or read, or there is no room for it.
    """
    with contextlib.ExitStack() as closing:
        local = _opened(video, downloads, on_download or (lambda num_bytes, total: None), closing)
        with local.named_errors():
            yield local


def _opened(video: Any, downloads: Downloads | None, report: Report, closing: contextlib.ExitStack) -> LocalVideo:
    if isinstance(video, LocalVideo):
        return video
    if isinstance(video, Pictures):
        return LocalVideo(video.name, None, pictures=video)
    if is_url(video):
        return _opened_url(video, downloads, report, closing)
    if isinstance(video, (str, os.PathLike)):
        return _own_file(video)
    if isinstance(video, (bytes, bytearray, memoryview)):
        return _temporary(io.BytesIO(video), f"{memoryview(video).nbytes} bytes", closing)
    if hasattr(video, "read"):
        return _opened_file(video, closing)
    if hasattr(video, "__array__") or isinstance(video, (list, tuple)):
        raise UsageError(
            f"a {type(video).__name__} says nothing of the times of its pictures; "
            "give voco_video.Pictures(pictures, fps=25), or pts_seconds=[...] in it"
        )
    raise UsageError(
        f"a {type(video).__name__} is no video: give a path, a URL, bytes, a file opened with 'rb', or "
        "voco_video.Pictures"
    )


def _own_file(path: str | os.PathLike[str]) -> LocalVideo:
    given = os.fspath(path)
    if not isinstance(given, str):
        raise UsageError(f"{given!r}: give a path as text; bytes are taken for the content of a video")
    found = expanded(given)
    if _SHRUNK_URL.match(str(path)) and isinstance(path, Path) and not os.path.lexists(found):
        raise UsageError(f"{path}: give a URL as text; a Path drops one of its slashes")
    return LocalVideo(found, found, is_own_file=True)


def _opened_url(url: str, downloads: Downloads | None, report: Report, closing: contextlib.ExitStack) -> LocalVideo:
    scheme, name = scheme_of(url), without_secrets(url)
    if scheme == "data":
        return _temporary(io.BytesIO(_bytes_of_data_url(url, name)), name, closing)
    if scheme == "file":
        path = _path_of_file_url(url)
        return LocalVideo(name, path, is_own_file=True)
    if scheme == "local":  # fsspec's way of naming what is here anyway
        return LocalVideo(name, expanded(url.partition("://")[2]), is_own_file=True)
    if scheme in _LIVE_SCHEMES:
        raise UsageError(f"{name}: is a live source, not a file; `voco-video compress --follow` reads those")
    remote: RemoteFile = FilesystemFile(url)
    if scheme in ("http", "https"):
        from voco_video.video.web_files import WebFile  # with much of the standard library that files do not need

        remote = WebFile(checked_url(url))
    path, digest = closing.enter_context((downloads or Downloads()).opened(remote, report))
    return LocalVideo(name, path, digest)


def _path_of_file_url(url: str) -> Path:
    name = without_secrets(url)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{name}: is not a whole URL ({error})") from error
    if parts.netloc.lower() not in ("", "localhost"):
        raise UsageError(f"{name}: names a file of another machine, {parts.netloc!r}; write file:///path")
    if parts.query or parts.fragment or not parts.path.startswith("/"):
        raise UsageError(f"{name}: write file:///, then the whole path, with %3F for a question mark and %23 for #")
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if "\0" in path:
        raise UsageError(f"{name}: no path has a zero character in it")
    return Path(path)


def _bytes_of_data_url(url: str, name: str) -> bytes:
    kind, comma, data = url.partition(",")
    if not comma:
        raise UsageError(f"{name}: has no comma before its data; write data:video/mp4;base64,AAAA...")
    content = unquote_to_bytes(data)
    if not kind.lower().rstrip().endswith(";base64"):
        return content
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error as error:
        raise UsageError(f"{name}: its data is not base64 ({error})") from error


def _opened_file(file: Any, closing: contextlib.ExitStack) -> LocalVideo:
    given = getattr(file, "name", None)
    name = given if isinstance(given, str) else f"a {type(file).__name__}"
    try:
        start = file.tell() if file.seekable() else None
    except (AttributeError, OSError):
        start = None
    except ValueError as error:
        raise UsageError(f"{name}: the file is closed") from error
    if start == 0 and (path := _path_of(file)) is not None:
        return LocalVideo(path, path, is_own_file=True)
    local = _temporary(file, name, closing)
    if start is not None:
        file.seek(start)
        assert local.path is not None
        if local.path.stat().st_size == 0 and start:
            raise VideoError(f"{name}: nothing follows where it stands, at byte {start}; set it back with seek(0)")
    return local


def _path_of(file: Any) -> Path | None:
    """The path of an open file that gives just the bytes on disk, where it still names that file."""
    if not isinstance(file, (io.BufferedReader, io.FileIO)) or not isinstance(getattr(file, "raw", file), io.FileIO):
        return None
    with contextlib.suppress(OSError, TypeError, ValueError):
        if isinstance(file.name, str) and os.path.samestat(os.stat(file.name), os.fstat(file.fileno())):
            return Path(file.name)
    return None


def _temporary(file: Any, name: str, closing: contextlib.ExitStack) -> LocalVideo:
    """Copy what a file gives from here on."""
    try:
        folder = closing.enter_context(tempfile.TemporaryDirectory(prefix="voco-video-"))
        path = Path(folder) / (re.sub(r"[^\w.-]+", "_", short_name(name))[-80:] or "video")
        with open(path, "wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
    except TypeError as error:
        raise UsageError(f"{name}: gives no bytes ({error}); open it with 'rb'") from error
    except ValueError as error:
        raise UsageError(f"{name}: cannot be read ({error})") from error
    except OSError as error:
        raise VideoError(f"{name}: cannot be copied to {tempfile.gettempdir()} ({error.strerror or error})") from error
    return LocalVideo(name, path)
