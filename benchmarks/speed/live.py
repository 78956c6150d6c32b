"""How long after something happened does a question about a source that is still followed see it?

    python -m benchmarks.speed.live [--quick] [--sources file pipe http] [--publish-seconds 1]

A recorder (`benchmarks.recordings`) draws a MovingShapes scene in real time and writes it as MPEG-TS. Every so often a
shape that is nowhere else stands there for two seconds: the event. `voco-video compress SOURCE --follow` follows the
file, a pipe and an HTTP server, one process each, with its own defaults. A third process, this one, opens the entry
anew again and again, and asks where the shape is at 1, 2, 3, 4 and 5 s after the event ended by the clock; the last
event is also asked about by `voco-video ask` on the command line. "Seen" says whether a frame of the event is among
what is published, "right" whether the answer was, word for word.

Delays count from the end of the event to the first moment at which its first frame, or all its frames (one a second),
could be read; one below zero was there before the event was over. The cost of publishing is measured apart: one frame
appended and published, over and over, as it is at one frame a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.errors import MismatchError
from benchmarks.haystacks import NEEDLE_SECONDS, SIZE, Needle, needle_scene, num_places
from benchmarks.recordings import Recording, recording
from benchmarks.report import Benchmark, Report, option, table
from benchmarks.timing import cpu_seconds
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.api import VideoModel, load_model
from voco_video.cache import CacheKey, FrameCache
from voco_video.options.compression import StreamOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PROGRAM = [sys.executable, "-c", "from voco_video.cli import main; main()"]
_POLL_SECONDS = 0.03
_GIVE_UP_SECONDS = 60.0


@dataclass(frozen=True)
class Settings:
    """What happens, and who looks."""

    model: str = option("voco-tiny", "checkpoint folder or embedded model")
    sources: tuple[str, ...] = option(("file", "pipe", "http"), "what is followed, all at once")
    num_events: int = option(12, "how often something happens")
    period_seconds: float = option(8.3, "between events; no whole number, so that they fall anywhere in a second")
    lead_seconds: float = option(30.0, "before the first event: the followers have to be there by then")
    recorder_fps: int = option(10, "frames a second that are recorded")
    ask_after_seconds: tuple[float, ...] = option((1.0, 2.0, 3.0, 4.0, 5.0), "after an event, when it is asked about")
    num_frames_seen: int = option(8, "frames that a question sees, the relevant ones")
    publish_seconds: float = option(0.0, "how often followers publish; 0 for the program's default")
    num_publications: int = option(1800, "for the cost of publishing")


QUICK = Settings(sources=("file",), num_events=1, ask_after_seconds=(5.0,), num_publications=40)


@dataclass
class Watched:
    """What was seen of one source.

    Attributes:
        first_seconds, all_seconds: per event, seconds after its end until its first frame and all could be read.
        seen, right: per event and time of asking; late_seconds: how late it was asked.
    """

    digest: str
    first_seconds: dict[int, float] = field(default_factory=dict)
    all_seconds: dict[int, float] = field(default_factory=dict)
    seen: dict[tuple[int, float], bool] = field(default_factory=dict)
    right: dict[tuple[int, float], bool] = field(default_factory=dict)
    late_seconds: list[float] = field(default_factory=list)


def measure(settings: Settings) -> Report:
    """Follow, watch and ask; then what publishing costs."""
    starts = [settings.lead_seconds + i * settings.period_seconds for i in range(settings.num_events)]
    num_seconds = int(starts[-1] + NEEDLE_SECONDS + max(settings.ask_after_seconds) + 3)
    scene, needles = needle_scene(num_seconds, [round(s, 1) for s in starts], fps=settings.recorder_fps, seed=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = load_model(settings.model, cache_dir=folder / "cache")
        loaded.fingerprint  # noqa: B018  # computed once for a model
        with recording(scene, folder, size=SIZE) as live, following(live, loaded.cache, settings):
            watched = watch(loaded, live, needles, settings)
            command = ask_by_command(loaded, live, needles[-1], watched, settings)
            late = live.most_late_seconds()
        publishing = publishing_cost(loaded, folder, settings.num_publications)
    return {
        "rows": [row(source, w, settings) for source, w in watched.items()],
        "command": command,
        "recorder_most_late_seconds": late,
        "publish_seconds": settings.publish_seconds or StreamOptions().publish_seconds,
        "publishing": publishing,
        "chance": 1 / num_places(),
    }


@contextlib.contextmanager
def following(live: Recording, cache: FrameCache, settings: Settings) -> Iterator[None]:
    """The program follows every source until the block ends."""
    environment = os.environ | {"VOCO_VIDEO_CACHE_DIR": str(cache.cache_dir)}
    publish = ["--publish-seconds", str(settings.publish_seconds)] if settings.publish_seconds else []
    children = [
        subprocess.Popen(
            [
                *_PROGRAM,
                "compress",
                live.sources[kind],
                "--follow",
                "--name",
                kind,
                "--model",
                settings.model,
                *publish,
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for kind in settings.sources
    ]
    try:
        yield
    finally:
        for child in children:
            child.send_signal(signal.SIGINT)
        for child in children:
            child.wait(_GIVE_UP_SECONDS)


def watch(loaded: VideoModel, live: Recording, needles: list[Needle], settings: Settings) -> dict[str, Watched]:
    """Look at every source again and again until all events were seen and asked about."""
    ends = [live.began_unix_seconds + n.start_seconds + NEEDLE_SECONDS for n in needles]
    watched = find_entries(loaded.cache, settings.sources, until_unix_seconds=ends[0] - NEEDLE_SECONDS)
    due = sorted((ends[i] + after, i, after) for i in range(len(needles)) for after in settings.ask_after_seconds)
    while due or any(len(w.all_seconds) < len(needles) for w in watched.values()):
        if time.time() > ends[-1] + _GIVE_UP_SECONDS:
            raise MismatchError("an event was not seen within a minute")
        for w in watched.values():
            look(loaded.open(w.digest), w, needles, ends)
        if due and time.time() >= due[0][0]:
            at, i, after = due.pop(0)
            for w in watched.values():
                w.late_seconds.append(time.time() - at)
                ask(loaded.open(w.digest), w, needles[i], (i, after), settings)
        time.sleep(_POLL_SECONDS)
    return watched


def find_entries(cache: FrameCache, names: tuple[str, ...], *, until_unix_seconds: float) -> dict[str, Watched]:
    """The followers' entries by name, once each has published something."""
    while time.time() < until_unix_seconds:
        found = {entry.key.settings.get("stream"): Watched(entry.digest) for entry in cache.entries()}
        if all(name in found for name in names):
            return {name: found[name] for name in names}
        time.sleep(_POLL_SECONDS)
    raise MismatchError("followers were not there by the first event; raise --lead-seconds")


def frames_of(video: CompressedVideo, needle: Needle) -> int:
    """How many frames of an event are there."""
    since = video.pts_seconds - needle.start_seconds
    return int(((since >= -1e-6) & (since < NEEDLE_SECONDS - 1e-6)).sum())


def look(video: CompressedVideo, watched: Watched, needles: list[Needle], ends: list[float]) -> None:
    """Note what can be read by now."""
    now = time.time()
    for i, (needle, end) in enumerate(zip(needles, ends, strict=True)):
        if i in watched.all_seconds or now < end - NEEDLE_SECONDS:
            continue
        number = frames_of(video, needle)
        if number:
            watched.first_seconds.setdefault(i, now - end)
        if number >= int(NEEDLE_SECONDS):
            watched.all_seconds[i] = now - end


def ask(video: CompressedVideo, watched: Watched, needle: Needle, place: tuple[int, float], settings: Settings) -> None:
    """Ask where the shape of an event is."""
    budget = settings.num_frames_seen * video.num_voco_tokens
    answer = video.ask(needle.question, policy="relevant", max_voco_tokens=budget, max_new_tokens=8)
    watched.seen[place] = frames_of(video, needle) > 0
    watched.right[place] = answer.text.strip(" .").lower() == needle.place


def ask_by_command(
    loaded: VideoModel, live: Recording, needle: Needle, watched: dict[str, Watched], settings: Settings
) -> Report:
    """The last event once more, by the program, while the source is still followed."""
    environment = os.environ | {"VOCO_VIDEO_CACHE_DIR": str(loaded.cache.cache_dir)}
    answers, budget = {}, settings.num_frames_seen * loaded.num_voco_tokens
    for source, w in watched.items():
        seen = ["--policy", "relevant", "--max-voco-tokens", str(budget), "--model", settings.model]
        command = [*_PROGRAM, "ask", w.digest[:12], needle.question, *seen]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        answers[source] = done.stdout.split("[")[0].strip()
    ended = live.began_unix_seconds + needle.start_seconds + NEEDLE_SECONDS
    return {"question": needle.question, "truth": needle.place, "answers": answers, "after": time.time() - ended}


def row(source: str, watched: Watched, settings: Settings) -> Report:
    """One source."""

    def share(values: dict[tuple[int, float], bool]) -> dict[str, float]:
        return {
            f"{after:g}": float(np.mean([v for (_, a), v in values.items() if a == after]))
            for after in settings.ask_after_seconds
        }

    def delays(values: dict[int, float]) -> Report:
        listed = list(values.values())
        return {"median": statistics.median(listed), "largest": max(listed), "seconds": listed}

    return {
        "source": source,
        "first_frame": delays(watched.first_seconds),
        "all_frames": delays(watched.all_seconds),
        "seen": share(watched.seen),
        "right": share(watched.right),
        "asked_most_late_seconds": max(watched.late_seconds),
    }


def publishing_cost(loaded: VideoModel, folder: Path, num_publications: int) -> Report:
    """One frame appended and published, so often; its merges into larger files included."""
    pixels = np.zeros(
        (1, *(getattr(loaded.voco.backbone.images.fit, side) for side in ("height", "width")), 3), np.uint8
    )
    tokens = loaded.voco.compress(loaded.voco.vision_tokens(pixels), form=loaded.voco.default_form or "kv").tensors()
    key, walls = CacheKey("0" * 64, loaded.fingerprint, {}), []
    cache = FrameCache(folder / "publishing")
    cpu = cpu_seconds()
    with cache.growing_writer(key, facts={}) as writer:
        for number in range(num_publications):
            started = time.perf_counter()
            writer.append(tokens, np.array([float(number)]))
            writer.publish()
            walls.append(time.perf_counter() - started)
    cpu = cpu_seconds() - cpu
    opened = []
    for _ in range(5):
        started = time.perf_counter()
        entry = cache.get(key)
        opened.append(time.perf_counter() - started)
        assert entry is not None
        entry.close()
    return {
        "num_publications": num_publications,
        "cpu_seconds_each": cpu / num_publications,
        "wall_seconds_each": statistics.median(walls),
        "wall_seconds_most": max(walls),
        "log_bytes_each": (cache.cache_dir / key.digest[:2] / key.digest / "growing.txt").stat().st_size
        / num_publications,
        "open_seconds": statistics.median(opened),
    }


# ---------------------------------------------------------------------- report


def markdown(report: Report) -> str:
    """Delays, then answers, then what publishing costs."""
    settings, cost, command = report["settings"], report["publishing"], report["command"]
    afters = [f"{after:g}" for after in settings["ask_after_seconds"]]
    headings = ["source", "first frame", "largest", "all frames", "largest", *(f"at {after} s" for after in afters)]
    rows = []
    for r in report["rows"]:
        delays = [f"{r[kind][what]:.1f} s" for kind in ("first_frame", "all_frames") for what in ("median", "largest")]
        asked = [f"{r['seen'][after]:.0%} / {r['right'][after]:.0%}" for after in afters]
        rows.append([r["source"], *delays, *asked])
    late = max(r["asked_most_late_seconds"] for r in report["rows"])
    answers = ", ".join(f"{source}: {answer!r}" for source, answer in command["answers"].items())
    return "\n\n".join(
        [
            "# Asked while it runs",
            f"{settings['num_events']} events of {NEEDLE_SECONDS:g} s in a recording of {settings['recorder_fps']} "
            f"frames a second, followed at 1 fps by model `{settings['model']}`, published every "
            f"{report['publish_seconds']:g} s. Delays from the end of an event, by the clock, until its first frame "
            "and all its frames could be read, medians and largest; then the share of events seen / of right answers "
            f"to where it was (guessing: {report['chance']:.0%}), asked so long after the end.",
            table(headings, rows),
            f"Questions were asked at most {late:.2f} s late, frames recorded at most "
            f"{report['recorder_most_late_seconds']:.2f} s late.",
            f'`voco-video ask` for "{command["question"]}" ({command["truth"]}), done {command["after"]:.0f} s after '
            f"the event, followers running: {answers}.",
            f"Publishing one frame takes {cost['wall_seconds_each'] * 1000:.1f} ms on the clock (at most "
            f"{cost['wall_seconds_most'] * 1000:.0f}) and {cost['cpu_seconds_each'] * 1000:.1f} ms of the processor; "
            f"{cost['log_bytes_each']:.0f} bytes of log. After {cost['num_publications']} publications opening "
            f"the entry takes {cost['open_seconds'] * 1000:.0f} ms.",
        ]
    )


def draw(report: Report, figure: Figure) -> None:
    """Delays of all events, per source."""
    axes = figure.subplots()
    for i, r in enumerate(report["rows"]):
        for kind, colour, shift in (("first_frame", "#4878b0", -0.12), ("all_frames", "#d08030", 0.12)):
            seconds = r[kind]["seconds"]
            label = kind.replace("_", " ") if i == 0 else None
            axes.plot(seconds, [i + shift] * len(seconds), "o", color=colour, alpha=0.6, label=label)
    axes.axvline(5, color="black", linestyle=":", linewidth=1, label="five seconds")
    axes.set_yticks(range(len(report["rows"])), [r["source"] for r in report["rows"]])
    axes.set(xlabel="seconds after the event ended", ylim=(-0.6, len(report["rows"]) - 0.4))
    axes.legend(fontsize=8)


def ratios(report: Report) -> dict[str, float]:
    """Counted from where an event begins, for it may be seen before it ends; over 1, it is seen in five seconds."""
    largest = max(r["all_frames"]["largest"] for r in report["rows"])
    name = "from an event's start: its length and five seconds over the largest delay"
    return {name: (NEEDLE_SECONDS + 5) / (NEEDLE_SECONDS + largest)}


BENCHMARK = Benchmark(
    name="live",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    measure=measure,
    markdown=markdown,
    draw=draw,
    ratios=ratios,
    size=(8, 3),
)

if __name__ == "__main__":
    BENCHMARK.main()
