"""What compressing costs: seconds by stage, bytes per frame and peak memory, for 1 and 10 minutes of 720p video.

    python -m benchmarks.compress [--quick] [--out benchmarks/results]

Each run is a process of its own, so that its peak resident memory is its own. Writes compress.json and compress.png
and prints a Markdown table. `--quick` uses 10 s and 60 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.clips import CLIPS, make_clip

STAGES = ("decode", "wait", "vision", "llm", "write", "total")
_RUN = """
import json, resource, sys
from voco_video import load_model
model = load_model("voco-tiny", cache_dir=sys.argv[2])
baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
video = model.compress(sys.argv[1], fps=1, form=sys.argv[3], storage=sys.argv[4])
entry = video.parts[0].entry
seconds = vars(video.stage_seconds) | {"total": video.result.total_seconds}
assert not video.from_cache
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"num_frames": entry.num_frames, "seconds": seconds, "bytes_per_frame": entry.bytes_per_frame,
                  "size_bytes": entry.size_bytes, "peak_bytes": peak * 1024, "loaded_bytes": baseline * 1024,
                  "int8_logit_error": entry.facts["int8_logit_error"]}))
"""


def measure(clip: Path, *, form: str = "kv", storage: str = "native") -> dict[str, Any]:
    """Compress a clip at 1 fps in a fresh process with an empty cache; its own account of time, bytes and memory."""
    with tempfile.TemporaryDirectory() as cache_dir:
        command = [sys.executable, "-c", _RUN, str(clip), cache_dir, form, storage]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    return json.loads(ran.stdout)


def median_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure over repeated runs, after checking that they did the same work."""
    assert len({(r["num_frames"], r["size_bytes"]) for r in runs}) == 1
    seconds = {s: statistics.median(r["seconds"][s] for r in runs) for s in STAGES}
    spread = [min(r["seconds"]["total"] for r in runs), max(r["seconds"]["total"] for r in runs)]
    peak = statistics.median(r["peak_bytes"] for r in runs)
    return runs[0] | {"seconds": seconds, "total_spread": spread, "peak_bytes": peak, "num_runs": len(runs)}


def plot(results: dict[str, Any], path: Path) -> None:
    """Stages as stacked bars; what overlaps is drawn beside what is waited for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2))
    for row, result in enumerate(results["durations"].values()):
        left = 0.0
        for number, stage in enumerate(("wait", "vision", "llm", "write")):
            width = result["seconds"][stage] / result["num_frames"] * 1000
            axes.barh(row, width, left=left, color=f"C{number}", label=stage if row == 0 else None)
            left += width
        decode = result["seconds"]["decode"] / result["num_frames"] * 1000
        axes.barh(row + 0.32, decode, height=0.12, color="grey", label="decode (own thread)" if row == 0 else None)
    axes.set_yticks(range(len(results["durations"])), list(results["durations"]))
    axes.set_xlabel("milliseconds per frame")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure, check, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 s and 60 s instead of 1 and 10 minutes, one run each")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    durations = (10, 60) if arguments.quick else (60, 600)
    repeats = 1 if arguments.quick else arguments.repeats
    clips = {seconds: make_clip(CLIPS, "h264", durations[0], seconds // durations[0]) for seconds in durations}
    runs: dict[int, list[dict[str, Any]]] = {seconds: [] for seconds in durations}
    for _ in range(repeats):  # interleaved, so that a busy minute does not fall on one side only
        for seconds in durations:
            runs[seconds].append(measure(clips[seconds]))
    results: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.compress", *sys.argv[1:]]),
        "durations": {f"{seconds} s": median_run(r) for seconds, r in runs.items()},
        "storage": {
            f"{form} {storage}": measure(clips[durations[0]], form=form, storage=storage)
            for form in ("kv", "embeds")
            for storage in ("native", "int8")
        },
    }
    short, long = (results["durations"][f"{seconds} s"] for seconds in durations)
    results["peak_memory_ratio"] = long["peak_bytes"] / short["peak_bytes"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "compress.json").write_text(json.dumps(results, indent=2) + "\n")
    plot(results, arguments.out / "compress.png")
    print_markdown(results)


def print_markdown(results: dict[str, Any]) -> None:
    """The same as tables for README."""
    print("| clip | frames | decode | wait | vision | LLM | write | total | peak memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, r in results["durations"].items():
        stages = " | ".join(f"{r['seconds'][s]:.2f} s" for s in STAGES)
        print(f"| {name} | {r['num_frames']} | {stages} | {r['peak_bytes'] / 2**20:.0f} MiB |")
    print(f"\npeak memory, longest over shortest: {results['peak_memory_ratio']:.3f}\n")
    print("| form, storage | bytes per frame | int8 logit error |")
    print("|---|---|---|")
    for name, r in results["storage"].items():
        error = "" if r["int8_logit_error"] is None else f"{r['int8_logit_error']:.4f}"
        print(f"| {name} | {r['bytes_per_frame']} | {error} |")


if __name__ == "__main__":
    main()
