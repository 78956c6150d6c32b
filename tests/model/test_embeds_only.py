"""Decoders that do not keep all keys: a running state (Qwen3.5), windows and frames that see ahead (Gemma 3).

What equals the library is in `test_as_trained`. Here: what a prefix holds is never shared, batches and streams do not
disturb each other, and what needs keys is refused before anything is computed.
"""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlavaConfig, MistralConfig
from transformers.cache_utils import DynamicCache

from tests.helpers.as_trained import QUESTION, SEVERAL_TURNS, Shown, compressed, last_logits, text_ids
from tests.helpers.tiny_families import EACH_EMBEDS_ONLY, EMBEDS_ONLY, FAMILIES, tiny_family
from voco_video.answer.frame_scorer import FrameScorer
from voco_video.answer.generate import answer_questions, generate, stream_answer
from voco_video.answer.search import FrameSearch
from voco_video.api import VideoModel
from voco_video.cache import FrameCache
from voco_video.checkpoint.describe import describe_checkpoint
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.checkpoint.loading import resolve_attention
from voco_video.errors import ModelError, UsageError
from voco_video.evaluate.answer_likelihood import Ranker, answer_token_ids
from voco_video.evaluate.options import EvalOptions
from voco_video.model.backbone import CACHE_ARGUMENT
from voco_video.model.compressors import check_compressor, compress_frames
from voco_video.model.frame_masks import masks_of_frames
from voco_video.model.kv_layers import copied_cache, library_cache
from voco_video.model.mixed_prefix import assemble
from voco_video.model.tokens import Prefix, VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions
from voco_video.options.compression import Compressor, parse_compressor
from voco_video.options.loading import LoadOptions
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene
from voco_video.stored_tokens import checked_int8_error
from voco_video.training.checks import check_run
from voco_video.training.config import TrainConfig

TOLERANCE = 1e-4
QUESTIONS = ["What moves?", "Where does it go, and when is it there again?", "Who?", "What turns?"]
OPTIONS = AnswerOptions(max_new_tokens=6, stop_at_end=False)
NO_KV = r"form 'kv' cannot be had from .*: most of its layers .*; use form 'embeds'"


@pytest.fixture(scope="module", params=EACH_EMBEDS_ONLY)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name) -> VocoModel:
    return tiny_family(name, as_trained=True)


@pytest.fixture(scope="module")
def shown(name) -> Shown:
    fit = EMBEDS_ONLY[name].fit
    return Shown.random(5, (fit.height, fit.width))


@pytest.fixture(scope="module", params=["full", "voco"])
def prefix(request, model, shown) -> Prefix:
    return compressed(model, shown, request.param).prefix()


@pytest.fixture(scope="module")
def vision_tokens(model, shown) -> Tensor:
    with torch.inference_mode():
        return model.vision_tokens(shown.pixels[:4])


def tensors_of(cache: DynamicCache) -> list[Tensor]:
    """Everything that a cache holds, layer by layer."""
    found = []
    for layer in cache.layers:
        values = list(vars(layer).values())
        values += [item for value in values if isinstance(value, dict) for item in value.values()]
        found += [value for value in values if isinstance(value, Tensor)]
    return found


def answers_of(model: VocoModel, prefix: Prefix, prompts: list[list[int]]) -> list[list[int]]:
    return [ids for ids, _ in generate(model, prefix, prompts, options=OPTIONS)]


def prompts_of(model: VocoModel) -> list[list[int]]:
    return [text_ids(model, [("user", question)]) for question in QUESTIONS]


# ---------------------------------------------------------------------- what a prefix holds


def test_what_a_prefix_holds_is_what_the_librarys_own_cache_holds(model, prefix):
    assert not model.backbone.keeps_all_keys
    assert prefix.layers == ()
    expected = DynamicCache(config=model.backbone.text_config)
    assert [type(layer) for layer in prefix.state.layers] == [type(layer) for layer in expected.layers]
    assert prefix.length == prefix.state.get_seq_length() > 20
    kinds = dict(zip(model.backbone.text_config.layer_types, prefix.state.layers, strict=True))
    if "sliding_attention" in kinds:
        assert kinds["sliding_attention"].keys.shape[2] == model.backbone.text_config.sliding_window - 1
    else:
        assert not hasattr(kinds["linear_attention"], "keys")


def test_questions_leave_the_prefix_as_it_is(model, prefix):
    before = [tensor.clone() for tensor in tensors_of(prefix.state)]
    assert len(before) >= 6
    prompts = prompts_of(model)
    first = answers_of(model, prefix, prompts)
    list(stream_answer(model, prefix, QUESTIONS[0], options=OPTIONS))
    last_logits(model, prefix, SEVERAL_TURNS)
    assert all(torch.equal(*pair) for pair in zip(before, tensors_of(prefix.state), strict=True))
    assert answers_of(model, prefix, prompts) == first
    addresses = {tensor.data_ptr() for tensor in tensors_of(prefix.state) if tensor.numel() > 1}
    for batch_size in (1, 3):
        copied = tensors_of(prefix.to_cache(batch_size))
        assert not addresses & {tensor.data_ptr() for tensor in copied if tensor.numel() > 1}


def test_a_batch_of_different_lengths_is_answered_as_one_by_one(model, prefix):
    prompts = prompts_of(model)
    assert sorted(map(len, prompts))[0] < sorted(map(len, prompts))[-1]
    assert len({len(p) for p in prompts}) < len(prompts), "none of the prompts could share a batch"
    together = generate(model, prefix, prompts, options=OPTIONS)
    alone = [generate(model, prefix, [prompt], options=OPTIONS)[0] for prompt in prompts]
    assert [ids for ids, _ in together] == [ids for ids, _ in alone]
    assert np.allclose([share for _, share in together], [share for _, share in alone], atol=1e-4)
    assert len({tuple(ids) for ids, _ in together}) > 1


def test_padding_would_change_answers(model, prefix):
    """Why a batch is split: a text behind padding is another one to these decoders."""
    prompt = prompts_of(model)[0]
    with torch.inference_mode():
        embeds = model.backbone.embed([[0] * 7 + prompt])
        mask = torch.ones(1, prefix.length + embeds.shape[1], dtype=torch.long)
        mask[:, prefix.length : prefix.length + 7] = 0
        positions = prefix.text_start + torch.tensor([[0] * 7 + list(range(len(prompt)))])
        cache = {CACHE_ARGUMENT: prefix.to_cache()}
        hidden = model.backbone.decoder(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=True, **cache
        ).last_hidden_state
        padded = model.backbone.logits(hidden[:, -1])[0]
        plain = model(torch.tensor([prompt]), prefix=prefix)[0][0, -1]
    assert (padded - plain).abs().max() > 100 * TOLERANCE


def test_streams_side_by_side_do_not_disturb_each_other(model, prefix):
    alone = ["".join(stream_answer(model, prefix, question, options=OPTIONS)) for question in QUESTIONS[:2]]
    streams = [stream_answer(model, prefix, question, options=OPTIONS) for question in QUESTIONS[:2]]
    pieces = list(zip_longest(*streams, fillvalue=""))
    assert ["".join(column) for column in zip(*pieces)] == alone


def test_generation_equals_repeated_argmax(model, prefix):
    """Each step from a copy of the prefix, the whole text again: steps of one token go another way in the library."""
    text = text_ids(model, QUESTION)
    start = len(text)
    with torch.inference_mode():
        for _ in range(6):
            text.append(int(model(torch.tensor([text]), prefix=prefix)[0][0, -1].argmax()))
    assert answers_of(model, prefix, [text[:start]]) == [text[start:]]


def test_text_alone_is_answered_as_the_library_does(model):
    prompts = [
        model.backbone.conversation_ids([{"role": "user", "content": question}], has_frames=False)
        for question in QUESTIONS
    ]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        generated = model.backbone.hf_model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=model.backbone.text_config.vocab_size,
            pad_token_id=0,
        )
        expected.append(generated[0, len(prompt) :].tolist())
    model.backbone.hf_model.base_model.rope_deltas = None
    assert answers_of(model, model.empty_prefix(), prompts) == expected


# ---------------------------------------------------------------------- frames


def test_a_batch_of_frames_equals_one_by_one(model, vision_tokens):
    for compressor in ("voco", "full", "pool:1"):
        kind = parse_compressor(compressor)
        together = compress_frames(model, vision_tokens, kind, form="embeds")
        alone = [compress_frames(model, one[None], kind, form="embeds") for one in vision_tokens]
        assert (together.embeds - VocoTokens.cat(alone).embeds).abs().max() <= TOLERANCE
        assert (together.embeds[0] - together.embeds[1]).abs().max() > 0.1


def test_fewer_voco_tokens_are_the_first_ones(model, vision_tokens):
    few = model.compress(vision_tokens, num_voco_tokens=2, form="embeds")
    all_four = model.compress(vision_tokens, form="embeds")
    assert (few.embeds - all_four.first(2).embeds).abs().max() <= TOLERANCE


def test_saved_and_loaded_is_the_same_model(model, shown, tmp_path):
    again = load_voco_model(save_voco_model(model, tmp_path), dtype="float32")
    assert again.fingerprint() == model.fingerprint()
    assert again.backbone.template == model.backbone.template
    # Token ids of one tokenizer: for Qwen3.5 the library loads its own kind, whatever the files hold.
    texts, prompts = dict(enumerate(compressed(model, shown).leads())), prompts_of(model)
    for compressor in ("full", "voco"):
        answers = []
        for each in (model, again):
            video = compressed(each, shown, compressor)
            counts = torch.full((video.tokens.num_frames,), video.tokens.num_voco_tokens)
            answers.append(answers_of(each, assemble(each, video.tokens, counts=counts, texts=texts), prompts))
        assert answers[0] == answers[1]
    facts = describe_checkpoint(tmp_path)
    assert facts.title == model.backbone.family.title
    assert facts.bytes_per_frame == {"embeds": 4 * 64}


def test_int8_is_measured_and_stored_as_with_others(model, vision_tokens):
    tokens = model.compress(vision_tokens, form="embeds")
    try:
        assert checked_int8_error(model, tokens) < 0.1
    except ModelError as error:
        assert "moves the logits" in str(error)  # noqa: PT017  # a random model may be too sensitive


# ---------------------------------------------------------------------- refused


def test_form_kv_is_refused_wherever_it_is_asked_for(model, vision_tokens):
    for compressor in ("voco", "full", "pool:1"):
        kind = parse_compressor(compressor)
        assert model.form_of(kind) == "embeds"
        with pytest.raises(UsageError, match=NO_KV):
            check_compressor(model, kind, form="kv")
        with pytest.raises(UsageError, match=NO_KV):
            compress_frames(model, vision_tokens, kind, form="kv")
    with pytest.raises(UsageError, match=NO_KV):
        model.compress(vision_tokens, form="kv")
    check_compressor(model, Compressor("none"), form="kv")  # keeps nothing at all
    untrained = VocoModel(model.backbone, torch.empty(0, 64))
    for compressor in ("auto", "full"):  # before any video is looked at
        assert EvalOptions(compressor=compressor, form="embeds").budgets(untrained) == (None,)
        with pytest.raises(UsageError, match=NO_KV):
            EvalOptions(compressor=compressor, form="kv").budgets(untrained)


def test_vision_tokens_without_words_around_them_are_refused(name):
    first = tiny_family(name)
    assert first.backbone.template.as_trained is None
    with pytest.raises(UsageError, match="only among words, as it was trained"):
        check_compressor(first, Compressor("full"), form="embeds")


def test_where_an_answer_looked_cannot_be_measured(model, prefix):
    with pytest.raises(UsageError, match=r"with_attention .*keep a running state, or the last few tokens only"):
        answer_questions(model, prefix, QUESTIONS, options=OPTIONS, frame_pts_seconds=np.empty(0), with_attention=True)


def test_frames_are_found_by_a_trained_scorer_only(model, vision_tokens):
    tokens = model.compress(vision_tokens, form="embeds")
    with pytest.raises(UsageError, match="no trained scorer of frames"):
        FrameSearch(model, lambda: [tokens], list).scores("What moves?")
    torch.manual_seed(0)
    scorer = FrameScorer(64, 64).requires_grad_(False)
    found = FrameSearch(model, lambda: [tokens], lambda: [tokens.embeds.float()], scorer=scorer)
    scores = found.scores("What moves?").scores
    assert scores.shape == (tokens.num_frames,)
    assert np.isfinite(scores).all()
    assert scores.std() > 0


def test_training_in_form_kv_is_refused_before_anything_is_loaded(name, tmp_path):
    config = EMBEDS_ONLY[name].config()
    config.save_pretrained(tmp_path)  # no weights, no tokenizer
    for form in ("kv", "both"):
        with pytest.raises(UsageError, match=rf"form='{form}' and model=.* cannot be trained in form 'kv', as most of"):
            check_run(TrainConfig(output_dir=str(tmp_path / "run"), model=str(tmp_path), form=form, max_steps=1))
    check_run(TrainConfig(output_dir=str(tmp_path / "run"), model=str(tmp_path), form="embeds", max_steps=1))


# ---------------------------------------------------------------------- from a video to answers


@pytest.fixture(scope="module")
def video_model(model, tmp_path_factory) -> VideoModel:
    return VideoModel(model, FrameCache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(draw_scene(0, index=0), path, size=64)
    return path


@pytest.mark.parametrize("compressor", ["voco", "full"])
def test_a_video_is_compressed_once_and_asked(video_model, clip, compressor):
    video = video_model.compress(clip, num_frames=4, compressor=compressor)
    assert video.form == "embeds"
    names = set(video.parts[0].entry.tensors) - {"seconds", "positions"}
    assert names == {"embeds", "pixels_blake3"}
    alone = [video.ask(question, max_new_tokens=4).token_ids for question in QUESTIONS[:2]]
    assert [answer.token_ids for answer in video.ask(QUESTIONS[:2], max_new_tokens=4)] == alone
    assert (
        "".join(video.stream(QUESTIONS[0], max_new_tokens=4)).strip() == video.ask(QUESTIONS[0], max_new_tokens=4).text
    )
    again = video_model.compress(clip, num_frames=4, compressor=compressor)
    assert again.from_cache
    assert again.ask(QUESTIONS[1], max_new_tokens=4).token_ids == alone[1]
    few = {"max_voco_tokens": video.num_voco_tokens, "max_new_tokens": 2}
    assert again.ask(QUESTIONS[0], policy="recent", **few).num_frames == 1
    with pytest.raises(UsageError, match="ask with policy 'uniform' or 'recent'"):
        again.ask(QUESTIONS[0], policy="relevant", **few)
    with pytest.raises(UsageError, match="cannot be searched"):
        again.find("a star")
    with pytest.raises(UsageError, match="with_attention"):
        again.ask(QUESTIONS[0], with_attention=True)
    with pytest.raises(UsageError, match=NO_KV):
        video_model.compress(clip, num_frames=4, compressor=compressor, form="kv")


def test_a_vocabulary_is_ranked_answer_by_answer(model, prefix):
    answers = ("yes", "a cat", "a dog", "a dog runs", "no", "n")
    prompt = model.backbone.conversation_ids([{"role": "user", "content": "what is this?"}])
    expected = []
    with torch.inference_mode():
        for ids in answer_token_ids(model.backbone, answers):
            logits = model(torch.tensor([[*prompt, *ids]]), prefix=prefix)[0][0].log_softmax(-1)
            expected.append(sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(ids)))
    found = Ranker.of(model, answers).log_likelihoods(prefix, "what is this?")
    assert torch.allclose(found, torch.tensor(expected), atol=1e-3)
    assert found.std() > 0.5


# ---------------------------------------------------------------------- attention


@pytest.mark.parametrize("window", [5, 12, 100])
def test_masks_of_frames_are_the_librarys(window):
    from transformers.models.gemma3.modeling_gemma3 import create_masks_for_vision_model

    config = tiny_family("gemma3").backbone.text_config
    config.sliding_window, config._attn_implementation = window, "sdpa"
    frames = torch.tensor([[-1, -1, 0, 0, 0, 0, -1, 1, 1, 1, -1, -1], [0, 0, -1, -1, -1, 2, 2, 2, 2, 2, 2, 2]])
    row = torch.zeros(2, 12, 64)
    theirs = create_masks_for_vision_model(config, row, None, None, None, block_sequence_ids=frames)
    ours = masks_of_frames(config, frames, dtype=torch.float32)
    assert ours.keys() == theirs.keys()
    for kind, mask in ours.items():
        assert torch.equal(mask, theirs[kind])
    assert not torch.equal(ours["full_attention"], torch.ones(12, 12).tril().bool().expand(2, 1, -1, -1))


@pytest.mark.parametrize("attention", ["eager", "blocked"])
def test_other_attentions_see_the_same(model, shown, attention):
    """`blocked` is not made for windows and masks, and leaves them to the library."""
    expected = last_logits(model, compressed(model, shown).prefix(), QUESTION)
    model.backbone.decoder.set_attn_implementation(attention)
    try:
        for compressor in ("full", "voco"):
            logits = last_logits(model, compressed(model, shown, compressor).prefix(), QUESTION)
            if compressor == "full":
                assert (logits - expected).abs().max() <= TOLERANCE
            assert logits.isfinite().all()
    finally:
        model.backbone.decoder.set_attn_implementation("sdpa")


def test_blocked_attention_in_16_bit_keeps_to_windows_and_frames():
    model = tiny_family("gemma3", as_trained=True)
    shown = Shown.random(4, (32, 32))
    exact = last_logits(model, compressed(model, shown).prefix(), QUESTION)
    model.to(torch.bfloat16)
    logits = {}
    for attention in ("sdpa", "blocked"):
        model.backbone.decoder.set_attn_implementation(attention)
        logits[attention] = last_logits(model, compressed(model, shown).prefix(), QUESTION).float()
    rounding = (logits["sdpa"] - exact).abs().max()
    assert (logits["blocked"] - logits["sdpa"]).abs().max() <= rounding


def test_flash_attention_is_not_chosen_for_what_it_cannot_do(monkeypatch):
    from voco_video.checkpoint import loading

    monkeypatch.setattr(loading, "find_spec", lambda name: object())
    monkeypatch.setattr(LoadOptions, "torch_device", torch.device("cuda"))
    options = LoadOptions(dtype="bfloat16")
    takes = {name: loading._takes_flash(tiny.config()) for name, tiny in [*FAMILIES.items(), *EMBEDS_ONLY.items()]}
    assert [name for name, flash in takes.items() if not flash] == ["gemma3"]
    assert resolve_attention(options, takes_flash=takes["qwen3_5"]) == "flash_attention_2"
    assert resolve_attention(options, takes_flash=takes["gemma3"]) == "sdpa"


# ---------------------------------------------------------------------- other decoders with windows


def test_a_decoder_with_a_window_in_another_family_is_asked_without_padding():
    """LLaVA on Mistral: frames have keys there, and a window would reach less far back behind padding."""
    from tests.helpers import tiny_families as tiny

    def config() -> LlavaConfig:
        usual = FAMILIES["llava"].config()
        text = MistralConfig(**tiny.TEXT, head_dim=16, sliding_window=9)
        return LlavaConfig(vision_config=usual.vision_config, text_config=text, image_token_index=tiny.IDS["<image>"])

    torch.manual_seed(0)
    hf_model = tiny.AutoModelForImageTextToText.from_config(config(), attn_implementation="sdpa").eval()
    usual = tiny_family("llava")
    backbone = type(usual.backbone)(hf_model, usual.backbone.tokenizer, usual.backbone.images, usual.backbone.template)
    model = VocoModel(backbone, usual.voco_embeds.detach()).eval()
    assert library_cache(backbone.text_config) is not None
    pixels = Shown.random(3, (32, 32)).pixels
    with torch.inference_mode():
        vision = model.vision_tokens(pixels)
    for form in ("kv", "embeds"):
        prefix = model.prefix(model.compress(vision, form=form))
        prompts = [backbone.conversation_ids([{"role": "user", "content": question}]) for question in QUESTIONS]
        together = [ids for ids, _ in generate(model, prefix, prompts, options=OPTIONS)]
        assert together == [generate(model, prefix, [prompt], options=OPTIONS)[0][0] for prompt in prompts]


def test_a_cache_is_copied_layer_by_layer(model, prefix):
    copied = copied_cache(prefix.state, 2)
    for one, two in zip(tensors_of(prefix.state), tensors_of(copied), strict=True):
        if one.ndim > 1:
            assert torch.equal(one.expand(2, *one.shape[1:]), two)
