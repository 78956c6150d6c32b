"""Child processes that work through seeds, and what becomes of those that end badly.

seeds -> pieces -> one child each -> a line per outcome; after a crash or a hang, another child at the next seed
"""

from __future__ import annotations

import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from benchmarks.fuzz.outcome import Outcome

_SEEDS_PER_CHILD = 40
_UNKNOWN = "unknown"


class Children:
    """Runs the `cases` of a module in `num_jobs` child processes at a time, each with a limit of time and memory."""

    def __init__(self, module: str, folder: Path, num_jobs: int, limit_seconds: float, memory_gib: float) -> None:
        self._module = module
        self._folder = folder
        self._num_jobs = num_jobs
        self._limit_seconds = limit_seconds
        self._memory_gib = memory_gib

    def run(self, seeds: Sequence[int]) -> list[Outcome]:
        """The outcome of every seed; a range goes to fewer children than other seeds."""
        pieces: queue.SimpleQueue[range] = queue.SimpleQueue()
        for piece in _pieces(seeds):
            pieces.put(piece)
        outcomes: list[Outcome] = []
        with tqdm(total=len(seeds), desc=self._module.rpartition(".")[2], file=sys.stderr) as bar:

            def work(number: int) -> None:
                folder = self._folder / str(number)
                folder.mkdir()
                while True:
                    try:
                        piece = pieces.get_nowait()
                    except queue.Empty:
                        return
                    for outcome in self._piece(piece, folder):
                        outcomes.append(outcome)
                        bar.set_postfix(findings=sum(each.is_finding for each in outcomes), refresh=False)
                        bar.update()

            threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(self._num_jobs)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return outcomes

    def _piece(self, seeds: range, folder: Path) -> Iterator[Outcome]:
        at = seeds.start
        while at < seeds.stop:
            with open(folder / "stderr", "w+", errors="replace") as errors:
                child = self._start(range(at, seeds.stop), folder, errors)
                try:
                    for outcome in self._outcomes(child):
                        yield outcome
                        at = outcome.seed + 1
                    if at < seeds.stop:
                        yield self._bad_end(child, at, errors)
                        at += 1
                finally:
                    _kill(child)

    def _start(self, seeds: range, folder: Path, errors: TextIO) -> subprocess.Popen[bytes]:
        settings = {
            "module": self._module,
            "seed": seeds.start,
            "count": len(seeds),
            "folder": str(folder),
            "memory_gib": self._memory_gib,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fuzz.child", json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            cwd=Path(__file__).parent.parent.parent,
        )

    def _outcomes(self, child: subprocess.Popen[bytes]) -> Iterator[Outcome]:
        """What a child reports, until it ends or says nothing for too long."""
        assert child.stdout
        pending = b""
        deadline = time.monotonic() + self._limit_seconds
        while select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            piece = os.read(child.stdout.fileno(), 1 << 16)
            if not piece:
                child.wait()
                return
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                deadline = time.monotonic() + self._limit_seconds
                yield Outcome(**json.loads(line))

    def _bad_end(self, child: subprocess.Popen[bytes], seed: int, errors: TextIO) -> Outcome:
        if child.poll() is None:
            if hasattr(signal, "SIGUSR1"):
                child.send_signal(signal.SIGUSR1)
                time.sleep(1.0)
            return Outcome(seed, _UNKNOWN, "hang", f"nothing for {self._limit_seconds:g} s; {_where(errors)}")
        if child.returncode < 0:
            return Outcome(seed, _UNKNOWN, "crash", f"{signal.Signals(-child.returncode).name}; {_where(errors)}")
        return Outcome(seed, _UNKNOWN, "exception", f"exit code {child.returncode}; {_last_line(errors)}")


def _pieces(seeds: Sequence[int]) -> Iterator[range]:
    """What one child is given at a time: neighbouring seeds."""
    if isinstance(seeds, range):
        for start in range(seeds.start, seeds.stop, _SEEDS_PER_CHILD):
            yield range(start, min(start + _SEEDS_PER_CHILD, seeds.stop))
    else:
        yield from (range(seed, seed + 1) for seed in seeds)


def _where(errors: TextIO) -> str:
    """The lines of each thread in which it stood, innermost first, as Python's fault handler lists them."""
    errors.seek(0)
    threads: list[list[str]] = []
    for line in errors:
        if line.startswith(("Thread ", "Current thread ")):
            threads.append([])
        elif threads and (found := re.match(r'  File ".*?([^/]+)", line (\d+) in (\S+)', line)):
            threads[-1].append(f"{found[1]}:{found[2]} {found[3]}")
    return " | ".join(" < ".join(lines[:6]) for lines in threads)


def _last_line(errors: TextIO) -> str:
    errors.seek(0)
    return next((line for line in reversed(errors.read().splitlines()) if line.strip()), "")


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert child.stdout
    child.stdout.close()
