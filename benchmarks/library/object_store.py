"""What commands ask of an object store: requests and bytes, counted at the server.

    python -m benchmarks.library.object_store             # prints the table
    python -m benchmarks.library.object_store --record    # also writes benchmarks/results/library/object_store.json

A real S3 server (moto's) runs in a process of its own, behind a proxy that counts: `pip install s3fs 'moto[server]'`.
Requests and bytes depend on the code, not on the machine; times would say nothing of a real store, and are not taken.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import RESULTS, machine, table
from tests.helpers.object_server import ObjectServer, object_server

FILE = RESULTS / "library" / "object_store.json"
URL = "s3://bucket/frames"
BATCH_SIZE = 16  # frames that compress appends at once
HOUR_SECONDS, MINUTE_SECONDS, NUM_TOKENS = 3600, 60, 8
SHAPES = {"voco-tiny": 64, "Qwen2-7B": 3584}
"""Width of an embedding; the hours are of embeddings with K = 8 in 32 bit (voco-tiny) and K = 1 in 16 bit."""


def measure() -> dict[str, Any]:
    """Count what each step takes; every step begins with nothing on this machine unless its name says otherwise."""
    with tempfile.TemporaryDirectory() as folder, object_server() as server:
        os.environ.update(server.environment)
        os.environ["VOCO_VIDEO_CACHE_DIR"] = f"{folder}/here"
        rows = [*_commands(server, Path(folder)), *_hours(server, Path(folder))]
    return {"benchmark": "object_store", "machine": machine(), "rows": rows}


def markdown(report: dict[str, Any]) -> str:
    """The rows as a table."""
    heads = ["step", "GET", "PUT", "listings", "other", "bytes read", "bytes written", "read / needed"]
    return table(heads, [[_cell(row[head]) for head in heads] for row in report["rows"]])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _commands(server: ObjectServer, folder: Path) -> list[dict[str, Any]]:
    from voco_video.api import load_model
    from voco_video.shapes.rendering import write_clip
    from voco_video.shapes.world import demo_scene

    write_clip(demo_scene(), folder / "clip.mp4", size=96)
    model = load_model("voco-tiny", cache_dir=URL)

    def compress() -> Any:
        return model.compress(folder / "clip.mp4", fps=1)

    rows = [
        _row(server, "compress a clip of 8 frames", compress),
        _row(server, "compress it again", compress),
        _row(server, "ask the clip", lambda: compress().ask("who moves?"), folder),
        _row(server, "ask it again, frames in the tier", lambda: compress().ask("who is green?")),
        _row(server, "find in it, frames in the tier", lambda: compress().find("a star")),
        _row(server, "name it", lambda: model.cache.give_name(compress().result.entry.digest, "clip")),
        _row(server, "ask by its name", lambda: model.open("clip").ask("who moves?"), folder),
        _row(server, "verify all (one entry)", model.cache.verify),
    ]
    model.cache.remove("clip")
    return rows


def _hours(server: ObjectServer, folder: Path) -> list[dict[str, Any]]:
    import torch

    from voco_video.cache import CacheKey, FrameCache

    rows = []
    for shape, width in SHAPES.items():
        key = CacheKey("ab" * 32, "cd" * 32, {"shape": shape})
        tokens, dtype = (NUM_TOKENS, torch.float32) if shape == "voco-tiny" else (1, torch.bfloat16)
        frames = torch.randn(HOUR_SECONDS, tokens, width, generator=torch.Generator().manual_seed(0)).to(dtype)

        def write(key: Any = key, frames: Any = frames) -> None:
            with FrameCache(URL).writer(key, facts={}) as writer:
                for start in range(0, HOUR_SECONDS, BATCH_SIZE):
                    stop = min(start + BATCH_SIZE, HOUR_SECONDS)
                    writer.append({"embeds": frames[start:stop]}, np.arange(float(start), stop))
                writer.finish()

        def read(start: int, stop: int, key: Any = key, frames: Any = frames) -> None:
            entry = FrameCache(URL).get(key)
            assert entry is not None
            assert torch.equal(entry.read(start, stop)["embeds"], frames[start:stop])

        size = frames.nbytes // HOUR_SECONDS
        minute, all_frames = (1000, 1000 + MINUTE_SECONDS), (0, HOUR_SECONDS)
        rows += [
            _row(server, f"write an hour, {shape}", write),
            _row(
                server, f"read a minute of it, {shape}", lambda r=read, m=minute: r(*m), folder, MINUTE_SECONDS * size
            ),
            _row(server, f"the same minute again, {shape}", lambda r=read, m=minute: r(*m)),
            _row(server, f"read one frame of it, {shape}", lambda r=read: r(77, 78), folder, size),
            _row(server, f"read all of it, {shape}", lambda r=read, a=all_frames: r(*a), folder, frames.nbytes),
        ]
    return rows


def _row(
    server: ObjectServer, step: str, run: Callable[[], Any], forget: Path | None = None, needed: int = 0
) -> dict[str, Any]:
    """Count one step; with ``forget`` it begins with nothing on this machine."""
    if forget is not None:
        shutil.rmtree(forget / "here", ignore_errors=True)
    server.forget()
    run()
    listings = sum("list-type" in one.path for one in server.requests)
    gets, puts, read = server.counts("GET") - listings, server.counts("PUT"), server.sent_bytes
    return {
        "step": step,
        "GET": gets,
        "PUT": puts,
        "listings": listings,
        "other": len(server.requests) - gets - puts - listings,
        "bytes read": read,
        "bytes written": sum(one.received_bytes for one in server.requests if one.method == "PUT"),
        "read / needed": round(read / needed, 3) if needed else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"also write {FILE.name}")
    report = measure() if (options := parser.parse_args()) else {}
    print(markdown(report))
    if options.record:
        FILE.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
