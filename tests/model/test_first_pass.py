"""The first pass of a process computes what every later one does.

MKL's vector math chooses its kernels at the first call in a process. Where two threads make that call together, one of
them may use inexact ones: in 63 of 5 000 processes half of a cosine of two threads was off by 1.5e-4.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A process that has used no vector math forks others, each of which is as a fresh one and far cheaper to start.
CHILDREN = """
import os, sys, threading
import torch
import voco_video
sys.path.insert(0, {root!r})
{imports}

def compare():
{body}

different = 0
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = int(compare())
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    if code > 1:
        sys.exit(f"exit code {{code}}")
    different += code
print(different)
"""

# What the library's rotary embeddings, activations and softmax call, in tables that two threads share.
FUNCTIONS = """
    numbers = torch.arange(5000, dtype=torch.float32) * 0.0173
    torch.ones(300, 300) @ torch.ones(300, 300)  # its threads are there already, as after a vision tower
    torch.ones(200_000) + 1
    first, second = ([f(numbers) for f in (torch.cos, torch.sin, torch.exp, torch.tanh)] for _ in range(2))
    return not all(torch.equal(a, b) for a, b in zip(first, second))
"""

FAMILY = """
    voco = tiny_family(FAMILY)
    fit = voco.backbone.images.fit
    pixels = random_pixels(16, size=max(fit.height, fit.width))[:, : fit.height, : fit.width]
    ends = threading.Event()
    decoding = threading.Thread(target=lambda: [sum(range(2000)) for _ in iter(ends.is_set, True)])
    decoding.start()
    kept = [compressed(voco, pixels) for _ in range(2)]
    ends.set()
    decoding.join()
    return not all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
"""

COMPRESSED = """
from tests.helpers.models import random_pixels
from tests.helpers.tiny_families import tiny_family
from voco_video.checkpoint.folder import load_voco_model
from voco_video.model.inference import undisturbed

def compressed(voco, pixels):
    with undisturbed():
        return voco.compress(voco.vision_tokens(pixels)).tensors()
"""


def num_different(body: str, *, count: int, imports: str = "") -> int:
    """In how many of so many fresh processes with two threads the first computation differs from the second."""
    script = CHILDREN.format(root=str(Path(__file__).parents[2]), imports=imports, body=body)
    environment = os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(count)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_the_first_call_of_vector_math_is_exact():
    assert num_different(FUNCTIONS, count=60, imports="import voco_video.model.inference") == 0


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_first_call_of_vector_math_is_exact_in_many_processes():
    assert num_different(FUNCTIONS, count=1500, imports="import voco_video.model.inference") == 0


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "llava_onevision", "smolvlm", "internvl", "qwen2_5_vl", "qwen3_vl"])
def test_the_first_pass_of_a_family_is_as_its_second(name):
    assert num_different(FAMILY.replace("FAMILY", repr(name)), count=200, imports=COMPRESSED) == 0
