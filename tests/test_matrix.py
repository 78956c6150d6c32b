"""Every clip of the matrix, read in every way, gives the numbers and times that it was made with, and the pixels of a
plain sequential decode."""

import pytest
from matrix import MATRIX
from reading import check_case

from voco_video.backends import check_backend
from voco_video.errors import UsageError


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("matrix")


@pytest.mark.parametrize("case", [case for case in MATRIX if case.is_fast], ids=lambda case: case.name)
def test_clip(case, folder):
    check_case(case, folder)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in MATRIX if not case.is_fast], ids=lambda case: case.name)
def test_other_clip(case, folder):
    check_case(case, folder)


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
