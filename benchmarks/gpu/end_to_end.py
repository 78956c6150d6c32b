"""Step d: from a file to the cache, decoded on the processor beside the model, and what each help gives."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partialmethod
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.clips import make_clip
from benchmarks.gpu.arithmetic import FLOPS_PER_SECOND, compress_bytes, compress_flops
from benchmarks.gpu.plan import Bench, Figures, Part
from voco_video.cache import CacheEntry, FrameCache
from voco_video.compress import compress_video
from voco_video.options.compression import BatchSize, CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.video.reading import Video, open_video

K = 1
OPTIONS = CompressOptions(compressor="voco", num_voco_tokens=K, form="kv")
SHORT_SHARE = 0.25  # of the clip, for the ways that are only compared


def parts(bench: Bench) -> Iterator[Part]:
    """As it is, decoding alone, then with one help less at a time."""
    plan = bench.plan
    needed = compress_bytes(bench.shape, plan.clip_batch, K)
    frames = plan.clip[0] * plan.clip[1] * plan.fps
    expected = {"model_seconds_at_peak": frames * compress_flops(bench.shape, K) / FLOPS_PER_SECOND}
    whole, short = 1.0, SHORT_SHARE
    yield Part("the clip is encoded", lambda: {"size_bytes": _clip(bench).stat().st_size})
    yield Part("as it is", lambda: _compress(bench, whole), needed, expected=expected)
    yield Part("decoding alone", lambda: _decode(bench, short))
    lacks = "" if bench.is_gpu and find_spec("torchcodec") else "torchcodec is not installed, or there is no GPU"
    yield Part("decoding on the GPU", lambda: _decode_on_gpu(bench, short), lacks=lacks)
    kept: dict[str, CacheEntry] = {}
    for name in ("all helps", "no prefetch", "not pinned", "not one late"):
        yield Part(f"a quarter, {name}", lambda name=name: _compress(bench, short, without=name, kept=kept), needed)  # type: ignore[misc]
    yield Part("as it is, batch size auto", lambda: _compress(bench, short, batch_size="auto"), needed)


def _clip(bench: Bench) -> Path:
    return make_clip(bench.folder / "clips", "h264", *bench.plan.clip)


def _sampling(bench: Bench, share: float) -> Sampling:
    seconds = bench.plan.clip[0] * bench.plan.clip[1]
    return Sampling(fps=bench.plan.fps, end_seconds=None if share == 1 else seconds * share)


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Switch off what hides waiting; results stay the same."""
    with ExitStack() as stack:
        if name == "no prefetch":
            batches = partialmethod(Video.batches, prefetch_batches=0)
            stack.enter_context(mock.patch.object(Video, "batches", batches))
        if name == "not pinned":
            stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor))
        if name == "not one late":
            stack.enter_context(mock.patch("voco_video.compress.fetched", lambda passes, device: passes))
        yield


def _compress(
    bench: Bench,
    share: float,
    *,
    without: str = "",
    kept: dict[str, CacheEntry] | None = None,
    batch_size: BatchSize | None = None,
) -> Figures:
    model, clip = bench.model, _clip(bench)
    options = replace(OPTIONS, batch_size=batch_size or bench.plan.clip_batch)
    cache = FrameCache(bench.folder / f"cache {without or batch_size}")
    started = time.perf_counter()
    with _without(without):
        result = compress_video(
            model, clip, cache=cache, sampling=_sampling(bench, share), options=options, fingerprint="0" * 64
        )
    seconds = time.perf_counter() - started
    if kept is None:
        shutil.rmtree(cache.cache_dir)
    else:
        kept[without] = result.entry
        _check_same(next(iter(kept.values())), result.entry)
    stages = {f"{name}_seconds": value for name, value in vars(result.seconds).items() if isinstance(value, float)}
    count = result.entry.num_frames
    return {"num_frames": count, "total_seconds": seconds, "frames_per_second": count / seconds} | stages


def _check_same(first: CacheEntry, second: CacheEntry) -> None:
    one, other = first.read(), second.read()
    if one.keys() != other.keys() or not all(torch.equal(one[name], other[name]) for name in one):
        raise ValueError("with and without this help the entries differ")


def _decode(bench: Bench, share: float) -> Figures:
    started, count = time.perf_counter(), 0
    with open_video(_clip(bench)) as video:
        for batch in video.batches(_sampling(bench, share), fit=bench.shape.backbone.images.fit):
            count += len(batch)
    seconds = time.perf_counter() - started
    return {"num_frames": count, "total_seconds": seconds, "frames_per_second": count / seconds}


def _decode_on_gpu(bench: Bench, share: float) -> Figures:
    from torchcodec.decoders import VideoDecoder

    with open_video(_clip(bench)) as video:
        seconds = video.plan(_sampling(bench, share))
    started = time.perf_counter()
    frames = VideoDecoder(str(_clip(bench)), device="cuda").get_frames_played_at(np.asarray(seconds).tolist()).data
    torch.cuda.synchronize()
    spent = time.perf_counter() - started
    return {"num_frames": len(frames), "total_seconds": spent, "frames_per_second": len(frames) / spent}
