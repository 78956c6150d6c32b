"""Every clip of the matrix, read in every way, gives the numbers and times that it was made with, and the pixels of a
plain sequential decode.
"""

import subprocess
import sys

import pytest

from tests.helpers.matrix import MATRIX
from tests.helpers.reading import check_case
from voco_video.errors import UsageError
from voco_video.video.other_readers import check_backend


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("matrix")


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", [case for case in MATRIX if case.is_fast], ids=lambda case: case.name)
def test_clip(case, folder):
    check_case(case, folder)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", [case for case in MATRIX if not case.is_fast], ids=lambda case: case.name)
def test_other_clip(case, folder):
    check_case(case, folder)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
@pytest.mark.parametrize(
    "case", [case for case in MATRIX if case.is_fast and not case.num_lost], ids=lambda case: case.name
)
def test_other_backends(case, backend, folder):
    try:
        check_backend(backend)
    except UsageError as error:  # not installed, or torchcodec without the system's FFmpeg libraries
        pytest.skip(str(error))
    check_case(case, folder, backend)


_READ_AND_LEAVE = """
import sys, threading
from voco_video.video.sampling import Sampling
from voco_video.video.reading import open_video

def work():
    for number in range(int(sys.argv[2])):
        with open_video(sys.argv[1]) as video:
            next(iter(video.batches(Sampling(num_frames=1000), batch_size=1 + number % 9, prefetch_batches=0)))

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("times", [100, pytest.param(300, marks=pytest.mark.exhaustive)])
def test_decoders_are_let_go_of_while_others_decode(folder, times):
    """In a process of its own: one that hangs in C cannot be interrupted."""
    path = next(case for case in MATRIX if case.name == "av1.ivf").make(folder)
    subprocess.run([sys.executable, "-c", _READ_AND_LEAVE, str(path), str(times)], check=True, timeout=240)
