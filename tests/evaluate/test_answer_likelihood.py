"""Ranking a vocabulary in one pass over a trie, against one answer at a time."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests.helpers.models import random_pixels, tiny_voco
from tests.helpers.tiny_families import EACH_FAMILY, IDS, tiny_family
from voco_video.checkpoint.folder import load_voco_model
from voco_video.data.samples import Dataset, Sample, Turn
from voco_video.data.samples import Turn as Taught
from voco_video.data.turns import encode_turns
from voco_video.errors import UsageError
from voco_video.evaluate.answer_likelihood import Ranker, answer_token_ids, answer_vocabulary, build_tries, score_tries
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel


def frames_prefix(model: VocoModel, *, form: str = "kv") -> Prefix:
    size = model.backbone.images.fit.height
    tokens = model.compress(model.vision_tokens(random_pixels(3, size=size)), form=form)
    return model.prefix(tokens)


@torch.inference_mode()
def one_by_one(model: VocoModel, prefix: Prefix, prompt: list[int], answers: list[list[int]]) -> torch.Tensor:
    """Each answer in a pass of its own, after the whole prompt: the definition."""
    scores = []
    for answer in answers:
        logits = model(torch.tensor([[*prompt, *answer]]), prefix=prefix)[0][0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        scores.append(sum(float(logits[place, token]) for place, token in zip(places, answer, strict=True)))
    return torch.tensor(scores)


def sequences_with_shared_beginnings(count: int = 40) -> list[list[int]]:
    """Few tokens, so that beginnings are shared, and some are whole answers themselves."""
    randomness = random.Random(3)
    found = {tuple(randomness.choices((7, 8, 9), k=randomness.randint(1, 5))) for _ in range(10 * count)}
    return [list(sequence) for sequence in sorted(found, key=lambda s: randomness.random())[:count]]


@pytest.mark.parametrize("max_nodes", [1024, 10, 1])
@pytest.mark.parametrize("form", ["kv", "embeds", "none"])
def test_a_trie_gives_what_single_answers_give(form, max_nodes):
    model = tiny_voco()
    prefix = model.empty_prefix() if form == "none" else frames_prefix(model, form=form)
    prompt, answers = [5, 30, 31, 32], sequences_with_shared_beginnings()
    assert {(7,), (7, 8)} & {tuple(a) for a in answers}
    tries = build_tries(answers, max_nodes=max_nodes)
    assert all(len(trie.token_ids) <= max(max_nodes, 4) for trie in tries)
    assert (len(tries) > 1) == (max_nodes < 1024)
    expected = one_by_one(model, prefix, prompt, answers)
    assert torch.allclose(score_tries(model, prefix, prompt, tries)[0], expected, atol=2e-4)
    assert expected.std() > 0.5, "answers that were all alike would prove nothing"


def test_greedy_answers_are_told_from_others():
    model, prompt = tiny_voco(), [5, 30]
    prefix, greedy = frames_prefix(model), []
    with torch.inference_mode():
        for _ in range(4):
            greedy.append(int(model(torch.tensor([[*prompt, *greedy]]), prefix=prefix)[0][0, -1].argmax()))
    other = (greedy[2] + 1) % 97
    answers = [greedy, greedy[:2], [*greedy[:2], other], [*greedy[:2], other, greedy[3]], [other], greedy]
    found = score_tries(model, prefix, prompt, build_tries(answers, max_nodes=2))[1]
    assert found.tolist() == [True, True, False, False, other == greedy[0], True]


def test_a_trie_reads_shared_beginnings_once():
    (trie,) = build_tries([[1, 2, 3], [1, 2, 4], [1, 2], [5]])
    assert trie.token_ids.tolist() == [1, 2]
    assert trie.depths.tolist() == [0, 1]
    assert trie.visible.tolist() == [[True, False], [True, True]]


def test_eager_attention_ranks_alike():
    model, prompt, answers = tiny_voco(), [5, 30], sequences_with_shared_beginnings(12)
    prefix, tries = frames_prefix(model), build_tries(answers)
    expected = score_tries(model, prefix, prompt, tries)[0]
    model.backbone.decoder.set_attn_implementation("eager")
    assert torch.allclose(score_tries(model, prefix, prompt, tries)[0], expected, atol=2e-4)


@pytest.fixture(scope="module")
def voco_tiny() -> VocoModel:
    return load_voco_model("voco-tiny", dtype="float32")


VOCABULARY = ("circle", "square", "red", "top left", "top right", "yes", "bottom left", "two")


def test_answers_are_the_tokens_that_training_taught(voco_tiny):
    """With a real tokenizer and chat template, the end token included."""
    for answer, ids in zip(VOCABULARY, answer_token_ids(voco_tiny.backbone, VOCABULARY), strict=True):
        taught, owners = encode_turns(voco_tiny.backbone, [Taught("where is it?", answer)], max_length=64)
        assert list(ids) == [token for token, owner in zip(taught, owners, strict=True) if owner == 0]
        assert ids[-1] == voco_tiny.backbone.hf_model.generation_config.eos_token_id


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_every_family_ranks_alike(name):
    """Chat templates that write contents as text or in parts, with an end token or without; plain and 3-D positions."""
    model = tiny_family(name)
    fit = model.backbone.images.fit
    pixels = np.random.default_rng(0).integers(0, 256, (2, fit.height, fit.width, 3), np.uint8)
    with torch.inference_mode():
        prefix = model.prefix(model.compress(model.vision_tokens(pixels)))
    answers = ("yes", "a cat", "a dog", "no")
    ids = answer_token_ids(model.backbone, answers)
    for answer, sequence in zip(answers, ids, strict=True):
        assert model.backbone.text(sequence[:-1]) == answer
        assert sequence[-1] == IDS["</s>"]
    prompt = model.backbone.conversation_ids([{"role": "user", "content": "what is this?"}])
    expected = one_by_one(model, prefix, prompt, [list(sequence) for sequence in ids])
    found = Ranker.of(model, answers).log_likelihoods(prefix, "what is this?")
    assert torch.allclose(found, expected, atol=1e-3)


def test_ranks_follow_single_answers(voco_tiny):
    prefix, question = frames_prefix(voco_tiny), "where is the star?"
    ranker = Ranker.of(voco_tiny, VOCABULARY)
    prompt = voco_tiny.backbone.conversation_ids([{"role": "user", "content": question}])
    answers = [list(ids) for ids in answer_token_ids(voco_tiny.backbone, VOCABULARY)]
    expected = one_by_one(voco_tiny, prefix, prompt, answers)
    assert torch.allclose(ranker.log_likelihoods(prefix, question), expected, atol=1e-3)
    ranks = [ranker.rank(prefix, question, answer) for answer in VOCABULARY]
    assert ranks == [1 + int((expected > score).sum()) for score in expected]
    assert ranker.rank(prefix, question, "octopus") is None


def test_ties_count_against_the_answer(voco_tiny, monkeypatch):
    ranker = Ranker.of(voco_tiny, ("a", "b", "c"))
    monkeypatch.setattr("voco_video.evaluate.answer_likelihood.score_tries", lambda *_: (torch.zeros(3), None))
    assert ranker.rank(voco_tiny.empty_prefix(), "what?", "b") == 3


def test_attention_that_takes_no_masks_is_refused(voco_tiny, monkeypatch):
    monkeypatch.setattr(voco_tiny.backbone.text_config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(UsageError, match="flash_attention_2"):
        Ranker.of(voco_tiny, VOCABULARY)


def test_the_vocabulary_is_the_commonest_answers():
    answers = ["man", "dog", "cat", "man", "dog", "someone"]
    sample = Sample("v", (), tuple(Turn("what?", answer) for answer in answers))
    train = Dataset("msvd", "train", (), (sample,))
    assert answer_vocabulary(train, 3) == ("dog", "man", "cat")
    assert len(answer_vocabulary(train, 100)) == 4
    with pytest.raises(UsageError, match="0"):
        answer_vocabulary(train, 0)
