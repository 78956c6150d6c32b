"""A real server on loopback, in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx2

from voco_video.api import CompressedVideo, VideoModel, load_model
from voco_video.files.digest import digest_file
from voco_video.serve.run import bound_socket, run_server
from voco_video.serve.settings import ServeOptions
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene


@dataclass
class Serving:
    """A running server.

    Attributes:
        demo: the demo clip.
        demo_id: its id in the library.
        model: another model of the same weights and cache, for what is true.
    """

    url: str
    demo: Path
    demo_id: str
    model: VideoModel
    server: Any

    def video(self) -> CompressedVideo:
        """The demo clip, as Python has it."""
        return self.model.compress(self.demo)

    def upload(self, path: Path) -> dict[str, Any]:
        """Upload a video and wait until it is compressed."""
        with open(path, "rb") as file:
            reply = httpx2.post(f"{self.url}/api/videos", files={"file": ("clip.mp4", file)}, timeout=60)
        assert reply.status_code == 201, reply.text
        self.wait(reply.json()["job"]["id"])
        return reply.json()

    def wait(self, job: str) -> dict[str, Any]:
        """Wait for a job to end, by its events; gives its facts."""
        with httpx2.stream("GET", f"{self.url}/api/jobs/{job}/events", timeout=120) as events:
            names = [line for line in events.iter_lines() if line.startswith("event:")]
        facts = httpx2.get(f"{self.url}/api/jobs/{job}").json()
        assert names[-1] == f"event: {facts['state']}"
        return facts

    def metric(self, name: str) -> float:
        """One number of /metrics."""
        lines = httpx2.get(f"{self.url}/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@cache
def demo_clip(folder: Path) -> Path:
    """The demo's clip: shapes, one of which moves."""
    path = folder / "demo.mp4"
    write_clip(demo_scene(), path)
    return path


@contextmanager
def serving(
    folder: Path,
    *,
    is_allowed: Callable[[str], bool] = lambda address: True,
    engine_url: str | None = None,
    **options: Any,
) -> Iterator[Serving]:
    """Serve voco-tiny from a cache in a folder."""
    settings = ServeOptions(port=0, shutdown_seconds=options.pop("shutdown_seconds", 5.0), **options)
    model = load_model("voco-tiny", cache_dir=folder / "cache", engine_url=engine_url)
    demo, servers = demo_clip(folder), []
    with bound_socket(settings) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(
            target=run_server,
            args=(model, settings, listening),
            kwargs={"is_allowed": is_allowed, "on_start": servers.append},
        )
        thread.start()
        while not servers or not servers[0].started:
            assert thread.is_alive()
            time.sleep(0.01)
        truth = load_model("voco-tiny", cache_dir=folder / "truth")
        try:
            yield Serving(f"http://127.0.0.1:{port}", demo, digest_file(demo), truth, servers[0])
        finally:
            servers[0].should_exit = True
            thread.join(30)
            assert not thread.is_alive()
