"""The rules of time that the slow reading follows, on bare lists: what a file says, and what is made of it."""

from fractions import Fraction

import pytest

from tests.helpers.sequential import Facts, repair

FACTS = Facts(Fraction(1, 100), Fraction(25), False, Fraction(1), [], [])  # a frame is four ticks


@pytest.mark.parametrize(
    ("said", "made"),
    [
        ([0, 4, 8, 12], [0, 4, 8, 12]),
        ([7, 11, 99, 103], [7, 11, 99, 103]),  # a gap stays
        ([0, 4, None, 12], [0, 4, 8, 12]),
        ([None, 4, 8, 12], [0, 4, 8, 12]),
        ([0, 4, 8, None], [0, 4, 8, 12]),
        ([0, 4, 4, 12, 16], [0, 4, 8, 12, 16]),  # the later of two that are the same
        ([0, 4, 9000, 12, 16], [0, 4, 8, 12, 16]),
        ([0, 4, -9000, 12, 16], [0, 4, 8, 12, 16]),
        ([9000, 4, 8, 12, 16], [0, 4, 8, 12, 16]),
        ([0, 4, None, 500, 504], [0, 4, 252, 500, 504]),
        ([0, 4, None, None, 16, 20, 24], [0, 4, 8, 12, 16, 20, 24]),
        ([500, 504, 508, 512, 0, 4, 8, 12], [500, 504, 508, 512, 516, 520, 524, 528]),  # a clock set back
        ([500, 504, 508, 512, 0, 4, 8, 12, 300, 304], [500, 504, 508, 512, 516, 520, 524, 528, 816, 820]),
        ([None, None, None, 700], [0, 4, 8, 12]),  # most are unusable: counted
        ([None, None], [0, 4]),
        ([], []),
    ],
)
def test_times_are_repaired_from_their_neighbours(said, made):
    assert repair(said, FACTS) == made
