"""Mutated checkpoint folders, through `load_model` and the commands that read a checkpoint.

    python -m benchmarks.fuzz checkpoints --count 300

Each case damages one file of a sound folder, then asks, describes, converts and trains with it in a process of its own,
whose memory is measured. Right is one clear error, or a result that the damage does not touch, or one that is as the
changed file says: then changed tokens come with a changed key, so that they never stand in for others in the cache.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.fuzz.checkpoint_folders import make_clip, make_folders, mutate
from benchmarks.fuzz.outcome import Outcome

SECONDS = 120  # of a processor for one case; sound ones take about one
WAITING = 20  # times as long by the clock, where other work has the processors or nothing moves
MAX_BYTES = 600 << 20  # above what the process held before; sound ones take less than a tenth
TRAIN_EVERY = 5

TRAIN = """\
model: {model}
output_dir: {output}
max_steps: 1
global_batch_size: 2
per_device_batch_size: 2
num_turns: 2
report_to: []
lora_rank: 2
"""


@dataclass(frozen=True)
class Result:
    """What came of one folder.

    Attributes:
        error: the message of the first `VocoVideoError`; empty where there was none.
        fault: what must not be: a traceback, a wrong exit code, too much memory.
        entry: the key of the tokens in the cache.
        tokens: a digest of them.
        answer: the answer and its confidence.
    """

    error: str = ""
    fault: str = ""
    entry: str = ""
    tokens: str = ""
    answer: str = ""


def cases(*, count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Outcomes of the mutations with seeds from ``seed`` on.

    Args:
        folder: for the sound folders and what is written meanwhile.
    """
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    folder = Path(tempfile.mkdtemp(dir=folder))  # one that an earlier child of the same folder has not written to
    folders, clip = make_folders(folder / "sound"), make_clip(folder / "clip.mp4")
    worker = Worker(clip, folder)
    sound = {kind: worker.result(path, seed=1) for kind, path in folders.items()}
    for kind, result in sound.items():
        if result.error or result.fault:
            raise RuntimeError(f"the sound folder of kind {kind} gives {result}")
    try:
        for number in range(seed, seed + count):
            rng = random.Random(number)
            kind = rng.choice(sorted(folders))
            mutated = folder / "mutated"
            _remove(mutated)
            shutil.copytree(folders[kind], mutated)
            what, is_gone = mutate(mutated, rng)
            found = worker.result(mutated, seed=number)
            outcome, detail = judged(found, sound[kind], is_gone=is_gone)
            yield Outcome(number, f"{kind}/{what}", outcome, detail)
    finally:
        worker.close()


def judged(found: Result, sound: Result, *, is_gone: bool) -> tuple[str, str]:
    """One of OUTCOMES, and why."""
    if found.fault:
        outcome = found.fault.partition(":")[0]
        return (outcome if outcome in ("hang", "crash") else "exception"), found.fault
    if found.error:
        return "error", found.error
    if (found.tokens, found.answer) == (sound.tokens, sound.answer):
        return "right", ""
    if is_gone:
        return "silent", "a file is gone, and the result is another one"
    if found.tokens != sound.tokens and found.entry == sound.entry:
        return "silent", "other tokens under the same key"
    return "right", "another result, as the changed file says"


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


class Worker:
    """The process that loads what is damaged; another one follows where it dies or hangs."""

    def __init__(self, clip: Path, folder: Path) -> None:
        self._clip, self._folder = clip, folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, self._clip, self._folder), daemon=True)
        self._process.start()
        there.close()

    def result(self, path: Path, *, seed: int) -> Result:
        """What comes of one folder."""
        self._here.send((path, seed))
        start, used = time.monotonic(), self._processor_seconds()
        try:
            while self._processor_seconds() - used < SECONDS and time.monotonic() - start < WAITING * SECONDS:
                if self._here.poll(1):
                    found: Result = self._here.recv()
                    return found
            fault = f"hang: {self._processor_seconds() - used:.0f} s of {time.monotonic() - start:.0f} s"
        except (EOFError, ConnectionError):
            self._process.join(10)
            fault = f"crash: the process ended with {self._process.exitcode}"
        self.close()
        self._start()
        return Result(fault=fault)

    def _processor_seconds(self) -> float:
        """What the process has computed so far; 0 where the system does not say."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _work(connection: Any, clip: Path, folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    while True:
        path, seed = connection.recv()
        before = _reset_peak()
        try:
            found = _through_everything(path, clip, folder, seed)
        except BaseException:
            found = Result(fault="exception: " + traceback.format_exc(limit=-4))
        taken = _peak() - before
        if taken > MAX_BYTES and not found.fault:
            found = replace(found, fault=f"crash: it took {taken >> 20} MiB of memory")
        connection.send(found)


def _through_everything(path: Path, clip: Path, folder: Path, seed: int) -> Result:
    from voco_video.errors import VocoVideoError

    cache, output = folder / "cache", folder / "out"
    for old in (cache, output):
        _remove(old)
    found = Result()
    try:
        found = _asked(path, clip, cache)
    except VocoVideoError as error:
        found = Result(error=_checked_message(str(error)))
    commands: list[tuple[str, ...]] = [("models", str(path)), ("convert", str(path), str(output / "converted"))]
    if found.error:
        commands.append(("ask", str(clip), "What?", "--anyway", "--model", str(path), "--cache-dir", str(cache)))
    if found.error or seed % TRAIN_EVERY == 0:
        output.mkdir(exist_ok=True)
        recipe = output / "train.yaml"
        recipe.write_text(TRAIN.format(model=path, output=output / "run"))
        commands.append(("train", str(recipe)))
    for command in commands:
        code, err = _command(*command)
        errors = re.findall(r"error: .*", err)  # a progress bar may stand before it
        if code not in (0, 1, 2) or (code and len(errors) != 1) or (found.error and command[0] == "ask" and not code):
            return replace(found, fault=f"exception: {command[0]} ended with {code}: {err[-600:]}")
        if code and not found.error and command[0] == "models":
            found = replace(found, error=f"models alone: {errors[0]}")
    return found


def _checked_message(message: str) -> str:
    if "\n" in message.strip() or len(message) > 1200:
        raise RuntimeError(f"an error of several lines, or a very long one: {message}")
    return message


def _asked(path: Path, clip: Path, cache: Path) -> Result:
    from blake3 import blake3

    from voco_video import load_model

    model = load_model(path, cache_dir=cache, device="cpu")
    compressor = "voco" if model.num_voco_tokens else "pool:4"
    video = model.compress(clip, num_frames=2, compressor=compressor)
    answer = video.ask("What?", max_new_tokens=4)
    entry = video.parts[0].entry
    digest = blake3()
    for name, tensor in sorted(entry.read().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return Result(entry=entry.digest, tokens=digest.hexdigest(), answer=f"{answer.text!r} {answer.confidence}")


def _command(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the program, run in this process as its entry point does."""
    from voco_video import cli

    err, argv = io.StringIO(), sys.argv
    sys.argv = ["voco-video", *arguments]
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            cli.main()
        code: Any = 0
    except SystemExit as exit_:
        code = exit_.code or 0
    finally:
        sys.argv = argv
    return code, err.getvalue()


def _reset_peak() -> int:
    """The memory that this process holds now; its peak counts from here. Linux alone says so."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0
