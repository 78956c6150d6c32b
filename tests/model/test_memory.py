"""Frames per pass: as many as fit, half as many when memory runs out, and the same result whatever their number."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.clips import Clip
from tests.helpers.models import random_pixels, tiny_voco
from tests.helpers.tiny_families import tiny_family
from voco_video import cli
from voco_video.answer.generate import answer_questions
from voco_video.cache import FrameCache
from voco_video.compress import compress_video
from voco_video.errors import ModelError, UsageError
from voco_video.model.memory import Batching, free_bytes, is_out_of_memory, largest_batch, peak_bytes
from voco_video.options.answering import AnswerOptions
from voco_video.options.compression import CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.stored_tokens import read_tokens
from voco_video.video.frames import FrameBatch

CPU = torch.device("cpu")
HAS_PROC = Path("/proc/self/clear_refs").exists()


class ShortOfMemory(torch.nn.Module):
    """A projector in front of which more than ``most`` frames are too many, as an allocator would say."""

    def __init__(self, inner: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most, self.seen = inner, most, []

    def forward(self, features):
        self.seen.append(len(features))
        if len(features) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.inner(features)


def short_of_memory(most: int):
    model = tiny_voco()
    llava = model.backbone.hf_model.model
    llava.multi_modal_projector = ShortOfMemory(llava.multi_modal_projector, most)
    return model, llava.multi_modal_projector


def compressed(model, clip, folder, **options):
    result = compress_video(
        model,
        clip,
        cache=FrameCache(folder),
        sampling=Sampling(num_frames=13),
        options=CompressOptions(**options),
        fingerprint="ab" * 32,
    )
    return read_tokens(result.entry)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip("clip.mp4", num_frames=20).write(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("compressor", ["voco", "pool:4"])
def test_out_of_memory_halves_the_batch_and_changes_nothing(tmp_path, clip, most, compressor, monkeypatch):
    monkeypatch.setattr("voco_video.model.memory.largest_batch", lambda run, device: 8)  # what was free is not any more
    expected = compressed(tiny_voco(), clip, tmp_path / "fixed", batch_size=13, compressor=compressor)
    model, projector = short_of_memory(most)
    found = compressed(model, clip, tmp_path / "auto", batch_size="auto", compressor=compressor)
    for name, tensor in expected.tensors().items():
        torch.testing.assert_close(found.tensors()[name], tensor, atol=1e-5, rtol=1e-5)
    too_many = [n for n in projector.seen if n > most]
    assert too_many == [n for n in (8, 4, 2) if n > most], "every size that is too much is tried once"


def test_a_fixed_batch_that_does_not_fit_says_what_does(tmp_path, clip):
    model, _ = short_of_memory(3)
    with pytest.raises(ModelError, match="out of memory with 8 frames in one pass; use batch_size='auto'"):
        compressed(model, clip, tmp_path, batch_size=8)


def test_when_not_even_one_frame_fits(tmp_path, clip):
    model, _ = short_of_memory(0)
    with pytest.raises(ModelError, match="out of memory with a single frame: use dtype='bfloat16'"):
        compressed(model, clip, tmp_path, batch_size="auto")


def test_an_interrupted_run_keeps_what_fitted(tmp_path, clip):
    """The second half of a video runs out of memory for good; the next run goes on from the frames that are there."""
    model, projector = short_of_memory(4)
    cache = FrameCache(tmp_path)
    arguments = {"cache": cache, "sampling": Sampling(num_frames=13), "fingerprint": "ab" * 32}

    def fail_later(progress):
        projector.most = 0 if progress.num_frames >= 8 else 4

    with pytest.raises(ModelError, match="single frame"):
        compress_video(
            model,
            clip,
            options=CompressOptions(batch_size="auto"),
            on_progress=fail_later,
            batchings={CompressOptions(compressor="voco", batch_size="auto"): sized(4)},
            **arguments,
        )
    projector.most = 4
    result = compress_video(model, clip, options=CompressOptions(batch_size="auto"), **arguments)
    assert (result.num_resumed_frames, result.entry.num_frames) == (8, 13)


def sized(size: int) -> Batching:
    batching = Batching("auto")
    batching.size = size
    return batching


def test_what_fits_is_found_once_for_all_videos(tmp_path, clip):
    from voco_video.api import VideoModel

    model, projector = short_of_memory(100)
    video_model = VideoModel(model, FrameCache(tmp_path))
    video_model.compress(clip, num_frames=6, batch_size="auto")
    probes = [n for n in projector.seen if n <= 2]
    video_model.compress(clip, num_frames=7, batch_size="auto")
    assert [n for n in projector.seen if n <= 2] == probes


# ---------------------------------------------------------------------- what fits


@pytest.mark.skipif(not HAS_PROC, reason="no /proc to measure memory with")
def test_the_peak_of_a_piece_of_work_is_measured():
    def work():
        torch.ones(64 << 20, dtype=torch.uint8)

    work()
    assert 60 << 20 < peak_bytes(work, device=CPU) < 80 << 20
    assert peak_bytes(lambda: None, device=CPU) < 4 << 20
    assert 0 < free_bytes(CPU) < 1 << 50


@pytest.mark.skipif(not HAS_PROC, reason="no /proc to measure memory with")
@pytest.mark.parametrize(("free_frames", "expected"), [(1.2, 1), (4.0, 3), (10.0, 8), (1000.0, 16)])
def test_the_largest_batch_follows_from_what_two_frames_take(monkeypatch, free_frames, expected):
    frame = 48 << 20
    monkeypatch.setattr("voco_video.model.memory.free_bytes", lambda device: int(free_frames * frame))
    found = largest_batch(lambda n: torch.ones(n * frame, dtype=torch.uint8), device=CPU)
    assert abs(found - expected) <= (1 if 1 < expected < 16 else 0)


def test_two_frames_that_do_not_fit_leave_one():
    def run(num_frames):
        if num_frames > 1:
            raise MemoryError

    assert largest_batch(run, device=CPU) == 1


def test_other_errors_are_not_taken_for_lack_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

    def run(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    batch = FrameBatch(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2.0))
    with pytest.raises(RuntimeError, match="mat1"):
        next(Batching("auto").passes(batch, run))


class HeadShortOfMemory(torch.nn.Module):
    """A language-model head for which more than ``most`` rows are too many."""

    def __init__(self, inner: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most, self.seen = inner, most, []

    @property
    def weight(self):
        return self.inner.weight

    def forward(self, hidden):
        self.seen.append(len(hidden))
        if len(hidden) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(hidden)


def ask_everything(most: int):
    model = tiny_family("llava")
    hugging_face = model.backbone.hf_model
    hugging_face.lm_head = HeadShortOfMemory(hugging_face.lm_head, most)
    with torch.inference_mode():
        tokens = model.compress(model.vision_tokens(random_pixels(2)))
    questions = [f"{number}?" for number in range(7)]
    options = AnswerOptions(max_new_tokens=3)
    answers = answer_questions(
        model, model.prefix(tokens), questions, options=options, frame_pts_seconds=np.arange(2.0)
    )
    return [answer.token_ids for answer in answers], hugging_face.lm_head.seen


def test_questions_that_do_not_fit_together_are_asked_in_smaller_batches():
    expected, seen = ask_everything(7)
    assert set(seen) == {7}
    found, seen = ask_everything(3)
    assert found == expected
    assert set(seen) == {7, 3, 1}
    with pytest.raises(ModelError, match="out of memory with one question over 2 frames: ask about fewer"):
        ask_everything(0)


_REALLY_SHORT = """
import resource, sys
import numpy as np, torch
from pathlib import Path
from voco_video.model.memory import Batching
from voco_video.video.frames import FrameBatch

frame = 200 << 20
taken = next(1024 * int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if "VmSize" in l)
resource.setrlimit(resource.RLIMIT_AS, (taken + 5 * frame, resource.RLIM_INFINITY))
batching = Batching("auto")
batching.size = 8
batch = FrameBatch(np.zeros((8, 4, 4, 3), np.uint8), np.arange(8.0))

def run(part):
    return torch.empty(len(part) * frame, dtype=torch.uint8)[:1].clone()

print([len(part) for part, _ in batching.passes(batch, run)])
"""


@pytest.mark.skipif(not HAS_PROC, reason="no /proc to measure memory with")
def test_memory_that_really_runs_out_is_recovered_from():
    """In a process that may have five frames' worth of memory and not one byte more."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _REALLY_SHORT], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[4, 4]"


# ---------------------------------------------------------------------- command line


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", ""])
def test_a_batch_size_that_is_none(text, capsys, monkeypatch, clip):
    monkeypatch.setattr(sys, "argv", ["voco-video", "compress", str(clip), "--batch-size", text])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert "give a number of frames from 1 on, or auto" in capsys.readouterr().err
    with pytest.raises(UsageError, match="batch_size"):
        CompressOptions(batch_size="many")


def test_auto_on_the_command_line(capsys, monkeypatch, clip):
    for batch_size in ("16", "auto"):
        monkeypatch.setattr(
            sys, "argv", ["voco-video", "compress", str(clip), "--batch-size", batch_size, "--json", "--device", "cpu"]
        )
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert exit_.value.code == 0
    assert '"from_cache": true' in capsys.readouterr().out, "the size of a batch is no part of what is kept"


FAULTS = """
import resource, torch
from voco_video.model.freed_memory import keep_freed_memory
keep_freed_memory()
def batch():
    return [torch.ones(3_000_000) for _ in range(4)]
for _ in range(5):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.one_in(2)
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
@pytest.mark.parametrize("chosen", [{}, {"MALLOC_MMAP_THRESHOLD_": "65536"}])
def test_freed_memory_is_kept_unless_the_environment_says_otherwise(chosen):
    """480 MB of batches: kept memory is mapped in once; else every page of every batch, 4 KiB or 2 MiB each."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS]
    faults = int(subprocess.run(command, env=unset | chosen, capture_output=True, check=True, text=True).stdout)
    assert (faults > 200) == bool(chosen)


THREADS = """
import pathlib, resource, threading
import numpy as np
from voco_video.model.freed_memory import keep_freed_memory
keep_freed_memory()
ends = threading.Event()
def work(done):
    blocks = [np.ones(12_500) for _ in range(200)]
    del blocks
    done.set()
    ends.wait()
for _ in range(4):
    done = threading.Event()
    threading.Thread(target=work, args=(done,)).start()
    done.wait()
    print(int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
ends.set()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
@pytest.mark.parametrize("chosen", [{}, {"MALLOC_TRIM_THRESHOLD_": str(2**29)}])
def test_what_a_thread_frees_serves_the_next(chosen):
    """Four threads that all live on have 20 MB each, one after the other."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", THREADS]
    resident = subprocess.run(command, env=unset | chosen, capture_output=True, check=True, text=True).stdout.split()
    grown_mib = (int(resident[-1]) - int(resident[0])) / 2**20
    assert (grown_mib > 40) == bool(chosen)
