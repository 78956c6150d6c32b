"""Files of web servers and of fsspec's filesystems, copied to this machine.

A copy says which version of the file it is, as far as the server tells (ETag, time of the last change, size), so that
the next one can be spared while nothing has changed. A connection that is cut is taken up again where it stopped.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import IO, Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from voco_video.errors import UsageError, VideoError
from voco_video.files.urls import checked_url, scheme_of, scrubbed, without_secrets
from voco_video.version import __version__

Version = Mapping[str, Any]
"""What a server says of a file that changes with its content; empty where it says nothing of the kind."""
Report = Callable[[int, "int | None"], None]
"""Called with the bytes that are here and those there are in all, None where that is not known."""

TIMEOUT_SECONDS = 30.0  # without a byte
MAX_FAILURES = 5  # in a row, without getting further
_FIRST_WAIT_SECONDS = 0.5  # doubled after every failure
_BLOCK_BYTES = 1 << 20
# A server tells the time of a change in whole seconds, so a file may change again without another time.
_SETTLED_SECONDS = 2
_LIVE_SCHEMES = frozenset(
    {"rtsp", "rtsps", "rtmp", "rtmps", "rtmpe", "rtmpt", "rtp", "srtp", "udp", "srt", "tcp", "mms"}
)
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_WILL_NOT_PASS = (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError)
_WEB_PAGE = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head)\b", re.IGNORECASE | re.DOTALL)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_URL_CHARACTERS = ":/?#[]@!$&'()*+,;=%~"  # all that may stand in a URL as they are
# Facts of fsspec's filesystems that change with a file's content, in small letters and without marks.
_TELLING_FACTS = frozenset({
    "etag", "mtime", "modify", "modified", "lastmodified", "lastwritetime", "modificationtime", "created", "updated",
    "generation", "versionid", "md5", "md5hash", "contentmd5", "sha", "sha256", "blobid", "oid", "checksum", "crc",
    "crc32", "crc32c",
})  # fmt: skip


class RemoteFile(Protocol):
    """A file that is elsewhere; `name` is its URL without secrets."""

    @property
    def url(self) -> str:
        """As it was given."""

    @property
    def name(self) -> str:
        """The URL without its secrets."""

    def fetch(self, out: IO[bytes], known: Version, report: Report) -> Version | None:
        """Copy the file into an empty one and return its version; None where that is still the one that is known.

        Raises:
            UsageError: nothing can be had from such a URL.
            VideoError: the file is not there, may not be read, cannot be reached, or there is no room for it.
        """


def remote_file(url: str) -> RemoteFile:
    """The file of a URL that is neither ``data:`` nor ``file:``; nothing is asked of its server yet.

    Raises:
        UsageError: no file can be had from such a URL.
    """
    scheme = scheme_of(url)
    if scheme in _LIVE_SCHEMES:
        name = without_secrets(url)
        raise UsageError(f"{name}: is a live source, not a file; `voco-video compress --follow` reads those")
    return WebFile(checked_url(url)) if scheme in ("http", "https") else FilesystemFile(url)


class _CutError(Exception):
    """A transfer that ended too early, or that may go better another time; it starts over where it cannot go on."""

    def __init__(self, reason: str, *, starts_over: bool = False) -> None:
        super().__init__(reason)
        self.starts_over = starts_over


class _Tries:
    """Counts the tries of one transfer, waits between them, and ends it after too many."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._num_failures = 0
        self._furthest = 0

    def failed(self, error: _CutError, out: IO[bytes]) -> None:
        """Wait for the next try. Raises VideoError when there have been enough."""
        num_bytes = out.tell()
        if error.starts_over:
            _empty(out)
        if num_bytes >= self._furthest + _BLOCK_BYTES:  # it got further than ever
            self._num_failures = 0
        self._furthest = max(self._furthest, num_bytes)
        self._num_failures += 1
        if self._num_failures >= MAX_FAILURES:
            raise VideoError(f"{self._name}: cannot be fetched ({error}; tried {MAX_FAILURES} times); try again later")
        time.sleep(_FIRST_WAIT_SECONDS * 2 ** (self._num_failures - 1))


@dataclass(frozen=True)
class WebFile:
    """A file of a web server."""

    url: str

    @property
    def name(self) -> str:
        """The URL without its secrets."""
        return without_secrets(self.url)

    def fetch(self, out: IO[bytes], known: Version, report: Report) -> Version | None:
        """See `RemoteFile.fetch`."""
        tries, version = _Tries(self.name), {}  # type: tuple[_Tries, Version]
        while True:
            try:
                if out.tell() and not _range_condition(version):
                    _empty(out)  # two versions of the file could be mixed
                with self._asked(_headers(out.tell(), version, known), has_begun=out.tell() > 0) as response:
                    if response.status == 304:
                        return None
                    if not _goes_on(response, out.tell(), version):
                        _empty(out)
                        version = _version_of(response)
                        if known and version == known:
                            return None
                    self._copy(response, out, report)
                return version
            except _CutError as error:
                tries.failed(error, out)

    @contextlib.contextmanager
    def _asked(self, headers: dict[str, str], *, has_begun: bool) -> Iterator[Any]:
        address, authorization = _split_credentials(self.url)
        request = urllib.request.Request(address, headers=headers)
        if authorization:
            request.add_unredirected_header("Authorization", authorization)
        try:
            response = _opener().open(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            if error.code != 304:
                error.close()
                raise self._refusal(error.code, error.msg) from None
            response = error
        except (http.client.InvalidURL, UnicodeError) as error:
            raise UsageError(f"{self.name}: is not a whole URL ({scrubbed(str(error), self.url)})") from None
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if has_begun or (not isinstance(reason, _WILL_NOT_PASS) and isinstance(reason, Exception)):
                raise _CutError(self._in_words(reason)) from None
            raise VideoError(
                f"{self.name}: cannot be reached ({self._in_words(reason)}); check the address and the network. What "
                "was compressed before is in `voco-video cache ls`, and can be asked by its entry without a network"
            ) from None
        with response:
            yield response

    def _in_words(self, error: object) -> str:
        if isinstance(error, TimeoutError):
            return f"nothing came for {TIMEOUT_SECONDS:g} s"
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return scrubbed(str(text), self.url)

    def _refusal(self, status: int, reason: object) -> Exception:
        said = f"{status} {scrubbed(str(reason), self.url)[:100]}".strip()
        if status in _TEMPORARY:
            return _CutError(f"the server answers {said}")
        if status == 416:
            return _CutError(f"the server answers {said}", starts_over=True)
        if status in (401, 403, 407):
            return VideoError(
                f"{self.name}: the server refuses it ({said}); give user and password or a signed address, and mind "
                "that such addresses expire"
            )
        if status in (404, 410):
            return VideoError(f"{self.name}: no such file on the server ({said})")
        if 300 <= status < 400:
            return VideoError(f"{self.name}: the server sends on in a circle, too often, or out of the web ({status})")
        return VideoError(f"{self.name}: the server will not give it ({said})")

    def _copy(self, response: Any, out: IO[bytes], report: Report) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise VideoError(f"{self.name}: the server sends it packed ({encoding}), which it was asked not to do")
        total = _total_bytes(response, out.tell())
        _check_room(self.name, out, total)
        while True:
            try:
                block = response.read(_BLOCK_BYTES)
            except http.client.IncompleteRead as error:
                _write(self.name, out, error.partial)
                raise _CutError(f"it ended after {out.tell()} bytes") from None
            except (OSError, http.client.HTTPException) as error:
                raise _CutError(self._in_words(error)) from None
            if not block:
                break
            if out.tell() == 0 and _WEB_PAGE.match(block):
                raise VideoError(f"{self.name}: is a web page, not a video; give the address of the video file itself")
            _write(self.name, out, block)
            report(out.tell(), total)
        if total is not None and out.tell() != total:
            raise _CutError(f"it ended after {out.tell()} of {total} bytes")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to other addresses of the web, at most ten times; a password goes to its own server only."""

    def http_error_308(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Follow; Python 3.10 does not know this status."""
        return self.http_error_302(req, fp, 307, msg, headers)

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Ask the next address as the first one was asked."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        authorization = req.unredirected_hdrs.get("Authorization")
        if following is not None and authorization and following.host == req.host and following.type == req.type:
            following.add_unredirected_header("Authorization", authorization)
        return following


def _opener() -> urllib.request.OpenerDirector:
    """What asks web servers, by way of the proxies that the environment names; opens nothing else."""
    opener = urllib.request.OpenerDirector()
    for kind in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler, _Redirects,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor, urllib.request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(kind())
    return opener


def _split_credentials(url: str) -> tuple[str, str | None]:
    """The address as it goes over the wire, and the header for a user and password in it."""
    parts = urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    if not host.isascii():
        name, colon, port = host.partition(":")
        host = name.encode("idna").decode() + colon + port
    address = quote(parts._replace(netloc=host, fragment="").geturl(), safe=_URL_CHARACTERS)
    if not credentials:
        return address, None
    user, _, password = credentials.partition(":")
    token = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    return address, f"Basic {token}"


def _headers(start: int, version: Version, known: Version) -> dict[str, str]:
    headers = {"User-Agent": f"voco-video/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
    condition = _range_condition(version)
    if start and condition:
        headers |= {"Range": f"bytes={start}-", "If-Range": condition}
    elif "etag" in known:
        headers["If-None-Match"] = known["etag"]
    elif "last_modified" in known:
        headers["If-Modified-Since"] = known["last_modified"]
    return headers


def _range_condition(version: Version) -> str | None:
    """What tells a server which version the rest has to be of, None where nothing does exactly."""
    etag = version.get("etag")
    if etag is None:
        return version.get("last_modified")
    return None if etag.startswith("W/") else etag


def _version_of(response: Any) -> Version:
    headers = response.headers
    size = {"size": headers["Content-Length"]} if headers["Content-Length"] else {}
    if etag := headers["ETag"]:
        return {"etag": etag, **size}
    with contextlib.suppress(TypeError, ValueError):  # one is missing, or is no date
        age = parsedate_to_datetime(headers["Date"]) - parsedate_to_datetime(headers["Last-Modified"])
        if age.total_seconds() >= _SETTLED_SECONDS:
            return {"last_modified": headers["Last-Modified"], **size}
    return {}


def _goes_on(response: Any, start: int, version: Version) -> bool:
    """Whether the rest of the file comes, of the version begun; False where it comes from its beginning."""
    if response.status != 206:
        return False
    found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if not found or int(found[1]) != start or not start or version.get("size", found[2]) not in (found[2], "*"):
        raise _CutError("the server gave another part of the file than it was asked for", starts_over=True)
    return True


def _total_bytes(response: Any, start: int) -> int | None:
    length = response.headers["Content-Length"]
    if response.headers["Transfer-Encoding"] or not length or not length.isdigit():
        return None
    return start + int(length)


@dataclass(frozen=True)
class FilesystemFile:
    """A file of a filesystem that fsspec knows: ``s3://``, ``hf://``, ``gs://``, ``memory://`` and others."""

    url: str

    @property
    def name(self) -> str:
        """The URL without its secrets."""
        return without_secrets(self.url)

    def fetch(self, out: IO[bytes], known: Version, report: Report) -> Version | None:
        """See `RemoteFile.fetch`."""
        filesystem, path = self._opened()
        version, size = self._version(filesystem, path)
        if version and version == known:
            return None
        _check_room(self.name, out, size)
        tries = _Tries(self.name)
        while True:
            try:
                self._copy(filesystem, path, out, size, report)
                return version
            except _CutError as error:
                tries.failed(error, out)
                before, (version, size) = version, self._version(filesystem, path)
                if not version or version != before:
                    _empty(out)  # two versions of the file could be mixed

    def _opened(self) -> tuple[Any, str]:
        try:
            import fsspec
        except ImportError as error:
            raise UsageError(
                f"{self.name}: reading {scheme_of(self.url)}:// takes fsspec; run: pip install 'voco-video[sources]'"
            ) from error
        try:
            filesystem, path = fsspec.core.url_to_fs(self.url)
        except ImportError as error:  # of the package for this kind
            raise UsageError(f"{self.name}: {scrubbed(str(error), self.url)}") from None
        except Exception as error:  # what the package for this kind raises
            raise UsageError(
                f"{self.name}: no file has this name, and as a URL it cannot be opened ({self._in_words(error)}); "
                "http, https, file, data and the filesystems of fsspec can be"
            ) from None
        return filesystem, path

    def _version(self, filesystem: Any, path: str) -> tuple[Version, int | None]:
        try:
            filesystem.invalidate_cache()  # of listings
            info = filesystem.info(path)
        except FileNotFoundError:
            raise VideoError(f"{self.name}: no such file") from None
        except PermissionError as error:
            raise VideoError(f"{self.name}: no permission to read it ({self._in_words(error)})") from None
        except Exception as error:  # filesystems have errors of their own
            raise VideoError(f"{self.name}: cannot be reached ({self._in_words(error)})") from None
        if info.get("type") == "directory":
            raise VideoError(f"{self.name}: is a folder; give the video files in it")
        size = info.get("size")
        version = {k: str(v) for k, v in info.items() if re.sub("[^a-z0-9]", "", k.lower()) in _TELLING_FACTS and v}
        return version and {**version, "size": str(size)}, size if isinstance(size, int) else None

    def _copy(self, filesystem: Any, path: str, out: IO[bytes], size: int | None, report: Report) -> None:
        with contextlib.ExitStack() as closing:
            try:
                file = closing.enter_context(filesystem.open(path, "rb"))
                if start := out.tell():
                    file.seek(start)
            except Exception as error:
                raise _CutError(self._in_words(error)) from None
            while True:
                try:
                    block = file.read(_BLOCK_BYTES)
                except Exception as error:
                    raise _CutError(self._in_words(error)) from None
                if not block:
                    break
                _write(self.name, out, block)
                report(out.tell(), size)
        if size is not None and out.tell() != size:
            raise _CutError(f"it ended after {out.tell()} of {size} bytes", starts_over=out.tell() > size)

    def _in_words(self, error: Exception) -> str:
        return scrubbed(f"{type(error).__name__}: {error}", self.url)[:300]


def _empty(out: IO[bytes]) -> None:
    out.seek(0)
    out.truncate()


def _write(name: str, out: IO[bytes], block: bytes) -> None:
    try:
        out.write(block)
    except OSError as error:
        raise VideoError(f"{name}: cannot be kept here ({error.strerror})") from None


def _check_room(name: str, out: IO[bytes], total: int | None) -> None:
    disk = os.fstatvfs(out.fileno())
    room = disk.f_bavail * disk.f_frsize
    if total is not None and total - out.tell() > room:
        raise VideoError(
            f"{name}: has {total / 2**20:.1f} MiB, and on the disk there is room for {room / 2**20:.1f}; make room, or "
            "have the cache on another disk"
        )
