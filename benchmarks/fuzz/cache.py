"""Mutated frame-cache entries: read, listed, resumed, replaced and removed.

    python -m benchmarks.fuzz cache --count 2000

An entry that is damaged is one clear error, or is not there, so that its video is compressed again. What it gives are
the very numbers that were put in. Of a growing entry whose log lost its end the frames before may be read, with a
warning. After that the entry is written anew, or gone on with, and has to be right; then it has to be removable.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import shutil
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import typer

from benchmarks.fuzz.cache_entries import MUTATIONS, NUM_FRAMES, SEGMENT_FRAMES, Sample, publish_step, samples, write
from benchmarks.fuzz.outcome import SOUND, Outcome
from voco_video.cache import CacheEntry, FrameCache
from voco_video.cli import cache as commands
from voco_video.cli import cache_copies
from voco_video.errors import CacheError, VocoVideoError
from voco_video.stored_tokens import read_tokens


class _SilentError(Exception):
    """A wrong result that came without a word."""


def cases(*, count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """One mutated entry for each seed."""
    everything = samples()
    pristine, root = folder / "pristine", folder / "cache"
    with mock.patch.object(os, "fsync"):  # nothing here has to survive a power cut
        shutil.rmtree(pristine, ignore_errors=True)
        for sample in everything:
            write(sample, FrameCache(pristine))
        for number in range(seed, seed + count):
            yield _case(number, everything, pristine, root)


def _case(seed: int, everything: list[Sample], pristine: Path, root: Path) -> Outcome:
    rng = random.Random(seed)
    # Of each kind alike, though files of the same kind have to be swapped.
    kind = rng.choice(["finished", "growing", "ended", "old", "partial"])
    sample = rng.choice([each for each in everything if each.kind == kind])
    other = rng.choice([each for each in everything if each.kind == kind and each is not sample])
    shutil.rmtree(root, ignore_errors=True)
    for each in (sample, other):
        shutil.copytree(each.directory(pristine), each.directory(root))
    mutate = rng.choice(MUTATIONS)
    mutate(rng, sample.directory(root), other.directory(root))
    mutation = f"{mutate.__name__}, {kind}"
    handler = _Warnings()
    log = logging.getLogger("voco_video")
    log.addHandler(handler)
    try:
        cache = FrameCache(root)
        found = [_read(each, cache, handler, rng) for each in (sample, other)]
        outcome, detail = max(found, key=lambda one: SOUND.index(one[0]))
        _list(cache, sample)
        for each in (sample, other):
            _repair(each, cache)
        _remove(cache)
    except _SilentError as error:
        outcome, detail = "silent", str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno} {where.name}"
        outcome, detail = "exception", f"{type(error).__name__} in {place}: {error}"
    finally:
        log.removeHandler(handler)
    return Outcome(seed, mutation, outcome, detail.replace(f"{root}/", "")[:300])


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _read(sample: Sample, cache: FrameCache, warnings: _Warnings, rng: random.Random) -> tuple[str, str]:
    """What reading gives: "right", "partial" or "error"."""
    warnings.messages.clear()
    directory = sample.directory(cache.cache_dir)
    try:
        entry = cache.get(sample.key)
        if entry is None:
            return "partial" if sample.kind != "partial" else "right", "not there, to be compressed again"
        with entry:
            _check(sample, entry, rng)
            is_whole = entry.num_frames == NUM_FRAMES
    except CacheError as error:
        if directory.exists() and all(result.ok for result in cache.verify(sample.key.digest)):
            raise _SilentError(f"verify says ok of what cannot be read: {error}") from error
        return "error", str(error)
    if is_whole:
        return "right", ""
    if sample.kind in ("growing", "ended", "old") and warnings.messages:
        return "partial", warnings.messages[0]
    raise _SilentError(f"{sample.name}: {entry.num_frames} of {NUM_FRAMES} frames, without a warning")


def _check(sample: Sample, entry: CacheEntry, rng: random.Random) -> None:
    """All of it, a window, and a row of each frame, against what was put in."""
    if entry.num_frames > NUM_FRAMES or entry.pts_seconds.tolist() != sample.pts_seconds[: entry.num_frames].tolist():
        raise _SilentError(f"{sample.name}: other times")
    start = rng.randrange(entry.num_frames)
    windows = [(0, entry.num_frames), (start, rng.randint(start + 1, entry.num_frames)), (0, min(3, entry.num_frames))]
    for first, stop in windows:
        for name, tensor in read_tokens(entry, first, stop).tensors().items():
            if not torch.equal(tensor, sample.tokens[name][first:stop]):
                raise _SilentError(f"{sample.name}: other {name} in frames {first} to {stop}")
    name = next(iter(sample.stored))
    if not torch.equal(entry.read_row([name], -1)[name], sample.stored[name][: entry.num_frames, -1]):
        raise _SilentError(f"{sample.name}: another last row of {name}")


def _list(cache: FrameCache, sample: Sample) -> None:
    """Every way to look at a cache, as the commands do it; calling them saves building the whole command line."""
    for as_json in (False, True):
        for command in (commands.ls, partial(cache_copies.verify, None), partial(commands.info, sample.key.digest)):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(VocoVideoError, typer.Exit):
                command(cache_dir=cache.cache_dir, json=as_json)


def _repair(sample: Sample, cache: FrameCache) -> None:
    """Compress again what is not there, go on with what is unfinished, replace what is damaged."""
    for restart in (False, True):
        try:
            _write(sample, cache, restart=restart)
        except CacheError:
            if restart:
                raise
            continue
        break
    entry = cache.get(sample.key)
    if entry is None or entry.num_frames != NUM_FRAMES:
        raise _SilentError(f"{sample.name}: not whole after it was written again")
    with entry:
        _check(sample, entry, random.Random(0))


def _write(sample: Sample, cache: FrameCache, *, restart: bool) -> None:
    if sample.kind in ("finished", "partial"):
        with cache.writer(sample.key, facts={}, restart=restart, segment_frames=SEGMENT_FRAMES) as writer:
            if writer.entry is None:
                sample.append(writer, writer.num_frames, NUM_FRAMES) if writer.num_frames < NUM_FRAMES else None
                writer.finish()
            writer.entry.verify()
            writer.entry.close()
        return
    with cache.growing_writer(sample.key, facts={}, restart=restart, segment_frames=SEGMENT_FRAMES) as growing:
        for start in range(growing.num_frames, NUM_FRAMES, 2):
            publish_step(sample, growing, start)
        growing.publish(is_ended=True)
    entry = cache.get(sample.key)
    assert entry is not None
    with entry:
        entry.verify()


def _remove(cache: FrameCache) -> None:
    for result in cache.verify():
        if result.status == "ok":
            cache.remove(result.digest)
            break
    cache.prune(0, partial=True)
    left = [path for path in cache.cache_dir.glob("*/*") if path.is_dir()]
    if left:
        raise _SilentError(f"pruning everything leaves {left[0].name}")
