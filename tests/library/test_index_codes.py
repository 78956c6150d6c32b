"""Codes of keys bound scores from both sides, whatever the keys and the centroids are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from voco_video.library.index_codes import Codebook, Question


def scores_of(question: Question, keys: torch.Tensor) -> np.ndarray:
    """The formula, ``[F, K, H, R] -> [F]``."""
    products = torch.einsum("fkhr,thr->fkth", keys.double(), question.queries.double()) + question.gates.double()
    return (products.flatten(1).logsumexp(1) + question.bias).numpy()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 4.0])
@pytest.mark.parametrize("num_voco_tokens", [1, 8])
@pytest.mark.parametrize("trained_on", [1, 300])
def test_bounds_hold_and_fine_ones_are_narrow(scale, num_voco_tokens, trained_on):
    generator = torch.Generator().manual_seed(trained_on)
    keys = torch.randn(60, num_voco_tokens, 4, 32, generator=generator) * scale
    keys[5] = 0
    keys[6] *= 10
    question = Question(torch.randn(7, 4, 32, generator=generator), torch.randn(7, 4, generator=generator) - 4, -2.0)
    exact = scores_of(question, keys)
    codebook = Codebook.train(keys.flatten(0, 1)[:trained_on])
    coarse, fine = (codes.reshape(60, -1) for codes in codebook.encode(keys.flatten(0, 1)))
    high = question.coarse(question.tables(codebook, slack=1.0), coarse)
    again = question.coarse(
        question.tables(codebook, slack=1.0), codebook.encode_again(fine.reshape(-1, 4)).reshape(60, -1)
    )
    below, above = question.fine(fine)
    clipped = exact < 70  # the scorer itself limits products to 80
    assert (high >= exact)[clipped].all()
    assert (again >= exact)[clipped].all()
    assert (below <= exact)[clipped].all()
    assert (above >= exact)[clipped].all()
    assert np.median(above - below) < 0.1 + 0.7 * scale


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, 1e9])
def test_what_cannot_be_coded_is_bounded_by_nothing(value):
    keys = torch.randn(10, 4, 32)
    keys[3, 2, 7] = value
    codebook = Codebook.train(keys)
    question = Question(torch.randn(5, 4, 32), torch.zeros(5, 4), 0.0)
    coarse, fine = codebook.encode(keys)
    assert question.coarse(question.tables(codebook, slack=0.5), coarse)[3] == np.inf
    low, high = question.fine(fine)
    assert (low[3], high[3]) == (-np.inf, np.inf)
    assert np.isfinite(np.delete(high, 3)).all()


def test_better_centroids_bound_more_tightly():
    keys = torch.randn(4000, 4, 32)
    question = Question(torch.randn(5, 4, 32) / 4, torch.zeros(5, 4), 0.0)
    bounds = []
    for count in (40, 4000):
        codebook = Codebook.train(keys[:count])
        bounds.append(question.coarse(question.tables(codebook, slack=1.0), codebook.encode(keys)[0]).mean())
    assert bounds[1] < bounds[0]
