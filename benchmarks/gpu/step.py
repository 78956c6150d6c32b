"""One step in a process of its own, which `benchmarks.gpu` starts: ``python -m benchmarks.gpu.step b OUT``."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.gpu.plan import FULL, REHEARSAL, Bench, run_parts, write_line
from benchmarks.gpu.wheels import declared, installed_version
from benchmarks.report import machine

STEPS = {
    "a": "correctness",
    "b": "compressing",
    "c": "answering",
    "d": "end_to_end",
    "e": "training",
    "f": "weights",
}


def describe_machine(out: Path, *, is_rehearsal: bool) -> bool:
    """Write what all figures were measured on, and whether the library is older than what is declared."""
    line = {"step": "machine", "status": "ok", "is_rehearsal": is_rehearsal} | machine()
    asked = next(r for r in declared() if r.name == "transformers")
    here = installed_version("transformers") or ""
    if not asked.specifier.contains(here, prereleases=True):
        line["note"] = f"transformers {here} is outside of {asked.specifier}, which this version is tested with"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        line |= {"gpu_free_bytes": free, "gpu_total_bytes": total, "cuda": torch.version.cuda}
    elif not is_rehearsal:
        line |= {"status": "failed", "why": "no GPU: torch.cuda.is_available() is False; --rehearse needs none"}
    write_line(out, line)
    return line["status"] == "ok"


def main() -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("machine", *STEPS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    if given.step == "machine":
        return 0 if describe_machine(given.out, is_rehearsal=given.rehearse) else 1
    with tempfile.TemporaryDirectory(prefix="voco-video-gpu-") as folder:
        bench = Bench(REHEARSAL if given.rehearse else FULL, Path(folder))
        parts = importlib.import_module(f"benchmarks.gpu.{STEPS[given.step]}").parts(bench)
        is_good = run_parts(given.step, parts, bench, given.out)
        table = bench.folder / "profile.txt"
        if table.exists():
            (given.out / table.name).write_text(table.read_text())
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
