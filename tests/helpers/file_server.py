"""A real web server of files: ranges, ETags and conditional requests, and all that goes wrong on the way."""

from __future__ import annotations

import base64
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Served:
    """One file, and how it is given.

    Attributes:
        etag, changed: ETag, and the time of the last change in seconds since 1970; None leaves the header out.
        has_ranges: whether it gives parts.
        is_chunked: sends pieces with the length of each, in the place of Content-Length.
        has_length: False ends the body by closing the connection, as HTTP/1.0 does.
        cuts: for each of the first answers with a body, after how many bytes the connection is cut.
        statuses: for each of the first answers, a status to fail with; 200 for none.
        length: what Content-Length says, where that is not the truth.
        redirect: the address that is sent instead.
        user: "name:password" that it asks for.
        stops: sends no more than the first half, and keeps the connection open.
        content_type, encoding: those headers.
        after_cut: what the file is after the first cut.
    """

    body: bytes
    etag: str | None = None
    changed: float | None = None
    has_ranges: bool = True
    is_chunked: bool = False
    has_length: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    length: int | None = None
    redirect: str | None = None
    redirect_status: int = 302
    user: str | None = None
    stops: bool = False
    content_type: str = "video/mp4"
    encoding: str | None = None
    after_cut: Served | None = None


class FileServer:
    """The files by path, and what was asked: (path, headers in small letters) and how many bytes went out."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.statuses: list[int] = []
        self.num_bytes = 0
        self.url = ""
        self.closing = threading.Event()

    def put(self, path: str, body: bytes, **options: object) -> str:
        """Serve a file; gives its URL."""
        self.files[path] = Served(body, **options)
        return self.url + path


class Handler(BaseHTTPRequestHandler):
    """Answers from `files`."""

    files: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.files.requests.append((self.path, headers))
        served = self.files.files.get(self.path.partition("?")[0])
        if served is None:
            return self.fail(404)
        if served.statuses and (status := served.statuses.pop(0)) != 200:
            return self.fail(status)
        if served.redirect is not None:
            return self.fail(served.redirect_status, {"Location": served.redirect})
        if served.user is not None and headers.get("authorization") != basic(served.user):
            return self.fail(401, {"WWW-Authenticate": 'Basic realm="clips"'})
        validators = {}
        if served.etag is not None:
            validators["ETag"] = served.etag
        if served.changed is not None:
            validators["Last-Modified"] = formatdate(served.changed, usegmt=True)
        if is_known(headers, validators):
            return self.fail(304, validators, has_body=False)
        self.give(served, headers, validators)

    def give(self, served: Served, headers: dict[str, str], validators: dict[str, str]) -> None:
        start, total = 0, len(served.body)
        found = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        condition = headers.get("if-range")
        if found and served.has_ranges and condition in (None, *validators.values()):
            start = int(found[1])
            if start >= total:
                return self.fail(416)
            self.start(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.start(200)
        body = served.body[start:]
        for name, value in validators.items():
            self.send_header(name, value)
        self.send_header("Content-Type", served.content_type)
        if served.encoding:
            self.send_header("Content-Encoding", served.encoding)
        if served.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif served.has_length:
            self.send_header("Content-Length", str(served.length or len(body)))
        self.end_headers()
        self.close_connection = True
        if served.cuts:
            body = body[: served.cuts.pop(0)]
            if served.after_cut is not None:
                self.files.files[self.path.partition("?")[0]] = served.after_cut
        elif served.stops:
            body = body[: len(body) // 2]
        if served.is_chunked:
            for place in range(0, len(body), 100_000):
                piece = body[place : place + 100_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if len(body) == len(served.body) - start:
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(body)
        self.files.num_bytes += len(body)
        if served.stops:
            self.files.closing.wait(60)

    def fail(self, status: int, headers: dict[str, str] | None = None, *, has_body: bool = True) -> None:
        self.start(status)
        body = b"<html>an error page</html>" if has_body else b""
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if has_body:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def start(self, status: int) -> None:
        self.files.statuses.append(status)
        self.send_response(status)

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # a client that would not wait
            super().handle()


@contextmanager
def serve_files(*, certificate: tuple[Path, Path] | None = None) -> Iterator[FileServer]:
    """The server, for as long as the block runs; with a certificate and its key it speaks TLS."""
    files = FileServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"files": files}))
    server.daemon_threads = True
    files.url = f"http://127.0.0.1:{server.server_port}"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        files.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield files
    finally:
        files.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def basic(user: str) -> str:
    """The header for a user and password."""
    return "Basic " + base64.b64encode(user.encode()).decode()


def is_known(headers: dict[str, str], validators: dict[str, str]) -> bool:
    """Whether a conditional request names the version that there is."""
    if "if-none-match" in headers:
        return headers["if-none-match"] == validators.get("ETag")
    return "if-modified-since" in headers and headers["if-modified-since"] == validators.get("Last-Modified")


LONG_AGO = time.time() - 100_000
