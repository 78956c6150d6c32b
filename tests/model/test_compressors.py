"""The compressor family: what each keeps, against the library's own forward and a dense mask, and through the cache."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.models import TEMPLATE, random_pixels, tiny_voco
from tests.helpers.tiny_families import FAMILIES, tiny_family
from voco_video.api import load_model
from voco_video.cache import FrameCache
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.compress import compress_video
from voco_video.entry_keys import cache_key
from voco_video.errors import ModelError, UsageError
from voco_video.model.adapters import adapter_weights, add_adapters
from voco_video.model.compressors import average_pooled, compress_frames, pooled_shape, whole_frames
from voco_video.model.tokens import VocoTokens
from voco_video.options.compression import CompressOptions, parse_compressor
from voco_video.options.sampling import Sampling
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene
from voco_video.stored_tokens import compressor_of, read_tokens
from voco_video.training.batches import TrainingBatch, Visibility
from voco_video.training.config import TrainConfig
from voco_video.training.engine import train
from voco_video.training.loss import TrainableVoco
from voco_video.training.packed_attention import PACKED
from voco_video.video.reading import Video, read_frames

TEXT = torch.tensor([5, 11, 42, 7, 60, 33, 18])
FAMILY = ["voco", "full", "pool:4", "none"]


@pytest.fixture(scope="module")
def model():
    return tiny_voco()


@pytest.fixture(scope="module")
def vision_tokens(model):
    with torch.inference_mode():
        return model.vision_tokens(random_pixels(5))  # [5, 16, 64]


def kept(model, vision_tokens, name, **options) -> VocoTokens:
    return compress_frames(model, vision_tokens, parse_compressor(name), **options)


def answer_logits(model, tokens) -> torch.Tensor:
    with torch.inference_mode():
        return model(TEXT[None], prefix=model.prefix(tokens))[0][0]  # [T, vocabulary]


def assert_close(name, left, right, tolerance=1e-4):
    error = float((left - right).detach().abs().max())
    print(f"{name}: largest difference {error:.1e}")
    assert error <= tolerance


@torch.inference_mode()
def library_logits(model, pixels) -> torch.Tensor:
    """The library's own forward on images and text: ``[BOS] image newline ... image newline text``, causal."""
    image = [model.backbone.hf_model.config.image_token_id] * 16 + list(TEMPLATE.frame_after_ids)
    ids = torch.tensor([[*TEMPLATE.frame_before_ids, *image * len(pixels), *TEXT.tolist()]])
    logits = model.backbone.hf_model(input_ids=ids, pixel_values=model.backbone.pixel_values(pixels)).logits
    return logits[0, -len(TEXT) :]


@torch.inference_mode()
def masked_logits(model, vision_tokens, positions=None, text=TEXT) -> torch.Tensor:
    """Whole frames and text in one sequence under an explicit mask, written out token by token.

    A frame's tokens see their own frame, causally; text sees every token of every frame and earlier text. A frame
    begins behind the last position of the one before.

    Args:
        positions: of one frame's tokens, ``[C, P]`` with C = 1 or 3; 0 ... P-1 when None.
    """
    backbone = model.backbone
    frames = model.frame_sequence(vision_tokens, 0)  # [F, P, W]
    num_frames, length, width = frames.shape
    positions = torch.arange(length)[None] if positions is None else positions
    span = int(positions.max()) + 1
    start, total = num_frames * length, num_frames * length + len(text)
    mask = torch.zeros(total, total, dtype=torch.bool)
    for i in range(total):
        for j in range(i + 1):
            mask[i, j] = i >= start or i // length == j // length
    after = (num_frames * span + torch.arange(len(text))).expand(len(positions), -1)
    places = torch.cat([*(positions + f * span for f in range(num_frames)), after], dim=1)  # [C, total]
    words = torch.nn.functional.pad(backbone.embed(text), (0, width - backbone.hidden_size))
    row = torch.cat([frames.flatten(0, 1), words])[None]
    hidden = backbone.decoder(
        **backbone.family.decoder_inputs(row, backbone.hidden_size),
        attention_mask=mask[None, None],
        position_ids=places if len(places) == 1 else places[:, None],
        use_cache=False,
    ).last_hidden_state
    return backbone.logits(hidden)[0, start:]


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize("text", ["voco", "full", "none", "pool:1", "pool:144"])
def test_names_come_back_as_they_were(text):
    assert str(parse_compressor(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("squeeze", "'squeeze' is not one of auto, voco, full, pool:k"),
        ("", "'' is not one of"),
        ("pool", "'pool': say how many tokens"),
        ("pool:0", "'pool:0': say how many tokens"),
        ("pool:", "'' is not a number"),
        ("pool:-4", "'-4' is not a number"),
        ("pool:four", "'four' is not a number"),
        ("voco:2", "set num_voco_tokens"),
        ("full:4", "only pool takes a number"),
    ],
)
def test_names_that_are_none(text, message):
    with pytest.raises(UsageError, match=message):
        parse_compressor(text)
    with pytest.raises(UsageError, match=message):
        CompressOptions(compressor=text)


# ---------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_full_on_one_frame_is_the_librarys_forward_on_image_and_text(model, form):
    pixels = random_pixels(1)
    tokens = kept(model, model.vision_tokens(pixels), "full", form=form)
    assert_close(f"full {form}", answer_logits(model, tokens), library_logits(model, pixels))


def test_full_embeds_are_the_librarys_forward_on_several_images(model):
    pixels = random_pixels(3)
    tokens = kept(model, model.vision_tokens(pixels), "full", form="embeds")
    expected = library_logits(model, pixels)
    assert_close("full embeds, 3 frames", answer_logits(model, tokens), expected)
    assert (answer_logits(model, tokens[1:]) - expected).abs().max() > 1, "the reference does not notice a frame less"


@pytest.mark.parametrize("num_frames", [1, 2, 5])
@pytest.mark.parametrize("name", ["full", "pool:4", "pool:1"])
def test_whole_frames_are_one_pass_under_a_mask(model, vision_tokens, name, num_frames):
    frames = vision_tokens[:num_frames]
    shape = {"full": (4, 4), "pool:4": (2, 2), "pool:1": (1, 1)}[name]
    pooled = average_pooled(frames, (4, 4), shape)
    expected = masked_logits(model, pooled)
    assert_close(f"{name}, {num_frames} frames", answer_logits(model, kept(model, frames, name)), expected)
    if num_frames > 1:
        assert (answer_logits(model, kept(model, frames.flip(0), name)) - expected).abs().max() > 0.1


@pytest.mark.parametrize("name", ["full", "pool:4"])
def test_answering_sees_what_training_at_full_visibility_shows(vision_tokens, name):
    model, counts = tiny_voco(), (3, 2)
    compressor = parse_compressor(name)
    shown = vision_tokens if name == "full" else average_pooled(vision_tokens, (4, 4), (2, 2))
    ids = torch.stack([TEXT, TEXT.flip(0)])
    batch = TrainingBatch(
        num_frames=counts,
        input_ids=ids,
        labels=ids,
        text_lengths=(len(TEXT),) * 2,
        turn_ids=torch.zeros_like(ids),
        visibility=Visibility(None),
        pixels=random_pixels(5),
    )
    with torch.inference_mode():
        trained = TrainableVoco(model).answer_logits(batch, shown)
    assert model.backbone.text_config._attn_implementation == PACKED
    for row, first in enumerate((0, 3)):
        tokens = compress_frames(model, vision_tokens[first : first + counts[row]], compressor)
        logits = model(ids[row : row + 1], prefix=model.prefix(tokens))[0][0, :-1]
        assert_close(f"training, sample {row}", trained.logits[trained.rows == row], logits)


@pytest.mark.parametrize(("family", "name", "shape"), [
    ("llava_onevision", "pool:4", (2, 2)),  # a learned newline follows the vision tokens
    ("qwen2_5_vl", "pool:2", (1, 2)),  # 4 x 7 vision tokens, placed by row and column
    ("qwen3_vl", "pool:6", (2, 3)),  # features of several layers of the tower
])  # fmt: skip
@pytest.mark.parametrize("num_frames", [1, 3])
def test_pooled_frames_stand_where_a_smaller_picture_would(family, name, shape, num_frames):
    model, fit = tiny_family(family), FAMILIES[family].fit
    backbone = model.backbone
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (num_frames, fit.height, fit.width, 3), generator=generator, dtype=torch.uint8)
    with torch.inference_mode():
        frames = model.vision_tokens(pixels.numpy())
    pooled = average_pooled(frames, backbone.vision_grid, shape)
    expected = masked_logits(model, pooled, picture_positions(backbone, shape))
    tokens = kept(model, frames, name)
    assert_close(f"{family} {name}", answer_logits(model, tokens), expected)


def picture_positions(backbone, shape):
    """The library's own positions of a frame that is a picture of ``shape`` vision tokens; None where they count up."""
    inner = backbone.hf_model.base_model
    if not hasattr(inner, "get_rope_index"):
        return None
    before, after = (len(ids) for ids in (backbone.template.frame_before_ids, backbone.template.frame_after_ids))
    types = torch.tensor([[0] * before + [1] * shape[0] * shape[1] + [0] * after])
    merge = backbone.hf_model.config.vision_config.spatial_merge_size
    grid = torch.tensor([[1, shape[0] * merge, shape[1] * merge]])
    return inner.get_rope_index(torch.ones_like(types), mm_token_type_ids=types, image_grid_thw=grid)[0][:, 0].long()


def test_places_in_two_directions_are_not_kept_as_embeddings():
    model = tiny_family("qwen2_5_vl")
    for name in ("full", "pool:2"):
        with pytest.raises(UsageError, match=f"'{name}' with form 'embeds'.*use form 'kv'"):
            kept(model, torch.zeros(1, 28, 64), name, form="embeds")


def test_pooling_is_the_mean_of_cells_written_out():
    tokens = torch.randn(2, 25, 3)  # a 5 x 5 grid to 3 x 3: cells overlap by a row or a column
    grid, cells = tokens.view(2, 5, 5, 3), [slice(0, 2), slice(1, 4), slice(3, 5)]
    expected = [grid[:, rows, columns].mean((1, 2)) for rows in cells for columns in cells]
    assert torch.allclose(average_pooled(tokens, (5, 5), (3, 3)), torch.stack(expected, 1), atol=1e-6)
    assert torch.allclose(average_pooled(tokens, (5, 5), (1, 1))[:, 0], tokens.mean(1), atol=1e-6)
    assert torch.equal(average_pooled(tokens, (5, 5), (5, 5)), tokens)
    wide = torch.randn(1, 8, 3)  # 2 x 4 to 1 x 2: two squares side by side
    halves = [wide.view(1, 2, 4, 3)[:, :, columns].mean((1, 2)) for columns in (slice(0, 2), slice(2, 4))]
    assert torch.allclose(average_pooled(wide, (2, 4), (1, 2)), torch.stack(halves, 1), atol=1e-6)


def test_shapes_of_pooling():
    possible = [k for k in range(1, 17) if pooled_shape((4, 4), k)]
    assert possible == [1, 4, 6, 9, 12, 16]
    assert [pooled_shape((4, 4), k) for k in (4, 6, 9)] == [(2, 2), (2, 3), (3, 3)]
    assert [pooled_shape((8, 16), k) for k in (1, 2, 8, 128)] == [(1, 1), (1, 2), (2, 4), (8, 16)]
    assert pooled_shape((4, 4), 25) is None


@pytest.mark.parametrize(
    ("k", "near"), [(2, "pool:1 and pool:4"), (5, "pool:4 and pool:6"), (40, "pool:12 and pool:16")]
)
def test_pooling_that_cannot_be_says_what_can(model, vision_tokens, k, near):
    with pytest.raises(UsageError, match=f"4 x 4 vision tokens cannot be averaged to {k} .* {near}"):
        kept(model, vision_tokens, f"pool:{k}")


def test_pooling_without_a_grid(vision_tokens, model):
    with pytest.raises(ModelError, match="15 vision tokens, which are no grid of 4 x 4"):
        kept(model, vision_tokens[:, :15], "pool:4")


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_pooling_to_all_tokens_is_full(model, vision_tokens, form):
    full, pooled = (kept(model, vision_tokens, name, form=form) for name in ("full", "pool:16"))
    for name, tensor in full.tensors().items():
        assert torch.equal(tensor, pooled.tensors()[name])


def test_how_many_tokens_are_kept(model, vision_tokens):
    """[BOS] and two tokens after the frame are kept too; as embeddings [BOS] stands once, before all frames."""
    counts = {(name, form): kept(model, vision_tokens, name, form=form).num_voco_tokens
              for name in FAMILY for form in ("kv", "embeds")}  # fmt: skip
    assert [counts[name, "kv"] for name in FAMILY] == [4, 19, 7, 0]
    assert [counts[name, "embeds"] for name in FAMILY] == [4, 18, 6, 0]


@pytest.mark.parametrize("form", ["kv", "embeds"])
@pytest.mark.parametrize("name", FAMILY)
def test_frames_in_any_batch_slice_or_order(model, vision_tokens, name, form):
    whole = kept(model, vision_tokens, name, form=form)
    single = VocoTokens.cat([kept(model, vision_tokens[f : f + 1], name, form=form) for f in range(5)])
    assert_close("one by one", answer_logits(model, whole), answer_logits(model, single))
    alone = kept(model, vision_tokens[1:3], name, form=form)
    assert_close("slice", answer_logits(model, whole[1:3]), answer_logits(model, alone))
    swapped = VocoTokens.cat([whole[3:], whole[:3]])
    other = kept(model, vision_tokens[[3, 4, 0, 1, 2]], name, form=form)
    assert_close("order", answer_logits(model, swapped), answer_logits(model, other))


@pytest.mark.parametrize("name", ["full", "pool:4", "none"])
def test_only_voco_tokens_can_be_cut_to_the_first_few(model, vision_tokens, name):
    tokens = kept(model, vision_tokens, name)
    for cut in (tokens, tokens[1:], VocoTokens.cat([tokens, tokens])):
        with pytest.raises(UsageError, match=r"num_voco_tokens=2: .* only VoCo tokens can be cut"):
            model.prefix(cut, num_voco_tokens=2)
    assert model.prefix(tokens, num_voco_tokens=tokens.num_voco_tokens).length == 5 * tokens.num_voco_tokens
    with pytest.raises(UsageError, match=f"num_voco_tokens=2 is for compressor 'voco'; '{name}'"):
        kept(model, vision_tokens, name, num_voco_tokens=2)


def test_none_is_text_alone(model, vision_tokens):
    prefix = model.prefix(kept(model, vision_tokens, "none"))
    assert (prefix.length, prefix.text_start, len(prefix.frame_slots)) == (0, 0, 0)
    alone = model.backbone.hf_model(input_ids=TEXT[None]).logits[0]
    assert_close("none", answer_logits(model, kept(model, vision_tokens, "none")), alone)


def test_answering_adapters_stay_out_of_what_is_kept(vision_tokens):
    model = tiny_voco()
    before = whole_frames(model, vision_tokens)
    add_adapters(model.backbone.decoder, rank=0, alpha=1.0, targets=("k_proj", "v_proj"))
    with torch.no_grad():
        for weights in adapter_weights(model.backbone.decoder).values():
            weights.add_(torch.randn_like(weights))
    assert torch.equal(whole_frames(model, vision_tokens).keys, before.keys)


# ---------------------------------------------------------------------- through the cache


@pytest.fixture(scope="module")
def voco():
    return load_voco_model("voco-tiny", dtype="float32")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(demo_scene(), tmp_path_factory.mktemp("clips") / "clip.mp4", size=96)


@pytest.fixture
def cache(tmp_path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("storage", ["native", "int8"])
@pytest.mark.parametrize("form", ["kv", "embeds"])
@pytest.mark.parametrize("name", FAMILY)
def test_the_cache_gives_back_what_was_kept(voco, clip, cache, name, form, storage):
    options = CompressOptions(compressor=name, form=form, storage=storage, batch_size=3)
    result = compress_video(voco, clip, cache=cache, options=options)
    entry = compress_video(voco, clip, cache=cache, options=options).entry
    assert not result.from_cache
    assert str(compressor_of(entry)) == name
    stored = read_tokens(entry)
    frames = read_frames(clip, Sampling(), fit=voco.backbone.images.fit)
    with torch.inference_mode():
        expected = kept(voco, voco.vision_tokens(frames.pixels), name, form=form)
    assert stored.can_truncate == expected.can_truncate == (name == "voco")
    prompt = torch.tensor([[5, 11, 42]])
    with torch.inference_mode():
        left, right = (voco(prompt, prefix=voco.prefix(tokens))[0] for tokens in (stored, expected))
    assert_close(f"{name} {form} {storage}", left, right, 1e-4 if storage == "native" else 0.1 * float(right.std()))


@pytest.mark.parametrize("name", ["full", "pool:4"])
def test_an_interrupted_run_goes_on(voco, clip, cache, tmp_path, name):
    options = CompressOptions(compressor=name, batch_size=3)

    def stop(progress):
        if progress.num_frames == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_video(voco, clip, cache=cache, options=options, on_progress=stop)
    resumed = compress_video(voco, clip, cache=cache, options=options)
    undisturbed = compress_video(voco, clip, cache=FrameCache(tmp_path / "other"), options=options)
    assert resumed.num_resumed_frames == 3
    for tensor, expected in zip(read_tokens(resumed.entry).tensors().values(),
                                read_tokens(undisturbed.entry).tensors().values(), strict=True):  # fmt: skip
        assert torch.equal(tensor, expected)


def test_each_compressor_has_entries_of_its_own_and_voco_keeps_the_old_ones(tmp_path):
    """Keys of entries that were made before there was a choice of compressor, with the digests they had then."""
    model, path = tiny_voco(), tmp_path / "clip.mp4"
    path.write_bytes(b"a video")

    def digest(**options):
        options = CompressOptions(**options)
        return cache_key(model, path, sampling=Sampling(fps=2), options=options, fingerprint="0" * 64).digest

    assert digest() == "ed8148b6a9a1d0b5e52c4257966c40720debc4a41a2e447d448dc4809c698843"
    small = digest(num_voco_tokens=2, form="embeds", storage="int8")
    assert small == "64636c6bd20d66c8bfacea0156996caf5cb18c29406c88ce4e13a80fb804741c"
    names = ["voco", "full", "pool:1", "pool:4", "none"]
    digests = {digest(compressor=name, form=form) for name in names for form in ("kv", "embeds")}
    assert len(digests) == 2 * len(names) - 1, "of nothing there is but one form"


def test_none_neither_decodes_nor_runs_the_model(voco, clip, cache, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("touched")

    expected = compress_video(voco, clip, cache=cache).entry.pts_seconds
    monkeypatch.setattr(Video, "batches", never)
    monkeypatch.setattr(type(voco), "vision_tokens", never)
    monkeypatch.setattr(type(voco), "keys_and_values", never)
    result = compress_video(voco, clip, cache=cache, options=CompressOptions(compressor="none"))
    assert np.array_equal(result.entry.pts_seconds, expected)
    assert result.entry.bytes_per_frame == 0
    assert result.entry.read(2, 4)["embeds"].shape == (2, 0, 128)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model("voco-tiny", dtype="float32", cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("name", FAMILY)
def test_videos_answer_whatever_compressed_them(loaded, clip, name):
    video = loaded.compress(clip, compressor=name)
    answer = video.ask("what colour is the square?", max_new_tokens=4)
    assert video.compressor == name
    assert answer.num_frames == len(answer.frame_pts_seconds) == (0 if name == "none" else video.num_frames)
    assert ("no frame was shown" in answer.note) == (name == "none")
    assert "".join(video.stream("what colour is the square?", max_new_tokens=4)).rstrip() == answer.text
    part = video[2.0:5.0]
    alone = loaded.compress(clip, compressor=name, start_seconds=2.0, end_seconds=5.0)
    assert part.ask("who?").confidence == pytest.approx(alone.ask("who?").confidence, abs=1e-4)
    looked = part.ask("who?", with_attention=True, max_new_tokens=2).frame_attention
    assert len(looked) == (0 if name == "none" else 3)
    if name != "voco":
        with pytest.raises(UsageError, match="only VoCo tokens"):
            video.ask("who?", num_voco_tokens=1)


def test_videos_of_different_compressors_do_not_join(loaded, clip):
    from voco_video import concat

    with pytest.raises(UsageError, match=r"pool:4.*pool:9"):
        concat([loaded.compress(clip, compressor=name) for name in ("pool:4", "pool:9")])
    full = loaded.compress(clip, compressor="full")
    assert concat([full[:2.0], full[5.0:]]).prefix().length == 5 * full.num_voco_tokens


# ---------------------------------------------------------------------- checkpoints without VoCo tokens


@pytest.fixture(scope="module")
def plain(tmp_path_factory, voco) -> Path:
    """A checkpoint as others publish theirs: an image-text model that was never trained to compress."""
    folder = save_voco_model(voco, tmp_path_factory.mktemp("plain"))
    for name in ("voco_config.json", "voco.safetensors"):
        (folder / name).unlink()
    return folder


def test_a_plain_checkpoint_serves_every_compressor_but_voco(plain, clip, tmp_path):
    model = load_model(plain, cache_dir=tmp_path)
    with pytest.raises(ModelError, match=r"no trained VoCo tokens.*pool:4.*voco-video train"):
        model.compress(clip, compressor="voco")
    for name in ("pool:4", "full", "none"):
        answer = model.compress(clip, compressor=name, num_frames=2).ask("who?", max_new_tokens=2)
        assert "untrained" not in answer.note
    again = load_voco_model(save_voco_model(model.voco, tmp_path / "copy"))
    assert (again.num_voco_tokens, again.fingerprint()) == (0, model.fingerprint)


def test_training_a_plain_checkpoint_asks_how_many_voco_tokens(plain, tmp_path):
    with pytest.raises(UsageError, match="no VoCo tokens yet; set num_voco_tokens"):
        train(TrainConfig(output_dir=str(tmp_path / "run"), model=str(plain), max_steps=1))


# ---------------------------------------------------------------------- the command line


def test_commands_take_a_compressor(run, clip, voco):
    code, out, err = run("compress", clip, "--compressor", "pool:4", "--json")
    (row,) = json.loads(out)
    assert (code, err) == (0, "")
    template = voco.backbone.template
    num_kept = 4 + len(template.frame_before_ids) + len(template.frame_after_ids)
    assert (row["compressor"], row["vision_tokens"], row["kept_tokens"]) == ("pool:4", 8 * 64, 8 * num_kept)
    assert row["ratio"] == 64 / num_kept
    assert run("compress", clip, "--compressor", "none")[0] == 0
    code, out, err = run("ask", clip, "who is green?", "--compressor", "pool:4", "--json")
    assert (code, json.loads(out)["entry"]) == (0, row["digest"])
    code, out, err = run("ask", clip, "who is green?", "--compressor", "none")
    assert code == 0
    assert "no frame was shown" in err
    entries = json.loads(run("inspect", clip, "--json", "--compressor", "pool:4")[1])["entries"]
    assert [entry["compressor"] for entry in entries] == ["pool:4"]
    assert {e["compressor"] for e in json.loads(run("inspect", clip, "--json")[1])["entries"]} == {"pool:4", "none"}
    assert "pool:4" in run("cache", "ls")[1]


def test_commands_say_what_they_chose(run, clip, plain):
    code, out, _ = run("compress", clip, "--model", plain, "--json")
    (row,) = json.loads(out)
    assert (code, row["compressor"]) == (0, "full")
    assert row["compressor_choice"].startswith("compressor full: 8 frames fit the context")
    for command in (["compress", clip], ["ask", clip, "who?", "--max-new-tokens", "1"]):
        assert row["compressor_choice"] in run(*command, "--model", plain)[2]
    found = json.loads(run("ask", clip, "who?", "--model", plain, "--json", "--max-new-tokens", "1")[1])
    assert [found[name] for name in ("entry", "compressor")] == [row["digest"], "full"]
    (row,) = json.loads(run("compress", clip, "--json")[1])
    assert (row["compressor"], row["compressor_choice"]) == ("voco", "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compress", "{clip}", "--compressor", "zip"], 2, "--compressor zip is not one of"),
        (["compress", "{clip}", "--compressor", "pool:3"], 2, "pool:1 and pool:4"),
        (["compress", "{clip}", "--compressor", "full", "--num-voco-tokens", "2"], 2, "is for compressor 'voco'"),
        (["ask", "{clip}", "who?", "--compressor", "full", "--num-voco-tokens", "2"], 2, "is for compressor 'voco'"),
        (["ask", "{clip}", "who?", "--compressor", "none", "--show-frames"], 2, "--show-frames"),
        (["inspect", "{clip}", "--compressor", "zip"], 2, "--compressor zip"),
        (["compress", "{clip}", "{clip}", "--model", "{plain}", "--compressor", "voco"], 1, "no trained VoCo tokens"),
        (["ask", "{clip}", "who?", "--model", "{plain}", "--compressor", "voco"], 1, "--compressor"),
        (["ask", "{clip}", "who?", "--model", "{plain}", "--num-voco-tokens", "2"], 2, "VoCo tokens"),
    ],
)
def test_mistakes_are_one_clear_line(run, clip, plain, arguments, code, message):
    got, out, err = run(*(a.format(clip=clip, plain=plain) for a in arguments))
    assert (got, out) == (code, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
