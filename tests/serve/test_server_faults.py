"""The server as a process: killed under load, with slow and half clients, on a full disk; nothing is damaged."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server (extra serve)")

import httpx2

from tests.helpers.clips import Clip
from tests.helpers.full_disks import small_ext4
from tests.helpers.serving import demo_clip
from voco_video.cache import FrameCache
from voco_video.files.digest import digest_file

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]
ENDS = (0, -signal.SIGTERM)  # when it has stopped in order, uvicorn ends the process by the signal it got
PROGRAM = [sys.executable, "-c", "from voco_video.cli import main; main()", "serve", "--port", "0", "--anyway"]


class Process:
    """A server process; `url` is where it listens, `log` what it wrote."""

    def __init__(self, cache: Path, log: Path, *options: object) -> None:
        self.log = log
        with open(log, "w") as file:
            command = [*PROGRAM, "--cache-dir", cache, *options]
            self.process = subprocess.Popen([*map(str, command)], stderr=file)
        while not (found := re.search(r"on (http://\S+?)/ ", log.read_text())):
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.05)
        self.url = found[1]
        with httpx2.Client(timeout=60) as http:
            while True:
                with suppress(httpx2.TransportError):
                    if http.get(f"{self.url}/ready").status_code == 200:
                        break
                time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def running(cache: Path, log: Path, *options: object) -> Iterator[Process]:
    process = Process(cache, log, *options)
    try:
        yield process
    finally:
        process.kill()


def ask(url: str, video: str, question: str = "who moves?", **more) -> str:
    content = [{"type": "video_url", "video_url": {"url": f"voco://{video}"}}, {"type": "text", "text": question}]
    body = {"model": "voco-tiny", "messages": [{"role": "user", "content": content}], **more}
    reply = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def finished(url: str, video: str) -> dict:
    """Wait until a video is compressed, and nobody works on it."""
    while True:
        facts = httpx2.get(f"{url}/api/videos/{video}", timeout=60).json()
        if facts["state"] == "ready" and facts["job"] is None:
            return facts
        time.sleep(0.1)


def test_a_kill_under_load_damages_nothing_and_the_next_server_goes_on(tmp_path):
    cache, demo = tmp_path / "cache", demo_clip(tmp_path)
    long = Clip("long.mp4", num_frames=300, rate=1).write(tmp_path)  # 300 frames at one a second
    stop = threading.Event()
    with running(cache, tmp_path / "log") as server:
        with open(demo, "rb") as file:
            short_id = httpx2.post(f"{server.url}/api/videos", files={"file": file}, timeout=60).json()["video"]["id"]
        finished(server.url, short_id)
        truth = ask(server.url, short_id)

        def load() -> None:
            while not stop.is_set():
                with suppress(httpx2.TransportError, AssertionError):
                    assert ask(server.url, short_id) == truth

        clients = [threading.Thread(target=load) for _ in range(4)]
        for client in clients:
            client.start()
        with open(long, "rb") as file:
            long_id = httpx2.post(f"{server.url}/api/videos", files={"file": file}, timeout=60).json()["video"]["id"]
        while True:  # until some of it is on disk
            job = httpx2.get(f"{server.url}/api/jobs", timeout=60).json()["jobs"][0]
            if job["num_done"] >= 64:
                break
            assert job["state"] in ("waiting", "running"), job
            time.sleep(0.02)
        server.kill()
        stop.set()
        for client in clients:
            client.join()
    results = FrameCache(cache).verify()
    assert {r.status for r in results} <= {"ok", "partial"}, results
    with running(cache, tmp_path / "log2") as server:
        assert '"event": "taken up", "jobs": 1' in server.log.read_text()
        facts = finished(server.url, long_id)
        assert facts["num_frames"] == 300
        assert ask(server.url, short_id) == truth
        assert server.stop() in ENDS
    assert {r.status for r in FrameCache(cache).verify()} == {"ok"}
    assert not list((cache / "serve" / "jobs").glob("*"))


def test_a_stop_hands_back_what_runs_and_the_next_server_goes_on(tmp_path):
    cache = tmp_path / "cache"
    long = Clip("long.mp4", num_frames=300, rate=1).write(tmp_path)
    with running(cache, tmp_path / "log", "--shutdown-seconds", "0.2") as server:
        with open(long, "rb") as file:
            video = httpx2.post(f"{server.url}/api/videos", files={"file": file}, timeout=60).json()["video"]["id"]
        while httpx2.get(f"{server.url}/api/jobs").json()["jobs"][0]["num_done"] < 32:
            time.sleep(0.02)
        assert server.stop() in ENDS
        assert '"jobs": 1' in server.log.read_text().splitlines()[-1]
    with running(cache, tmp_path / "log2") as server:
        assert finished(server.url, video)["num_frames"] == 300


def test_half_closed_uploads_and_slow_clients_cost_nobody_else(tmp_path):
    cache, demo = tmp_path / "cache", demo_clip(tmp_path)
    data = demo.read_bytes()
    with running(cache, tmp_path / "log") as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = b"POST /api/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        head += b'Content-Length: 1000000\r\n\r\n--x\r\nContent-Disposition: form-data; filename="a.mp4"\r\n\r\n'
        half = [socket.create_connection((host, int(port))) for _ in range(20)]
        for connection in half:
            connection.sendall(head + data[:5000])
        slow = [socket.create_connection((host, int(port))) for _ in range(50)]
        for connection in slow:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")  # and no more
        with open(demo, "rb") as file:
            video = httpx2.post(f"{server.url}/api/videos", files={"file": file}, timeout=60).json()["video"]["id"]
        finished(server.url, video)
        stalled = socket.create_connection((host, int(port)))  # asks for a stream and reads none of it
        body = (
            b'{"model": "voco-tiny", "stream": true, "messages": [{"role": "user", "content": [{"type": "video_url", '
            b'"video_url": {"url": "voco://' + video.encode() + b'"}}, {"type": "text", "text": "who moves?"}]}]}'
        )
        stalled.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )
        started = time.monotonic()
        answers = {ask(server.url, video) for _ in range(5)}
        print(f"5 answers beside 71 bad clients in {time.monotonic() - started:.2f} s")
        assert len(answers) == 1
        for connection in [*half, *slow, stalled]:
            connection.close()
        deadline = time.monotonic() + 20
        while list((cache / "serve" / "partial").iterdir()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not list((cache / "serve" / "partial").iterdir())
        assert httpx2.get(f"{server.url}/api/videos").json()["total"] == 1


def test_an_endless_body_is_cut_at_the_limit(tmp_path):
    with running(tmp_path / "cache", tmp_path / "log", "--max-body-bytes", "100000") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /api/find HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            sent = 0
            with suppress(OSError):
                while sent < 50_000_000:
                    connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                    sent += 4096
            with suppress(OSError):
                assert b" 413 " in connection.recv(1000)
        assert sent < 50_000_000
        assert httpx2.get(f"{server.url}/health").status_code == 200


def test_a_full_disk_refuses_uploads_and_answers_what_is_there(tmp_path):
    demo = demo_clip(tmp_path)
    with small_ext4(tmp_path) as disk, running(disk / "cache", tmp_path / "log") as server:
        with open(demo, "rb") as file:
            video = httpx2.post(f"{server.url}/api/videos", files={"file": file}, timeout=60).json()["video"]["id"]
        finished(server.url, video)
        truth = ask(server.url, video)
        large = demo.read_bytes() + bytes(20 << 20)
        reply = httpx2.post(f"{server.url}/api/videos", files={"file": ("a.mp4", large)}, timeout=60)
        assert reply.status_code == 507, reply.text
        reply = httpx2.post(f"{server.url}/api/uploads", json={"name": "a.mp4", "size_bytes": 20 << 20})
        assert reply.status_code == 507
        assert ask(server.url, video) == truth
        assert not list((disk / "cache" / "serve" / "partial").iterdir())
        assert digest_file(disk / "cache" / "serve" / "uploads" / video) == video
        server.stop()
