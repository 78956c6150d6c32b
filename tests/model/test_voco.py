"""Equality tests of the two-pass path (each fast way against the slow, obvious one), in fp32 and with bf16 recorded."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.models import one_masked_pass, random_pixels, tiny_voco
from voco_video.answer.generate import generate
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.errors import ModelError, UsageError
from voco_video.model.backbone import CACHE_ARGUMENT
from voco_video.model.positions import CompactLayout, rotate_keys
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions

TEXT = torch.tensor([5, 11, 42, 7, 60, 33, 18])
# fp32 must agree to 1e-4 (the design's bound). bf16 keeps 8 bits, so its logits, of size about 4 here, are held to a
# bound that only catches something broken; the error seen is in the test report (pytest -rP).
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.5}
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module", params=DTYPES, ids=["fp32", "bf16"])
def model(request) -> VocoModel:
    return tiny_voco(dtype=request.param)


@pytest.fixture(scope="module")
def vision_tokens(model):
    with torch.inference_mode():
        return model.vision_tokens(random_pixels(6))


def answer_logits(model, tokens, *, num_voco_tokens=None, text=TEXT):
    prefix = model.prefix(tokens, num_voco_tokens=num_voco_tokens)
    with torch.inference_mode():
        return model(text[None], prefix=prefix)[0][0]  # [T, vocabulary]


def assert_close(name, model, left, right):
    error = (left.float() - right.float()).abs().max().item()
    dtype = model.backbone.dtype
    print(f"{name} {str(dtype).removeprefix('torch.')}: largest difference {error:.2e}")
    assert error <= TOLERANCE[dtype]


@pytest.mark.parametrize("num_frames", [1, 3, 6])
@pytest.mark.parametrize("k", [1, 4])
def test_two_passes_equal_one_masked_pass(model, vision_tokens, num_frames, k):
    frames = vision_tokens[:num_frames]
    expected = one_masked_pass(model, frames, TEXT, k)
    assert_close("two passes", model, answer_logits(model, model.compress(frames, num_voco_tokens=k)), expected)


def test_the_oracle_notices_a_wrong_mask(vision_tokens, model):
    """Frames in another order, and text over another frame, must differ far beyond the tolerance."""
    expected = one_masked_pass(model, vision_tokens[:3], TEXT, 4)
    for other in (vision_tokens[[2, 1, 0]], vision_tokens[:2], vision_tokens[1:4]):
        assert (answer_logits(model, model.compress(other)) - expected).abs().max() > 1


def test_keys_rotated_by_a_delta_equal_keys_computed_there(model, vision_tokens):
    delta = 29
    sequence = model.frame_sequence(vision_tokens[:1])
    positions = torch.arange(sequence.shape[1])

    def keys_at(start):
        with torch.inference_mode():
            out = model.backbone.decoder(inputs_embeds=sequence, position_ids=positions[None] + start, use_cache=True)
        return torch.stack([layer.keys for layer in out[CACHE_ARGUMENT].layers])

    moved = rotate_keys(keys_at(0), source=positions, target=positions + delta, inv_freq=model.backbone.inv_freq)
    assert_close("rotated keys", model, moved, keys_at(delta))


@pytest.mark.parametrize("delta", [10, 1000, 30000])
def test_far_rotations_stay_exact_in_fp32(delta):
    model = tiny_voco()
    sequence = model.frame_sequence(torch.randn(1, 16, 64))
    positions = torch.arange(sequence.shape[1])
    first = [
        model.backbone.decoder(inputs_embeds=sequence, position_ids=positions[None] + s)[CACHE_ARGUMENT].layers[0].keys
        for s in (0, delta)
    ]
    moved = rotate_keys(first[0], source=positions, target=positions + delta, inv_freq=model.backbone.inv_freq)
    assert (moved - first[1]).abs().max() < 1e-5 * first[1].abs().max() * 10


@pytest.mark.parametrize("rope", [{"rope_type": "linear", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0}])
def test_scaled_rotary_embeddings_move_too(rope):
    model = tiny_voco(rope_scaling=rope)
    frames = model.vision_tokens(random_pixels(3))
    expected = one_masked_pass(model, frames, TEXT, 4)
    assert (answer_logits(model, model.compress(frames)) - expected).abs().max() < 1e-4


def test_rotary_embeddings_that_depend_on_length_are_refused():
    model = tiny_voco(rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    tokens = model.compress(model.vision_tokens(random_pixels(2)))
    with pytest.raises(ModelError, match="dynamic"):
        model.prefix(tokens)


def test_keys_and_values_are_a_whole_pass_without_the_rest_of_the_last_layer(model, vision_tokens):
    ran = []
    last = model.backbone.decoder.layers[-1]
    hooks = [part.register_forward_hook(lambda *_: ran.append(1)) for part in (last.self_attn.o_proj, last.mlp)]
    tokens = model.compress(vision_tokens)
    assert not ran
    with torch.inference_mode():
        out = model.backbone.decoder(inputs_embeds=model.frame_sequence(vision_tokens), use_cache=True)
    assert len(ran) == 2
    for hook in hooks:
        hook.remove()
    k = model.num_voco_tokens
    for layer, kept in enumerate(out[CACHE_ARGUMENT].layers):
        torch.testing.assert_close(tokens.keys[:, layer], kept.keys[:, :, -k:], rtol=0, atol=0)
        torch.testing.assert_close(tokens.values[:, layer], kept.values[:, :, -k:], rtol=0, atol=0)


@pytest.mark.parametrize("layer", [-1, -2, 1, 2, [-2, -1]])
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_a_tower_runs_no_further_than_the_layer_that_is_read(layer, strategy):
    backbone = tiny_voco().backbone
    config, parts = backbone.hf_model.config, backbone.hf_model.model
    config.vision_feature_layer, config.vision_feature_select_strategy = layer, strategy
    if isinstance(layer, list):
        parts.multi_modal_projector = torch.nn.Linear(2 * config.vision_config.hidden_size, backbone.hidden_size)
    ran = []
    for block in parts.vision_tower.encoder.layers:
        block.register_forward_hook(lambda *_: ran.append(1))
    pixel_values = backbone.pixel_values(random_pixels(3))
    with torch.inference_mode():
        fast = backbone.vision_tokens(pixel_values)
        num_run = len(ran)
        slow = torch.stack(list(backbone.hf_model.get_image_features(pixel_values=pixel_values).pooler_output))
    torch.testing.assert_close(fast, slow, rtol=0, atol=0)
    assert num_run == (2 if isinstance(layer, list) else layer % 3)


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_slice_equals_compressing_only_those_frames(model, vision_tokens, form):
    whole = model.compress(vision_tokens, form=form)[2:5]
    alone = model.compress(vision_tokens[2:5], form=form)
    assert_close("slice", model, answer_logits(model, whole), answer_logits(model, alone))


@pytest.mark.parametrize("form", ["kv", "embeds"])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_first_k_tokens_equal_compressing_with_k(model, vision_tokens, form, k):
    cut = model.compress(vision_tokens, form=form)
    alone = model.compress(vision_tokens, num_voco_tokens=k, form=form)
    assert_close("first k", model, answer_logits(model, cut, num_voco_tokens=k), answer_logits(model, alone))


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_batch_of_frames_equals_one_by_one(model, vision_tokens, form):
    together = model.compress(vision_tokens, form=form)
    single = VocoTokens.cat([model.compress(vision_tokens[f : f + 1], form=form) for f in range(6)])
    for name, tensor in together.tensors().items():
        assert_close(f"batch {name}", model, tensor, single.tensors()[name])


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_single_token_steps_equal_one_prefill(model, vision_tokens, form):
    prefix = model.prefix(model.compress(vision_tokens, form=form))
    expected = model(TEXT[None], prefix=prefix)[0][0]
    cache, steps = prefix.to_cache(), []
    for i, token in enumerate(TEXT):
        position = torch.tensor([[prefix.text_start + i]])
        hidden = model.backbone.decoder(
            inputs_embeds=model.backbone.embed(token[None, None]), position_ids=position, **{CACHE_ARGUMENT: cache}
        ).last_hidden_state
        steps.append(model.backbone.logits(hidden)[0, 0])
    assert_close("steps", model, torch.stack(steps), expected)


def test_embeds_equal_one_causal_sequence(model, vision_tokens):
    """Frames as input embeddings: BOS, all VoCo embeddings, text, in one ordinary causal pass."""
    tokens = model.compress(vision_tokens, form="embeds")
    sequence = torch.cat([model.backbone.embed([1]), tokens.embeds.flatten(0, 1), model.backbone.embed(TEXT)])[None]
    hidden = model.backbone.decoder(inputs_embeds=sequence, use_cache=False).last_hidden_state
    expected = model.backbone.logits(hidden)[0, -len(TEXT) :]
    assert_close("embeds", model, answer_logits(model, tokens), expected)


def test_questions_in_a_batch_equal_one_by_one_and_share_the_prefix(vision_tokens, model):
    prefix = model.prefix(model.compress(vision_tokens))
    prompts = [[5, 11, 42], [5, 7], [5, 60, 33, 18, 9, 70]]
    options = AnswerOptions(max_new_tokens=6, stop_at_end=False)
    before = [k.clone() for k, _ in prefix.layers]
    together = generate(model, prefix, prompts, options=options)
    single = [generate(model, prefix, [prompt], options=options)[0] for prompt in prompts]
    if model.backbone.dtype is torch.float32:  # in bf16 two tokens may be as good as equal
        assert [ids for ids, _ in together] == [ids for ids, _ in single]
        assert [c for _, c in together] == pytest.approx([c for _, c in single], abs=1e-4)
    assert all(torch.equal(k, b) for (k, _), b in zip(prefix.layers, before)), "generation changed the shared prefix"


def test_generation_equals_repeated_argmax(vision_tokens):
    model = tiny_voco()
    prefix = model.prefix(model.compress(vision_tokens.float()))
    ids, _ = generate(model, prefix, [TEXT.tolist()], options=AnswerOptions(max_new_tokens=8, stop_at_end=False))[0]
    text = TEXT.tolist()
    for _ in range(8):
        text.append(int(model(torch.tensor([text]), prefix=prefix)[0][0, -1].argmax()))
    assert ids == text[len(TEXT) :]


def test_going_on_after_the_end_token_is_a_choice(vision_tokens):
    model = tiny_voco()
    prefix = model.prefix(model.compress(vision_tokens.float()))

    def ids(**options) -> list[int]:
        return generate(model, prefix, [TEXT.tolist()], options=AnswerOptions(max_new_tokens=4, **options))[0][0]

    likeliest = ids(stop_at_end=False)
    model.backbone.hf_model.generation_config.eos_token_id = likeliest[0]
    assert ids() == []
    assert ids(stop_at_end=False) == likeliest


def test_text_without_frames():
    model = tiny_voco()
    logits, loss = model(TEXT[None], prefix=model.empty_prefix(), labels=TEXT[None])
    expected = model.backbone.hf_model(input_ids=TEXT[None], labels=TEXT[None])
    assert torch.allclose(logits, expected.logits, atol=1e-5)
    assert loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)


def test_budgets_that_do_not_exist_are_refused(vision_tokens, model):
    for k in (0, 5, -1):
        with pytest.raises(UsageError, match=f"num_voco_tokens={k}"):
            model.compress(vision_tokens, num_voco_tokens=k)
    tokens = model.compress(vision_tokens, num_voco_tokens=2)
    with pytest.raises(UsageError, match="compressed to 2"):
        tokens.first(3)
    with pytest.raises(UsageError, match="form 'pixels'"):
        model.compress(vision_tokens, form="pixels")


def test_compact_layout_written_out():
    layout = CompactLayout(frame_length=18, num_voco_tokens=2, num_frames=3)
    assert layout.voco_positions().tolist() == [18, 19, 20, 21, 22, 23]
    assert [layout.frame_start(f) for f in range(3)] == [0, 2, 4]
    assert layout.text_start == 24


# ---------------------------------------------------------------------- checkpoints and identity


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_published_checkpoint_computes_what_the_published_code_computed(shared, attention):
    folder = shared / "golden" / "official_tiny"
    model = load_voco_model(folder, dtype="float32", attn_implementation=attention)
    cases = load_file(folder / "cases.safetensors")
    errors = {"logits": 0.0, "loss": 0.0}
    for i in range(4):
        ids = cases[f"{i}.input_ids"].tolist()
        k, text = ids.count(32000), ids[3 + ids.count(32000) :]
        vision_tokens = model.backbone.vision_tokens(cases[f"{i}.pixel_values"][None])
        tokens = model.compress(vision_tokens, num_voco_tokens=k)
        prefix = model.prefix(tokens)
        labels = torch.tensor([[-100] * (10 - 3 - k) + ids[10:]])
        logits, loss = model(torch.tensor([text]), prefix=prefix, labels=labels)
        errors["logits"] = max(errors["logits"], float((logits[0, -4:] - cases[f"{i}.last4_logits"]).abs().max()))
        errors["loss"] = max(errors["loss"], abs(float(loss - cases[f"{i}.loss"])))
        options = AnswerOptions(max_new_tokens=10, stop_at_end=False)
        assert generate(model, prefix, [text], options=options)[0][0] == cases[f"{i}.greedy"].tolist()
    print(f"golden {attention}: {errors}")
    assert errors["logits"] <= 1e-4
    assert errors["loss"] <= 1e-4


def test_save_and_load_keep_fingerprint_and_logits(tmp_path):
    model = load_voco_model("voco-tiny")
    again = load_voco_model(save_voco_model(model, tmp_path / "copy"))
    assert again.fingerprint() == model.fingerprint()
    frames = model.vision_tokens(random_pixels(2, size=64))
    logits = [m(TEXT[None], prefix=m.prefix(m.compress(frames)))[0] for m in (model, again)]
    assert torch.equal(*logits)
    settings = json.loads((tmp_path / "copy" / "voco_config.json").read_text())
    assert settings["num_voco_tokens"] == model.num_voco_tokens


def test_the_fingerprint_covers_compressing_weights_and_nothing_else():
    model = tiny_voco()
    original = model.fingerprint()
    assert tiny_voco().fingerprint() == original
    with torch.no_grad():
        model.backbone.hf_model.get_output_embeddings().weight += 1
    assert model.fingerprint() == original, "the head does not change VoCo tokens"
    changed = {original}
    for name, parameter in model.named_parameters():
        if "lm_head" in name or parameter.numel() == 0:
            continue
        with torch.no_grad():
            parameter.view(-1)[-1] += 1
        changed.add(model.fingerprint())
    assert len(changed) == 1 + sum("lm_head" not in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"path": "no-such-model"}, ModelError, "no checkpoint 'no-such-model'"),
        ({"dtype": "int4"}, UsageError, "dtype='int4'"),
        ({"device": "warp"}, UsageError, "device='warp'"),
        ({"attn_implementation": "magic"}, UsageError, "attn_implementation='magic'"),
        ({"num_voco_tokens": 3}, UsageError, "num_voco_tokens=3"),
    ],
)
def test_loading_errors_name_the_value(options, error, message):
    with pytest.raises(error, match=message):
        load_voco_model(**{"path": "voco-tiny"} | options)


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_voco_model(tmp_path)


def test_a_plain_checkpoint_has_no_voco_tokens_unless_asked_for(tmp_path):
    model = load_voco_model("voco-tiny")
    save_voco_model(model, tmp_path)
    for name in ("voco_config.json", "voco.safetensors"):
        (tmp_path / name).unlink()
    plain = load_voco_model(tmp_path)
    assert plain.num_voco_tokens == 0
    with pytest.raises(ModelError, match="no trained VoCo tokens"):
        plain.compress(torch.zeros(1, 64, 128))
    fresh = load_voco_model(tmp_path, num_voco_tokens=3)
    assert fresh.voco_embeds.shape == (3, 128)
    assert not fresh.trained
