"""The exported text model gives our own greedy tokens in plain transformers, for every family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.models import random_pixels, tiny_voco
from tests.helpers.tiny_families import ALL_FAMILIES, TWINS, prompt_of, random_voco_tokens, tiny_family
from voco_video.answer.generate import generate
from voco_video.engine.export import EXPORT_FILE, export_model, mark_of
from voco_video.engine.prompts import asked
from voco_video.engine.text_model import answering_fingerprint, text_model_of
from voco_video.errors import ModelError, UsageError
from voco_video.model.adapters import adapted_layers, add_adapters
from voco_video.model.compressors import compress_frames
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions
from voco_video.options.compression import parse_compressor

OPTIONS = AnswerOptions(max_new_tokens=8)
QUESTION = "what is there?"
# One for each way of being written: the others differ in their tower, or are of the `TWINS`.
ALWAYS = ("llava", "llava_onevision", "qwen3_vl", "glm4v", "gemma3", "qwen3_5")
EACH = [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.exhaustive) for name in ALL_FAMILIES]


def plain_greedy(text_model: object, embeds: Tensor, *, num_tokens: int, ends: set[int]) -> list[int]:
    """The likeliest tokens, by one pass over everything for each, until an end token."""
    ids: list[int] = []
    for _ in range(num_tokens):
        token = int(text_model(inputs_embeds=embeds[None].float()).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
        embeds = torch.cat([embeds, text_model.get_input_embeddings()(torch.tensor([token]))])
    return ids


def assert_same_answer(model: VocoModel, folder: Path, tokens: VocoTokens) -> None:
    """The folder, opened by the library alone, answers as the model does."""
    prompt = prompt_of(model)
    ours = generate(model, model.prefix(tokens), [prompt], options=OPTIONS)[0][0]
    question = asked(model, model.prefix(tokens, reads=False), prompt, OPTIONS)
    with torch.inference_mode():
        text_model = AutoModelForCausalLM.from_pretrained(folder).eval()
        ends = set(question.settings["stop_token_ids"])
        assert plain_greedy(text_model, question.embeds, num_tokens=OPTIONS.max_new_tokens, ends=ends) == ours
    assert text_model.generation_config.eos_token_id == model.backbone.hf_model.generation_config.eos_token_id


@pytest.mark.parametrize("name", EACH)
def test_every_family_answers_alike(name: str, tmp_path: Path) -> None:
    model = tiny_family(name, as_trained=True)
    result = export_model(model, tmp_path / "llm", name=name)
    facts = json.loads((result.folder / EXPORT_FILE).read_text())
    assert facts["architecture"] == json.loads((result.folder / "config.json").read_text())["architectures"][0]
    heads = model.backbone.text_config
    stated = json.loads((result.folder / "config.json").read_text())
    assert stated.get("head_dim", stated["hidden_size"] // stated["num_attention_heads"]) == (
        getattr(heads, "head_dim", None) or heads.hidden_size // heads.num_attention_heads
    )
    assert mark_of(facts["served_name"]) == answering_fingerprint(model)[:12]
    tokenizer, said = AutoTokenizer.from_pretrained(result.folder), [{"role": "user", "content": QUESTION}]
    for turns in (said, [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]):
        written = [one.apply_chat_template(turns, tokenize=False) for one in (tokenizer, model.backbone.tokenizer)]
        assert written[0] == written[1]
        assert tokenizer.apply_chat_template([{**turns[0], "role": "prompt"}], tokenize=False) == QUESTION
    assert_same_answer(model, result.folder, random_voco_tokens(model))


def test_the_twins_are_listed() -> None:
    assert set(ALWAYS) <= set(ALL_FAMILIES)
    assert {"llava", "qwen3_5", "gemma3"}.isdisjoint(TWINS)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("rank", "form"), [(0, "embeds"), (4, "both"), (0, "kv"), (4, None)])
def test_adapters_are_merged_where_they_answer(rank: int, form: str | None, tmp_path: Path) -> None:
    model = tiny_family("llava", as_trained=True)
    plain = answering_fingerprint(model)
    add_adapters(model.backbone.decoder, rank=rank, alpha=8.0, targets=("v_proj", "down_proj"))
    model.answering_form = form
    torch.manual_seed(1)
    for layer in adapted_layers(model.backbone.decoder):
        for name, parameter in layer.named_parameters():
            if "base_layer" not in name:
                parameter.data += 0.3 * torch.randn_like(parameter)
    model.eval()
    tokens = random_voco_tokens(model)
    assert_same_answer(model, export_model(model, tmp_path / "llm", name="x").folder, tokens)
    # Where the adapters answer from the other form alone, the engine has the weights of before.
    assert (answering_fingerprint(model) == plain) == (form == "kv")
    changed = text_model_of(model).model.state_dict()["model.layers.0.mlp.down_proj.weight"]
    base = model.backbone.decoder.layers[0].mlp.down_proj.get_base_layer().weight
    assert torch.equal(changed, base) == (form == "kv")


def test_a_fingerprint_is_of_what_answers() -> None:
    model = tiny_family("llava")
    first = answering_fingerprint(model)
    assert answering_fingerprint(tiny_family("llava").to(torch.bfloat16)) == first  # whatever type it is loaded in
    assert answering_fingerprint(tiny_family("llava", seed=1)) != first
    model.voco_embeds.data += 1  # compresses, and takes no part in an answer
    assert answering_fingerprint(model) == first
    model.backbone.hf_model.get_output_embeddings().weight.data[5] += 1
    assert answering_fingerprint(model) != first


def test_settings_are_part_of_a_fingerprint() -> None:
    model, other = tiny_family("llava"), tiny_family("llava")
    other.backbone.text_config.rms_norm_eps = 0.1
    assert answering_fingerprint(model) != answering_fingerprint(other)


def test_a_decoder_that_computes_something_else_is_refused() -> None:
    model = tiny_family("llava")
    decoder = model.backbone.decoder
    whole = decoder.norm.forward
    decoder.norm.forward = lambda hidden: whole(hidden) * 1.5  # what no text model of that type does
    with pytest.raises(ModelError, match=r"computes something else than a 'llama'.*logits differ by 33"):
        text_model_of(model)


def test_a_decoder_that_is_no_text_model_is_refused() -> None:
    model = tiny_family("llava")
    model.backbone.text_config.model_type = "clip_text_model"
    with pytest.raises(ModelError, match=r"is a 'clip_text_model', which is no text model"):
        text_model_of(model)


def test_shapes_that_do_not_fit_are_refused() -> None:
    model = tiny_family("llava")
    model.backbone.text_config.intermediate_size = 7
    with pytest.raises(ModelError, match=r"down_proj.weight is \(64, 96\) in one and \(64, 7\) in the other"):
        text_model_of(model)


def test_packed_weights_are_refused() -> None:
    model = tiny_family("llava")
    linear = model.backbone.decoder.layers[1].mlp.up_proj
    linear.weight = torch.nn.Parameter(torch.zeros(96, 64, dtype=torch.uint8), requires_grad=False)
    for refuses in (text_model_of, answering_fingerprint):
        with pytest.raises(ModelError, match=r"layers.1.mlp.up_proj.weight is torch.uint8.*leave out weight_bits"):
            refuses(model)


def test_without_a_tokenizer_there_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        export_model(tiny_voco(), tmp_path / "llm", name="x")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        export_model(tiny_family("llava"), tmp_path, name="x")
    (tmp_path / "empty").mkdir()
    assert export_model(tiny_family("llava"), tmp_path / "empty", name="x").folder == tmp_path / "empty"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine.txt"]


def test_frames_of_other_places_are_refused() -> None:
    """Vision tokens of three coordinates, features for deeper layers, masks: an engine has no place for them."""
    for name in ("qwen2_5_vl", "qwen3_vl", "gemma3"):
        model = tiny_family(name, as_trained=True)
        fit, pairs = model.backbone.images.fit, model.backbone.template.pictures_per_frame
        pixels = random_pixels(2 * pairs, size=max(fit.height, fit.width))[:, : fit.height, : fit.width]
        tokens = compress_frames(model, model.vision_tokens(pixels), parse_compressor("full"), form="embeds")
        with pytest.raises(UsageError, match=r"take more than one row of embeddings.*compress to VoCo tokens"):
            asked(model, model.prefix(tokens, reads=False), prompt_of(model), OPTIONS)
