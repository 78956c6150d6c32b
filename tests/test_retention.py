"""The retention benchmark measures what generation answers, and its figures mean what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from voco_video.answer import AnswerOptions, answer_questions
from voco_video.checkpoint import load_voco_model

PATH = Path(__file__).parent.parent / "benchmarks" / "retention.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_retention", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model():
    return load_voco_model("voco-tiny", dtype="float32")


def test_right_without_generating_is_right_with_generating(bench, model):
    counts = {True: 0, False: 0}
    for index in range(12):
        case = bench.draw_case(index, seed=0, stage="image", size=64, temporal_fraction=0.0)
        with torch.inference_mode():
            prefix = bench.voco(model, model.vision_tokens(case.pixels), 2, "kv")
        questions = [q.question for q in case.questions]
        answers = answer_questions(
            model, prefix, questions, options=AnswerOptions(max_new_tokens=12), frame_pts_seconds=np.zeros(1)
        )
        generated = [answer.text == q.answer for answer, q in zip(answers, case.questions, strict=True)]
        assert bench.is_right(model, prefix, case.questions) == generated
        for right in generated:
            counts[right] += 1
    print(counts)


def test_full_tokens_equal_an_ordinary_sequence(bench, model):
    """With one frame, full visibility is plain LLaVA: [BOS] vision tokens [newline] text, causal."""
    text = torch.tensor([[5, 11, 42, 7]])
    with torch.inference_mode():
        tokens = model.vision_tokens(np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8))
        logits = model(text, prefix=model.prefix(bench.full_tokens(model, tokens)))[0]
        row = torch.cat([model.frame_sequence(tokens, 1)[:, :-1], model.backbone.embed(text)], dim=1)
        hidden = model.backbone.decoder(inputs_embeds=row, use_cache=False).last_hidden_state
        assert torch.allclose(logits, model.backbone.logits(hidden)[:, -4:], atol=1e-4)


def test_pooling_to_one_token_is_the_mean(bench):
    tokens = torch.randn(2, 64, 8)
    assert torch.allclose(bench.pooled(tokens, 1)[:, 0], tokens.mean(1), atol=1e-6)
    assert bench.pooled(tokens, 4).shape == (2, 4, 8)


def test_retention_rate_and_interval(bench):
    def outcomes(right):
        return [bench.Outcome(i, "what", bool(r), 0.5) for i, r in enumerate(right)]

    table = {"none": outcomes([0, 0, 0, 0] * 10), "full": outcomes([1, 1, 1, 1] * 10), "x": outcomes([1, 1, 1, 0] * 10)}
    kept = bench.retention(table, "x")
    assert kept["rate"] == pytest.approx(0.75)
    assert 0.5 < kept["low"] < 0.75 < kept["high"] < 0.95
