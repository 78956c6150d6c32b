"""A recorder: draws a scene in real time and gives MPEG-TS to a file, a named pipe and an HTTP server at once.

Frame n shows the scene as it is n / fps seconds after the recording began, is drawn at that moment, coded without
looking ahead, and flushed. So what a follower of the recording sees late is the follower's doing. Pipe and server give
the bytes of the file, at most `_POLL_SECONDS` after they were written.
"""

from __future__ import annotations

import contextlib
import http.server
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from voco_video.shapes.rendering import render
from voco_video.shapes.world import Scene

KEYFRAME_SECONDS = 2
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Recording:
    """One that runs.

    Attributes:
        began_unix_seconds: when its first frame was drawn.
        sources: what `voco-video compress --follow` is given, by kind.
    """

    began_unix_seconds: float
    sources: dict[str, str]
    _ended: Any

    def most_late_seconds(self) -> float:
        """Wait for its end: how long after its time a frame was written, at most."""
        late: float = self._ended.get()
        return late


@contextlib.contextmanager
def recording(scene: Scene, folder: Path, *, size: int) -> Iterator[Recording]:
    """Record a scene into `folder` in a process of its own, with a pipe and a server beside; stops with the block."""
    context = multiprocessing.get_context("spawn")
    began, ended = context.Queue(), context.Queue()
    path, fifo = folder / "recording.ts", folder / "fifo"
    os.mkfifo(fifo)
    child = context.Process(target=_record, args=(scene, path, fifo, size, began, ended), daemon=True)
    child.start()
    try:
        began_unix_seconds, url = began.get(timeout=60)
        yield Recording(began_unix_seconds, {"file": str(path), "pipe": str(fifo), "http": url}, ended)
    finally:
        child.kill()
        child.join()


def _record(scene: Scene, path: Path, fifo: Path, size: int, began: Any, ended: Any) -> None:
    is_over = threading.Event()
    server = _Server(path, is_over)
    threading.Thread(target=_fill_pipe, args=(path, fifo, is_over), daemon=True).start()
    path.touch()
    started = time.time()
    began.put((started, server.url))
    late = write_live(scene, path, size=size, wait_until=lambda seconds: _sleep_until(started + seconds))
    is_over.set()
    ended.put(late)
    time.sleep(60)  # for those that still read; the parent ends this process


def write_live(scene: Scene, path: Path, *, size: int, wait_until: Callable[[float], float]) -> float:
    """Write a scene as MPEG-TS, a frame at a time; the greatest lateness of one.

    Args:
        wait_until: called with a frame's time before it is drawn; returns how many seconds late that is.
    """
    import av

    late = 0.0
    options = {"tune": "zerolatency", "preset": "veryfast", "crf": "18", "g": str(KEYFRAME_SECONDS * scene.fps)}
    with (
        open(path, "wb", buffering=0) as file,
        av.open(file, "w", format="mpegts", options={"flush_packets": "1"}) as container,
    ):
        stream = container.add_stream("libx264", rate=scene.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(scene.num_frames):
            late = max(late, wait_until(number / scene.fps))
            pixels = render(scene, [number / scene.fps], size=size)[0]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, scene.fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return late


def _sleep_until(unix_seconds: float) -> float:
    time.sleep(max(0.0, unix_seconds - time.time()))
    return time.time() - unix_seconds


def _copy(path: Path, write: Callable[[bytes], object], is_over: threading.Event) -> None:
    """Write a file's bytes as they come, until it is whole."""
    with open(path, "rb", buffering=0) as file:
        while True:
            was_over = is_over.is_set()  # looked at before the last read
            if data := file.read(1 << 16):
                write(data)
            elif was_over:
                return
            else:
                time.sleep(_POLL_SECONDS)


def _fill_pipe(path: Path, fifo: Path, is_over: threading.Event) -> None:
    with open(fifo, "wb", buffering=0) as pipe:  # waits for a reader
        _copy(path, pipe.write, is_over)


class _Server:
    """Gives the recording from its beginning and on as it grows, to whoever asks."""

    def __init__(self, path: Path, is_over: threading.Event) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "video/mp2t")
                self.send_header("Transfer-Encoding", "chunked")  # without, FFmpeg takes the end for a break
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    _copy(path, self.write_chunk, is_over)
                    self.write_chunk(b"")

            def write_chunk(self, data: bytes) -> None:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}/live.ts"
        threading.Thread(target=server.serve_forever, daemon=True).start()
