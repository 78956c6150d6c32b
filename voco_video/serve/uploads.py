"""Videos that clients bring: kept by the digest of their bytes, never by a name that somebody gave.

<cache>/serve/uploads/<digest>         the file, read-only
                      <digest>.json    what it is called and what it is
<cache>/serve/partial/<token>          an upload that has begun
                      <token>.json     its name and its size
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from voco_video.cache.key import is_digest
from voco_video.files.atomic_write import fsync_directory, write_atomically
from voco_video.files.digest import digest_file
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.safety.media import check_media
from voco_video.serve.settings import ServeOptions

MAX_NAME_CHARACTERS = 120
PARTIAL_SECONDS = 24 * 3600.0  # after which an upload that nobody goes on with is dropped
MAX_PARTIAL = 64
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,64}")
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Upload:
    """A whole upload.

    Attributes:
        id: the BLAKE3 of its bytes.
        name: as it is shown; no path is ever made of it.
        facts: of the video: container, codec, width, height, duration_seconds, ...
    """

    id: str
    name: str
    size_bytes: int
    created_unix_seconds: float
    facts: dict[str, Any]


@dataclass(frozen=True)
class Partial:
    """An upload that has begun; `offset` bytes of `size_bytes` are here."""

    token: str
    name: str
    size_bytes: int
    offset: int


def shown_file_name(name: str) -> str:
    r"""Return what may be shown of a name that a client gave: its last part, without control characters.

    >>> shown_file_name("../../etc/pass\nwd"), shown_file_name("C:\\clips\\a.mp4"), shown_file_name("..")
    ('passwd', 'a.mp4', 'video')
    """
    last = _NOT_SHOWN.sub("", re.split(r"[/\\]", name)[-1]).strip(" .")
    return last.encode("utf-8", "replace").decode()[:MAX_NAME_CHARACTERS] or "video"


class Uploads:
    """The uploads of one server."""

    def __init__(self, folder: Path, settings: ServeOptions) -> None:
        self._whole, self._partial = folder / "uploads", folder / "partial"
        self._settings = settings
        self._lock = threading.Lock()
        self._writing: set[str] = set()

    def get(self, upload_id: str) -> Upload | None:
        """Return a whole upload, or None."""
        if not is_digest(upload_id):
            return None
        try:
            return Upload(**json.loads((self._whole / f"{upload_id}.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def path(self, upload_id: str) -> Path | None:
        """Return the file of an upload, or None."""
        path = self._whole / upload_id
        return path if is_digest(upload_id) and path.is_file() else None

    def all(self) -> list[Upload]:
        """List the whole uploads, the latest first."""
        with contextlib.suppress(FileNotFoundError):
            found = [self.get(path.stem) for path in self._whole.glob("*.json")]
            return sorted(filter(None, found), key=lambda one: -one.created_unix_seconds)
        return []

    def delete(self, upload_id: str) -> bool:
        """Delete an upload; False where there is none."""
        if not is_digest(upload_id):
            return False
        (self._whole / f"{upload_id}.json").unlink(missing_ok=True)
        try:
            (self._whole / upload_id).unlink()
        except FileNotFoundError:
            return False
        return True

    def begin(self, name: str, size_bytes: int) -> Partial:
        """Begin an upload that comes in pieces.

        Raises:
            ApiError: it is too large, or too many have begun.
        """
        self._check_size(size_bytes)
        self.prune()
        self._partial.mkdir(parents=True, exist_ok=True, mode=0o700)
        if len(list(self._partial.glob("*.json"))) >= MAX_PARTIAL:
            raise ApiError(429, f"{MAX_PARTIAL} uploads have begun; finish one", headers={"Retry-After": "60"})
        self._check_room(size_bytes)
        token = secrets.token_urlsafe(24)
        (self._partial / token).touch(mode=0o600)
        head = {"name": shown_file_name(name), "size_bytes": size_bytes}
        write_atomically(self._partial / f"{token}.json", json.dumps(head))
        return Partial(token, head["name"], size_bytes, 0)  # type: ignore[arg-type]

    def open_whole(self, name: str) -> tuple[str, IO[bytes]]:
        """Begin an upload whose size its end tells, see `set_size`; returns its token and the file to write to."""
        partial = self.begin(name, 1)
        return partial.token, open(self._partial / partial.token, "wb")

    def set_size(self, token: str, size_bytes: int) -> None:
        """Say how large an upload of `open_whole` became."""
        head = {"name": self.partial(token).name, "size_bytes": size_bytes}
        write_atomically(self._partial / f"{token}.json", json.dumps(head))

    def partial(self, token: str) -> Partial:
        """Return how far an upload has come.

        Raises:
            ApiError: there is none of this token.
        """
        if _TOKEN.fullmatch(token):
            with contextlib.suppress(OSError, ValueError):
                head = json.loads((self._partial / f"{token}.json").read_bytes())
                return Partial(token, offset=(self._partial / token).stat().st_size, **head)
        raise ApiError(404, "there is no upload of this token; begin one", code="no_such_upload")

    @contextlib.contextmanager
    def appending(self, token: str, offset: int) -> Iterator[_Appender]:
        """Yield what takes the next bytes of an upload; what has come stays, also where the rest does not.

        Raises:
            ApiError: another request writes it now, or it has come to another place than ``offset``.
        """
        partial = self.partial(token)
        with self._lock:
            if token in self._writing:
                raise ApiError(409, "another request is writing this upload", code="busy")
            self._writing.add(token)
        try:
            partial = self.partial(token)
            if offset != partial.offset:
                raise ApiError(
                    409,
                    f"this upload has come to byte {partial.offset}, not {offset}; go on from there",
                    code="wrong_offset",
                    headers={"Upload-Offset": str(partial.offset)},
                )
            with open(self._partial / token, "ab") as file:
                yield _Appender(file, partial.size_bytes - offset)
        finally:
            with self._lock:
                self._writing.discard(token)

    def finish(self, token: str) -> Upload:
        """Check an upload whose bytes have all come, and keep it by its digest.

        Raises:
            ApiError: bytes are missing.
            VideoError: it is no video, or beyond a limit; then it is dropped.
        """
        partial = self.partial(token)
        if partial.offset != partial.size_bytes:
            raise ApiError(409, f"{partial.offset} of {partial.size_bytes} bytes have come; send the rest")
        path = self._partial / token
        try:
            info = check_media(path, partial.name, self._settings)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            digest = digest_file(path)
            self._whole.mkdir(parents=True, exist_ok=True, mode=0o700)
            known = self.get(digest)
            path.chmod(0o400)
            os.replace(path, self._whole / digest)
            shown = {name: value for name, value in asdict(info).items() if name != "path"}
            facts = {name: v if isinstance(v, (int, float)) else str(v) for name, v in shown.items()}
            upload = known or Upload(digest, partial.name, partial.size_bytes, time.time(), facts)
            write_atomically(self._whole / f"{digest}.json", json.dumps(asdict(upload)))
            fsync_directory(self._whole)
        finally:
            self.drop(token)
        return upload

    def drop(self, token: str) -> None:
        """Forget an upload that has begun."""
        if _TOKEN.fullmatch(token):
            (self._partial / f"{token}.json").unlink(missing_ok=True)
            (self._partial / token).unlink(missing_ok=True)

    def prune(self) -> None:
        """Drop uploads that nobody goes on with."""
        with contextlib.suppress(FileNotFoundError):
            for path in list(self._partial.iterdir()):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < time.time() - PARTIAL_SECONDS and path.stem not in self._writing:
                        path.unlink()

    def _check_size(self, size_bytes: int) -> None:
        if not 0 < size_bytes <= self._settings.max_upload_bytes:
            raise ApiError(
                413,
                f"a video of {size_bytes} bytes; from 1 to {self._settings.max_upload_bytes} are taken here",
                code="too_large",
            )

    def _check_room(self, size_bytes: int) -> None:
        disk = os.statvfs(self._partial)
        if size_bytes > disk.f_bavail * disk.f_frsize:
            raise ApiError(507, "there is no room left on the server's disk", code="no_room")


class _Appender:
    """Writes the next bytes of an upload, no more than there may be."""

    def __init__(self, file: Any, left: int) -> None:
        self._file, self._left = file, left

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            ApiError: they are more than was said at the beginning.
        """
        if len(data) > self._left:
            raise ApiError(413, "more bytes come than the upload was said to have", code="too_large")
        self._file.write(data)
        self._left -= len(data)
