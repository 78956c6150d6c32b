"""Figures that this repository has measured, taken from benchmarks/results/*.json by key.

Nothing is retyped: a figure goes with the file and the keys that it stands under, so a benchmark that is run again
changes it everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from voco_video.errors import DataError

RESULTS = Path(__file__).parents[1] / "results"
Step = str | int | Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure and where it comes from.

    Attributes:
        value, unit: the figure.
        kind: "measured" (timed or counted by a benchmark) or "computed" (by the product's own code).
        source: file and keys, and what was done with them.
    """

    value: float
    unit: str
    source: str
    kind: str = "measured"

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def pick(name: str, *steps: Step, results: Path = RESULTS) -> tuple[float, str]:
    """A number out of ``results/NAME.json`` and the words for its place.

    Args:
        steps: keys from the outside in; for a list its index, or the values that exactly one of its rows has.

    Raises:
        DataError: there is no such file, no such key, or not exactly one such row.

    >>> pick("scaling", "rows", {"seconds": 3600}, "num_frames")
    (3600, 'scaling.json: rows[seconds=3600].num_frames')
    """
    path = results / f"{name}.json"
    found, place = _read(path), ""
    for step in steps:
        if isinstance(step, Mapping):
            rows = [row for row in found if all(row.get(key) == value for key, value in step.items())]
            words = ",".join(f"{key}={value}" for key, value in step.items())
            place += f"[{words}]"
            if len(rows) != 1:
                raise DataError(f"{path} has {len(rows)} rows at {place}, not one; run that benchmark again")
            found = rows[0]
            continue
        place += f"[{step}]" if isinstance(step, int) else f"{'.' if place else ''}{step}"
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError):
            raise DataError(f"{path} has no {place}; run that benchmark again") from None
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise DataError(f"{path} has no number at {place}")
    return found, f"{path.name}: {place}"


@lru_cache
def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the benchmark of that name") from None


_HOUR, _MINUTE = {"seconds": 3600}, {"seconds": 60}
CODECS = ("h264", "hevc", "vp9")


def decode_figure(codec: str) -> Figure:
    """Processor seconds that decoding takes for one second of 720p video, one frame of it wanted."""
    row = {"codec": codec, "seconds": 600, "frames": "1 fps"}
    value, place = pick("decode", "rows", row, "results", "voco-video", "cpu_seconds")
    return Figure(value / 600, "CPU s per s of video", f"{place} / 600")


def pipeline_figure() -> Figure:
    """Processor seconds that a frame takes from file to cache with voco-tiny: decoding, model, writing."""
    value, place = pick("scaling", "rows", _HOUR, "cpu_seconds_each_more")
    return Figure(value, "CPU s per frame", place)


def per_video_figure() -> Figure:
    """Processor seconds that a video takes beside its frames: what a minute took beyond 60 frames' share."""
    total, place = pick("scaling", "rows", _MINUTE, "total", "cpu_seconds")
    frames, _ = pick("scaling", "rows", _MINUTE, "num_frames")
    each = pipeline_figure()
    return Figure(total - frames * each.value, "CPU s per video", f"{place} - {frames} x {each.source}")


def flops_figure(model: str) -> Figure:
    """Additions and multiplications that compressing one frame takes, counted from the model's sizes."""
    if model == "LLaVA-1.5-7B":
        value, place = pick("seven_b", "flops_per_frame")
        return Figure(value, "FLOP per frame", place, "computed")
    group = {"model": model, "dtype": "float32"}
    vision, place = pick("compress", "groups", group, "flops_per_frame", "vision")
    llm, _ = pick("compress", "groups", group, "flops_per_frame", "llm")
    return Figure(vision + llm, "FLOP per frame", f"{place} + llm", "computed")


def token_bytes_figure(shape: str, form: str) -> Figure:
    """Bytes that one VoCo token of one frame takes in 16 bit, with its position in form ``kv``."""
    value, place = pick("scaling", "hour_bytes", {"shape": shape, "form": form, "K": 1}, "bytes")
    return Figure(value / 3600, "bytes per token", f"{place} / 3600", "computed")


def int8_figure(shape: str) -> Figure:
    """What int8 takes of the bytes of 16-bit keys and values."""
    small, place = pick("cache", "speeds", {"shape": shape, "storage": "int8"}, "bytes_per_frame")
    native, _ = pick("cache", "speeds", {"shape": shape, "storage": "native"}, "bytes_per_frame")
    return Figure(small / native, "of 16-bit bytes", f"{place} / native")


def search_figures() -> tuple[Figure, Figure]:
    """What searching costs for each hour of video at 1 fps (voco-tiny, K = 8): bytes held, processor seconds."""
    row = {"form": "embeds", "K": 4, "policy": "relevant"}
    size, place = pick("needle", "rows", row | {"minutes": 120.0}, "size_bytes")
    long, when = pick("needle", "rows", row | {"minutes": 120.0}, "cpu_seconds")
    short, _ = pick("needle", "rows", row | {"minutes": 1.0}, "cpu_seconds")
    seconds = Figure((long - short) / (119 / 60), "CPU s per hour", f"({when} - minutes=1.0) / (119 / 60)")
    return Figure(size / 2, "bytes per hour", f"{place} / 2"), seconds


def entries_figure(step: str) -> Figure:
    """Processor seconds for each entry that a cache folder holds: ``prune`` (looking at all) or ``list``."""
    value, place = pick("many_entries", "rows", -1, "steps", step, "cpu_seconds")
    count, _ = pick("many_entries", "rows", -1, "num_entries")
    return Figure(value / count, "CPU s per entry", f"{place} / num_entries")
