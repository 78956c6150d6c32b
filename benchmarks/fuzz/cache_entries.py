"""A small frame cache with entries of every kind, and ways to damage it; see `benchmarks.fuzz.cache`."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3

from voco_video.cache import CacheKey, FrameCache, GrowingWriter
from voco_video.cache.int8 import dequantize
from voco_video.model.tokens import VocoTokens
from voco_video.stored_tokens import stored_tensors

NUM_FRAMES, SEGMENT_FRAMES = 14, 6
INDEXES = ("manifest.json", "growing.txt", "journal.txt")


@dataclass(frozen=True)
class Sample:
    """One entry, and what was put into it.

    Attributes:
        kind: "finished", "growing", "ended" (a growing entry whose source is over), "old" (the same in the format from
            before lines were chained) or "partial".
        stored: its tensors as the cache takes them, ``[F, ...]`` by name.
        tokens: what reading them has to give, ``[F, ...]`` by name.
    """

    name: str
    kind: str
    key: CacheKey
    stored: dict[str, torch.Tensor]
    tokens: dict[str, torch.Tensor]
    pts_seconds: np.ndarray

    def directory(self, root: Path) -> Path:
        """Where it is in a cache."""
        return root / self.key.digest[:2] / self.key.digest

    def append(self, writer: Any, start: int, stop: int) -> None:
        """Frames ``start:stop`` to a writer."""
        writer.append({n: t[start:stop] for n, t in self.stored.items()}, self.pts_seconds[start:stop])


def samples() -> list[Sample]:
    """Two videos in each form and state; the numbers of no two are the same."""
    made = []
    for kind in ("finished", "growing", "ended", "old", "partial"):
        for form in ("kv", "embeds", "int8"):
            for video in "ab":
                generator = torch.Generator().manual_seed(len(made))
                shape = (NUM_FRAMES, 2, 2, 3, 4)

                def numbers(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
                    return torch.randn(*shape, generator=generator)

                if form == "kv":
                    positions = torch.arange(NUM_FRAMES * 3, dtype=torch.int32).view(NUM_FRAMES, 3) + 100 * len(made)
                    tokens = VocoTokens("kv", positions, numbers(*shape), numbers(*shape))
                else:
                    tokens = VocoTokens("embeds", embeds=numbers(NUM_FRAMES, 3, 8))
                storage = "int8" if form == "int8" else "native"
                settings = {"num_voco_tokens": 3, "form": tokens.form, "dtype": "float32", "storage": storage}
                if kind in ("growing", "ended", "old"):
                    settings["stream"] = f"{kind} {video}"
                key = CacheKey(blake3(f"{kind} {form} {video}".encode()).hexdigest(), "cd" * 32, settings)
                stored = stored_tensors(tokens, storage)  # type: ignore[arg-type]
                truth = dequantize(stored, dtype=torch.float32)
                pts = np.arange(NUM_FRAMES) / 3 + len(made)
                made.append(Sample(f"{kind} {form} {video}", kind, key, stored, truth, pts))
    return made


def write(sample: Sample, cache: FrameCache) -> None:
    """Put an entry into a cache, as the package does."""
    facts = {"source": f"/videos/{sample.name}.mp4", "sampling": "1 fps", "num_undecodable_frames": 0}
    if sample.kind in ("finished", "partial"):
        with cache.writer(sample.key, facts=facts, segment_frames=SEGMENT_FRAMES) as writer:
            for start in range(0, NUM_FRAMES - 2, 3):
                sample.append(writer, start, start + 3)
            if sample.kind == "finished":
                sample.append(writer, NUM_FRAMES - 2, NUM_FRAMES)
                writer.finish().close()
        return
    with cache.growing_writer(sample.key, facts=facts, segment_frames=SEGMENT_FRAMES) as growing:
        for start in range(0, NUM_FRAMES, 2):
            publish_step(sample, growing, start)
        if sample.kind != "growing":
            growing.publish(is_ended=True)
    if sample.kind == "old":
        _unchain(sample.directory(cache.cache_dir) / "growing.txt")


def publish_step(sample: Sample, writer: GrowingWriter, start: int) -> None:
    """Two more frames of a growing entry."""
    sample.append(writer, start, start + 2)
    writer.set_facts({"num_dropped_frames": start})
    writer.publish()


def _unchain(log: Path) -> None:
    contents = [json.loads(line.partition(b" ")[2]) for line in log.read_bytes().splitlines()]
    del contents[0]["is_chained"]
    log.write_bytes(b"".join(_line(content, b"") for content in contents))


def _line(content: Any, before: bytes) -> bytes:
    text = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return blake3(before[:64] + text).hexdigest().encode() + b" " + text + b"\n"


# ---------------------------------------------------------------------- damage to bytes and files


def _any_file(rng: random.Random, directory: Path) -> Path:
    files = sorted(directory.iterdir())
    index = next(path for path in files if path.name in INDEXES)
    return index if rng.random() < 0.5 else rng.choice(files)


def _rewrite(path: Path, change: Callable[[bytearray], Any]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def flip(rng: random.Random, directory: Path, other: Path) -> None:
    """One to three bits."""

    def change(data: bytearray) -> None:
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)

    _rewrite(_any_file(rng, directory), change)


def overwrite(rng: random.Random, directory: Path, other: Path) -> None:
    """A run of bytes by zeros, line breaks or noise."""

    def change(data: bytearray) -> None:
        start, size = rng.randrange(len(data)), rng.choice([1, 8, 64, 512])
        run = rng.choice([b"\0" * size, b"\n" * size, b"\r" * size, rng.randbytes(size)])
        data[start : start + size] = run[: len(data) - start]

    _rewrite(_any_file(rng, directory), change)


def truncate(rng: random.Random, directory: Path, other: Path) -> None:
    """The end of a file."""
    path = _any_file(rng, directory)
    os.truncate(path, rng.randrange(path.stat().st_size))


def lengthen(rng: random.Random, directory: Path, other: Path) -> None:
    """More at the end: noise, or what is there already."""
    _rewrite(_any_file(rng, directory), lambda data: data.extend(rng.choice([rng.randbytes(40), bytes(data[-200:])])))


def delete(rng: random.Random, directory: Path, other: Path) -> None:
    """A file."""
    _any_file(rng, directory).unlink()


# ---------------------------------------------------------------------- lines


def lines(rng: random.Random, directory: Path, other: Path) -> None:
    """Of a log or journal: one lost, doubled, swapped, repeated at the end, or taken from another entry."""
    path = next((p for p in sorted(directory.iterdir()) if p.name in INDEXES[1:]), None)
    if path is None:
        flip(rng, directory, other)
        return
    found = path.read_bytes().splitlines(keepends=True)
    i, j = rng.randrange(len(found)), rng.randrange(len(found))
    foreign = next((p for p in sorted(other.iterdir()) if p.name in INDEXES), path).read_bytes().splitlines(True)
    kind = rng.choice(["lost", "lost from here on", "doubled", "swapped", "again at the end", "from another entry"])
    if kind == "lost":
        del found[i]
    elif kind == "lost from here on":
        del found[i:]
    elif kind == "doubled":
        found.insert(i, found[i])
    elif kind == "swapped":
        found[i], found[j] = found[j], found[i]
    elif kind == "again at the end":
        found.append(found[i])
    else:
        found[i] = rng.choice(foreign)
    path.write_bytes(b"".join(found))


# ---------------------------------------------------------------------- swaps


def swap_between_entries(rng: random.Random, directory: Path, other: Path) -> None:
    """A file of one entry and that of the same name in another of the same kind."""
    name = rng.choice(sorted({path.name for path in directory.iterdir()} & {path.name for path in other.iterdir()}))
    _swap(directory / name, other / name)


def copy_between_entries(rng: random.Random, directory: Path, other: Path) -> None:
    """Some files of another entry in the place of one's own."""
    for path in sorted(other.iterdir()):
        if rng.random() < 0.6:
            shutil.copy(path, directory / path.name)


def swap_segments(rng: random.Random, directory: Path, other: Path) -> None:
    """Two segments of one entry."""
    _swap(*rng.sample(sorted(directory.glob("segment-*")), 2))


def swap_entries(rng: random.Random, directory: Path, other: Path) -> None:
    """Two whole entries."""
    _swap(directory, other)


def _swap(first: Path, second: Path) -> None:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


# ---------------------------------------------------------------------- values, under right checksums


def version(rng: random.Random, directory: Path, other: Path) -> None:
    """Another format's number."""
    _resealed(directory, lambda content: content.update(format_version=rng.choice([0, 2, 99, "1", None, 1.5])))


def missing_key(rng: random.Random, directory: Path, other: Path) -> None:
    """A key of the manifest, or of a line."""

    def change(content: Any) -> None:
        place = rng.choice([each for each in _places(content) if isinstance(each[0], dict)])
        del place[0][place[1]]

    _resealed(directory, change, rng)


def wrong_type(rng: random.Random, directory: Path, other: Path) -> None:
    """A value of another type or size in the manifest, or in a line."""

    def change(content: Any) -> None:
        container, where = rng.choice(list(_places(content)))
        values = [None, -1, 0, 3, 2**70, 1e300, 0.5, True, "", "x", "../../x", [], [[]], {}, {"x": None}, float("inf")]
        container[where] = rng.choice(values)

    _resealed(directory, change, rng)


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key or index in a JSON value."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for where, value in list(items):
        yield content, where
        yield from _places(value)


def _resealed(directory: Path, change: Callable[[Any], None], rng: random.Random | None = None) -> None:
    """Change a manifest, or a line of a log or journal (the first one without `rng`), and make its checksums right."""
    path = next(path for path in sorted(directory.iterdir()) if path.name in INDEXES)
    if path.name == "manifest.json":
        content = json.loads(path.read_bytes())
        del content["blake3"]
        change(content)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        sealed = {**content, "blake3": blake3(text.encode()).hexdigest()}
        path.write_bytes(json.dumps(sealed, indent=1, sort_keys=True).encode())
        return
    contents = [json.loads(line.partition(b" ")[2]) for line in path.read_bytes().splitlines()]
    is_chained = contents[0].get("is_chained", False)
    change(contents[0] if rng is None else rng.choice(contents))
    sealed_lines, before = [], b""
    for content in contents:
        sealed_lines.append(_line(content, before if is_chained else b""))
        before = sealed_lines[-1]
    path.write_bytes(b"".join(sealed_lines))


BYTES = (flip, overwrite, truncate, lengthen, delete, lines, lines)
SWAPS = (swap_between_entries, copy_between_entries, swap_segments, swap_entries)
VALUES = (version, missing_key, wrong_type, wrong_type)
MUTATIONS = (*BYTES, *SWAPS, *VALUES)
