"""Tokens are chosen as the library's own `generate` chooses them, whatever a generation_config.json says."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.helpers.models import tiny_voco
from voco_video.answer.choosing import TokenChooser, end_token_ids, generation_facts
from voco_video.answer.generate import generate
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.checkpoint.generation import ALWAYS_USED, LIBRARY_TOP_K, USED_TO_SAMPLE, WITHOUT_EFFECT, departures
from voco_video.errors import ModelError, UsageError
from voco_video.model.backbone import CACHE_ARGUMENT
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions

BEFORE = (3, 17, 29, 17, 44, 5)
PROMPTS = ((20, 30, 40), (50, 60), (7, 8), (9, 10, 11, 12, 13))
END = 2
# Each changes what the tiny model says, so that a setting that were ignored would be noticed.
SETTINGS: dict[str, Any] = {
    "repetition_penalty": 1.05,
    "repetition_penalty, strong": 1.5,
    "repetition_penalty, whole": 2,
    "encoder_repetition_penalty": 1.6,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[token] for token in range(0, 80, 2)],
    "suppress_tokens": list(range(1, 80, 2)),
    "begin_suppress_tokens": list(range(60)),
    "sequence_bias": [[[token], 30.0] for token in (21, 22)],
    "forced_eos_token_id": 33,
    "min_length": 14,
    "min_new_tokens": 5,
    "exponential_decay_length_penalty": [2, 3.0],
    "renormalize_logits": True,
    "remove_invalid_values": True,
}


@pytest.fixture(scope="module")
def loaded() -> VocoModel:
    return tiny_voco()


@pytest.fixture
def model(loaded) -> Iterator[VocoModel]:
    """The tiny model; what a test sets in its generation settings is undone."""
    hf_model = loaded.backbone.hf_model
    usual = hf_model.generation_config
    hf_model.generation_config = copy.deepcopy(usual)
    hf_model.generation_config.eos_token_id = END
    yield loaded
    hf_model.generation_config = usual


@torch.inference_mode()
def text_prefix(model: VocoModel) -> Prefix:
    """A prefix that is nothing but text, so that the library can be given the same as token ids."""
    cache = model.backbone.hf_model(torch.tensor([BEFORE]), use_cache=True)[CACHE_ARGUMENT]
    layers = tuple((layer.keys, layer.values) for layer in cache.layers)
    return Prefix(layers, len(BEFORE), torch.empty(0, 1, dtype=torch.int64), prompt_ids=BEFORE)


@torch.inference_mode()
def by_the_library(model: VocoModel, prompt: tuple[int, ...], *, seed: int = 0, **settings: Any) -> Any:
    """What the library generates after the same tokens: new ids without the end, and the changed scores."""
    torch.manual_seed(seed)
    out = model.backbone.hf_model.generate(
        torch.tensor([[*BEFORE, *prompt]]),
        attention_mask=torch.ones(1, len(BEFORE) + len(prompt), dtype=torch.long),
        generation_config=GenerationConfig(
            max_new_tokens=8, pad_token_id=0, output_scores=True, return_dict_in_generate=True, **settings
        ),
    )
    ids = out.sequences[0, len(BEFORE) + len(prompt) :].tolist()
    ends = end_token_ids(model)
    return list(itertools.takewhile(lambda token: token not in ends, ids)), torch.cat(out.scores)


def ours(model: VocoModel, prompts: Any = PROMPTS, **options: Any) -> list[list[int]]:
    answered = generate(model, text_prefix(model), prompts, options=AnswerOptions(8, **options))
    return [ids for ids, _ in answered]


def set_in_file(model: VocoModel, name: str, value: Any) -> None:
    """Give the model a setting as its checkpoint's generation_config.json would."""
    is_number = isinstance(value, int) and "penalty" in name
    setattr(model.backbone.hf_model.generation_config, name.partition(",")[0], float(value) if is_number else value)


@pytest.mark.parametrize("name", SETTINGS)
def test_greedy_tokens_are_the_librarys(model, name):
    if name.startswith("min_"):  # an answer that would end soon
        set_in_file(model, "eos_token_id", [END, *(answer[1] for answer in ours(model))])
    plain = ours(model)
    set_in_file(model, name, SETTINGS[name])
    answers = ours(model)
    assert answers == [by_the_library(model, prompt, do_sample=False)[0] for prompt in PROMPTS]
    assert answers == [ours(model, [prompt])[0] for prompt in PROMPTS], "a question does not depend on those beside it"
    if name not in ("repetition_penalty", "renormalize_logits", "remove_invalid_values"):
        assert answers != plain, "the setting has to matter here"


@pytest.mark.parametrize("penalty", [1.05, 1.1, 0.7])
def test_an_option_comes_before_the_file(model, penalty):
    set_in_file(model, "repetition_penalty", 1.9)
    expected = [by_the_library(model, p, do_sample=False, repetition_penalty=penalty)[0] for p in PROMPTS]
    assert ours(model, repetition_penalty=penalty) == expected
    assert ours(model, repetition_penalty=1) == [
        by_the_library(model, p, do_sample=False, repetition_penalty=1.0)[0] for p in PROMPTS
    ]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("in_file", "options"),
    [
        ({}, {"temperature": 0.8}),
        ({}, {"temperature": 2}),
        ({}, {"temperature": 1.5, "top_p": 0.6}),
        ({}, {"temperature": 1.5, "top_k": 3}),
        ({}, {"temperature": 1.5, "top_k": 0, "top_p": 1}),
        ({"top_k": 5, "top_p": 0.7, "repetition_penalty": 1.1}, {"temperature": 0.9}),
        ({"top_k": 5, "top_p": 0.7, "repetition_penalty": 1.1}, {"temperature": 0.9, "top_k": 9, "top_p": 1.0}),
        ({"min_p": 0.2}, {"temperature": 1.3}),
        ({"typical_p": 0.4}, {"temperature": 1.3}),
        ({"epsilon_cutoff": 0.05, "eta_cutoff": 0.3}, {"temperature": 1.3}),
        ({"temperature": 0.1, "do_sample": False}, {"temperature": 1.3}),
        ({"temperature": 1e-6, "do_sample": True}, {"temperature": 1e-6}),
    ],
)
def test_sampling_chooses_from_the_librarys_tokens_by_its_probabilities(model, in_file, options):
    for name, value in in_file.items():
        set_in_file(model, name, value)
    settings = {**options, "temperature": float(options["temperature"]), "do_sample": True}
    for prompt in PROMPTS[:3]:
        ids, scores = by_the_library(model, prompt, seed=4, **settings)
        chooser = TokenChooser(model, [prompt], AnswerOptions(8, seed=4, **options), before=BEFORE)
        with torch.inference_mode():
            logits = model.backbone.hf_model(torch.tensor([[*BEFORE, *prompt]])).logits[:, -1].float()
        changed = chooser.scores(logits)
        assert torch.equal(changed.isfinite(), scores[:1].isfinite()), "the same tokens are allowed"
        torch.testing.assert_close(changed.softmax(-1), scores[:1].softmax(-1), atol=1e-5, rtol=1e-4)
        assert ours(model, [prompt], seed=4, **options)[0] == ids, "one prompt, the same random numbers"
    together = ours(model, seed=4, **options)
    assert together == [ours(model, [prompt], seed=4, **options)[0] for prompt in PROMPTS]


def test_the_librarys_default_of_top_k_is_the_one_that_is_named(model):
    (one,) = [by_the_library(model, PROMPTS[0], do_sample=True, temperature=1.3)[1][:1]]
    assert int(one.isfinite().sum()) == LIBRARY_TOP_K


def test_padding_is_no_token_that_was_said(model):
    """Token 0 fills the shorter prompts of a batch; a penalty so strong would rule it out."""
    chooser = TokenChooser(model, [(20, 30, 40), (50,)], AnswerOptions(1, repetition_penalty=50.0))
    changed = chooser.scores(torch.ones(2, model.backbone.text_config.vocab_size))
    assert [set((row < 1).nonzero().flatten().tolist()) for row in changed] == [{20, 30, 40}, {50}]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", [*WITHOUT_EFFECT, "max_length", "max_new_tokens", "cache_implementation", "use_cache"])
def test_what_is_not_supported_changes_nothing_and_is_said(model, name, caplog, tmp_path):
    values = {"stop_strings": ["a"], "max_time": 0.0, "cache_implementation": "static", "use_cache": False}
    value = values.get(name, [[[1]]] if "words" in name or name == "constraints" else 3)
    value = True if name == "token_healing" else "high" if name == "dola_layers" else value
    plain = ours(model)
    save_voco_model(model, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": END, name: value}))
    again = load_voco_model(tmp_path / "model")
    warned = [record.getMessage() for record in caplog.records]
    assert [f"without effect here: {name} {value}" in text for text in warned] == [True] * (name in WITHOUT_EFFECT)
    caplog.clear()
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        assert ours(again) == plain
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.records, "the library says nothing about it at every question"


def test_every_setting_of_the_library_that_chooses_tokens_is_accounted_for():
    """A new version's new setting fails here, rather than to be passed over in silence."""
    elsewhere = {
        *("do_sample", "temperature", "max_length", "max_new_tokens", "eos_token_id", "bos_token_id", "pad_token_id"),
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile"),
        *("num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        *("return_dict_in_generate", "decoder_start_token_id", "prefill_chunk_size", "transformers_version"),
        *("early_stopping", "length_penalty", "diversity_penalty", "low_memory"),  # of beams alone
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        *("max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind"),
        *("assistant_ensemble_weight", "speculation_type", "use_mtp", "continuous_batching_config"),
    }
    names = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert names - elsewhere - {*ALWAYS_USED, *USED_TO_SAMPLE, *WITHOUT_EFFECT} == set()


def test_the_page_lists_every_setting():
    page = (Path(__file__).parents[2] / "docs" / "generation.md").read_text(encoding="utf-8")
    rows = {row.split("|")[2].strip(): set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| `\w.*", page, re.M)}
    assert rows["used always"] == set(ALWAYS_USED)
    assert rows["used with a temperature"] == set(USED_TO_SAMPLE)
    assert set(WITHOUT_EFFECT) in rows.values()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ""),
        ({"do_sample": True, "temperature": 1e-06, "repetition_penalty": 1.05}, ""),
        ({"do_sample": False, "temperature": 0.7}, ""),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}, r"temperature 0\.7, top_p 0\.8, top_k 20"),
        ({"do_sample": True}, r"\(temperature 1\.0\)"),
        ({"num_beams": 4, "guidance_scale": 1.0, "stop_strings": ["x"]}, r"^without effect here: num_beams 4, stop_"),
        ({"num_beams": 1, "guidance_scale": 1, "penalty_alpha": 0.0, "token_healing": False}, ""),
    ],
)
def test_what_differs_from_the_file_is_said_in_one_line(settings, expected):
    said = departures(settings)
    assert "\n" not in said
    assert bool(said) == bool(expected)
    assert re.search(expected, said)


def test_facts_name_what_is_in_force(model):
    for name, value in {"repetition_penalty": 1.05, "top_k": 20, "do_sample": True, "temperature": 0.7}.items():
        set_in_file(model, name, value)
    facts = generation_facts(model, AnswerOptions())
    assert facts["repetition_penalty"] == 1.05
    assert "top_k" not in facts
    assert "samples (temperature 0.7, top_k 20)" in facts["differs_from_checkpoint"]
    facts = generation_facts(model, AnswerOptions(temperature=0.5, top_p=0.9, repetition_penalty=1.0))
    assert (facts["top_k"], facts["top_p"], facts["temperature"], facts["repetition_penalty"]) == (20, 0.9, 0.5, 1.0)
    assert facts["differs_from_checkpoint"] == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0: has to be 0 or more"),
        ({"temperature": 1e-9}, "temperature=1e-09: has to be 0, or 1e-06 or more"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0: has to be above 0 and at most 1"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p=1.1: has to be above 0 and at most 1"),
        ({"temperature": 1.0, "top_k": -1}, "top_k=-1: has to be 0 or more"),
        ({"temperature": 1.0, "top_k": 2.5}, "top_k=2.5 has to be a whole number"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0: has to lie between 0.01 and 100"),
        ({"top_p": 0.9}, "top_p=0.9 is for sampling"),
        ({"top_k": 5}, "top_k=5 is for sampling"),
    ],
)
def test_options_that_cannot_be_right(options, message):
    with pytest.raises(UsageError, match=message):
        AnswerOptions(**options)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("repetition_penalty", 0, "repetition_penalty has to be a number above 0"),
        ("repetition_penalty", -1.0, "repetition_penalty has to be a number above 0"),
        ("top_p", 1.5, "top_p has to be a number from 0 to 1"),
        ("min_p", -0.1, "min_p has to be a number from 0 to 1"),
        ("top_k", 2.5, "top_k has to be a whole number"),
        ("temperature", -0.5, "temperature has to be a number from 0 on"),
        ("suppress_tokens", [5, 99999], "suppress_tokens: token id 99999 is not below"),
        ("forced_eos_token_id", 99999, "forced_eos_token_id: token id 99999 is not below"),
        ("bad_words_ids", [5], "bad_words_ids has to be lists of token ids"),
        ("bad_words_ids", [[99999]], "bad_words_ids: token id 99999 is not below"),
        ("sequence_bias", [[5]], "cannot be used"),
        ("typical_p", 0, "cannot be used"),
        ("exponential_decay_length_penalty", "x", "cannot be used"),
    ],
)
def test_settings_of_a_file_that_cannot_be_right(loaded, tmp_path, key, value, message):
    save_voco_model(loaded, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ModelError, match=message) as caught:
        load_voco_model(tmp_path / "model")
    assert "generation_config.json" in str(caught.value)


def test_settings_for_sampling_warn_nobody_who_takes_the_likeliest_token(model):
    for name, value in {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.1, "typical_p": 0.9}.items():
        set_in_file(model, name, value)
    said: list[str] = []
    logger, handler = logging.getLogger(GenerationConfig.__module__), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]
        by_the_library(model, PROMPTS[0], do_sample=False)
        assert "min_p" in "".join(said), "the library warns: there is something to keep quiet about"
        said.clear()
        logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]
        ours(model)
        assert not said
    finally:
        logger.removeHandler(handler)
