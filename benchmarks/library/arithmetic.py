"""What a library takes: frames a second, bytes, requests, dollars, and where each design choice breaks.

Plain multiplication of inputs with measured figures; nothing here is simulated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.library.command import input_rows
from benchmarks.library.inputs import COUNTED, FORMS, MODELS, SHAPES, Inputs
from benchmarks.library.measured import (
    Figure,
    decode_figure,
    entries_figure,
    flops_figure,
    int8_figure,
    per_video_figure,
    pipeline_figure,
    search_figures,
    token_bytes_figure,
)

Row = dict[str, Any]
GIB = 1 << 30
MAX_SEGMENT_BYTES = 256 << 20
"""A segment ends early where it would be larger; as `voco_video.cache.segment` has it."""
TIME_BYTES = 8
"""Of each frame: its time, beside its tokens."""
_STRATA = 10_000


@dataclass(frozen=True)
class Arithmetic:
    """All that follows from some inputs."""

    inputs: Inputs

    def report(self) -> Row:
        """Inputs, figures and tables as plain values."""
        return {
            "inputs": input_rows(self.inputs),
            "figures": {name: figure.as_json() for name, figure in self.figures.items()},
            "notes": self.notes(),
            "needed": self.needed(),
            "workers": self.workers(),
            "bytes": self.bytes_by_shape(),
            "requests": self.requests(),
            "bill": self.bill(),
            "limits": self.limits(),
        }

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The measured figures that count here, by name."""
        search_bytes, search_seconds = search_figures()
        found = {
            "decoding": decode_figure(self.inputs.codec),
            "from file to cache, voco-tiny": pipeline_figure(),
            "beside a video's frames": per_video_figure(),
            **{f"arithmetic of a frame, {model}": flops_figure(model) for model in COUNTED},
            **{f"a token as {form}, {s}": token_bytes_figure(s, form) for s in SHAPES for form in FORMS},
            "int8 as kv, Qwen2-7B": int8_figure("Qwen2-7B"),
            "search with voco-tiny, held in memory": search_bytes,
            "search with voco-tiny, one question": search_seconds,
            "listing": entries_figure("list"),
        }
        if self.inputs.checkpoint:
            found[f"a token of {self.inputs.checkpoint}"] = checkpoint_figure(self.inputs)
        return found

    def notes(self) -> list[str]:
        """What the figures do not cover for these inputs."""
        found = []
        if self.inputs.fps != 1:
            found.append("decoding was measured at 1 frame a second; its time for a second of video is taken as it is")
        if self.inputs.fps != 1 or self.inputs.codec != "h264":
            found.append(
                "the way from file to cache with voco-tiny was measured with H.264 at 1 fps, so it is left out"
            )
        return found

    # ------------------------------------------------------------------ frames a second

    def needed(self, days: Iterable[float] = (1, 7, 30), gpus: Iterable[int] = (8, 64, 512)) -> list[Row]:
        """Frames a second and GPU that deadlines ask for; a row a deadline, the one that was asked for among them."""
        counts = sorted({*gpus, self.inputs.gpus})
        return [
            {"days": day, "frames_per_second": self.inputs.frames / (day * 86400)}
            | {"per_gpu": {str(n): self.inputs.frames / (day * 86400) / n for n in counts}}
            for day in sorted({*days, self.inputs.days})
        ]

    @property
    def decode_seconds(self) -> float:
        """Seconds of one core that decoding takes for each frame, a video's opening included."""
        on = self.inputs
        for_frame = self.figures["decoding"].value / on.fps
        opening = self.figures["beside a video's frames"].value * on.videos / on.frames
        return (for_frame + opening) / on.core_speed

    def gpu_rate(self, model: str) -> float:
        """Frames a second that a GPU would compress if they were there: measured where given, else by its peak."""
        on = self.inputs
        if on.gpu_frames_per_second and (on.checkpoint or model == on.model):
            return on.gpu_frames_per_second
        return on.gpu_tflops * 1e12 * on.gpu_share / self.figures[f"arithmetic of a frame, {model}"].value

    def workers(self) -> list[Row]:
        """A row for each model: what one GPU and its cores do, and how many it takes."""
        on = self.inputs
        names = [on.checkpoint] if on.checkpoint else list(COUNTED)
        rows = [self._worker(name, self.gpu_rate(name)) for name in names]
        if on.fps == 1 and on.codec == "h264":
            core = on.core_speed / self.figures["from file to cache, voco-tiny"].value
            hours = on.frames / core / 3600
            rows.append(
                {
                    "model": "voco-tiny, cores alone",
                    "rate": core,
                    "hours": hours,
                    "count": math.ceil(hours / (on.days * 24)),
                    "dollars": hours * on.core_dollars_per_hour,
                }
            )
        return rows

    def _worker(self, model: str, gpu_rate: float) -> Row:
        on = self.inputs
        decode_rate = on.cores_per_gpu / self.decode_seconds
        rate = min(gpu_rate, decode_rate)
        hours = on.frames / rate / 3600
        return {
            "model": model,
            "gpu_rate": gpu_rate,
            "decode_rate": decode_rate,
            "cores_wanted": gpu_rate * self.decode_seconds,
            "rate": rate,
            "hours": hours,
            "count": math.ceil(hours / (on.days * 24)),
            "dollars": hours * on.gpu_dollars_per_hour,
        }

    @cached_property
    def worker(self) -> Row:
        """The row of the chosen model."""
        return next(row for row in self.workers() if row["model"] == (self.inputs.checkpoint or self.inputs.model))

    # ------------------------------------------------------------------ bytes and requests

    def frame_bytes(self, shape: str, form: str, num_tokens: int) -> float:
        """Bytes of one frame in the cache: its tokens, and its time."""
        return num_tokens * self.figures[f"a token as {form}, {shape}"].value + TIME_BYTES

    @property
    def kept_bytes(self) -> float:
        """Bytes of one frame of the chosen model, form and K."""
        on = self.inputs
        if on.checkpoint:
            return on.num_voco_tokens * self.figures[f"a token of {on.checkpoint}"].value + TIME_BYTES
        return self.frame_bytes(MODELS[on.model], on.form, on.num_voco_tokens)

    def bytes_by_shape(self, ks: Iterable[int] = (1, 8)) -> list[Row]:
        """A row for each shape, form and K."""
        on = self.inputs
        rows = []
        for shape in SHAPES:
            for form in FORMS:
                for k in ks:
                    size = self.frame_bytes(shape, form, k)
                    rows.append(
                        {
                            "shape": shape,
                            "form": form,
                            "K": k,
                            "frame_bytes": size,
                            "hour_bytes": size * 3600 * on.fps,
                            "library_bytes": size * on.frames,
                            "dollars_per_month": self.store_dollars(size * on.frames),
                            "object_bytes": size * self.frames_of_segment(size, on.segment_frames),
                        }
                    )
        return rows

    def store_dollars(self, size_bytes: float) -> float:
        """Keeping so many bytes for a month; without the discount for much."""
        return size_bytes / GIB * self.inputs.store_dollars_per_gb_month

    @staticmethod
    def frames_of_segment(frame_bytes: float, segment_frames: int) -> int:
        """Frames in a full segment, which also ends at so many bytes."""
        return min(segment_frames, max(1, math.ceil(MAX_SEGMENT_BYTES / frame_bytes)))

    @cached_property
    def _frame_counts(self) -> list[int]:
        """Frames of videos from the whole spread of lengths; a video has at least one."""
        return [max(1, math.ceil(s * self.inputs.fps - 1e-6)) for s in self.inputs.lengths().spread(_STRATA)]

    def segments(self, segment_frames: int) -> float:
        """Segments of the whole library."""
        full = self.frames_of_segment(self.kept_bytes, segment_frames)
        return sum(-(-count // full) for count in self._frame_counts) * self.inputs.videos / _STRATA

    def requests(self, segment_frames: Iterable[int] = (32, 256, 3600)) -> list[Row]:
        """A row for each size of segment: objects, what writing and listing them takes, what a question reads."""
        on = self.inputs
        rows = []
        for size in sorted({*segment_frames, on.segment_frames}):
            segments = self.segments(size)
            objects = segments + on.videos  # each entry has a manifest
            lists = math.ceil(objects / on.list_keys)
            wanted = on.question_seconds * on.fps
            full = self.frames_of_segment(self.kept_bytes, size)
            rows.append(
                {
                    "segment_frames": size,
                    "objects": objects,
                    "mean_object_bytes": self.kept_bytes * on.frames / segments,
                    "put_dollars": objects * on.put_dollars_per_1000 / 1000,
                    "puts_per_second": objects / (on.days * 86400),
                    "list_requests": lists,
                    "list_seconds": lists * on.request_seconds,
                    # The manifest; and w frames from anywhere touch 1 + (w - 1) / n segments of n on average.
                    "question_gets": 1 + 1 + max(0.0, wanted - 1) / full,
                }
            )
        return rows

    @cached_property
    def request(self) -> Row:
        """The row of the chosen size of segment."""
        return next(row for row in self.requests() if row["segment_frames"] == self.inputs.segment_frames)

    # ------------------------------------------------------------------ dollars

    def bill(self) -> list[Row]:
        """What the chosen model, form and K cost; once, and every month."""
        on, request = self.inputs, self.request
        size = self.kept_bytes * on.frames
        lines = [
            ("GPU hours", self.worker["hours"], "once", self.worker["dollars"]),
            ("writes: segments and manifests", request["objects"], "once", request["put_dollars"]),
            ("is it done? one look a video", on.videos, "once", on.videos * on.get_dollars_per_1000 / 1000),
            ("videos read", on.videos, "once", on.videos * on.get_dollars_per_1000 / 1000),
            ("one listing of all objects", request["list_requests"], "each time", self._list_dollars()),
            ("GB kept", size / 1e9, "every month", self.store_dollars(size)),
            ("a million questions", 1e6 * request["question_gets"], "each time", self._question_dollars()),
        ]
        return [{"item": a, "amount": b, "when": c, "dollars": d} for a, b, c, d in lines]

    def _list_dollars(self) -> float:
        return float(self.request["list_requests"]) * self.inputs.put_dollars_per_1000 / 1000

    def _question_dollars(self) -> float:
        return 1e6 * float(self.request["question_gets"]) * self.inputs.get_dollars_per_1000 / 1000

    # ------------------------------------------------------------------ limits

    def limits(self) -> list[Row]:
        """What breaks, at which size, and where this library stands; in the order in which it breaks."""
        rows = [self._limit(*line) for line in self._limit_lines()]
        return sorted(rows, key=lambda row: -row["times"])

    @staticmethod
    def _limit(name: str, unit: str, here: float, breaks_at: float) -> Row:
        is_floor = unit == "bytes or less"
        times = breaks_at / here if is_floor else here / breaks_at
        return {"what": name, "unit": unit, "here": here, "breaks_at": breaks_at, "times": times}

    def _limit_lines(self) -> list[tuple[str, str, float, float]]:
        on, request, found = self.inputs, self.request, self.figures
        held = on.cache_gb * 1e9 / (self.kept_bytes * 3600 * on.fps)
        in_memory = on.node_memory_gb * 1e9 / found["search with voco-tiny, held in memory"].value
        in_a_second = 1 / found["search with voco-tiny, one question"].value
        month = on.store_dollars_per_gb_month / GIB
        small = [on.put_dollars_per_1000 / 1000 / month] if month else []  # what is kept for nothing has no such size
        mbits = self.worker["rate"] / on.fps * on.source_megabits
        workers = float(self.worker["count"])
        return [
            ("one cache folder: `cache ls` takes a minute", "entries", on.videos, 60 / found["listing"].value),
            ("one cache: what was unused longest is deleted", "hours", on.hours, held),
            (
                "listing the store, one request after the other, takes a minute",
                "objects",
                request["objects"],
                60 / on.request_seconds * on.list_keys,
            ),
            *(
                (
                    "small objects: writing one costs more than a month of keeping it",
                    "bytes or less",
                    request["mean_object_bytes"],
                    size,
                )
                for size in small
            ),
            ("writes under one prefix", "writes a second", request["puts_per_second"], on.put_rate),
            (
                "reads under one prefix: one video that all ask about",
                "questions a second",
                on.hot_questions_per_second,
                on.get_rate / request["question_gets"],
            ),
            ("search: what one machine holds in memory", "hours", on.hours, in_memory),
            ("search: one core goes through it in a second", "hours", on.hours, in_a_second),
            ("network of a GPU: reading the videos", "Mbit a second", mbits, on.network_gigabits * 1000),
            ("decoding: cores beside a GPU", "cores", self.worker["cores_wanted"], on.cores_per_gpu),
            (
                "stragglers: the longest video takes as long as all work shared out",
                "GPUs",
                workers,
                on.hours / on.longest_hours,
            ),
        ]


def checkpoint_figure(inputs: Inputs) -> Figure:
    """Bytes of a token of a checkpoint, by the product's own code.

    Raises:
        ModelError: there is no such checkpoint, or voco-video does not run on it.
    """
    from voco_video.checkpoint.describe import describe_checkpoint

    facts = describe_checkpoint(inputs.checkpoint)
    size = facts.bytes_per_frame[inputs.form] + (4 if inputs.form == "kv" else 0)  # kv keeps each token's position
    return Figure(size, "bytes per token", f"voco-video models {inputs.checkpoint} ({facts.dtype})", "computed")
