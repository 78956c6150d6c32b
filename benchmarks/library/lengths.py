"""How long the videos of a library are: most are short, and a few long ones hold much of the hours.

The default is a log-normal distribution that is cut off at a longest length. It has a heavy tail: with the mean and
sigma of `cost.py`, half of the videos are shorter than a minute, and a hundredth of them holds about a third of the
hours. Whoever has a library gives its own lengths in a file, one number of seconds a line.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from voco_video.errors import DataError, UsageError

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Lengths:
    """Log-normal lengths in seconds; none is longer than `longest_seconds`.

    Attributes:
        mean_seconds: of all videos, those at the limit included.
        sigma: standard deviation of the logarithms; 0 makes all videos equal.

    Raises:
        UsageError: the mean is no less than the longest.
    """

    mean_seconds: float
    sigma: float
    longest_seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.mean_seconds < self.longest_seconds:
            raise UsageError(
                f"videos of {self.mean_seconds:g} s on average cannot be {self.longest_seconds:g} s at most; "
                "give fewer hours, more videos or a longer longest"
            )

    def at(self, share: float) -> float:
        """The length that this share of the videos is under; `share` is above 0 and below 1."""
        return min(self.longest_seconds, math.exp(self._mu() + self.sigma * _NORMAL.inv_cdf(share)))

    def spread(self, count: int) -> list[float]:
        """`count` lengths, shortest first, one from the middle of each of `count` equally likely parts."""
        mu = self._mu()
        middles = ((number + 0.5) / count for number in range(count))
        return [min(self.longest_seconds, math.exp(mu + self.sigma * _NORMAL.inv_cdf(u))) for u in middles]

    def shuffled(self, count: int, *, seed: int) -> list[float]:
        """`spread` in an order that the seed decides, as videos lie in a folder."""
        lengths = self.spread(count)
        random.Random(f"{seed} lengths").shuffle(lengths)
        return lengths

    def _mu(self) -> float:
        """The mean of the logarithms with which the cut-off distribution has its mean; found by halving."""
        low, high = math.log(self.mean_seconds) - self.sigma**2, math.log(self.longest_seconds) + 40
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if self._mean_at(middle) < self.mean_seconds else (low, middle)
        return (low + high) / 2

    def _mean_at(self, mu: float) -> float:
        """The mean of min(length, longest), in closed form."""
        if self.sigma == 0:
            return min(math.exp(min(mu, 700)), self.longest_seconds)
        edge = (math.log(self.longest_seconds) - mu) / self.sigma
        below = math.exp(mu + self.sigma**2 / 2) * _NORMAL.cdf(edge - self.sigma)
        return below + self.longest_seconds * (1 - _NORMAL.cdf(edge))


def read_lengths(path: Path) -> list[float]:
    """Lengths in seconds from a text file: a number a line; empty lines and those that begin with ``#`` do not count.

    Raises:
        DataError: the file cannot be read, holds no length, or a line is no number above 0.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    lengths = []
    for number, line in enumerate(lines, 1):
        if not (text := line.strip()) or text.startswith("#"):
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise DataError(f"{path}, line {number}: {text!r} is no length in seconds; write one number above 0 a line")
        lengths.append(value)
    if not lengths:
        raise DataError(f"{path} holds no lengths; write one number of seconds a line")
    return lengths
