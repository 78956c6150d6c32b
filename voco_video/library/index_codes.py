"""What a library's index keeps of a token, and what a question can say of a frame from that alone.

A frame's odds are the sum over its tokens j, the scorer's heads h and the question's tokens t of
exp(q_th . k_jh + g_th) (`voco_video.answer.frame_scorer`). Of each key k_jh the index keeps two codes:

    coarse  2 bytes: the nearest of some centroids c, and a level r of the distance to it       |k - c| <= r
    fine    32 bytes and 4 more: the key in 8 bits with a scale, and the error of that           |k - k'| <= e

By Cauchy-Schwarz q . k <= q . c + |q| r, and likewise with k' and e. So each code bounds a frame's score, and whatever
is below the best scores that are certain need not be looked at. A coarse code has few values, so all of a question that
matters is one table of 65536 numbers a head, and a frame costs K x H look-ups.

Bounds hold whatever the centroids are; better ones only make them tighter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_video.answer.frame_scorer import HEAD_DIM, NUM_HEADS

Codes = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]

MAX_CENTROIDS = 1024
NUM_LEVELS = 64  # of the distance to a centroid
NUM_CODES = MAX_CENTROIDS * NUM_LEVELS
_FIRST_LEVEL, _LEVELS_PER_DOUBLING = 1 / 8, 6  # levels are at most 13 % apart, and end at 1 / 8 * 2 ** 10.5
_TRAINING_ROUNDS = 8
_LARGEST_TRAINED = 1e4  # beyond this a key is broken, and would be a centroid of its own
_ROUNDING = 1e-2  # added to every bound: what float32, on any device, may be off
FINE = np.dtype([("key", np.int8, HEAD_DIM), ("scale", np.float16), ("error", np.float16)])  # of a token and head
_CHUNK_TOKENS = 16384


@dataclass(frozen=True, eq=False)
class Codebook:
    """The centroids of each head.

    Attributes:
        centroids: float32 ``[H, C, R]``.
    """

    centroids: Tensor

    @staticmethod
    def train(keys: Tensor, *, seed: int = 0) -> Codebook:
        """Find centroids by k-means.

        Args:
            keys: float32 ``[N, H, R]``, N >= 1; those that are huge or no numbers are left out.
        """
        generator = torch.Generator().manual_seed(seed)
        heads = []
        for head in range(NUM_HEADS):
            points = keys[:, head]
            points = points[points.abs().amax(1) < _LARGEST_TRAINED]  # NaN is not
            count = max(1, min(MAX_CENTROIDS, len(points) // 4))
            heads.append(_k_means(points, count, generator) if len(points) else torch.zeros(1, HEAD_DIM))
        most = max(map(len, heads))
        return Codebook(torch.stack([torch.cat([c, c[:1].expand(most - len(c), -1)]) for c in heads]))

    def encode(self, keys: Tensor) -> tuple[Codes, np.ndarray]:
        """Encode keys.

        Args:
            keys: float32 ``[N, H, R]``; what is not finite gets codes that bound nothing.

        Returns:
            Coarse codes, ``[N, H]``, and fine ones, `FINE` ``[N, H]``.
        """
        is_finite = keys.isfinite().all(2)  # [N, H]
        keys = torch.where(is_finite[..., None], keys, 0.0)
        fine = _fine(keys.numpy())
        fine["error"][~is_finite.numpy()] = np.inf
        return self._coarse(keys, torch.where(is_finite, 0.0, torch.inf)), fine

    def encode_again(self, fine: np.ndarray) -> Codes:
        """Return coarse codes for keys of which only fine ones are left, `FINE` ``[N, H]``: ``[N, H]``."""
        return self._coarse(keys_of(fine), torch.from_numpy(fine["error"].astype(np.float32)))

    def _coarse(self, keys: Tensor, errors: Tensor) -> Codes:
        coarse = np.empty(keys.shape[:2], np.uint16)
        for head in range(NUM_HEADS):
            for start in range(0, len(keys), _CHUNK_TOKENS):
                part = slice(start, start + _CHUNK_TOKENS)
                points = keys[part, head]
                nearest = _nearest(points, self.centroids[head])
                distances = (points - self.centroids[head][nearest]).norm(dim=1) + errors[part, head]
                coarse[part, head] = nearest.numpy() * NUM_LEVELS + _level(distances.numpy())
        return coarse


@dataclass(frozen=True, eq=False)
class Question:
    """A question as the scorer sees it.

    Attributes:
        queries, gates: float32 ``[T, H, R]`` and ``[T, H]``; see `FrameScorer.question`.
        bias: of the scorer.
    """

    queries: Tensor
    gates: Tensor
    bias: float

    def tables(self, codebook: Codebook, *, slack: float) -> Floats:
        """Return how much a token with a coarse code adds to the odds at most, ``[H, NUM_CODES]``.

        Args:
            slack: share of the distance to the centroid that counts; below 1 it is no bound but an estimate.
        """
        centroids = codebook.centroids.shape[1]
        products = torch.einsum("hcr,thr->hct", codebook.centroids, self.queries) + self.gates.T[:, None]  # [H, C, T]
        norms = self.queries.norm(dim=2).T.numpy()[:, None]  # [H, 1, T]
        table = np.full((NUM_HEADS, MAX_CENTROIDS, NUM_LEVELS), np.inf, np.float32)
        for level, end in enumerate(_level_ends()[:-1]):
            terms = products.numpy() + norms * np.float32(slack * end)
            table[:, :centroids, level] = np.nan_to_num(np.exp(np.clip(terms, -80, 80)).sum(2), nan=np.inf)
        return table.reshape(NUM_HEADS, NUM_CODES)

    def coarse(self, tables: Floats, codes: Codes) -> Floats:
        """Bound the scores of frames by coarse codes, ``[F, K * H] -> [F]``."""
        odds = np.zeros(len(codes), np.float32)
        for column in range(codes.shape[1]):  # one after the other: the table of a head stays in the processor's cache
            odds += tables[column % NUM_HEADS].take(codes[:, column])
        return self._scores(odds) + np.float32(_ROUNDING)

    def fine(self, codes: np.ndarray) -> tuple[Floats, Floats]:
        """Bound the scores of frames by fine codes, `FINE` ``[F, K * H]``, from below and above: ``[F]`` each."""
        tokens = codes.reshape(-1, NUM_HEADS)  # [F * K, H]
        errors = torch.from_numpy(tokens["error"].astype(np.float32))
        keys = torch.empty(*tokens.shape, HEAD_DIM + 1)  # q . k + |q| e is one product
        keys[..., :HEAD_DIM] = torch.from_numpy(tokens.view(np.int8).reshape(*tokens.shape, -1))[..., :HEAD_DIM]
        keys[..., :HEAD_DIM] *= torch.from_numpy(tokens["scale"].astype(np.float32))[..., None]
        is_bound = errors.isfinite()
        keys[..., HEAD_DIM] = torch.where(is_bound, errors, 0)
        norms = self.queries.norm(dim=2, keepdim=True)  # [T, H, 1]
        queries = torch.cat([self.queries, norms], dim=2).permute(1, 2, 0)  # [H, R + 1, T]
        products = torch.baddbmm(self.gates.T[:, None], keys.transpose(0, 1), queries)  # [H, F * K, T]
        odds = products.clamp_(-80, 80).exp_().sum(2).sum(0).view(len(codes), -1).sum(1)  # [F]
        high = self._scores(odds.numpy()) + np.float32(_ROUNDING)
        # No term is off by more than twice the largest reach, so their sum is not either.
        reach = (keys[..., HEAD_DIM] * norms.amax(0)[:, 0]).amax(1).view(len(codes), -1).amax(1).numpy()
        bound = is_bound.view(len(codes), -1).all(1).numpy()
        low = np.where(bound, high - 2 * reach - np.float32(2 * _ROUNDING), -np.float32(np.inf))
        return low, np.where(bound, high, np.float32(np.inf))

    def _scores(self, odds: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            return np.log(odds) + np.float32(self.bias)


def keys_of(fine: np.ndarray) -> Tensor:
    """Return the keys that fine codes stand for, `FINE` ``[N, H]``: float32 ``[N, H, R]``."""
    return torch.from_numpy(fine["key"] * fine["scale"].astype(np.float32)[..., None])


def _level_ends() -> Floats:
    """Return the largest distance of each level, ``[NUM_LEVELS]``; the last has none."""
    ends = _FIRST_LEVEL * 2 ** (np.arange(NUM_LEVELS) / _LEVELS_PER_DOUBLING)
    ends[-1] = np.inf
    return ends.astype(np.float32)


def _level(distances: Floats) -> npt.NDArray[np.uint16]:
    """Return the lowest level whose end is at least the distance, with room for what rounding may have taken."""
    levels = np.searchsorted(_level_ends(), distances * np.float32(1 + 1e-4) + np.float32(1e-5))
    return np.minimum(levels, NUM_LEVELS - 1).astype(np.uint16)  # a distance that is no number is behind the last


def _fine(keys: Floats) -> np.ndarray:
    """Round keys to 8 bits, ``[N, H, R]`` to `FINE` ``[N, H]``."""
    fine = np.zeros(keys.shape[:2], FINE)
    largest = np.abs(keys).max(2)
    scale = _rounded_up(largest / 127)
    steps = np.where(scale > 0, scale, 1).astype(np.float32)
    steps = np.where(np.isfinite(steps), steps, 1)
    fine["key"] = np.clip(np.rint(keys / steps[..., None]), -127, 127)
    fine["scale"] = np.where(np.isfinite(scale), scale, 1)
    with np.errstate(over="ignore"):
        error = np.linalg.norm(keys - fine["key"] * fine["scale"].astype(np.float32)[..., None], axis=2)
    fine["error"] = _rounded_up(error * (1 + 1e-4) + 1e-5)
    return fine


def _rounded_up(values: Floats) -> npt.NDArray[np.float16]:
    """Round to 16 bits, never below."""
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    return np.where(halves < values, np.nextafter(halves, np.float16(np.inf)), halves)


def _k_means(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return ``[count, R]`` centroids of ``[N, R]`` points; those that get no point stay where they are."""
    centroids = points[torch.randperm(len(points), generator=generator)[:count]].clone()
    for _ in range(_TRAINING_ROUNDS):
        nearest = torch.cat([_nearest(part, centroids) for part in points.split(_CHUNK_TOKENS)])
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=count)[:, None]
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
    return centroids


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """Return the index of each point's nearest centroid, ``[N]``."""
    nearness = torch.addmm(-centroids.square().sum(1) / 2, points, centroids.T)
    return torch.from_numpy(nearness.numpy().argmax(1))  # many times as fast as torch's own


def bytes_per_token() -> int:
    """Return how many bytes the index takes for each token of a frame.

    >>> bytes_per_token()
    152
    """
    return NUM_HEADS * (2 + FINE.itemsize)
