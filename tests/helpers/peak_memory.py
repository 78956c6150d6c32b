"""Run in a process of its own: loads a checkpoint and prints what memory that took, in bytes, as JSON.

    python peak_memory.py FOLDER DTYPE

Resident memory counts what is mapped from files too, as far as it was touched.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from voco_video.checkpoint.folder import load_voco_model


def status(field: str) -> int:
    """A line of this process's status: ``VmRSS`` now, ``VmHWM`` the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """Let ``VmHWM`` begin again at ``VmRSS``."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    load_voco_model("voco-tiny")  # what the libraries take by themselves is here before anything is counted
    forget_peak()
    before = status("VmRSS")
    model = load_voco_model(sys.argv[1], dtype=sys.argv[2])
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    checksum = sum(float(p.double().sum()) for p in model.parameters())
    print(json.dumps({"peak": status("VmHWM") - before, "model": size, "checksum": checksum}))
