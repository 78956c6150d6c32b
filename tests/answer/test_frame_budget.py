"""What a question sees of a video: budgets, policies, text between frames, and moments found without pixels."""

from __future__ import annotations

import dataclasses
import json
import logging
import weakref

import numpy as np
import pytest
import torch

from tests.helpers.drawn_texts import drawn_by_pil
from tests.helpers.models import random_pixels, tiny_voco
from voco_video.answer.attention_scores import attention_scores, frame_keys, last_token_queries
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.entry_frames import EntryFrames, read_chosen, read_chunks, read_features
from voco_video.answer.frame_budget import by_relevance, select_frames
from voco_video.answer.frame_scorer import FrameScorer, Retriever, question_states, token_features
from voco_video.answer.generate import answer_note
from voco_video.answer.moments import find_moments, frame_ends
from voco_video.answer.search import FrameSearch
from voco_video.answer.several_videos import concat
from voco_video.api import VideoModel, find, load_model
from voco_video.auto_compressor import context_budget
from voco_video.cache import CacheKey, FrameCache
from voco_video.errors import ModelError, UsageError
from voco_video.model.backbone import CACHE_ARGUMENT
from voco_video.model.compressors import compress_frames
from voco_video.model.mixed_prefix import assemble
from voco_video.options.answering import ViewOptions
from voco_video.options.compression import parse_compressor
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene
from voco_video.stored_tokens import read_tokens, stored_tensors

TEXT = torch.tensor([5, 11, 42, 7])


@pytest.fixture(scope="module")
def model():
    return tiny_voco()


@pytest.fixture(scope="module")
def vision_tokens(model):
    with torch.inference_mode():
        return model.vision_tokens(random_pixels(4))


def logits(model, prefix):
    with torch.inference_mode():
        return model(TEXT[None], prefix=prefix)[0][0]


# ---------------------------------------------------------------------- choosing frames


@pytest.mark.parametrize("policy", ["uniform", "recent", "relevant", "elastic"])
@pytest.mark.parametrize("budget", [7, 8, 40, 79])
def test_views_meet_their_budget_in_time_order(policy, budget):
    scores = np.random.default_rng(0).random(20)
    view = select_frames(20, 4, max_voco_tokens=budget, options=ViewOptions(policy=policy), scores=scores)
    assert 0 < view.num_tokens <= budget
    assert (np.diff(view.frames) > 0).all()
    assert view.counts.max() <= 4
    assert view.num_tokens > budget - 4, "what fits is used"
    assert str(len(view.frames)) in view.note
    assert policy in view.note


def test_where_everything_fits_everything_is_seen_and_nothing_is_said():
    for budget in (80, None):
        view = select_frames(20, 4, max_voco_tokens=budget, options=ViewOptions(policy="relevant"))
        assert view.frames.tolist() == list(range(20))
        assert view.counts.tolist() == [4] * 20
        assert view.note == ""


def test_relevant_takes_the_best_frames_with_their_neighbours():
    scores = np.zeros(30)
    scores[[3, 20]] = 1, 2
    view = select_frames(30, 1, max_voco_tokens=6, options=ViewOptions(policy="relevant", neighbours=1), scores=scores)
    assert view.frames.tolist() == [2, 3, 4, 19, 20, 21]
    assert by_relevance(scores, 0, 2).tolist() == [20, 3]


def test_relevant_fills_no_budget_with_frames_that_have_nothing_to_do_with_it():
    scores, is_about = -np.arange(30.0), np.arange(30) == 12
    options = ViewOptions(policy="relevant", neighbours=1)
    view = select_frames(30, 1, max_voco_tokens=8, options=options, scores=scores, is_about=is_about | (scores == 0))
    assert view.frames.tolist() == [0, 1, 11, 12, 13]
    assert "saw 5 of 30 frames (relevant, 5 tokens)" in view.note


def test_elastic_covers_the_video_and_shows_the_best_frames_whole():
    scores = np.zeros(100)
    scores[77] = 1
    view = select_frames(100, 8, max_voco_tokens=40, options=ViewOptions(policy="elastic", neighbours=0), scores=scores)
    seen = dict(zip(view.frames.tolist(), view.counts.tolist()))
    assert seen[77] == 8
    assert view.num_tokens == 40
    assert np.diff(view.frames).max() <= 6, "frames all along the video"


def test_recent_takes_the_last_frames():
    view = select_frames(10, 2, max_voco_tokens=7, options=ViewOptions(policy="recent"))
    assert view.frames.tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    "wrong",
    [{"max_voco_tokens": 0}, {"policy": "best"}, {"neighbours": -1}, {"clock_every_seconds": 0.0}],
)
def test_options_that_cannot_be_right(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ViewOptions(**wrong)


def test_a_budget_below_one_frame_says_so():
    with pytest.raises(UsageError, match="max_voco_tokens=3"):
        select_frames(10, 4, max_voco_tokens=3, options=ViewOptions())


def test_the_context_leaves_room_for_text():
    assert context_budget(16384, frame_length=66) == 16384 - 66 - 1024
    assert context_budget(100, frame_length=20) == 55
    assert context_budget(None, frame_length=20) is None


# ---------------------------------------------------------------------- assembly


def one_pass(model, vision_tokens, counts, texts):
    """Frames, text between them and a question in one sequence under an explicit mask, positions written out."""
    sequence, positions, kinds, owners = [], [], [], []
    start = None
    for f, count in enumerate(counts):
        frame = model.frame_sequence(vision_tokens[f : f + 1], count)[0]  # [P + k, D]
        length = len(frame) - count
        start = length if start is None else start
        if texts.get(f):
            sequence.append(model.backbone.embed(texts[f]))
            positions += range(start, start + len(texts[f]))
            kinds += ["text"] * len(texts[f])
            owners += [-1] * len(texts[f])
            start += len(texts[f])
        sequence.append(frame)
        positions += range(start - length, start + count)
        kinds += ["frame"] * length + ["voco"] * count
        owners += [f] * len(frame)
        start += count
    sequence.append(model.backbone.embed(TEXT))
    positions += range(start, start + len(TEXT))
    kinds += ["text"] * len(TEXT)
    owners += [-1] * len(TEXT)
    total = len(kinds)
    mask = torch.zeros(total, total, dtype=torch.bool)
    for i in range(total):
        for j in range(i + 1):
            mask[i, j] = owners[i] == owners[j] if kinds[i] != "text" else kinds[j] != "frame"
    with torch.inference_mode():
        hidden = model.backbone.decoder(
            inputs_embeds=torch.cat(sequence)[None],
            attention_mask=mask[None, None],
            position_ids=torch.tensor(positions)[None],
            use_cache=False,
        ).last_hidden_state
        return model.backbone.logits(hidden)[0, -len(TEXT) :]


@pytest.mark.parametrize(
    ("counts", "texts"),
    [
        ([4, 4, 4, 4], {0: [9, 8], 2: [7, 33, 12]}),
        ([1, 4, 2, 1], {}),
        ([1, 4, 2, 3], {1: [9], 3: [60, 61]}),
    ],
)
def test_mixed_prefixes_equal_one_masked_pass(model, vision_tokens, counts, texts):
    tokens = model.compress(vision_tokens)
    prefix = assemble(model, tokens, counts=torch.tensor(counts), texts=texts)
    expected = one_pass(model, vision_tokens, counts, texts)
    error = (logits(model, prefix) - expected).abs().max().item()
    assert error < 1e-4
    plain = logits(model, model.prefix(tokens))
    assert (plain - expected).abs().max() > 0.1, "the oracle notices text and missing tokens"


def test_mixed_embeddings_are_one_causal_sequence(model, vision_tokens):
    tokens = model.compress(vision_tokens, form="embeds")
    counts, texts = torch.tensor([1, 4, 2, 3]), {0: [9, 8], 3: [60]}
    prefix = assemble(model, tokens, counts=counts, texts=texts)
    embed = model.backbone.embed
    rows = [embed(model.backbone.template.frame_before_ids)]
    for f, count in enumerate(counts.tolist()):
        rows += [embed(texts[f])] if f in texts else []
        rows += [tokens.embeds[f, :count]]
    rows.append(embed(TEXT))
    with torch.inference_mode():
        hidden = model.backbone.decoder(inputs_embeds=torch.cat(rows)[None], use_cache=False).last_hidden_state
        expected = model.backbone.logits(hidden)[0, -len(TEXT) :]
    assert (logits(model, prefix) - expected).abs().max() < 1e-4
    assert prefix.frame_slots.tolist() == [[3, -1, -1, -1], [4, 5, 6, 7], [8, 9, -1, -1], [11, 12, 13, -1]]


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_even_counts_without_text_are_the_ordinary_prefix(model, vision_tokens, form):
    tokens = model.compress(vision_tokens, form=form)
    left = logits(model, assemble(model, tokens, counts=torch.full((4,), 2)))
    assert torch.equal(left, logits(model, model.prefix(tokens, num_voco_tokens=2)))


def test_tokens_that_mean_nothing_alone_cannot_be_cut(model, vision_tokens):
    whole = compress_frames(model, vision_tokens, parse_compressor("full"))
    with pytest.raises(UsageError, match="only VoCo tokens can be cut"):
        assemble(model, whole, counts=torch.tensor([1, 1, 1, 1]))
    counts = torch.full((4,), whole.num_voco_tokens)
    assert assemble(model, whole, counts=counts, texts={1: [9, 8]}).length == int(counts.sum()) + 2


# ---------------------------------------------------------------------- asking


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load_model("voco-tiny", cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(demo_scene(), tmp_path_factory.mktemp("clips") / "clip.mp4", size=64)


@pytest.fixture(scope="module", params=["embeds", "kv"])
def video(request, tiny, clip) -> CompressedVideo:
    return tiny.compress(clip, fps=4, form=request.param)


def test_what_fits_is_answered_as_before(video):
    plain = video.ask("where is the star?")
    assert plain.num_frames == 32
    assert plain.evidence == ()
    assert "saw" not in plain.note
    for policy in ("recent", "relevant", "elastic"):
        assert video.ask("where is the star?", policy=policy).token_ids == plain.token_ids


@pytest.mark.parametrize("policy", ["uniform", "recent", "relevant", "elastic"])
def test_a_budget_is_met_and_told(video, policy):
    answer = video.ask("where is the star?", max_voco_tokens=40, policy=policy, neighbours=0)
    assert f"({policy}," in answer.note
    assert len(answer.frame_pts_seconds) == answer.num_frames < 32
    assert bool(answer.evidence) == (policy in ("relevant", "elastic"))
    assert all(moment.share is None for moment in answer.evidence), "found by scores, not by attention"


def test_questions_that_see_the_same_share_a_prefix_and_keep_their_order(video):
    questions = ["who is green?", "where is the star?", "what colour is the square?"]
    options = {"max_voco_tokens": 40, "policy": "relevant", "num_voco_tokens": 2}
    together = video.ask(questions, **options)
    assert [a.question for a in together] == questions
    assert [a.token_ids for a in together] == [video.ask(q, **options).token_ids for q in questions]


def test_attention_of_mixed_counts_sums_to_one(video):
    answer = video.ask("where is the star?", max_voco_tokens=40, policy="elastic", with_attention=True)
    assert answer.frame_attention.sum() == pytest.approx(1)
    assert answer.num_frames == len(answer.frame_attention)
    assert answer.evidence


def test_the_clock_is_told_as_text(video):
    plain, told = video.prefix(), video.prefix(options=ViewOptions(clock_every_seconds=4))
    one = len(video.model.voco.backbone.tokenizer("[0:00:04]", add_special_tokens=False).input_ids)
    assert told.length == plain.length + 2 * one
    assert told.text_start == plain.text_start + 2 * one
    assert video.ask("where is the star?", clock_every_seconds=4).num_frames == 32


def test_beyond_the_trained_positions_is_never_silent(tiny, clip, caplog):
    video = tiny.compress(clip, fps=4)
    config = tiny.voco.backbone.text_config
    trained, config.max_position_embeddings = config.max_position_embeddings, 128
    try:
        fitted = video.ask("where is the star?")
        assert "saw" in fitted.note
        assert "positions" not in fitted.note
        forced = video.ask("where is the star?", max_voco_tokens=1000)
        assert "trained on 128" in forced.note
        with caplog.at_level(logging.WARNING):
            list(video.stream("where is the star?", max_voco_tokens=1000))
        assert "trained on 128" in caplog.text
    finally:
        config.max_position_embeddings = trained
    assert "positions" not in answer_note(tiny.voco, video.prefix())


# ---------------------------------------------------------------------- finding


def entry_of(cache: FrameCache, tokens, *, name: str) -> EntryFrames:
    settings = {"form": tokens.form, "dtype": "float32", "num_voco_tokens": tokens.num_voco_tokens}
    with cache.writer(CacheKey(name.encode().hex().ljust(64, "0"), "cd" * 32, settings), facts={}) as writer:
        writer.append(stored_tensors(tokens, "native"), np.arange(tokens.num_frames, dtype=float))
        entry = writer.finish()
    return EntryFrames(entry, 0, entry.num_frames)


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_chosen_frames_and_chunks_are_what_was_written(model, vision_tokens, tmp_path, form, monkeypatch):
    tokens = model.compress(vision_tokens, form=form)
    cache = FrameCache(tmp_path)
    parts = [entry_of(cache, tokens, name="a"), entry_of(cache, tokens[1:3], name="b")]
    name = "keys" if form == "kv" else "embeds"
    joined = torch.cat([tokens.tensors()[name], tokens[1:3].tensors()[name]])
    chosen = read_chosen(parts, np.array([0, 1, 3, 4]), num_voco_tokens=2)
    assert torch.equal(chosen.tensors()[name], joined[[0, 1, 3, 4]][..., :2, :])
    monkeypatch.setattr("voco_video.answer.entry_frames.CHUNK_BYTES", 2 * parts[0].entry.bytes_per_frame)
    chunks = list(read_chunks(parts))
    assert [c.num_frames for c in chunks] == [2, 2, 2]
    assert torch.equal(torch.cat([c.tensors()[name] for c in chunks]), joined)


@pytest.mark.parametrize("storage", ["native", "int8"])
@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_what_a_search_reads_is_what_it_makes_of_all_tokens(tiny, clip, form, storage, monkeypatch):
    """Only the last layer's values are read, over segments and within them."""
    entry = tiny.compress(clip, fps=10, form=form, storage=storage).parts[0].entry
    for start, stop in ((0, 80), (3, 7), (31, 66)):
        part = EntryFrames(entry, start, stop)
        whole = token_features(read_tokens(entry, start, stop))
        for frames in (200, 30, 7):
            monkeypatch.setattr("voco_video.answer.entry_frames.FRAMES_PER_STEP", frames)
            assert torch.equal(torch.cat(list(read_features([part]))), whole)


def test_attention_scores_are_means_over_heads_behind_the_first_layer():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 4, 8, generator=generator)
    keys = torch.randn(5, 3, 2, 6, 8, generator=generator)
    fast = attention_scores(queries, keys)
    for f in range(5):
        logs = [
            sum((queries[layer, head] @ keys[f, layer, head // 2, j]).exp() for j in range(6)).log()
            for layer in (1, 2)
            for head in range(4)
        ]
        assert fast[f].item() == pytest.approx(torch.stack(logs).mean().item(), abs=1e-5)


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_queries_and_keys_are_those_of_the_frame_alone(tiny, clip, form):
    """In the first layer, where queries know nothing of frames, against eager attention with each frame as prefix."""
    voco = tiny.voco
    tokens = tiny.compress(clip, num_frames=3, form=form).tokens()
    keys, position = frame_keys(voco, tokens)
    queries = last_token_queries(voco, "where is the star?", position=position, form=form)
    prompt = voco.backbone.conversation_ids([{"role": "user", "content": "where is the star?"}])
    with torch.inference_mode(), voco.answering(form):
        alone = voco.backbone.decoder(
            inputs_embeds=voco.backbone.embed(prompt)[None],
            position_ids=(position + torch.arange(len(prompt)))[None],
            use_cache=True,
        )[CACHE_ARGUMENT]
    own = (queries[0] * alone.layers[0].keys[0, :, -1]).sum(-1)  # [heads]
    for f in range(3):
        prefix = voco.prefix(tokens[f : f + 1])
        voco.backbone.decoder.set_attn_implementation("eager")
        with torch.inference_mode(), voco.answering(form):
            weights = voco.backbone.decoder(
                inputs_embeds=voco.backbone.embed(prompt)[None],
                position_ids=(prefix.text_start + torch.arange(len(prompt)))[None],
                output_attentions=True,
                **{CACHE_ARGUMENT: prefix.to_cache()},
            ).attentions[0][0, :, -1]  # [heads, S + T]
        voco.backbone.decoder.set_attn_implementation("sdpa")
        odds = weights[:, prefix.frame_slots.flatten()].sum(-1) / weights[:, -1]
        to_frame = torch.einsum("hd,hkd->hk", queries[0], keys[f, 0].float()).logsumexp(-1)
        assert torch.allclose(to_frame, odds.log() + own, atol=1e-3)


@pytest.mark.parametrize("width", [5, 200])
def test_a_scorer_is_the_formula(tmp_path, width):
    torch.manual_seed(0)
    scorer = FrameScorer(6, width)
    hidden, tokens = torch.randn(3, 6), torch.randn(4, 2, width)
    assert scorer.compact(tokens).shape == (4, 2, min(width, 128)), "keys, where those are fewer numbers"
    queries, gates = scorer.question(hidden[None])
    with torch.no_grad():
        fast = scorer(queries, gates, tokens)[0]
        keys = scorer.keys(tokens).view(4, 2, *queries.shape[2:])
        for f in range(4):
            terms = [
                (queries[0, t, h] @ keys[f, j, h] + gates[0, t, h]).exp()
                for t in range(3)
                for j in range(2)
                for h in range(queries.shape[2])
            ]
            assert fast[f].item() == pytest.approx((sum(terms).log() + scorer.bias).item(), abs=1e-4)
        scorer.frame_mean.normal_()
        scorer.frame_scale.uniform_(0.5, 2)
        scorer.question_mean.normal_()
        slow = scorer(*(t[None] for t in scorer.question(hidden)), tokens)[0]
        odds = scorer.odds(*scorer.question(hidden), scorer.compact(tokens).split(3))
        assert odds.shape == (4, 3)
        assert torch.allclose(odds.sum(1).log() + scorer.bias, slow, atol=1e-4)
        queries, gates = scorer.question(hidden[None])
    Retriever({"kv": scorer}, "ab" * 32).save(tmp_path)
    again = Retriever.load(tmp_path)
    assert again.model_fingerprint == "ab" * 32
    assert torch.equal(again.scorers["kv"](queries, gates, tokens), scorer(queries, gates, tokens))
    assert Retriever.load(tmp_path / "nowhere") is None
    (tmp_path / "retrieval.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ModelError, match=r"retrieval\.safetensors"):
        Retriever.load(tmp_path)


@pytest.mark.parametrize("form", ["embeds", "kv"])
def test_searching_segments_is_the_formula_over_all_frames(tiny, clip, form, monkeypatch):
    """Whether projected frames are kept or not, however they lie on disk, and for question after question."""
    video = concat([tiny.compress(clip, fps=10, form=form), tiny.compress(clip, fps=4, form=form)])
    monkeypatch.setattr("voco_video.answer.entry_frames.FRAMES_PER_STEP", 25)
    assert len(list(read_features(video.parts))) > 3
    scorer = tiny.retriever.scorers[form]
    for kept_bytes, step in ((1 << 30, 256), (1 << 30, 50), (100_000, 7)):
        monkeypatch.setattr("voco_video.answer.search.MAX_KEPT_FEATURE_BYTES", kept_bytes)
        monkeypatch.setattr("voco_video.answer.entry_frames.FRAMES_PER_STEP", step)
        again = concat([video])
        for question in ("where is the star?", "where is the circle?", "who appears first, the red star or the star?"):
            queries, gates = scorer.question(question_states(tiny.voco, question)[None])
            slow = scorer(queries, gates, token_features(video.tokens()))[0]
            assert np.abs(again.frame_scores(question) - slow.numpy()).max() < 1e-3
        assert bool(again._search._features) == (kept_bytes > 200_000)
    kept = weakref.ref(again._search)
    del again
    assert kept() is None, "what is kept goes with the video, without waiting for the garbage collector"


def test_each_thing_that_a_question_names_has_its_claim():
    """Of two tokens one speaks far more for its frames than the other does for others; both have their best first."""
    scorer = FrameScorer(2, 1)
    by_token = torch.tensor([[9.0, 8.5, 2.0, -5.0, -5.0, 4.0], [-5.0, -5.0, -5.0, 1.0, 0.5, -5.0], [-20.0] * 6])

    search = FrameSearch(None, tuple, tuple)
    search._scorer = scorer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voco_video.answer.frame_scorer.question_states", lambda *_: torch.zeros(3, 2))
        patch.setattr(FrameScorer, "odds", lambda *_: (by_token - scorer.bias).exp().T)
        found = search.scores("this or that?")
    assert np.allclose(found.scores, by_token.logsumexp(0), atol=1e-5)
    assert np.allclose(found.claims, [0, -0.5, -6, 0, -0.5, -5], atol=1e-5)
    assert found.is_about.tolist() == [True, True, False, True, True, True], "the last is certain, if not the best"


def test_what_was_learned_with_other_weights_is_not_used(tiny, clip, caplog):
    scorer = FrameScorer(128, 128)
    strange = VideoModel(tiny.voco, tiny.cache, Retriever({"embeds": scorer}, "00" * 32))
    plain = dataclasses.replace(tiny, retriever=None)
    with caplog.at_level(logging.WARNING):
        scores = strange.compress(clip, fps=4).frame_scores("the star")
    assert "does not match this model" in caplog.text
    assert np.array_equal(scores, plain.compress(clip, fps=4).frame_scores("the star"))


def test_moments_of_several_videos_are_ranked_together(tiny, clip):
    videos = [tiny.compress(clip, fps=2), tiny.compress(clip, fps=4)]
    done = []
    found = find(videos, "the red triangle", num_moments=4, on_progress=done.append)
    assert done == [16, 32]
    assert 1 <= len(found) <= 4
    scores = [f.moment.score for f in found]
    assert scores == sorted(scores, reverse=True)
    assert all(f.moment.is_likely == (f.moment.score > 0) for f in found), "scores of a learned scorer are odds"
    assert all(f.video in videos for f in found)
    for empty in (" ", ""):
        with pytest.raises(UsageError, match="empty"):
            find(videos, empty)


def test_moments_do_not_reach_over_gaps():
    pts = np.array([0.0, 1.0, 2.0, 50.0, 51.0])
    (moment,) = find_moments(np.array([0.0, 0.0, 5.0, 4.0, 0.0]), pts, num_moments=1)
    assert (moment.start_seconds, moment.end_seconds) == (2.0, 3.0)
    assert frame_ends(np.array([3.0])).tolist() == [3.0]
    assert find_moments(np.empty(0), np.empty(0), num_moments=3) == []


def test_frames_that_keep_nothing_cannot_be_searched(tiny, clip):
    with pytest.raises(UsageError, match="keep no tokens"):
        tiny.compress(clip, compressor="none").find("the star")


def test_find_and_ask_on_the_command_line(run, tmp_path, clip):
    code, out, _ = run("find", clip, "the red triangle", "--json", "--num-moments", 2, "--out", "moments.png")
    moments = json.loads(out)["moments"]
    assert code == 0
    assert 1 <= len(moments) <= 2
    assert moments[0]["path"] == str(clip)
    assert moments[0]["start_seconds"] < moments[0]["end_seconds"]
    assert (tmp_path / "moments.png").read_bytes().startswith(b"\x89PNG")
    for name in ("bad.mp4", "worse.mp4"):
        (tmp_path / name).write_text(name)
    with drawn_by_pil() as drawn:
        assert run("find", "bad.mp4", "worse.mp4", "the red triangle", "--out", "moments.png")[0] == 1
    assert {"Nothing was found.", "2 of 2 videos could not be searched."} <= set(drawn.texts), "no picture of before"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / clip.name).write_bytes(clip.read_bytes() + b"\0")
    with drawn_by_pil() as drawn:
        code, _, err = run("find", clip, f"other/{clip.name}", "the red triangle", "--num-moments", 2, "--out", "a.png")
    assert (code, drawn.faults) == (0, []), err
    assert "moments in a.png" in err
    assert f"other/{clip.name}" in "".join(drawn.texts), "of two videos with one name the paths are shown"
    assert any(text.startswith("score ") and text.endswith("likely") for text in drawn.texts)
    code, out, _ = run("find", clip, "the red triangle")
    assert code == 0
    assert all(line.endswith("likely") for line in out.splitlines()[2:] if line)
    assert "%" not in out, "a share of what is shown would say nothing"
    code, out, err = run("ask", clip, "where is the star?", "--policy", "relevant", "--max-voco-tokens", "24")
    assert code == 0
    assert "rests on 0:0" in out
    assert "saw 3 of 8 frames (relevant, 24 tokens)" in err
    assert run("find", clip)[0] == 2
    assert run("find", clip, " ")[0] == 2
    assert run("ask", clip, "who?", "--max-voco-tokens", "0")[0] == 2
