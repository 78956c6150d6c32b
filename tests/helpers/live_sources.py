"""Sources that are still being made, for tests: a file that grows, and servers of HTTP and RTSP on loopback."""

from __future__ import annotations

import base64
import contextlib
import http.server
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av


@contextlib.contextmanager
def growing(
    data: bytes, path: Path, *, seconds: float, num_steps: int = 40, second_half: threading.Event | None = None
) -> Iterator[Path]:
    """Write `data` into `path` a piece at a time, from a thread, flushed like a recorder's.

    Beside it stands, in the end, a file named `*.done`.

    Args:
        second_half: wait for it (or for the end of the block) in the middle of the data.
    """
    path.touch()
    released = second_half or threading.Event()

    def write() -> None:
        with open(path, "ab", buffering=0) as file:
            for number, piece in enumerate(pieces(data, num_steps)):
                if second_half and number == num_steps // 2:
                    second_half.wait()
                file.write(piece)
                time.sleep(seconds / num_steps)
        path.with_suffix(".done").touch()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield path
    finally:
        released.set()
        writer.join()


def remuxed(source: Path, target: Path, options: dict[str, str] | None = None) -> Path:
    """The video of one file in another container, not coded anew; `options` are the container's."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target


def pieces(data: bytes, num_pieces: int) -> list[bytes]:
    """`data` in parts of the same size, which respect nothing in it."""
    size = max(1, -(-len(data) // num_pieces))
    return [data[start : start + size] for start in range(0, len(data), size)]


@contextlib.contextmanager
def http_server(data: bytes, *, seconds: float, num_steps: int = 20) -> Iterator[str]:
    """Serve `data` slowly, in chunks whose number is not known ahead, as a live stream is; gives its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != "/live.ts":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in [*pieces(data, num_steps), b""]:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    self.wfile.flush()
                    time.sleep(seconds / num_steps)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/live.ts"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def rtsp_server(path: Path, *, speed: float) -> Iterator[str]:
    """A camera: plays the H.264 video of `path` in its own time, times `speed`, once, to one client; gives its URL.

    RTSP 1.0 (RFC 2326) with RTP interleaved in the connection, H.264 as in RFC 6184.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError, ConnectionError):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(20)
                    _converse(connection, path, speed=speed, stop=stop)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"rtsp://127.0.0.1:{listener.getsockname()[1]}/camera"
    finally:
        stop.set()
        thread.join()
        listener.close()


def _converse(connection: socket.socket, path: Path, *, speed: float, stop: threading.Event) -> None:
    with av.open(str(path)) as container:
        parameters = container.streams.video[0].codec_context.extradata
    sets = [base64.b64encode(unit).decode() for unit in _nal_units(parameters) if unit[0] & 31 in (7, 8)]
    description = "\r\n".join([
        "v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "t=0 0", "m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000",
        f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={','.join(sets)}", "a=control:video", "",
    ])  # fmt: skip
    requests = connection.makefile("rb")
    while (line := requests.readline()).strip():
        method, headers = line.split()[0].decode(), {}
        while header := requests.readline().decode().strip():
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        answer, body = "Session: 1\r\n", ""
        if method == "DESCRIBE":
            answer, body = f"Content-Type: application/sdp\r\nContent-Length: {len(description)}\r\n", description
        elif method == "SETUP":
            answer += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
        elif method == "OPTIONS":
            answer = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{answer}\r\n{body}".encode())
        if method == "PLAY":
            _play(connection, path, speed=speed, stop=stop)
            return


def _play(connection: socket.socket, path: Path, *, speed: float, stop: threading.Event) -> None:
    sequence, started = 4711, time.monotonic()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            if not packet.size or stop.is_set():
                continue
            seconds = float(packet.pts * stream.time_base)
            time.sleep(max(0.0, started + seconds / speed - time.monotonic()))
            payloads = [part for unit in _nal_units(bytes(packet)) for part in _fragments(unit)]
            for number, payload in enumerate(payloads):
                marker = 0x80 if number == len(payloads) - 1 else 0
                header = struct.pack(">BBHII", 0x80, marker | 96, sequence & 0xFFFF, 1 + round(seconds * 90000), 1)
                connection.sendall(struct.pack(">cBH", b"$", 0, len(header + payload)) + header + payload)
                sequence += 1


def _nal_units(data: bytes) -> list[bytes]:
    """Of a byte stream with start codes."""
    return [unit.rstrip(b"\0") for unit in data.split(b"\0\0\1") if unit.rstrip(b"\0")]


def _fragments(unit: bytes, size: int = 1300) -> list[bytes]:
    """RTP payloads of one unit: itself, or FU-A fragments."""
    if len(unit) <= size:
        return [unit]
    body = [unit[start : start + size] for start in range(1, len(unit), size)]
    flags = [0x80, *[0] * (len(body) - 2), 0x40]
    return [bytes([unit[0] & 0xE0 | 28, flag | unit[0] & 31]) + part for flag, part in zip(flags, body, strict=True)]
