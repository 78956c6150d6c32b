"""Every family against the library's own code, and the five equalities that compression rests on.

Run with -rP for the table of the largest differences.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoImageProcessor,
    InternVLConfig,
    LlavaConfig,
    LlavaOnevisionConfig,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
    SmolVLMConfig,
)

from tests.helpers.tiny_families import EACH_FAMILY, FAMILIES, IDS, TWINS, library_logits, tiny_family
from voco_video.answer.generate import frame_attention, generate
from voco_video.checkpoint.describe import describe_checkpoint, supported_models
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.errors import ModelError
from voco_video.model.backbone import CACHE_ARGUMENT
from voco_video.model.compressors import compress_frames, whole_frames
from voco_video.model.families import REASONS, family_of
from voco_video.model.positions import frame_positions
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions
from voco_video.options.compression import parse_compressor
from voco_video.training.batches import TrainingBatch, Visibility
from voco_video.training.loss import TrainableVoco
from voco_video.video.scaling import Fit

TOLERANCE = 1e-4
QUESTION = [{"role": "user", "content": "What moves, and where to?"}]
TEXT = torch.tensor([IDS[c] for c in "What is it?\n"])
COLUMNS = {
    "library": "(a) full = library",
    "mask": "(b) two passes = one masked",
    "rotation": "(c) keys moved by 29 = recomputed",
    "far rotation": "... by 1000, of the largest key",
    "batch": "(d) batch = one by one",
    "saved": "(e) saved = loaded",
    "packed": "training pass = two passes",
}
_seen: dict[str, dict[str, float]] = defaultdict(dict)


def assert_close(family: str, what: str, left: Tensor, right: Tensor, *, tolerance: float = TOLERANCE) -> None:
    assert left.shape == right.shape
    error = (left.float() - right.float()).abs().max().item()
    _seen[family][what] = max(error, _seen[family].get(what, 0.0))
    assert error <= tolerance


@pytest.fixture(scope="module", params=EACH_FAMILY)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family) -> VocoModel:
    return tiny_family(family)


@pytest.fixture(scope="module")
def pixels(family):
    fit = FAMILIES[family].fit
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (5, fit.height, fit.width, 3), generator=generator, dtype=torch.uint8).numpy()


@pytest.fixture(scope="module")
def vision_tokens(model, pixels) -> Tensor:
    with torch.inference_mode():
        return model.vision_tokens(pixels)


@pytest.fixture(scope="module")
def folder(model, family, tmp_path_factory):
    return save_voco_model(model, tmp_path_factory.mktemp(family))


@torch.inference_mode()
def logits_after(model: VocoModel, tokens: VocoTokens) -> Tensor:
    return model(TEXT[None], prefix=model.prefix(tokens))[0][0]


def test_full_frames_give_the_logits_of_the_librarys_own_forward(model, family, pixels, vision_tokens, folder):
    for f in range(2):
        ours = logits_after(model, whole_frames(model, vision_tokens[f : f + 1]))
        library = library_logits(model, family, pixels[f], TEXT, folder)
        assert_close(family, "library", ours, library)
        other = logits_after(model, whole_frames(model, vision_tokens[4:]))
        assert (other - library).abs().max() > 0.1, "another frame gives the same logits: nothing was compared"


# ---------------------------------------------------------------------- one masked pass, written out


def library_positions(model: VocoModel, num_voco_tokens: int) -> Tensor:
    """Positions of one frame's sequence as the library itself counts them, VoCo tokens as text, ``[3, L]``."""
    backbone = model.backbone
    before, after = (len(ids) for ids in (backbone.template.frame_before_ids, backbone.template.frame_after_ids))
    picture = backbone.num_vision_tokens
    types = torch.tensor([[0] * before + [1] * picture + [0] * (after + num_voco_tokens)])
    inner = backbone.hf_model.base_model
    if not hasattr(inner, "get_rope_index"):
        extra = backbone.family.after_embeds(backbone.hf_model)
        length = types.shape[1] + (0 if extra is None else len(extra))
        return torch.arange(length).expand(3, -1)
    patch = backbone.hf_model.config.vision_config.patch_size
    grid = torch.tensor([[1, backbone.images.fit.height // patch, backbone.images.fit.width // patch]])
    positions, _ = inner.get_rope_index(torch.ones_like(types), mm_token_type_ids=types, image_grid_thw=grid)
    return positions[:, 0].long()


@torch.inference_mode()
def one_masked_pass(model: VocoModel, vision_tokens: Tensor, num_voco_tokens: int) -> Tensor:
    """Frames and text as one sequence under an explicit mask, at the library's own positions for each frame.

    Without VoCo tokens the text sees all of every frame, and frames stand one behind the other.
    """
    backbone, width = model.backbone, model.backbone.hidden_size
    sequence = model.frame_sequence(vision_tokens, num_voco_tokens)  # [F, L, W]
    num_frames, length, _ = sequence.shape
    total = num_frames * length + len(TEXT)
    mask = torch.zeros(total, total, dtype=torch.bool)
    frame = library_positions(model, num_voco_tokens)
    kept, step = num_voco_tokens or length, num_voco_tokens or int(frame.max()) + 1
    positions = []
    for f in range(num_frames):
        first = f * length
        mask[first : first + length, first : first + length] = torch.ones(length, length).tril().bool()
        mask[num_frames * length :, first + length - kept : first + length] = True
        positions.append(frame + f * step)
    mask[num_frames * length :, num_frames * length :] = torch.ones(len(TEXT), len(TEXT)).tril().bool()
    text_start = int(positions[-1].max()) + 1
    positions.append((text_start + torch.arange(len(TEXT))).expand(3, -1))
    row = torch.cat([sequence[..., :width].flatten(0, 1), backbone.embed(TEXT)])[None]
    position_ids = torch.cat(positions, dim=1)[:, None]  # [3, 1, total]
    has_coordinates = hasattr(backbone.hf_model.base_model, "get_rope_index")
    inputs = {"position_ids": position_ids if has_coordinates else position_ids[0]}
    if sequence.shape[2] > width:  # the deeper features, as the library takes them: at vision tokens alone
        before, count = len(backbone.template.frame_before_ids), vision_tokens.shape[1]
        places = torch.zeros(num_frames, length, dtype=torch.bool)
        places[:, before : before + count] = True
        inputs["visual_pos_masks"] = torch.cat([places.flatten(), torch.zeros(len(TEXT), dtype=torch.bool)])[None]
        inputs["deepstack_visual_embeds"] = [d.flatten(0, 1) for d in vision_tokens.split(width, dim=-1)[1:]]
    hidden = backbone.decoder(
        inputs_embeds=row, attention_mask=mask[None, None], use_cache=False, **inputs
    ).last_hidden_state
    return backbone.logits(hidden)[0, -len(TEXT) :]


@pytest.mark.parametrize("num_frames", [1, 3])
@pytest.mark.parametrize("k", [0, 1, 4], ids=["full", "k=1", "k=4"])
def test_two_passes_equal_one_masked_pass(model, family, vision_tokens, num_frames, k):
    frames = vision_tokens[:num_frames]
    tokens = model.compress(frames, num_voco_tokens=k) if k else whole_frames(model, frames)
    ours = logits_after(model, tokens)
    assert_close(family, "mask", ours, one_masked_pass(model, frames, k))
    other = one_masked_pass(model, vision_tokens[1 : num_frames + 1], k)
    assert (other - ours).abs().max() > 0.05, "other frames give the same logits: nothing was compared"


@pytest.mark.parametrize("delta", [29, 1000])
def test_keys_moved_by_a_delta_equal_keys_computed_there(model, family, vision_tokens, delta):
    """All tokens of a frame's sequence, vision tokens of three coordinates included."""
    backbone = model.backbone
    sequence = model.frame_sequence(vision_tokens[:1])
    positions = backbone.frame_positions(sequence.shape[1])  # [C, L]

    @torch.inference_mode()
    def keys_at(start: int) -> Tensor:
        inputs = backbone.family.decoder_inputs(sequence, backbone.hidden_size)
        position_ids = (positions + start)[:, None] if len(positions) > 1 else positions + start
        output = backbone.decoder(**inputs, position_ids=position_ids, use_cache=True)
        return torch.stack([layer.keys for layer in output[CACHE_ARGUMENT].layers])

    place = positions.amax(0)
    moved = backbone.moved_keys(keys_at(0), source=place, target=place + delta)
    recomputed = keys_at(delta)
    if delta < 100:
        assert_close(family, "rotation", moved, recomputed)
    else:  # the model's own rounding of angles grows with the position, and later layers carry it on
        largest = recomputed.abs().max()
        assert_close(family, "far rotation", moved / largest, recomputed / largest)


def test_a_batch_of_frames_equals_one_by_one(model, family, pixels, vision_tokens):
    alone = [model.vision_tokens(pixels[f : f + 1]) for f in range(5)]
    assert_close(family, "batch", torch.cat(alone), vision_tokens)
    for form in ("kv", "embeds"):
        together = model.compress(vision_tokens, form=form)
        single = VocoTokens.cat([model.compress(tokens, form=form) for tokens in alone])
        for name, tensor in together.tensors().items():
            assert_close(family, "batch", tensor, single.tensors()[name])
        assert_close(family, "batch", logits_after(model, together), logits_after(model, single))


@pytest.mark.parametrize("k", [None, 2], ids=["full", "voco"])
def test_the_packed_pass_of_training_equals_two_passes(model, family, pixels, vision_tokens, k):
    """Samples of two frames and of one, in one row: positions and deeper features of every family reach training."""
    num_frames = (2, 1)
    batch = TrainingBatch(
        num_frames=num_frames,
        input_ids=TEXT.expand(2, -1),
        labels=TEXT.expand(2, -1),
        text_lengths=(len(TEXT), len(TEXT)),
        turn_ids=torch.zeros(2, len(TEXT), dtype=torch.long),
        visibility=Visibility(k),
        pixels=pixels[:3],
    )
    attention = model.backbone.text_config._attn_implementation
    with torch.no_grad():
        logits = TrainableVoco(model).answer_logits(batch, vision_tokens[:3]).logits.unflatten(0, (2, -1))
    model.backbone.decoder.set_attn_implementation(attention)
    for row, frames in enumerate((vision_tokens[:2], vision_tokens[2:3])):
        tokens = whole_frames(model, frames) if k is None else model.compress(frames, num_voco_tokens=k)
        assert_close(family, "packed", logits[row], logits_after(model, tokens)[:-1])


def test_every_part_can_be_trained_apart(model):
    names = model.backbone.family.vision_tower, model.backbone.family.projector
    parts = [model.backbone.hf_model.base_model.get_submodule(name) for name in names]
    assert all(sum(p.numel() for p in part.parameters()) for part in parts)


def test_saved_and_loaded_is_the_same_model(model, family, pixels, vision_tokens, folder):
    again = load_voco_model(folder, dtype="float32")
    assert again.fingerprint() == model.fingerprint()
    assert (again.backbone.template, again.backbone.images) == (model.backbone.template, model.backbone.images)
    assert_close(family, "saved", again.vision_tokens(pixels), vision_tokens)
    tokens = [m.compress(vision_tokens) for m in (model, again)]
    assert_close(family, "saved", *(logits_after(m, t) for m, t in zip((model, again), tokens)), tolerance=0.0)
    answers = [answer_ids(m, t) for m, t in zip((model, again), tokens)]
    assert answers[0] == answers[1]


def answer_ids(model: VocoModel, tokens: VocoTokens) -> list[int]:
    options = AnswerOptions(max_new_tokens=10)
    prompt = model.backbone.conversation_ids(QUESTION)
    return generate(model, model.prefix(tokens), [prompt], options=options)[0][0]


def test_generation_equals_repeated_argmax(model, vision_tokens):
    """Every step of `generate` stands where the library would put it, M-RoPE included."""
    tokens = model.compress(vision_tokens)
    prefix, text = model.prefix(tokens), model.backbone.conversation_ids(QUESTION)
    prompt_length = len(text)
    for _ in range(10):
        token = int(model(torch.tensor([text]), prefix=prefix)[0][0, -1].argmax())
        if token == IDS["</s>"]:
            break
        text.append(token)
    assert answer_ids(model, tokens) == text[prompt_length:]


def test_where_an_answer_looked_is_known_for_every_family(model, vision_tokens):
    prefix = model.prefix(model.compress(vision_tokens))
    shares, part = frame_attention(model, prefix, model.backbone.conversation_ids(QUESTION), [IDS["a"]])
    assert shares.shape == (5,)
    assert shares.sum() == pytest.approx(1)
    assert 0 < part < 1


def test_the_table_of_largest_differences(request):
    """The figures of all tests above; printed, so that they can be quoted."""
    if not all(what in _seen[family] for family in set(FAMILIES) - set(TWINS) for what in COLUMNS):
        pytest.skip("the other tests of this file have to run first")
    print("| backbone |", " | ".join(COLUMNS.values()), "|\n|---|" + "---|" * len(COLUMNS))
    for name, errors in _seen.items():
        print(f"| `{name}` |", " | ".join(f"{errors[what]:.1e}" for what in COLUMNS), "|")
    assert max(error for errors in _seen.values() for error in errors.values()) <= TOLERANCE


def test_a_pooled_frame_stands_as_a_picture_of_one_vision_token(model, vision_tokens):
    template, learned = model.backbone.template, model.backbone.family.after_embeds(model.backbone.hf_model)
    around = len(template.frame_before_ids) + len(template.frame_after_ids) + (0 if learned is None else len(learned))
    prefix = model.prefix(compress_frames(model, vision_tokens[:3], parse_compressor("pool:1")))
    assert (prefix.text_start, prefix.length) == (3 * (around + 1), 3 * (around + 1))
    mean = vision_tokens[:3].mean(1, keepdim=True)
    by_hand = model.prefix(whole_frames(model, mean, grid=(1, 1)))
    assert torch.allclose(prefix.layers[-1][0], by_hand.layers[-1][0], atol=1e-5)


# ---------------------------------------------------------------------- what a checkpoint's own files say


def test_the_vision_grid_is_what_the_tower_gives(model, family, vision_tokens):
    backbone = model.backbone
    rows, columns = backbone.vision_grid
    counted = backbone.family.num_vision_tokens(backbone.hf_model.config, backbone.images.fit)
    assert rows * columns == counted == vision_tokens.shape[1] == FAMILIES[family].num_vision_tokens


def test_a_checkpoint_is_described_without_its_weights(model, vision_tokens, folder):
    facts = describe_checkpoint(folder)
    backbone = model.backbone
    assert facts.model_type == backbone.hf_model.config.model_type
    assert facts.title == backbone.family.title
    assert (facts.num_voco_tokens, facts.trained) == (4, True)
    assert facts.num_vision_tokens == backbone.num_vision_tokens
    assert facts.num_parameters == sum(p.numel() for p in backbone.hf_model.parameters())
    assert facts.dtype == "float32"
    for form, size in facts.bytes_per_frame.items():
        tokens = model.compress(vision_tokens[:1], num_voco_tokens=1, form=form).tensors()
        assert size == sum(t.nbytes for name, t in tokens.items() if name != "positions")


def test_every_family_is_listed_with_what_its_checkpoints_are_made_of(folder):
    facts = describe_checkpoint(folder)
    kind = next(k for k in supported_models() if k.model_type == facts.model_type)
    assert facts.tower in kind.tower.split(", ")
    assert facts.decoder in kind.decoder.split(", ")
    assert (facts.title, facts.layout, facts.positions) == (kind.title, kind.layout, kind.positions)


def test_a_plain_checkpoint_is_read_from_its_own_files(model, family, pixels, tmp_path):
    """Without voco_config.json the image processor, the tokenizer and the configuration say the same things."""
    save_voco_model(model, tmp_path)
    for name in ("voco_config.json", "voco.safetensors"):
        (tmp_path / name).unlink()
    plain = load_voco_model(tmp_path, dtype="float32", num_voco_tokens=2)
    as_trained = tiny_family(family, as_trained=True)
    assert plain.backbone.template == as_trained.backbone.template != model.backbone.template
    fit = plain.backbone.images.fit_for(56, 32)
    assert fit == replace(model.backbone.images.fit, mode=fit.mode)
    assert not plain.trained
    num_pictures = 2 * plain.backbone.template.pictures_per_frame
    with torch.inference_mode():
        frames = plain.vision_tokens(pixels[:num_pictures])
    assert torch.equal(*(logits_after(m, whole_frames(m, frames)) for m in (plain, as_trained)))


def test_the_question_reaches_the_model_whatever_the_chat_template_takes(model, family):
    text = model.backbone.tokenizer.decode(model.backbone.conversation_ids(QUESTION))
    assert text == f"user: {QUESTION[0]['content']}\nassistant:"


def test_a_chat_template_that_drops_the_question_is_refused(model):
    backbone = model.backbone
    with pytest.raises(ModelError, match="leaves out the question"):
        type(backbone)(
            backbone.hf_model, backbone.tokenizer, backbone.images, backbone.template, chat_template="assistant:"
        ).conversation_ids(QUESTION)


PUBLISHED_PROCESSORS = [
    (
        "llava",
        {"size": {"shortest_edge": 336}, "do_center_crop": True, "crop_size": {"height": 336, "width": 336}},
        336,
    ),
    ("llava-interleave", {"size": {"height": 384, "width": 384}, "do_center_crop": False}, 384),
    ("llava_onevision", {"size": {"height": 384, "width": 384}}, 384),
    ("smolvlm", {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}, 512),
    ("internvl", {"size": {"height": 448, "width": 448}, "crop_to_patches": True}, 448),
]


@pytest.mark.parametrize(("name", "settings", "side"), PUBLISHED_PROCESSORS)
def test_frames_get_the_size_that_the_published_processors_give_them(name, settings, side, tmp_path):
    fit = _published_fit(name, settings, tmp_path)
    assert (fit.height, fit.width) == (side, side)


@pytest.mark.parametrize(
    ("config", "fit", "num_vision_tokens"),
    [
        (LlavaConfig(), Fit(336, 336), 576),
        (LlavaOnevisionConfig(), Fit(384, 384), 196),
        (SmolVLMConfig(vision_config={"image_size": 512, "patch_size": 16}, scale_factor=4), Fit(512, 512), 64),
        (InternVLConfig(), Fit(448, 448), 256),
        (Qwen2_5_VLConfig(), Fit(336, 588), 252),
        (Qwen3VLConfig(), Fit(384, 672), 252),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_frames_of_published_models_have_as_many_vision_tokens_as_is_known(config, fit, num_vision_tokens):
    assert family_of(config).num_vision_tokens(config, fit) == num_vision_tokens


@pytest.mark.parametrize(
    ("limits", "size"),
    [
        ({"shortest_edge": 3136, "longest_edge": 12845056}, (12 * 8, 21 * 8)),
        ({"shortest_edge": 64, "longest_edge": 28 * 64}, (4 * 8, 7 * 8)),
        ({"shortest_edge": 1000 * 64, "longest_edge": 10**7}, (23 * 8, 43 * 8)),
        ({"shortest_edge": 64, "longest_edge": 64}, (8, 8)),
    ],
)
def test_the_largest_qwen_frames_are_within_the_processors_limits(limits, size, tmp_path):
    fit = _published_fit("qwen2_5_vl", {"size": limits, "patch_size": 4, "merge_size": 2}, tmp_path)
    assert (fit.height, fit.width, fit.mode) == (*size, "stretch")


def _published_fit(name, settings, folder):
    config = FAMILIES[name].config()
    kind = family_of(config)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(settings | {"image_processor_type": kind.image_processor})
    )
    return kind.image_settings(AutoImageProcessor.from_pretrained(folder), config).fit


def test_a_picture_of_several_coordinates_written_out():
    vision = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 1, 2]])  # one row of three
    assert frame_positions(vision, before=2, length=7).tolist() == [
        [0, 1, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 5, 6],
        [0, 1, 2, 3, 4, 5, 6],
    ]


@pytest.mark.parametrize("model_type", REASONS)
def test_a_family_that_cannot_be_supported_is_refused_with_the_reason(model_type, tmp_path):
    assert model_type in CONFIG_MAPPING, "the library knows no such model"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for read in (load_voco_model, describe_checkpoint):
        with pytest.raises(ModelError, match=re.escape(f"{model_type!r} is not supported ({REASONS[model_type]})")):
            read(tmp_path)


def test_an_unknown_family_is_named():
    config = FAMILIES["llava"].config()
    config.model_type = "llava_of_another_kind"
    with pytest.raises(ModelError, match="'llava_of_another_kind' is not supported, only llava, llava_onevision"):
        family_of(config)
