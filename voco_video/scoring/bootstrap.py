"""Bootstrap intervals that draw videos, not questions, and paired tests on the same draws.

Questions on one video are not independent of each other: a model that fails on a clip tends to fail on all its
questions. So whole videos are drawn, with replacement (the cluster bootstrap; Davison and Hinkley, Bootstrap Methods
and their Application, 1997, section 3.8), and every value is a ratio of sums over the questions of those drawn:

    value = sum_v w_v N_v / sum_v w_v D_v,    w ~ multinomial(V; 1/V, ..., 1/V),

N_v and D_v being a video's sums (such as: right answers, questions). Intervals are percentiles of the resampled
values. One draw serves all columns, so that differences between them are paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
_RESAMPLES_AT_ONCE = 500  # times 2 990 videos of 8 bytes: 12 MB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval.

    Attributes:
        value: over all questions; NaN if there are none.
        low, high: bounds of the 95 % interval; None with fewer than two videos, which say nothing about others.
    """

    value: float
    low: float | None
    high: float | None

    def text(self, scale: float = 1.0) -> str:
        """Write the estimate for a table; a scale of 100 gives percent.

        >>> Estimate(0.41149, 0.39, 0.4325).text(100)
        '41.15 [39.00, 43.25]'
        """
        if math.isnan(self.value):
            return "–"
        numbers = [f"{scale * number:.2f}" for number in (self.value, self.low, self.high) if number is not None]
        return f"{numbers[0]} [{', '.join(numbers[1:])}]" if numbers[1:] else numbers[0]


def number_clusters(names: Sequence[str]) -> NDArray[np.int64]:
    """Number names from 0 in the order of first appearance, equal names alike.

    >>> number_clusters(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


@dataclass(frozen=True)
class Resampled:
    """Ratios of sums over all videos, and on each draw of videos.

    Attributes:
        values: [columns], over all videos.
        draws: [resamples, columns]; NaN if a draw has no question of a column.
        num_videos: [columns], videos that a column has questions on.
    """

    values: Floats
    draws: Floats
    num_videos: NDArray[np.int64]

    def estimates(self) -> list[Estimate]:
        """Return the values with their 95 % intervals, one for each column."""
        return [self._estimate(column) for column in range(len(self.values))]

    def _estimate(self, column: int) -> Estimate:
        value = float(self.values[column])
        if self.num_videos[column] < 2:
            return Estimate(value, None, None)
        # A draw may have none of a rare type's videos; it is then left out for that type.
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.nanpercentile(self.draws[:, column], [tail, 100 - tail])
        return Estimate(value, float(low), float(high))


def resample(
    numerators: Floats,
    denominators: Floats,
    clusters: NDArray[np.int64],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Resampled:
    """Compute ratios of sums on draws of videos.

    Args:
        numerators, denominators: [questions, columns]; a question that a column leaves out is 0 in both.
        clusters: [questions], each question's video, from 0.
        num_resamples: draws of videos.
        seed: of the draws; the same seed gives the same ones.
    """
    num_videos = int(clusters.max()) + 1
    above, below = (_sum_by(clusters, values, num_videos) for values in (numerators, denominators))  # [videos, columns]
    rng = np.random.default_rng(seed)
    draws = []
    for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, num_resamples - start)
        weights = rng.multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=size).astype(np.float64)
        draws.append(_ratio(weights @ above, weights @ below))
    return Resampled(_ratio(above.sum(0), below.sum(0)), np.concatenate(draws), (below > 0).sum(0))


def _sum_by(clusters: NDArray[np.int64], values: Floats, num_clusters: int) -> Floats:
    """Sum up each cluster's rows, [clusters, columns]."""
    columns = [np.bincount(clusters, column, num_clusters) for column in values.T]
    return np.stack(columns, axis=1)


def _ratio(numerators: Floats, denominators: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominators > 0, numerators / denominators, np.nan)


def paired_p_value(differences: Floats) -> float:
    """Compute the two-sided p-value of resampled differences: twice the share beyond zero, at most 1.

    Each share counts one draw more than there was, so no p-value is zero (Davison and Hinkley, section 4.2).

    >>> paired_p_value(np.array([0.1, 0.2, 0.3]))
    0.5
    """
    below, above = (differences <= 0).sum(), (differences >= 0).sum()
    return min(1.0, 2 * (1 + float(min(below, above))) / (1 + len(differences)))


def mcnemar_exact(num_only_first: int, num_only_second: int) -> float:
    """Compute the two-sided exact McNemar p-value: the discordant questions against a fair coin.

    It assumes that questions are independent, which those on one video are not; the paired bootstrap does not.

    Args:
        num_only_first, num_only_second: questions that only the first, and only the second, has right.

    >>> round(mcnemar_exact(1, 5), 5)
    0.21875
    """
    total, fewer = num_only_first + num_only_second, min(num_only_first, num_only_second)
    if total == 0:
        return 1.0
    # In logarithms: 0.5 to the power of ten thousand is below the smallest float.
    of_all = math.lgamma(total + 1) - total * math.log(2)
    logs = np.array([of_all - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(fewer + 1)])
    return min(1.0, float(2 * math.exp(logs.max()) * np.exp(logs - logs.max()).sum()))
