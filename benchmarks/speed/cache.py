"""The frame cache against raw files of the same bytes, and what int8 costs in logits and right answers.

    python -m benchmarks.speed.cache [--quick]

Speed: made-up keys and values of real models' shapes are written and read back. Writing ends with fsync on both sides;
the cache checksums what it writes, and what it reads for the first time in a process.

    write        all frames, in batches of 16, to a finished entry; one file, written and synced
    first read   files dropped from the page cache (where the system allows it), nothing verified yet in this process
    read again   files in the page cache, verified before
    slice        a tenth of the frames from the middle, as for a question about one minute

Every read touches each page of what it returns. Everything read has to be what was written.

int8: VoCo tokens of MovingShapes test scenes from voco-tiny, kept as they are and as int8; the error is the largest
move of a logit as a share of the logits' standard deviation, over all tokens of every question.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.questions import Case, accuracy, draw_case, outcomes_of
from benchmarks.report import Benchmark, Report, option, seconds_cell, table
from benchmarks.shapes import make_model
from benchmarks.timing import Timing, check_same, interleaved, joined, time_once
from voco_video.cache import CacheEntry, CacheKey, FrameCache
from voco_video.cache.int8 import dequantize, quantize
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.compression import Form
from voco_video.stored_tokens import read_tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_BYTES = 4096


@dataclass(frozen=True)
class Shape:
    """What one frame's VoCo token is at K = 1: keys and values of all layers, or one hidden state."""

    layers: int
    kv_heads: int
    head_dim: int
    width: int
    dtype: str

    def frame_bytes(self, form: str, num_voco_tokens: int, *, bytes_each: int) -> int:
        """One frame in the cache: keys, values and an int32 position of every token, or its last hidden state."""
        if form == "embeds":
            return num_voco_tokens * self.width * bytes_each
        return num_voco_tokens * (2 * self.layers * self.kv_heads * self.head_dim * bytes_each + 4)


SHAPES = {
    "voco-tiny": Shape(5, 4, 32, 128, "float32"),
    "Qwen2-7B": Shape(28, 4, 128, 3584, "float16"),
    "Vicuna-7B": Shape(32, 32, 128, 4096, "float16"),
}


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    shapes: tuple[str, ...] = option(("voco-tiny", "Qwen2-7B", "Vicuna-7B"), "whose keys and values, at K = 1")
    num_frames: int = option(600, "frames of an entry: 10 minutes at 1 fps")
    folder: str = option("", "where to write; the temporary folder when empty")
    num_scenes: int = option(60, "MovingShapes scenes for int8, 6 questions each")
    model: str = option("voco-tiny", "what compresses them")
    repeats: int = option(5, "rounds over all sides")
    max_seconds: float = option(30.0, "for a shape no round begins after this long")


QUICK = Settings(shapes=("voco-tiny", "Qwen2-7B"), num_frames=128, num_scenes=5, repeats=3, max_seconds=5.0)


def measure(settings: Settings) -> Report:
    """Speeds for every shape and storage, then int8's error."""
    speeds = [
        {"shape": name, "storage": storage} | measure_speed(SHAPES[name], storage, settings)
        for name in settings.shapes
        for storage in ("native", "int8")
    ]
    model = make_model(settings.model)
    int8 = [measure_int8(model, form, settings) for form in ("kv", "embeds")]
    return {"speeds": speeds, "int8": int8}


# ---------------------------------------------------------------------- speed


def made_up_tokens(shape: Shape, num_frames: int) -> VocoTokens:
    """Random keys and values in form ``kv``."""
    generator = torch.Generator().manual_seed(0)
    size = (num_frames, shape.layers, shape.kv_heads, 1, shape.head_dim)
    dtype = getattr(torch, shape.dtype)
    keys, values = (torch.randn(size, generator=generator).to(dtype) for _ in range(2))
    return VocoTokens("kv", positions=torch.full((num_frames, 1), 577, dtype=torch.int32), keys=keys, values=values)


@dataclass
class Bench:
    """One entry and one raw file of the same bytes, in a folder of their own."""

    folder: Path
    tensors: dict[str, Tensor]
    key: CacheKey
    num_frames: int

    def __post_init__(self) -> None:
        flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in self.tensors.values()]
        self.content = torch.cat(flat).numpy().tobytes()
        self.cache = FrameCache(self.folder / "cache", max_bytes=10**12)
        self.raw = self.folder / "raw"

    def write(self) -> CacheEntry:
        """All frames into a new entry."""
        with self.cache.writer(self.key, facts={}, restart=True) as writer:
            for start in range(0, self.num_frames, 16):
                window = slice(start, min(start + 16, self.num_frames))
                batch = {name: tensor[window] for name, tensor in self.tensors.items()}
                writer.append(batch, np.arange(window.start, window.stop, dtype=np.float64))
            return writer.finish({})

    def write_raw(self) -> None:
        """The same bytes into one file, synced."""
        with open(self.raw, "wb") as file:
            file.write(self.content)
            file.flush()
            os.fsync(file.fileno())

    def drop_pages(self) -> None:
        """Ask the system to forget the files' pages; clean ones go, where it listens."""
        if hasattr(os, "posix_fadvise"):
            for path in (self.raw, *(p for p in self.cache.cache_dir.rglob("*") if p.is_file())):
                fd = os.open(path, os.O_RDONLY)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)

    def entry(self, *, is_fresh: bool) -> CacheEntry:
        """The entry; a fresh cache object has verified nothing yet."""
        cache = FrameCache(self.cache.cache_dir, max_bytes=10**12) if is_fresh else self.cache
        entry = cache.get(self.key)
        assert entry is not None
        return entry

    def slice_bounds(self) -> tuple[int, int]:
        """A tenth of the frames, from the middle."""
        length = max(1, self.num_frames // 10)
        return self.num_frames // 2, self.num_frames // 2 + length

    def read_raw(self) -> int:
        """All bytes of the file."""
        return touch({"raw": torch.frombuffer(bytearray(self.raw.read_bytes()), dtype=torch.uint8)})

    def read_raw_slice(self) -> int:
        """As many bytes of the file as a slice of frames has."""
        start, stop = self.slice_bounds()
        per_frame = len(self.content) // self.num_frames
        with open(self.raw, "rb") as file:
            content = os.pread(file.fileno(), (stop - start) * per_frame, start * per_frame)
        return touch({"raw": torch.frombuffer(bytearray(content), dtype=torch.uint8)})


@contextmanager
def bench(shape: Shape, storage: str, settings: Settings) -> Iterator[Bench]:
    """A `Bench` whose files are gone afterwards."""
    tokens = made_up_tokens(shape, settings.num_frames).tensors()
    key = CacheKey("0" * 64, "0" * 64, {"form": "kv", "dtype": shape.dtype, "storage": storage})
    with tempfile.TemporaryDirectory(dir=settings.folder or None) as folder:
        stored = quantize(tokens) if storage == "int8" else tokens
        yield Bench(Path(folder), stored, key, settings.num_frames)


def touch(tensors: dict[str, Tensor]) -> int:
    """Read one byte of every page, so that nothing mapped goes unread."""
    return sum(int(t.reshape(-1).view(torch.uint8)[::PAGE_BYTES].sum()) for t in tensors.values())


def check_bench(on: Bench) -> None:
    """What is read back has to be what was written, whole and as a slice, from the cache and from the file.

    Raises:
        MismatchError: it is not.
    """
    on.write()
    on.write_raw()
    start, stop = on.slice_bounds()
    whole, part = on.entry(is_fresh=True).read(), on.entry(is_fresh=True).read(start, stop)
    for name, tensor in on.tensors.items():
        check_same({f"{name} written": tensor.float(), f"{name} read": whole[name].float()}, tolerance=0)
        check_same({f"{name} written": tensor[start:stop].float(), f"{name} slice": part[name].float()}, tolerance=0)
    found = np.frombuffer(on.raw.read_bytes(), np.uint8)
    expected = np.frombuffer(on.content, np.uint8)
    check_same({"written": torch.tensor(expected).float(), "raw file": torch.tensor(found).float()}, tolerance=0)


def measure_speed(shape: Shape, storage: str, settings: Settings) -> Report:
    """One shape and storage: every step by the cache and by raw files, in turns."""
    with bench(shape, storage, settings) as on:
        check_bench(on)
        start, stop = on.slice_bounds()
        timings = interleaved(
            {
                "write cache": on.write,
                "write raw": on.write_raw,
                "open cache": lambda: on.entry(is_fresh=True).close(),
                "again cache": lambda: touch(on.entry(is_fresh=False).read()),
                "again raw": on.read_raw,
                "slice cache": lambda: touch(on.entry(is_fresh=False).read(start, stop)),
                "slice raw": on.read_raw_slice,
                "tokens cache": lambda: read_tokens(on.entry(is_fresh=False)),
            },
            repeats=settings.repeats,
            max_seconds=settings.max_seconds,
        )
        timings |= first_reads(on, settings)
        size, sliced = len(on.content), len(on.content) * (stop - start) // on.num_frames
        sizes = {"write": size, "first": size, "again": size, "slice": sliced, "tokens": size, "open": 0}
        return {
            "size_bytes": size,
            "bytes_per_frame": size // on.num_frames,
            "steps": {
                name: timing.as_json() | {"mbytes_per_second": sizes[name.split()[0]] / timing.wall_seconds / 1e6}
                for name, timing in timings.items()
            },
        }


def first_reads(on: Bench, settings: Settings) -> dict[str, Timing]:
    """Reading what the page cache does not hold; dropping it is not timed."""
    sides: dict[str, Callable[[], Any]] = {
        "first cache": lambda: touch(on.entry(is_fresh=True).read()),
        "first raw": on.read_raw,
    }
    runs: dict[str, list[Timing]] = {name: [] for name in sides}
    for _ in range(settings.repeats):
        for name, side in sides.items():
            on.drop_pages()
            runs[name].append(time_once(side))
    return {name: joined(timings) for name, timings in runs.items()}


# ---------------------------------------------------------------------- int8


def measure_int8(model: VocoModel, form: Form, settings: Settings) -> Report:
    """Bytes, logit error and right answers of both storages on the same scenes."""
    outcomes: dict[str, list[Any]] = {"native": [], "int8": []}
    errors, bytes_per_frame = [], {}
    for index in range(settings.num_scenes):
        case = draw_case(index, seed=0, stage="video", temporal_fraction=0.5)
        with torch.inference_mode():
            tokens = model.compress(model.vision_tokens(case.pixels(model.backbone.images.fit.height)), form=form)
        stored = {"native": tokens.tensors(), "int8": quantize(tokens.tensors())}
        restored = replace(tokens, **dequantize(stored["int8"], dtype=model.backbone.dtype))
        errors.append(logit_error(model, tokens, restored, case))
        for storage, kept in (("native", tokens), ("int8", restored)):
            size = sum(t.numel() * t.element_size() for t in stored[storage].values())
            bytes_per_frame[storage] = size // tokens.num_frames
            outcomes[storage] += outcomes_of(model, model.prefix(kept), case, scene=index)
    return {
        "form": form,
        "dtype": str(model.backbone.dtype).removeprefix("torch."),
        "num_questions": len(outcomes["native"]),
        "bytes_per_frame": bytes_per_frame,
        "logit_error": {"median": statistics.median(errors), "greatest": max(errors)},
        "accuracy": {storage: accuracy(rows) for storage, rows in outcomes.items()},
    }


@torch.inference_mode()
def logit_error(model: VocoModel, tokens: VocoTokens, restored: VocoTokens, case: Case) -> float:
    """Largest move of a logit over a case's questions, as a share of the logits' standard deviation."""
    prefixes = model.prefix(tokens), model.prefix(restored)
    worst = 0.0
    for question in case.questions:
        ids = torch.tensor([model.backbone.conversation_ids([{"role": "user", "content": question.question}])])
        exact, moved = (model(ids.to(model.backbone.device), prefix=p)[0].float() for p in prefixes)
        worst = max(worst, float((exact - moved).abs().max() / exact.std()))
    return worst


# ---------------------------------------------------------------------- report


def ratios(report: Report) -> dict[str, float]:
    """What int8 leaves of the size. Speeds on disk differ threefold from run to run, so no floor could hold them."""
    found = {}
    for row in report["int8"]:
        sizes = row["bytes_per_frame"]
        found[f"{row['form']} {row['dtype']}: native bytes over int8 bytes"] = sizes["native"] / sizes["int8"]
    return found


def hour_bytes(fps: float) -> list[Report]:
    """What an hour takes in 16 bit, from the shapes alone."""
    return [
        {"shape": name, "form": form, "K": k, "bytes": 3600 * fps * shape.frame_bytes(form, k, bytes_each=2)}
        for name, shape in SHAPES.items()
        for form in ("kv", "embeds")
        for k in (1, 8)
    ]


def hour_table(rows: list[Report]) -> str:
    """A row a shape, a column for each form and K."""
    size = {(r["shape"], r["form"], r["K"]): f"{r['bytes'] / 1e6:,.1f} MB" for r in rows}
    columns = list(dict.fromkeys((r["form"], r["K"]) for r in rows))
    shapes = dict.fromkeys(r["shape"] for r in rows)
    cells = [[name, *(size[name, form, k] for form, k in columns)] for name in shapes]
    return table(["", *(f"{form} K = {k}" for form, k in columns)], cells)


def markdown(report: Report) -> str:
    """Two tables."""
    steps = ("write", "first", "again", "slice")
    headings = ["shape", "storage", "bytes a frame", "open", "write", "first read", "read again", "slice"]
    headings.append("to tokens")
    rows = []
    for r in report["speeds"]:
        cells = [r["shape"], r["storage"], r["bytes_per_frame"], seconds_cell(r["steps"]["open cache"])]
        for step in steps:
            ours, raw = (r["steps"][f"{step} {side}"]["mbytes_per_second"] for side in ("cache", "raw"))
            cells.append(f"{ours:.0f} MB/s, raw {raw:.0f} ({ours / raw:.2f})")
        rows.append([*cells, f"{r['steps']['tokens cache']['mbytes_per_second']:.0f} MB/s"])
    return "\n\n".join(
        [
            "# The frame cache",
            f"Entries of {report['settings']['num_frames']} frames, against raw files of the same bytes:",
            table(headings, rows),
            f"int8 on MovingShapes, `{report['settings']['model']}`:",
            _int8_table(report),
        ]
    )


def _int8_table(report: Report) -> str:
    headings = ["form, type", "bytes a frame", "int8", "logit error, median", "greatest", "questions"]
    headings += ["right", "right with int8"]
    rows = []
    for r in report["int8"]:
        sizes, error, right = r["bytes_per_frame"], r["logit_error"], r["accuracy"]
        share = f"{sizes['int8']} ({sizes['int8'] / sizes['native']:.2f})"
        cells = [f"{r['form']}, {r['dtype']}", sizes["native"], share]
        cells += [f"{error['median']:.4f}", f"{error['greatest']:.4f}", r["num_questions"]]
        rows.append([*cells, f"{right['native']:.1%}", f"{right['int8']:.1%}"])
    return table(headings, rows)


def draw(report: Report, figure: Figure) -> None:
    """Rates as bars, the cache beside raw files."""
    axes = figure.subplots(1, len(report["speeds"]), sharey=True)
    for axis, row in zip(np.atleast_1d(axes), report["speeds"], strict=True):
        steps = ("write", "first", "again", "slice")
        for place, side in enumerate(("cache", "raw")):
            heights = [row["steps"][f"{step} {side}"]["mbytes_per_second"] for step in steps]
            axis.bar([i + 0.4 * place for i in range(len(steps))], heights, 0.4, label=side)
        axis.set_xticks([i + 0.2 for i in range(len(steps))], steps, fontsize=8, rotation=45)
        axis.set_title(f"{row['shape']}\n{row['storage']}", fontsize=9)
        axis.set_yscale("log")
    first = np.atleast_1d(axes)[0]
    first.set_ylabel("MB/s")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2)


BENCHMARK = Benchmark(
    name="cache",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    measure=measure,
    markdown=markdown,
    draw=draw,
    ratios=ratios,
    size=(13, 3.8),
)

if __name__ == "__main__":
    BENCHMARK.main()
