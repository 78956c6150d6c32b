"""All checks on a GPU, each step in a process of its own with a limit of its own; `scripts/gpu_checks.sh` starts it.

    python -m benchmarks.gpu OUT [--only b,c] [--rehearse]

    a  correctness         d  from a file to the cache
    b  compressing         e  training
    c  answering           f  8- and 4-bit weights

A line of JSON for each measurement goes to OUT/results.jsonl as it comes, what a step prints to OUT/log.txt.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.plan import RESULTS, write_line
from benchmarks.gpu.step import STEPS

TOTAL_SECONDS = 470.0  # eight minutes with the installation
LIMITS = {"a": 100.0, "b": 100.0, "c": 90.0, "d": 100.0, "e": 80.0, "f": 50.0}
"""Seconds of each step; together more than there are, since few need all of theirs."""
MACHINE_SECONDS = 60.0
LEAST_SECONDS = 15.0  # with less left, a step is not begun


@dataclass(frozen=True)
class Run:
    """A run of some steps."""

    out: Path
    is_rehearsal: bool
    ends: float

    def step(self, name: str, limit: float) -> bool:
        """Run a step, and tell whether all of it went well."""
        left = self.ends - time.monotonic()
        if left < LEAST_SECONDS:
            self._write(name, "skipped", f"{max(left, 0):.0f} s are left of all")
            return False
        seconds = min(limit, left)
        started = time.monotonic()
        code = self._process(name, seconds)
        spent = f"{time.monotonic() - started:.0f} s"
        if code is None:
            self._write(name, "timeout", f"not over after {seconds:.0f} s; what it had measured stands above")
        elif code not in (0, 1):  # 1: a part failed, which has its own line
            self._write(name, "failed", f"the process ended with {code} after {spent}; see log.txt")
        print(f"step {name}: {spent}", flush=True)
        return code == 0

    def _process(self, name: str, seconds: float) -> int | None:
        command = [sys.executable, "-m", "benchmarks.gpu.step", name, str(self.out)]
        command += ["--rehearse"] if self.is_rehearsal else []
        with (self.out / "log.txt").open("ab") as log:
            log.write(f"\n===== step {name}\n".encode())
            log.flush()
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None
            finally:
                if process.poll() is None:  # with its children
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def _write(self, name: str, status: str, why: str) -> None:
        write_line(self.out, {"step": name, "status": status, "why": why})


def steps_of(text: str) -> list[str]:
    """Names of steps, in the order in which they are run.

    >>> steps_of("c,b")
    ['b', 'c']
    """
    chosen = {name.strip() for name in text.split(",")}
    if unknown := sorted(chosen - STEPS.keys()):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no such step; choose among {','.join(STEPS)}")
    return [name for name in STEPS if name in chosen]


def main(arguments: list[str] | None = None) -> int:
    """Run the steps; 0 where all went well."""
    parser = argparse.ArgumentParser(
        prog="gpu_checks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", type=steps_of, default=list(STEPS), help="such as b,c")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the processor")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for all steps")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / RESULTS).unlink(missing_ok=True)
    run = Run(given.out, given.rehearse, time.monotonic() + given.seconds)
    if not run.step("machine", MACHINE_SECONDS):
        print((given.out / RESULTS).read_text(), file=sys.stderr)
        return 1
    good = [run.step(name, LIMITS[name]) for name in given.only]
    print(f"results: {given.out / RESULTS}; log: {given.out / 'log.txt'}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
