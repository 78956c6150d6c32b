"""Videos of web servers, fetched without trust: pinned addresses, checked redirects, limits on bytes and time."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import quote, urljoin, urlsplit

from voco_video.errors import UsageError, VideoError
from voco_video.files.urls import checked_url, without_secrets
from voco_video.serve.safety.addresses import IsAllowed, allowed_addresses, is_public
from voco_video.version import __version__
from voco_video.video.transfers import BLOCK_BYTES, Report, Version, check_room, write_block

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0
_URL_CHARACTERS = ":/?#[]@!$&'()*+,;=%~"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Limits:
    """Limits on one transfer: its bytes and its seconds, all redirects together."""

    max_bytes: int
    max_seconds: float


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to an address that was checked, whatever the host's name stands for by now."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=CONNECT_SECONDS)
        self._address, self._tls = address, context

    def connect(self) -> None:
        """Connect to the address; TLS is checked against the host's name."""
        self.sock = socket.create_connection((self._address, self.port), CONNECT_SECONDS)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)
        self.sock.settimeout(SILENT_SECONDS)


@dataclass(frozen=True)
class Reply:
    """What a server said: status, headers in small letters, and its body, to be read by `read`."""

    status: int
    headers: Mapping[str, str]
    read: Any
    close: Any


def ask_once(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    is_allowed: IsAllowed = is_public,
) -> Reply:
    """Send one request to a web server, at an address that is allowed; redirects are not followed.

    Neither proxies nor passwords in the URL are used.

    Raises:
        UsageError: no URL of the web.
        VideoError: it cannot be reached, or its address is not allowed.
    """
    name = without_secrets(url)
    parts = urlsplit(checked_url(url))
    if parts.scheme.lower() not in ("http", "https"):
        raise UsageError(f"{name}: only http and https URLs are fetched")
    if "@" in parts.netloc:
        raise UsageError(f"{name}: leave user and password out of the URL")
    is_tls = parts.scheme.lower() == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise UsageError(f"{name}: is not a whole URL") from error
    target = quote(parts._replace(scheme="", netloc="", fragment="").geturl() or "/", safe=_URL_CHARACTERS)
    failure: Exception | None = None
    for address in allowed_addresses(host, port, is_allowed):
        connection = _PinnedConnection(host, port, address, ssl.create_default_context() if is_tls else None)
        try:
            connection.request(method, target if target.startswith("/") else f"/{target}", body, dict(headers or {}))
            response = connection.getresponse()
            found = {key.lower(): value for key, value in response.getheaders()}
            return Reply(response.status, found, response.read, connection.close)
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            failure = error
    raise VideoError(f"{name}: cannot be reached ({type(failure).__name__})") from failure


@dataclass(frozen=True)
class UntrustedFile:
    """The file of a URL that a client gave; a `voco_video.video.transfers.RemoteFile`."""

    url: str
    limits: Limits
    is_allowed: IsAllowed = is_public

    @property
    def name(self) -> str:
        """The URL without its secrets."""
        return without_secrets(self.url)

    def fetch(self, out: IO[bytes], known: Version, report: Report) -> Version | None:
        """See `RemoteFile.fetch`. Every redirect is checked like the first address."""
        deadline = time.monotonic() + self.limits.max_seconds
        out.seek(0)
        out.truncate()
        url = self.url
        for _ in range(MAX_REDIRECTS + 1):
            headers = {"User-Agent": f"voco-video/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
            if "etag" in known:
                headers["If-None-Match"] = str(known["etag"])
            reply = ask_once(url, headers=headers, is_allowed=self.is_allowed)
            try:
                if reply.status in _REDIRECTS:
                    url = self._redirected(url, reply.headers.get("location", ""))
                    continue
                if reply.status == 304 and known:
                    return None
                if reply.status != 200:
                    raise VideoError(f"{self.name}: the server answers {reply.status}")
                self._copy(reply, out, report, deadline)
                etag = reply.headers.get("etag")
                return {"etag": etag} if etag else {}
            finally:
                reply.close()
        raise VideoError(f"{self.name}: the server sends on more than {MAX_REDIRECTS} times")

    def _redirected(self, url: str, location: str) -> str:
        following = urljoin(url, location)
        if not location or urlsplit(following).scheme.lower() not in ("http", "https"):
            raise VideoError(f"{self.name}: the server sends on out of the web")
        return following

    def _copy(self, reply: Reply, out: IO[bytes], report: Report, deadline: float) -> None:
        if reply.headers.get("content-encoding", "identity") != "identity":
            raise VideoError(f"{self.name}: the server sends it packed, which it was asked not to do")
        length = reply.headers.get("content-length", "")
        total = int(length) if length.isdigit() and "transfer-encoding" not in reply.headers else None
        self._check_size(total or 0)
        check_room(self.name, out, total)
        while True:
            if time.monotonic() > deadline:
                raise VideoError(f"{self.name}: took longer than {self.limits.max_seconds:g} s")
            try:
                block = reply.read(min(BLOCK_BYTES, 1 << 16))
            except (OSError, http.client.HTTPException) as error:
                raise VideoError(f"{self.name}: broke off after {out.tell()} bytes") from error
            if not block:
                break
            self._check_size(out.tell() + len(block))
            write_block(self.name, out, block)
            report(out.tell(), total)
        if total is not None and out.tell() != total:
            raise VideoError(f"{self.name}: ended after {out.tell()} of {total} bytes")

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes > self.limits.max_bytes:
            raise VideoError(f"{self.name}: is larger than {self.limits.max_bytes} bytes, the most that is taken here")
