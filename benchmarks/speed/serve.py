"""How many clients does one server answer, how fast, and does each get its own answer?

    python -m benchmarks.speed.serve [--quick] [--clients 1 8 64] [--seconds 30] [--steady-seconds 600]

`voco-video serve` runs as a process of its own, on loopback. MovingShapes clips are uploaded, and every client asks one
question after the other about any of them, streamed, over one connection. Every answer is compared with the one that
Python gives in this process; one that differs, or that is missing, ends the benchmark. A client that is sent away (429)
waits as it is told, and that is counted.

"First text" is the first piece of the answer's text, "whole" its end, both from the moment of asking. Memory is the
process's resident size; with ``--steady-seconds`` it is read every second while 8 clients ask, and its growth from the
second tenth of that time to the last is given.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np

from benchmarks.errors import MismatchError
from benchmarks.report import Benchmark, Report, option, table
from voco_video.api import load_model
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PROGRAM = [sys.executable, "-c", "from voco_video.cli import main; main()"]
QUESTIONS = (
    "who moves?", "what colour is the square?", "how many shapes are there?", "where is the star?",
    "where is the circle?", "Describe the video.", "is there a triangle?", "who disappears first?",
)  # fmt: skip
_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Settings:
    """Who asks, and for how long."""

    model: str = option("voco-tiny", "checkpoint folder or embedded model")
    num_videos: int = option(8, "clips that are asked about")
    clients: tuple[int, ...] = option((1, 8, 64), "clients at once")
    seconds: float = option(30.0, "for each number of clients")
    steady_seconds: float = option(0.0, "with 8 clients, for the growth of memory; 0 leaves it out")
    max_tokens: int = option(32, "of an answer")
    seed: int = option(0, "of the clips and of who asks what")


QUICK = Settings(num_videos=2, clients=(1, 4), seconds=2.0)


@dataclass
class Asked:
    """What clients saw.

    Attributes:
        first_seconds, whole_seconds: of each answer.
        num_sent_away: with 429.
        rss_bytes: of the server, once a second.
    """

    first_seconds: list[float] = field(default_factory=list)
    whole_seconds: list[float] = field(default_factory=list)
    num_sent_away: int = 0
    rss_bytes: list[int] = field(default_factory=list)


def measure(settings: Settings) -> Report:
    """Upload, ask from this process, then let clients ask the server."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = []
        for number in range(settings.num_videos):
            clips.append(folder / f"{number}.mp4")
            write_clip(draw_scene(settings.seed + number), clips[-1])
        with served(settings, folder) as (url, process):
            ids = [upload(url, clip) for clip in clips]
            truth = answers(settings, folder, clips, ids)
            rows = [one_load(settings, url, process, truth, n, settings.seconds) for n in settings.clients]
            steady = None
            if settings.steady_seconds:
                steady = one_load(settings, url, process, truth, 8, settings.steady_seconds, steady=True)
    return {"rows": rows, "steady": steady, "one_by_one": rows[0] if settings.clients[0] == 1 else None}


def answers(settings: Settings, folder: Path, clips: list[Path], ids: list[str]) -> dict[tuple[str, str], str]:
    """The answers that Python gives, by video and question."""
    model = load_model(settings.model, cache_dir=folder / "truth")
    found = {}
    for clip, video_id in zip(clips, ids):
        video = model.compress(clip)
        for question in QUESTIONS:
            found[video_id, question] = video.ask(question, max_new_tokens=settings.max_tokens).text
    return found


@contextmanager
def served(settings: Settings, folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The server as a process; gives its URL."""
    command = [*_PROGRAM, "serve", "--port", "0", "--model", settings.model, "--cache-dir", str(folder / "cache")]
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen([*command, "--anyway"], stderr=log, text=True)
        try:
            yield _url(process, folder / "log"), process
        finally:
            process.terminate()
            process.wait(60)


def _url(process: subprocess.Popen[str], log: Path) -> str:
    while process.poll() is None:
        if found := re.search(r"on (http://\S+?)/? \(", log.read_text()):
            with_it = found[1]
            try:
                if httpx2.get(f"{with_it}/ready", timeout=60).status_code == 200:
                    return with_it
            except httpx2.TransportError:
                pass
        time.sleep(0.1)
    raise SystemExit(log.read_text())


def upload(url: str, clip: Path) -> str:
    """Upload a clip, wait until it is compressed, and give its id."""
    with open(clip, "rb") as file:
        reply = httpx2.post(f"{url}/api/videos", files={"file": (clip.name, file)}, timeout=120).json()
    while (job := httpx2.get(f"{url}/api/jobs/{reply['job']['id']}").json())["state"] in ("waiting", "running"):
        time.sleep(0.1)
    if job["state"] != "done":
        raise SystemExit(f"{clip}: {job}")
    return str(reply["video"]["id"])


def one_load(
    settings: Settings,
    url: str,
    process: subprocess.Popen[str],
    truth: dict[tuple[str, str], str],
    num_clients: int,
    seconds: float,
    *,
    steady: bool = False,
) -> Report:
    """Let so many clients ask for so long."""
    asked = Asked()
    started = time.perf_counter()
    asyncio.run(_clients(settings, url, process, truth, num_clients, seconds, asked))
    took = time.perf_counter() - started
    report: Report = {
        "num_clients": num_clients,
        "num_answers": len(asked.whole_seconds),
        "answers_per_second": len(asked.whole_seconds) / took,
        "num_sent_away": asked.num_sent_away,
        "first_seconds": _percentiles(asked.first_seconds),
        "whole_seconds": _percentiles(asked.whole_seconds),
        "rss_bytes": max(asked.rss_bytes),
    }
    if steady:
        tenth = max(1, len(asked.rss_bytes) // 10)
        before, after = asked.rss_bytes[tenth : 2 * tenth], asked.rss_bytes[-tenth:]
        report["growth"] = float(np.mean(after) / np.mean(before) - 1)
        report["seconds"] = took
    return report


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(seconds, p)) for p in _PERCENTILES}


async def _clients(
    settings: Settings,
    url: str,
    process: subprocess.Popen[str],
    truth: dict[tuple[str, str], str],
    num_clients: int,
    seconds: float,
    asked: Asked,
) -> None:
    until = time.perf_counter() + seconds
    cases = sorted(truth)

    async def client(number: int) -> None:
        chooser = random.Random(settings.seed * 1000 + number)
        async with httpx2.AsyncClient(base_url=url, timeout=300) as http:
            while time.perf_counter() < until:
                await _ask(settings, http, *chooser.choice(cases), truth, asked)

    async def watch() -> None:
        status = Path(f"/proc/{process.pid}/status")
        while True:
            if found := re.search(r"VmRSS:\s+(\d+) kB", status.read_text()):
                asked.rss_bytes.append(int(found[1]) * 1024)
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    try:
        await asyncio.gather(*(client(number) for number in range(num_clients)))
    finally:
        watching.cancel()


async def _ask(
    settings: Settings,
    http: httpx2.AsyncClient,
    video: str,
    question: str,
    truth: dict[tuple[str, str], str],
    asked: Asked,
) -> None:
    part = {"type": "video_url", "video_url": {"url": f"voco://{video}"}}
    content = [part, {"type": "text", "text": question}]
    body: dict[str, Any] = {"model": settings.model, "messages": [{"role": "user", "content": content}]}
    body |= {"stream": True, "max_tokens": settings.max_tokens}
    started, first, text, is_whole = time.perf_counter(), None, "", False
    async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        if reply.status_code == 429:
            asked.num_sent_away += 1
            await asyncio.sleep(float(reply.headers["retry-after"]))
            return
        if reply.status_code != 200:
            raise MismatchError(f"status {reply.status_code}: {(await reply.aread())[:300]!r}")
        async for line in reply.aiter_lines():
            if line == "data: [DONE]":
                is_whole = True
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    raise MismatchError(f"{question!r} of {video[:8]}: {event['error']}")
                piece = event["choices"][0]["delta"].get("content") if event["choices"] else ""
                if piece and first is None:
                    first = time.perf_counter() - started
                text += piece or ""
    expected = truth[video, question]
    if not is_whole or text != expected:
        raise MismatchError(f"{question!r} of {video[:8]}: {text!r} came, {expected!r} is right (whole: {is_whole})")
    whole = time.perf_counter() - started
    asked.first_seconds.append(whole if first is None else first)
    asked.whole_seconds.append(whole)


def ratios(report: Report) -> dict[str, float]:
    """Answers a second of many clients over one, on the same machine in the same run."""
    rows = report["rows"]
    return {
        f"{row['num_clients']} clients over {rows[0]['num_clients']}": row["answers_per_second"]
        / rows[0]["answers_per_second"]
        for row in rows[1:]
    }


def markdown(report: Report) -> str:
    """The figures as a page."""
    rows = []
    for row in report["rows"]:
        cells = [row["num_clients"], row["num_answers"], f"{row['answers_per_second']:.2f}"]
        for kind in ("first_seconds", "whole_seconds"):
            cells.append(" / ".join(f"{row[kind][f'p{p}'] * 1000:.0f}" for p in _PERCENTILES))
        rows.append([*cells, row["num_sent_away"], f"{row['rss_bytes'] / 1e6:.0f}"])
    headings = ["clients", "answers", "answers a second", "first text, p50 / p95 / p99 ms", "whole, p50 / p95 / p99 ms"]
    lines = ["# Clients of one server", "", table([*headings, "sent away", "memory, MB"], rows), ""]
    lines += [f"Every one of {sum(r['num_answers'] for r in report['rows'])} answers was the one that Python gives."]
    if steady := report["steady"]:
        lines += [
            "",
            f"With 8 clients for {steady['seconds']:.0f} s: {steady['num_answers']} answers, memory "
            f"{steady['growth']:+.1%} from the second tenth of the time to the last.",
        ]
    return "\n".join(lines)


def draw(report: Report, figure: Figure) -> None:
    """Answers a second and waiting times over clients."""
    rate, wait = figure.subplots(1, 2)
    clients = [row["num_clients"] for row in report["rows"]]
    rate.plot(clients, [row["answers_per_second"] for row in report["rows"]], "o-")
    for p in _PERCENTILES:
        wait.plot(clients, [row["whole_seconds"][f"p{p}"] for row in report["rows"]], "o-", label=f"whole, p{p}")
    rate.set(xscale="log", xlabel="clients", title="answers a second", ylim=0)
    wait.set(xscale="log", yscale="log", xlabel="clients", ylabel="seconds", title="waiting")
    wait.legend(fontsize=8)


BENCHMARK = Benchmark(
    name="serve",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    measure=measure,
    markdown=markdown,
    draw=draw,
    ratios=ratios,
    size=(9, 4),
)

if __name__ == "__main__":
    BENCHMARK.main()
