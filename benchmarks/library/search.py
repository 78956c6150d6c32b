"""Searching a library by its index: time, memory and bytes for 10 to 10 000 videos of ten minutes.

    python -m benchmarks.library.search [--num-videos 10 100 1000 10000] [--num-voco-tokens 1 8] [--pool FILE]

What is real: voco-tiny with its trained scorer, the tokens of MovingShapes scenes that it compressed, the index with
all its files, and every entry that a search opens. What is synthesised:

    videos    of 75 scenes of 8 frames (600 frames, ten minutes at 1 fps), drawn at random from a pool of scenes
    scenes    85 % the tokens of one compressed scene and 15 % those of another; with 15 000 of them in 10 000 videos,
              each is in 50 videos, so a best moment comes with as many that are as good, and all are opened
    entries   those that no question opens are a folder with the head of a manifest; searching only looks at its time

A search runs in a process of its own. `opening` is listing the cache and opening the index, with its checksums; the
first question comes after it, cold (what the index holds was dropped from the page cache) or warm; later ones are
different questions. Where all entries are real, moments must equal those of reading every entry.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch

import voco_video
from benchmarks.errors import MismatchError
from benchmarks.library.search_table import rows_table, shown_seconds
from benchmarks.report import Benchmark, Report, option
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.entry_frames import EntryFrames
from voco_video.api import VideoModel
from voco_video.cache import CacheKey, FrameCache
from voco_video.cache.paths import CachePaths
from voco_video.library.index_entries import read_state, train_codebook
from voco_video.library.index_file import Encoded
from voco_video.shapes.rendering import render
from voco_video.shapes.world import draw_scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCENE_FRAMES, SCENES_A_VIDEO = 8, 75
QUERIES = (
    "the red star",
    "where is the blue circle?",
    "a green square that moves to the left",
    "What colour is the triangle?",
    "the purple star and the yellow cross",
    "an elephant",
)
ALL_REAL = 100  # up to so many videos every entry is real, and the result is compared with reading all of them
_BLEND = 0.15
_BATCH = 50


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    num_videos: tuple[int, ...] = option((10, 100, 1000, 10000), "videos of ten minutes in the library")
    num_voco_tokens: tuple[int, ...] = option((1, 8), "K")
    num_scenes: int = option(2000, "scenes that are compressed")
    num_blends: int = option(15000, "different scenes that are made of them")
    pool: str = option("", "file that keeps the compressed scenes for another run")
    folder: str = option("", "where to write; the temporary folder when empty")
    seed: int = option(12, "of scenes and videos")


QUICK = Settings(num_videos=(3, 6), num_voco_tokens=(2,), num_scenes=8, num_blends=40)


def measure(settings: Settings) -> Report:
    """A row for every number of videos and K."""
    rows = []
    for num_voco_tokens in settings.num_voco_tokens:
        with tempfile.TemporaryDirectory(dir=settings.folder or None) as folder:
            library = _Synthesised(Path(folder), settings, num_voco_tokens)
            for number in sorted(settings.num_videos):
                library.grow(number)
                rows.append(library.measure(number))
                print(rows_table({"rows": rows[-1:]}).splitlines()[-1], flush=True)
    return {"rows": rows, "queries": list(QUERIES)}


class _Synthesised:
    """A cache with an index of so many videos, and with the entries that questions open."""

    def __init__(self, folder: Path, settings: Settings, num_voco_tokens: int) -> None:
        self._folder, self._settings, self._k = folder, settings, num_voco_tokens
        self.model = voco_video.load_model(cache_dir=folder, max_cache_bytes=10**15)
        self._paths = CachePaths(folder)
        self._tokens = _compressed_scenes(self.model, settings)[:, :, :num_voco_tokens]
        index = self.model.library().index
        self._scorer = index.scorers["embeds"]
        self._index_folder = index.folder_of(("embeds", num_voco_tokens))
        self._digests: list[str] = []
        self._real: set[str] = set()
        self._encode()

    def _blend(self, scenes: np.ndarray) -> torch.Tensor:
        """The tokens of scenes of the pool of blends, ``[S, 8, K, W]``, as an entry has them."""
        rng = np.random.default_rng(self._settings.seed)
        first, second = rng.integers(len(self._tokens), size=(2, self._settings.num_blends))
        one, other = self._tokens[first[scenes]].float(), self._tokens[second[scenes]].float()
        return ((1 - _BLEND) * one + _BLEND * other).half()

    def _encode(self) -> None:
        """Encode the pool of blends, and begin the index."""

        def keys(scenes: np.ndarray) -> torch.Tensor:
            with torch.inference_mode():
                return self._scorer.project(self._blend(scenes).flatten(0, 1).float()).permute(2, 3, 0, 1)

        codebook, num_trained = train_codebook([keys(self._scenes(video)) for video in range(32)])
        self._index_folder.write_anew((), codebook, num_trained=num_trained)
        coarse, fine = [], []
        for start in range(0, self._settings.num_blends, SCENES_A_VIDEO):
            scenes = np.arange(start, min(start + SCENES_A_VIDEO, self._settings.num_blends))
            part = codebook.encode(keys(scenes).flatten(0, 1))
            for kept, codes in zip((coarse, fine), part):
                kept.append(codes.reshape(len(scenes), SCENE_FRAMES, -1))
        self._coarse, self._fine = np.concatenate(coarse), np.concatenate(fine)

    def _scenes(self, video: int) -> np.ndarray:
        return np.random.default_rng((self._settings.seed, video)).integers(
            self._settings.num_blends, size=SCENES_A_VIDEO
        )

    def _key(self, video: int) -> CacheKey:
        settings = {"form": "embeds", "num_voco_tokens": self._k, "dtype": "float16"}
        return CacheKey(f"{video:064x}", self.model.fingerprint, settings)

    def grow(self, number: int) -> None:
        """Add videos up to this number."""
        index = self._index_folder.open()
        for first in range(len(self._digests), number, _BATCH):
            batch = []
            for video in range(first, min(first + _BATCH, number)):
                digest = self._key(video).digest
                directory = self._paths.directory(digest)
                directory.mkdir(parents=True)
                (directory / "manifest.json").write_text(f'{{\n "blake3": "{digest}"\n}}')
                self._digests.append(digest)
                batch.append(self._encoded(video))
            if not self._index_folder.append(batch, index):
                raise MismatchError("the index was written anew by somebody else")
        self._rows = self._index_folder.open().rows
        self._places = {row.tobytes().hex(): place for place, row in enumerate(self._rows["digest"])}
        if number <= ALL_REAL:
            self._make_real(self._digests)

    def _encoded(self, video: int) -> Encoded:
        digest, scenes = self._digests[video], self._scenes(video)
        state = read_state(self._paths.directory(digest))
        coarse, fine = (codes[scenes].reshape(len(scenes) * SCENE_FRAMES, -1) for codes in (self._coarse, self._fine))
        return Encoded(digest, state.identity, state.signature, coarse, fine)

    def _make_real(self, digests: list[str]) -> None:
        """Write whole entries, and tell the index which they are now."""
        numbers = {digest: number for number, digest in enumerate(self._digests)}
        changed = []
        for digest in digests:
            if digest in self._real:
                continue
            video = numbers[digest]
            tokens = self._blend(self._scenes(video)).flatten(0, 1)  # [600, K, W]
            with self.model.cache.writer(self._key(video), facts=_FACTS, restart=True, segment_frames=600) as writer:
                writer.append({"embeds": tokens}, np.arange(float(len(tokens))))
                writer.finish().close()
            self._real.add(digest)
            changed.append(video)
        rows = self._rows[[self._places[self._digests[video]] for video in changed]].copy()
        for row, video in zip(rows, changed):
            state = read_state(self._paths.directory(self._digests[video]))
            row["identity"], row["signature"] = np.frombuffer(state.identity, np.uint8), state.signature
        self._index_folder.append_signatures(rows)

    def measure(self, number: int) -> Report:
        """Search this many videos, in processes of their own."""
        self._make_opened_real()
        warm = self._search("--warm")
        cold = self._search("--cold")
        index = self._index_folder.open()
        if number <= ALL_REAL:
            self._compare(warm)
        exact, fast = ([one["found"] for one in warm["questions"][kind]] for kind in ("exact", "approximate"))
        shared = [len({str(m) for m in a} & {str(m) for m in b}) for a, b in zip(exact, fast)]
        return {
            "num_videos": number,
            "num_voco_tokens": self._k,
            "num_frames": index.num_frames,
            "index_bytes": index.size_bytes,
            "bytes_per_frame": index.size_bytes / index.num_frames,
            "entry_bytes_per_frame": self._k * self._tokens.shape[3] * 2,
            "recall": sum(shared) / sum(map(len, exact)),
            "warm": warm,
            "cold": {name: cold[name] for name in ("opening", "questions", "memory")},
        }

    def _make_opened_real(self) -> None:
        """Ask all questions, and write each entry that is opened for it at that moment."""
        library, cache = self.model.library(), self.model.cache

        def find(digest: str) -> Any:
            if digest not in self._real:
                self._make_real([digest])
            return FrameCache.find(cache, digest)

        with patch.object(cache, "find", find):
            for query in QUERIES:
                for approximate in (False, True):
                    library.search(query, approximate=approximate)

    def _search(self, mode: str) -> Report:
        command = [sys.executable, "-m", "benchmarks.library.search", "--child", mode, str(self._folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise MismatchError(f"the search failed: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def _compare(self, warm: Report) -> None:
        videos = []
        for digest in sorted(self._digests):
            entry = self.model.cache.find(digest)
            videos.append(CompressedVideo(self.model, (EntryFrames(entry, 0, entry.num_frames),)))
            entry.close()
        started = time.perf_counter(), time.process_time()
        for place, query in enumerate(QUERIES):
            found = voco_video.find(videos, query)
            if _shown(found) != warm["questions"]["exact"][place]["found"]:
                raise MismatchError(f"{query!r}: the index finds other moments than reading every entry")
            if not place:
                warm["every_entry"] = _since(started)
        for video in videos:
            video.parts[0].entry.close()


_FACTS = {"world": {"num_frames": 600, "num_foreign": 0}}


def _compressed_scenes(model: VideoModel, settings: Settings) -> torch.Tensor:
    """Tokens of scenes, one frame a second, float16 ``[S, 8, 8, W]``."""
    if settings.pool and Path(settings.pool).exists():
        kept = torch.load(settings.pool)
        return kept.unflatten(0, (-1, SCENE_FRAMES))[: settings.num_scenes]
    tokens = []
    for start in range(0, settings.num_scenes, 8):
        numbers = range(start, min(start + 8, settings.num_scenes))
        times = np.arange(0.5, SCENE_FRAMES, 1.0)
        scenes = [draw_scene(settings.seed, split="test", index=number) for number in numbers]
        frames = np.concatenate([render(scene, times, size=64) for scene in scenes])
        compressed = model.voco.compress(model.voco.vision_tokens(frames), form="embeds")
        tokens.append(compressed.embeds.half())
    pool = torch.cat(tokens)
    if settings.pool:
        torch.save(pool, settings.pool)
    return pool.unflatten(0, (-1, SCENE_FRAMES))


def _shown(found: list[voco_video.Found]) -> list[list[Any]]:
    return [
        [one.video.parts[0].entry.digest[:12], one.moment.start_seconds, one.moment.end_seconds, one.moment.score]
        for one in found
    ]


def _since(started: tuple[float, float]) -> Report:
    return {"wall_seconds": time.perf_counter() - started[0], "cpu_seconds": time.process_time() - started[1]}


# ---------------------------------------------------------------------- in a process of its own


def child(mode: str, folder: str) -> None:
    """Open the library, ask, and print what it took as JSON."""
    model = voco_video.load_model(cache_dir=folder, max_cache_bytes=10**15)
    _ = model.fingerprint  # of the model, not of the library
    model.voco.backbone.conversation_ids([{"role": "user", "content": "x"}], has_frames=False)
    library = model.library()
    if mode == "--cold":
        for path in Path(folder).glob("index/*/*.bin"):
            _drop_from_page_cache(path)
    before = _memory()
    started = time.perf_counter(), time.process_time()
    library.index.refresh()
    report: Report = {"opening": _since(started), "questions": {}}
    peak = before["own"]
    for kind in ("exact", "approximate") if mode == "--warm" else ("exact",):
        asked = report["questions"][kind] = []
        for query in QUERIES if mode == "--warm" else QUERIES[:1]:
            started = time.perf_counter(), time.process_time()
            result = library.search(query, approximate=kind == "approximate")
            asked.append(
                _since(started)
                | {"found": _shown(result.moments), "opened": result.num_opened, "narrowed": result.num_narrowed}
            )
            peak = max(peak, _memory()["own"])
            if result.failed or result.unindexed or result.num_added:
                raise MismatchError(f"{result.failed} {result.unindexed}")
    after = _memory()
    report["memory"] = {
        "model_bytes": before["own"],
        "own_bytes": peak - before["own"],
        "mapped_bytes": after["mapped"],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(report))


def _memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (li.partition(":") for li in lines) if "Rss" in name
    }
    return {"own": values["RssAnon"], "mapped": values["RssFile"]}


def _drop_from_page_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


# ---------------------------------------------------------------------- shown


def markdown(report: Report) -> str:
    """The table, and what every entry costs without an index."""
    lines = ["# Searching a library by its index", "", rows_table(report), ""]
    for row in report["rows"]:
        if slow := row["warm"].get("every_entry"):
            which = f"{row['num_videos']} videos, K = {row['num_voco_tokens']}"
            lines.append(f"Reading every entry of {which}: {shown_seconds(slow)}.")
    lines.append("\nSeconds on the clock, and processor seconds in parentheses. Later questions: medians.")
    return "\n".join(lines)


def draw(report: Report, figure: Figure) -> None:
    """Processor seconds of a later question, and bytes of memory, over videos."""
    time_axes, memory_axes = figure.subplots(1, 2)
    for k in sorted({row["num_voco_tokens"] for row in report["rows"]}):
        rows = [row for row in report["rows"] if row["num_voco_tokens"] == k]
        numbers = [row["num_videos"] for row in rows]
        for kind, style in (("exact", "o-"), ("approximate", "o--")):
            seconds = [np.median([one["cpu_seconds"] for one in row["warm"]["questions"][kind][1:]]) for row in rows]
            time_axes.plot(numbers, seconds, style, label=f"K = {k}, {kind}")
        memory_axes.plot(numbers, [row["warm"]["memory"]["own_bytes"] / 1e6 for row in rows], "o-", label=f"K = {k}")
    time_axes.set(xscale="log", yscale="log", xlabel="videos of ten minutes", ylabel="processor seconds a question")
    memory_axes.set(xscale="log", yscale="log", xlabel="videos of ten minutes", ylabel="MB of memory beside the model")
    for axes in (time_axes, memory_axes):
        axes.legend()


def merge(before: Report, now: Report) -> Report:
    """Keep rows of other sizes and other K."""
    found = {(row["num_voco_tokens"], row["num_videos"]): row for row in [*before["rows"], *now["rows"]]}
    return now | {"rows": [found[key] for key in sorted(found)]}


BENCHMARK = Benchmark("search", __doc__, Settings(), QUICK, measure, markdown, draw, merge=merge)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:4])
    else:
        BENCHMARK.main()
