"""A real S3 server in a process of its own (moto's), behind a proxy that counts and that breaks what it is told to."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_SERVE = """
import logging, sys
logging.disable(logging.CRITICAL)
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
INTERNAL = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"


@dataclass(frozen=True)
class Request:
    """One request as the proxy saw it, and the bytes of bodies that went out and came in."""

    method: str
    path: str
    status: int
    sent_bytes: int
    received_bytes: int


@dataclass
class ObjectServer:
    """An S3 server with one bucket.

    Attributes:
        endpoint: its address, through the proxy.
        direct: its address without that.
        requests: all that came.
        faults: for a request's method and path, what happens in the place of an answer: "slow", "error", "cut" (half of
            the answer's body, then the end), "reset" (no answer), or None.
    """

    endpoint: str = ""
    direct: str = ""
    requests: list[Request] = field(default_factory=list)
    faults: Callable[[str, str], str | None] = lambda method, path: None

    @property
    def environment(self) -> dict[str, str]:
        """How a program is told of it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "an-access-key-id",
            "AWS_SECRET_ACCESS_KEY": "a-secret-access-key",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def forget(self) -> None:
        """Begin to count anew, and break nothing."""
        self.requests.clear()
        self.faults = lambda method, path: None

    def counts(self, method: str) -> int:
        """Requests of one method that were answered."""
        return sum(one.method == method for one in self.requests)

    @property
    def sent_bytes(self) -> int:
        """Bytes of all bodies that went out, those of errors too."""
        return sum(one.sent_bytes for one in self.requests)


class _Proxy(BaseHTTPRequestHandler):
    server_of: ObjectServer
    port: int
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server_of.faults(self.command, self.path)
        if fault == "reset":
            self._note(0, 0, len(body))
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault in ("slow", "error"):
            status, answer = (503, SLOW_DOWN) if fault == "slow" else (500, INTERNAL)
            self._answer(status, [("Content-Type", "application/xml")], answer, len(body))
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        data, skipped = answer.read(), ("transfer-encoding", "content-length", "connection")
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in skipped]
        if self.command == "HEAD":
            headers.append(("Content-Length", answer.getheader("Content-Length") or "0"))
        upstream.close()
        self._answer(answer.status, headers, data, len(body), cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, received: int, *, cut: bool = False
    ) -> None:
        sent = data[: len(data) // 2] if cut else data
        self._note(status, len(sent), received)
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(sent)
        if cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _note(self, status: int, sent: int, received: int) -> None:
        self.server_of.requests.append(Request(self.command, self.path, status, sent, received))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that are gone."""


@contextmanager
def object_server(bucket: str = "bucket") -> Iterator[ObjectServer]:
    """Run one for the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        found = ObjectServer()
        port = int(process.stdout.readline())
        handler = type("Handler", (_Proxy,), {"server_of": found, "port": port})
        proxy = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        found.endpoint, found.direct = f"http://127.0.0.1:{proxy.server_port}", f"http://127.0.0.1:{port}"
        with (
            suppress(OSError),
            urllib.request.urlopen(urllib.request.Request(f"{found.endpoint}/{bucket}", method="PUT")),
        ):
            pass
        found.forget()
        yield found
        proxy.shutdown()
        proxy.server_close()
    finally:
        process.kill()
        process.wait()
