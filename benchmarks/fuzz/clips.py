"""Mutated clips: each is read many times by several threads at once, and held against a plain sequential decode.

    a clip of the matrix in tests/ -> one mutation -> 8 readings, 4 at a time, in several ways -> one outcome

What comes must be the same in every reading; every picture must be one that a plain decode of the same bytes gives, at
its time; and what is lost must be said.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import re
import traceback
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.fuzz.outcome import Outcome
from tests.helpers.matrix import MATRIX, Case
from tests.helpers.sequential import Facts, Raw, decode_raw, times_of
from voco_video.errors import VocoVideoError
from voco_video.options.sampling import Sampling
from voco_video.video.reading import open_video
from voco_video.video.scaling import Fit

NUM_READINGS, NUM_THREADS = 8, 4
WAYS = ("all frames", "num_frames=5", "keyframes", "timestamps")
_MODES = ("stretch", "crop", "pad")
_SLOW = ("dnxhd.mov", "jpeg2000.mov")
_ALL = 10**15  # frames: so fine a grid of times leaves out none, whatever times a damaged file claims
# What the package says where it does not take times as they are in the file.
_TIMES_ARE_SAID = re.compile("usable time|clock|do not tell when")
BASES = [case for case in MATRIX if case.name not in _SLOW]

# --- mutations: bytes in, bytes out

Mutation = Callable[[np.random.Generator, bytearray, bytes], bytearray]


def _flip(rng: np.random.Generator, data: bytearray, start: int, stop: int, count: int) -> bytearray:
    for place in rng.integers(start, max(start + 1, stop), count):
        data[place] ^= int(rng.integers(1, 256))
    return data


def _span(rng: np.random.Generator, data: bytearray, most: float = 0.2) -> slice:
    length = int(rng.integers(1, max(2, int(len(data) * most))))
    start = int(rng.integers(0, max(1, len(data) - length)))
    return slice(start, start + length)


def flip_few(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """One to eight bytes anywhere."""
    return _flip(rng, data, 0, len(data), int(rng.integers(1, 9)))


def flip_many(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """One byte in 50 to 1 000, anywhere."""
    return _flip(rng, data, 0, len(data), max(1, len(data) // int(rng.integers(50, 1000))))


def flip_head(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """One to twenty bytes of the first kilobyte, where most formats have their header."""
    return _flip(rng, data, 0, min(1024, len(data)), int(rng.integers(1, 21)))


def flip_tail(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """One to twenty bytes of the last tenth, where some formats have their index."""
    return _flip(rng, data, len(data) * 9 // 10, len(data), int(rng.integers(1, 21)))


def flip_body(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """Bytes of the middle half only, so that the file still opens."""
    return _flip(rng, data, len(data) // 4, len(data) * 3 // 4, int(rng.integers(1, 100)))


def truncate(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """Without its end."""
    return data[: int(rng.integers(1, len(data)))]


def behead(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """Without its beginning."""
    return data[int(rng.integers(1, len(data) // 2 + 2)) :]


def zero(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """A stretch of zeros."""
    span = _span(rng, data)
    data[span] = bytes(span.stop - span.start)
    return data


def remove(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """A stretch is missing."""
    del data[_span(rng, data)]
    return data


def repeat(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """A stretch comes twice."""
    span = _span(rng, data)
    return data[: span.stop] + data[span.start :]


def swap(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """Two neighbouring stretches change places."""
    span = _span(rng, data)
    middle = (span.start + span.stop) // 2
    data[span] = data[middle : span.stop] + data[span.start : middle]
    return data


def move_packets(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """Pieces of 188 bytes (packets of an MPEG-TS) go, or change places."""
    pieces = [data[place : place + 188] for place in range(0, len(data), 188)]
    for _ in range(int(rng.integers(1, 6))):
        piece = pieces.pop(int(rng.integers(0, len(pieces))))
        if rng.random() < 0.5 or not pieces:
            pieces.insert(int(rng.integers(0, len(pieces) + 1)), piece)
    return bytearray().join(pieces)


def splice(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """A stretch of another clip in the place of its own."""
    span = _span(rng, data)
    start = int(rng.integers(0, max(1, len(other) - (span.stop - span.start))))
    data[span] = other[start : start + span.stop - span.start]
    return data


def append(rng: np.random.Generator, data: bytearray, other: bytes) -> bytearray:
    """Another clip behind it."""
    return data + other


MUTATIONS: tuple[Mutation, ...] = (
    flip_few, flip_many, flip_head, flip_tail, flip_body, truncate, behead, zero, remove, repeat, swap, move_packets,
    splice, append,
)  # fmt: skip

# --- one case


@dataclass(frozen=True)
class Reading:
    """What one reading gave: per sampling the times and pictures (as digests) or the error; counts of all pictures."""

    results: tuple[Any, ...]
    num_frames: int = 0
    num_lost: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Shown:
    """A picture that a file shows: its time among the others, the time that it carries itself, and the digests of what
    plain decodes make of its packet.
    """

    seconds: float
    own_seconds: float
    digests: frozenset[str]

    def is_at(self, seconds: float, slack: float) -> bool:
        """Whether it may be shown at this time."""
        return min(abs(self.seconds - seconds), abs(self.own_seconds - seconds)) <= slack


@dataclass(frozen=True)
class Truth:
    """The pictures of a plain sequential decode as they are shown, and how many were decoded with errors."""

    pictures: list[Shown]
    num_corrupt: int = 0

    def __bool__(self) -> bool:
        return bool(self.pictures)

    def times_and_digests(self) -> list[tuple[float, str]]:
        """The same, of pictures that have one look each."""
        return [(picture.seconds, digest) for picture in self.pictures for digest in picture.digests]


@dataclass
class Said(logging.Handler):
    """Keeps what the package says while it reads."""

    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.INFO)

    def __hash__(self) -> int:
        return id(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.lines.append(record.getMessage())


def cases(*, count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """The outcome of each seed from `seed` on; the same seed is the same case wherever it runs."""
    for number in range(seed, seed + count):
        yield run_case(number, folder)


def make_case(seed: int, folder: Path) -> tuple[Case, str, Path]:
    """The clip that a seed mutates, how, and the mutated file."""
    rng = np.random.default_rng([seed, 14])
    base, other = (BASES[int(number)] for number in rng.choice(len(BASES), 2, replace=False))
    same_ending = [case for case in BASES if case.name.rpartition(".")[2] == base.name.rpartition(".")[2]]
    if rng.random() < 0.7 and len(same_ending) > 1:
        other = same_ending[int(rng.integers(len(same_ending)))]
    mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
    made = folder / "made"
    made.mkdir(exist_ok=True)
    data = mutation(rng, bytearray(base.make(made).read_bytes()), other.make(made).read_bytes())
    path = folder / f"{seed}-{base.name}"
    path.write_bytes(data)
    return base, mutation.__name__, path


def run_case(seed: int, folder: Path) -> Outcome:
    """Make one mutated clip, read it, say what came of it."""
    base, mutation, path = make_case(seed, folder)
    name = f"{mutation} {base.name.rpartition('.')[2]}"
    fit = Fit(40, 56, _MODES[seed % len(_MODES)])
    said = Said()
    logger = logging.getLogger("voco_video")
    logger.addHandler(said)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            readings = list(pool.map(lambda _: read(path, fit), range(NUM_READINGS)))
        outcome, detail = judge(readings, path, base.make(folder / "made"), fit, said.lines)
    except Exception as error:  # the finding that this is made to find
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome, detail = "exception", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    finally:
        logger.removeHandler(said)
        path.unlink()
    return Outcome(seed, mutation, outcome, f"{name}: {base.name}: {detail}")


def read(path: Path, fit: Fit) -> Reading:
    """Read a clip in several ways. Raises whatever is not a VocoVideoError."""
    try:
        with open_video(path) as video:
            times = video.pts_seconds
            at = np.maximum(0, np.quantile(times, (0.1, 0.5, 0.51, 0.9), method="nearest") + 0.01)
            samplings = (
                Sampling(num_frames=_ALL),
                Sampling(num_frames=5),
                Sampling(keyframes=True),
                Sampling(timestamps=tuple(float(time) for time in at if time <= video.info.end_seconds) or (0.0,)),
            )
            num_frames, results, num_lost = video.info.num_frames, [], 0
            for number, sampling in enumerate(samplings):
                results.append(_read_with(video, sampling, fit))
                if not number:
                    num_lost = video.num_undecodable
            return Reading(tuple(results), num_frames, num_lost)
    except VocoVideoError as error:
        return Reading((), error=str(error).replace(str(path), "FILE"))


def _read_with(video: Any, sampling: Sampling, fit: Fit) -> tuple[tuple[float, str], ...] | str:
    try:
        return tuple(
            (float(seconds), _digest(pixels))
            for batch in video.batches(sampling, fit=fit, batch_size=7)
            for seconds, pixels in zip(batch.pts_seconds, batch.pixels, strict=True)
        )
    except VocoVideoError as error:
        return f"{type(error).__name__}: {error}"


def _digest(pixels: np.ndarray) -> str:
    return hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest()


# --- the judgement


def judge(readings: list[Reading], path: Path, base: Path, fit: Fit, said: list[str]) -> tuple[str, str]:
    """The outcome of a clip that was read, and why.

    The truth is what plain decodes make of the same bytes: damage that leaves a stream which decodes is other content.
    """
    first = readings[0]
    if different := [reading for reading in readings if reading != first]:
        return "varies", f"{len(different)} of {len(readings)} differ: {_difference(first, different[0])}"
    truth = plainly(path, fit)
    if first.error is not None:
        return "error", first.error + (f" ({len(truth.pictures)} pictures decode)" if truth else "")
    everything = first.results[0]
    if isinstance(everything, str):
        return "error", everything
    if truth is None:
        return "partial", "too large for the slow reading"
    for way, result in zip(WAYS, first.results, strict=True):
        if isinstance(result, tuple) and _wrong_picture(result, truth.pictures, said):
            shown = shown_from_anywhere(path, fit, [seconds for seconds, _ in result])
            if wrong := _wrong_picture(result, shown, said):
                return "silent", f"{way}: {wrong}"
    num_missing = len(truth.pictures) - len(everything)
    if num_missing > 0 and not said and not first.num_lost:
        return "silent", f"{num_missing} of {len(truth.pictures)} pictures are missing without a word"
    num_gone, num_spoilt = first.num_frames - len(everything), truth.num_corrupt
    if not num_gone <= first.num_lost <= num_gone + num_spoilt:
        counts = f"{first.num_frames} counted, {len(everything)} given, {first.num_lost} called lost"
        return "silent", f"{counts}, {num_spoilt} of a sequential decode's spoilt"
    sound = plainly_base(base, fit) or Truth([])
    if list(everything) == truth.times_and_digests() == sound.times_and_digests():
        return "right", ""
    return "partial", f"{len(everything)} of {first.num_frames}; {said[0] if said else 'nothing said'}"


def _difference(one: Reading, other: Reading) -> str:
    if one.error or other.error:
        return f"{one.error!r} and {other.error!r}"
    if (one.num_frames, one.num_lost) != (other.num_frames, other.num_lost):
        return f"{one.num_frames} frames, {one.num_lost} lost and {other.num_frames}, {other.num_lost}"
    return ", ".join(way for way, a, b in zip(WAYS, one.results, other.results, strict=True) if a != b)


def _wrong_picture(result: tuple[tuple[float, str], ...], shown: list[Shown], said: list[str]) -> str | None:
    """The first picture of a reading that the file does not show, or not in this order, or not at this time."""
    times_are_said = any(_TIMES_ARE_SAID.search(line) for line in said)
    slack, place = _slack([picture.seconds for picture in shown]), 0
    for number, (seconds, digest) in enumerate(result):
        alike = [at for at, picture in enumerate(shown) if digest in picture.digests]
        later = [at for at in alike if at >= place]
        there = [at for at in later if times_are_said or shown[at].is_at(seconds, slack)]
        if not later:
            why = "comes in another order" if alike else "is none of a plain decode's"
            return f"picture {number} at {seconds:.3f} s {why}"
        if not there:
            off = min(abs(shown[at].seconds - seconds) for at in later)
            return f"picture {number} at {seconds:.3f} s is {off:.3f} s off"
        place = there[0]
    return None


def plainly(path: Path, fit: Fit) -> Truth | None:
    """What a plain sequential decode gives; None where its pictures are too large to hold."""
    try:
        raws, facts = decode_raw(path, fit)
    except (MemoryError, VocoVideoError):
        return None
    except (av.error.FFmpegError, ValueError):
        return Truth([])
    pictures = _shown(raws, [{_digest(raw.pixels)} for raw in raws], facts)
    return Truth(pictures, sum(raw.is_corrupt for raw in raws))


def _shown(raws: list[Raw], looks: list[set[str]], facts: Facts) -> list[Shown]:
    return [
        Shown(seconds, seconds if raw.pts is None else float(raw.pts * facts.time_base), frozenset(digests))
        for seconds, raw, digests in zip(times_of(raws, facts), raws, looks, strict=True)
    ]


@functools.lru_cache(maxsize=64)
def plainly_base(path: Path, fit: Fit) -> Truth | None:
    """The same of a clip as it was made."""
    return plainly(path, fit)


def shown_from_anywhere(path: Path, fit: Fit, wanted: Collection[float]) -> list[Shown]:
    """The pictures of a file with all looks that plain decodes give them.

    A decode that begins at a keyframe gives it and what follows it as they are meant; one that has stumbled before may
    not. One that leaves out pictures on which no other builds, but for those at the `wanted` times, may meet less
    damage. And what stands where a decoder has written nothing depends on its memory: used again, or new each time.
    """
    raws, facts = decode_raw(path, fit)
    looks = {raw.packet: {_digest(raw.pixels)} for raw in raws}
    slack = _slack(times := times_of(raws, facts))
    skipped = {
        raw.packet
        for raw, time in zip(raws, times, strict=True)
        if not any(abs(time - seconds) <= slack for seconds in wanted)
    }
    for first_packet, keeps_pictures, skippable in itertools.product(
        dict.fromkeys((0, *facts.key_packets)), (False, True), (frozenset(), skipped)
    ):
        others, _ = decode_raw(path, fit, first_packet=first_packet, keeps_pictures=keeps_pictures, skippable=skippable)
        if first_packet:
            others = _from_keyframe_on(others, first_packet)
        for number, raw in enumerate(others):
            if raw.packet not in looks:
                raws.insert(_place_of(raw, others[number + 1 :], raws), raw)
            looks.setdefault(raw.packet, set()).add(_digest(raw.pixels))
    return _shown(raws, [looks[raw.packet] for raw in raws], facts)


def _from_keyframe_on(raws: list[Raw], packet: int) -> list[Raw]:
    """The good pictures of a decode that began at a packet, if that gives a keyframe: from this one on."""
    start = next((place for place, raw in enumerate(raws) if raw.packet == packet and raw.is_key), len(raws))
    return [raw for raw in raws[start:] if not raw.is_corrupt]


def _place_of(raw: Raw, following: list[Raw], raws: list[Raw]) -> int:
    """Where in `raws` a picture belongs: before those that follow it, and before those whose own time is later."""
    places = {other.packet: place for place, other in enumerate(raws)}
    place = next((places[other.packet] for other in following if other.packet in places), len(raws))
    while place and raw.pts is not None and (raws[place - 1].pts or 0) > raw.pts:
        place -= 1
    return place


def _slack(times: list[float]) -> float:
    """How far from its time a picture may be shown: half a usual step."""
    return 0.002 + (float(np.median(np.diff(times))) / 2 if len(times) > 1 else 0.0)
