"""Files of web servers: asked for by version, taken up where they were cut, and refused in plain words."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

from voco_video.errors import UsageError, VideoError, used_wrongly
from voco_video.files.urls import scrubbed, without_secrets
from voco_video.version import __version__
from voco_video.video.transfers import BLOCK_BYTES, CutError, Report, Tries, Version, check_room, empty, write_block

TIMEOUT_SECONDS = 30.0  # without a byte
# A server tells the time of a change in whole seconds, so a file may change again without another time.
_SETTLED_SECONDS = 2
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_WILL_NOT_PASS = (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError)
_WEB_PAGE = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head)\b", re.IGNORECASE | re.DOTALL)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_URL_CHARACTERS = ":/?#[]@!$&'()*+,;=%~"  # all that may stand in a URL as they are


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
        tries, version = Tries(self.name), {}  # type: tuple[Tries, Version]
        while True:
            try:
                if out.tell() and not _range_condition(version):
                    empty(out)  # two versions of the file could be mixed
                with self._asked(_headers(out.tell(), version, known), has_begun=out.tell() > 0) as response:
                    if response.status == 304:
                        return None
                    if not _goes_on(response, out.tell(), version):
                        empty(out)
                        version = _version_of(response)
                        if known and version == known:
                            return None
                    self._copy(response, out, report)
                return version
            except CutError as error:
                tries.failed(error, out)

    @contextlib.contextmanager
    def _asked(self, headers: dict[str, str], *, has_begun: bool) -> Iterator[Any]:
        try:
            address, authorization = _split_credentials(self.url)
            request = urllib.request.Request(address, headers=headers)
            if authorization:
                request.add_unredirected_header("Authorization", authorization)
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
                raise CutError(self._in_words(reason)) from None
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
            return CutError(f"the server answers {said}")
        if status == 416:
            return CutError(f"the server answers {said}", starts_over=True)
        if status in (401, 403, 407):
            return VideoError(
                f"{self.name}: the server refuses it ({said}); give user and password or a signed address, and mind "
                "that such addresses expire"
            )
        if status in (404, 410):
            return used_wrongly(VideoError(f"{self.name}: no such file on the server ({said})"))
        if 300 <= status < 400:
            return VideoError(f"{self.name}: the server sends on in a circle, too often, or out of the web ({status})")
        return VideoError(f"{self.name}: the server will not give it ({said})")

    def _copy(self, response: Any, out: IO[bytes], report: Report) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise VideoError(f"{self.name}: the server sends it packed ({encoding}), which it was asked not to do")
        total = _total_bytes(response, out.tell())
        check_room(self.name, out, total)
        while True:
            try:
                block = response.read(BLOCK_BYTES)
            except http.client.IncompleteRead as error:
                write_block(self.name, out, error.partial)
                raise CutError(f"it ended after {out.tell()} bytes") from None
            except (OSError, http.client.HTTPException) as error:
                raise CutError(self._in_words(error)) from None
            if not block:
                break
            if out.tell() == 0 and _WEB_PAGE.match(block):
                raise VideoError(f"{self.name}: is a web page, not a video; give the address of the video file itself")
            write_block(self.name, out, block)
            report(out.tell(), total)
        if total is not None and out.tell() != total:
            raise CutError(f"it ended after {out.tell()} of {total} bytes")


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
        raise CutError("the server gave another part of the file than it was asked for", starts_over=True)
    return True


def _total_bytes(response: Any, start: int) -> int | None:
    length = response.headers["Content-Length"]
    if response.headers["Transfer-Encoding"] or not length or not length.isdigit():
        return None
    return start + int(length)
