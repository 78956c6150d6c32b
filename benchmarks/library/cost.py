"""What compressing and keeping a library of videos takes: frames a second, bytes, requests, dollars, limits.

    python -m benchmarks.library.cost                                      one million videos, 100 000 hours
    python -m benchmarks.library.cost --videos 5000 --hours 20000 --longest-hours 24
    python -m benchmarks.library.cost --form kv --num-voco-tokens 8 --gpus 256 --days 3
    python -m benchmarks.library.cost --gpu-frames-per-second 38           once you have measured it
    python -m benchmarks.library.cost --checkpoint ./my-model --gpu-frames-per-second 200
    python -m benchmarks.library.cost --json > cost.json

It is arithmetic. What was measured comes from benchmarks/results/*.json; everything else is an option with a default
that is named as an assumption, or with the page that it was published on. Where a GPU was not measured, its speed is
its peak times a share: change both to what you see. See docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.library.arithmetic import Arithmetic
from benchmarks.library.command import add_flags, options_from
from benchmarks.library.inputs import Inputs
from benchmarks.library.units import dollars, duration, number, size
from voco_video.errors import UsageError, VocoVideoError

Report = dict[str, Any]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def inputs_table(report: Report) -> str:
    """Every input: what it is, and where its value comes from."""
    rows = []
    for row in report["inputs"]:
        value = row["value"] if isinstance(row["value"], str) else f"{row['value']:,g}"
        if isinstance(row["value"], (int, float)) and row["value"] >= 1000:
            value = f"{row['value']:,.0f}"
        source = f"{row['kind']}: {row['source']}" if row["source"] else row["kind"]
        rows.append([f"`{row['flag']}`", value or "–", row["help"], source])
    return table(["option", "default", "what it is", "where it is from"], rows)


def figures_table(report: Report) -> str:
    """Every measured figure with its file and keys."""
    rows = [
        [name, number(figure["value"]), figure["unit"], figure["kind"], f"`{figure['source']}`"]
        for name, figure in report["figures"].items()
    ]
    return table(["figure", "value", "unit", "how", "file in `benchmarks/results/` and keys"], rows)


def needed_table(report: Report) -> str:
    """Frames a second for each GPU."""
    counts = list(report["needed"][0]["per_gpu"])
    rows = [
        [f"{row['days']:g}", number(row["frames_per_second"]), *(number(row["per_gpu"][n]) for n in counts)]
        for row in report["needed"]
    ]
    return table(["days", "frames/s in all", *(f"each of {n} GPUs" for n in counts)], rows)


def workers_table(report: Report) -> str:
    """What a GPU does with its cores, and how many it takes."""
    rows = []
    for row in report["workers"]:
        on_gpu = [number(row[key]) for key in ("gpu_rate", "cores_wanted", "decode_rate")] if "gpu_rate" in row else []
        cells = on_gpu or ["–", "–", "–"]
        kind = "GPUs" if on_gpu else "cores"
        rows.append([row["model"], *cells, f"**{number(row['rate'])}**", number(row["hours"])])
        rows[-1] += [f"{row['count']:,} {kind}", dollars(row["dollars"])]
    headings = ["model", "GPU alone, frames/s", "cores it would want", "its cores decode, frames/s", "so frames/s"]
    return table([*headings, "hours of them", "for the deadline", "once"], rows)


def bytes_table(report: Report) -> str:
    """Bytes for each shape, form and K."""
    sizes = ("frame_bytes", "hour_bytes", "library_bytes", "object_bytes")
    rows = [
        [
            row["shape"],
            row["form"],
            str(row["K"]),
            *(size(row[key]) for key in sizes),
            dollars(row["dollars_per_month"]),
        ]
        for row in report["bytes"]
    ]
    return table(["model", "form", "K", "a frame", "an hour", "the library", "a full segment", "a month"], rows)


def requests_table(report: Report) -> str:
    """Objects and requests by the size of a segment."""
    rows = []
    for row in report["requests"]:
        rows.append([f"{row['segment_frames']:,}", number(row["objects"]), size(row["mean_object_bytes"])])
        rows[-1] += [dollars(row["put_dollars"]), number(row["puts_per_second"]), number(row["list_requests"])]
        rows[-1] += [duration(row["list_seconds"]), number(row["question_gets"])]
    headings = [
        "frames a segment",
        "objects",
        "a segment, on average",
        "writing them",
        "writes/s",
        "requests to list all",
    ]
    return table([*headings, "one after the other", "reads a question"], rows)


def bill_table(report: Report) -> str:
    """What it costs."""
    rows = [[row["item"], number(row["amount"]), row["when"], dollars(row["dollars"])] for row in report["bill"]]
    return table(["what", "how many", "when", "dollars"], rows)


def limits_table(report: Report) -> str:
    """What breaks first."""
    rows = []
    for row in report["limits"]:
        is_size = row["unit"] == "bytes or less"
        at = f"{size(row['breaks_at'])} or less" if is_size else f"{number(row['breaks_at'])} {row['unit']}"
        rows.append([row["what"], at, (size if is_size else number)(row["here"]), f"{number(row['times'])} times"])
    return table(["what breaks", "at", "this library", "which is"], rows)


TABLES: dict[str, tuple[str, Callable[[Report], str]]] = {
    "needed": ("Frames a second", needed_table),
    "workers": ("Workers", workers_table),
    "bytes": ("Bytes", bytes_table),
    "requests": ("Requests", requests_table),
    "bill": ("Cost", bill_table),
    "limits": ("What breaks first", limits_table),
    "inputs": ("Inputs", inputs_table),
    "figures": ("Measured figures", figures_table),
}


def markdown(report: Report) -> str:
    """All tables."""
    parts = ["# A library of videos", *(f"note: {note}" for note in report["notes"])]
    parts += [f"## {title}\n\n{draw(report)}" for title, draw in TABLES.values()]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables or, with ``--json``, what they are made of; 2 for a value that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.library.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON: inputs, figures with their sources, tables")
    add_flags(parser, Inputs)
    parsed = parser.parse_args(arguments)
    try:
        report = Arithmetic(options_from(parsed, Inputs)).report()
    except VocoVideoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(json.dumps(report, indent=1) if parsed.json else markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
