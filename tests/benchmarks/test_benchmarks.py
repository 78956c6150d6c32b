"""Every benchmark runs at its smallest size and writes its report, and none times sides that disagree."""

from __future__ import annotations

import importlib
import json
import math
import mmap
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from voco_video.shapes.world import PLACES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    """The modules of `benchmarks`, which is no part of the installed package, by name."""
    names = ("timing", "errors", "report", "shapes", "rivals", "ceiling", "compress", "compress_rivals", "answer")
    names += ("attention", "cache", "scaling", "decode", "guard", "clips", "haystacks", "needle", "seven_b", "__main__")
    names += ("recordings", "live", "two_events", "how_often", "steady", "answering", "train_modes", "own_world")
    names += ("families",)
    module_of = importlib.import_module("benchmarks.report").module_of
    return SimpleNamespace(**{name: importlib.import_module(module_of(name)) for name in names})


@pytest.fixture(scope="module")
def clips(bench, tmp_path_factory):
    """A folder for clips of this run alone."""
    folder = tmp_path_factory.mktemp("clips")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.scaling, "CLIPS", folder)
        patch.setattr(bench.decode, "CLIPS", folder)
        patch.setattr(bench.needle, "CLIPS", folder)
        yield folder


@pytest.fixture
def mismatch(bench):
    return bench.errors.MismatchError


@pytest.fixture(scope="module")
def tiny(bench):
    return bench.shapes.make_model("tiny")


def run(module, out: Path, *flags: str) -> dict:
    """A benchmark's command, and its report read back from what it wrote."""
    module.BENCHMARK.main(["--quick", "--out", str(out), *flags])
    name = module.BENCHMARK.name
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (out / f"{name}.md").read_text()
    assert text.startswith("# ")
    assert re.search(rf"Made by `python -m benchmarks\.(speed|quality)\.{name}`", text)
    assert "nan" not in text.lower()
    report = json.loads((out / f"{name}.json").read_text())
    for ratio, value in module.BENCHMARK.ratios(report).items():
        assert value > 0, ratio
    return report


# ---------------------------------------------------------------------- timing


def test_sides_take_turns_and_warm_ups_do_not_count(bench):
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = bench.timing.interleaved(sides, repeats=3, warm_ups=1)
    assert calls == list("abcbcacababc")
    assert {len(timing.wall) for timing in timings.values()} == {3}
    assert {len(timing.cpu) for timing in timings.values()} == {3}


def test_no_round_begins_after_the_time_is_up_but_one_is_run(bench):
    timings = bench.timing.interleaved({"a": lambda: None}, repeats=5, max_seconds=0)
    assert len(timings["a"].wall) == 1


def test_processor_seconds_are_those_of_work_not_of_waiting(bench):
    import time

    def work():
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass

    working, waiting = bench.timing.time_once(work), bench.timing.time_once(lambda: time.sleep(0.2))
    assert working.cpu_seconds > 0.09
    assert waiting.wall_seconds > 0.19
    assert waiting.cpu_seconds < 0.09


@pytest.mark.parametrize("wrong", [[1.0, 2.1], [1.0, math.nan], [1.0]])
def test_results_that_differ_are_not_timed(bench, mismatch, wrong):
    results = {"right": torch.tensor([1.0, 2.0]), "wrong": torch.tensor(wrong)}
    with pytest.raises(mismatch, match="wrong"):
        bench.timing.check_same(results, tolerance=1e-2)


def test_results_within_rounding_agree(bench):
    results = {"a": torch.ones(4), "b": torch.ones(4) + 1e-6}
    assert bench.timing.check_same(results, tolerance=1e-4)["b"] == pytest.approx(1e-6, rel=0.1)


def test_memory_is_traced(bench):
    with bench.timing.MemoryTrace(interval_seconds=0.01) as trace:
        kept = np.frombuffer(mmap.mmap(-1, 64 << 20), np.uint8)  # not from memory that this process has already
        kept[:] = 1
        time.sleep(0.1)
    assert trace.peak_bytes - trace.size_bytes[0] > 0.5 * kept.nbytes
    assert len(trace.thinned(3)) <= 6


# ---------------------------------------------------------------------- arithmetic


def test_needed_arithmetic_is_what_runs_less_what_is_not_needed(bench):
    from torch.utils.flop_counter import FlopCounterMode

    model = bench.shapes.make_model("tiny", attention="eager")  # whose attention is counted as plain products
    shape, frames, k = bench.shapes.SHAPES["tiny"], 3, 2
    pixels = bench.shapes.random_pixels(model, frames)
    with torch.no_grad(), FlopCounterMode(display=False) as vision:
        tokens = model.backbone.vision_tokens(model.backbone.pixel_values(pixels))
    with torch.no_grad(), FlopCounterMode(display=False) as llm:
        model.backbone.decode_frames(model.frame_sequence(tokens, k), use_cache=False)
    per_layer = {op: flops / shape.layers / frames for op, flops in llm.get_flop_counts()["Global"].items()}
    linear, attention = per_layer[torch.ops.aten.mm], per_layer[torch.ops.aten.bmm]
    kept = 2 * shape.width * 2 * k * shape.kv_heads * (shape.width // shape.heads)
    rotary = 2 * (shape.width // shape.heads // 2) * (tokens.shape[1] + 2 + k) / shape.layers  # its angles, all layers
    needed = (shape.layers - 1) * (linear + attention / 2) + kept
    assert bench.shapes.llm_flops(model, k) == pytest.approx(needed, abs=shape.layers * rotary)

    assert bench.shapes.vision_flops(model) == pytest.approx(vision.get_total_flops() / frames, rel=1e-6)


# ---------------------------------------------------------------------- each benchmark


def test_ceiling(bench, tmp_path):
    report = run(bench.ceiling, tmp_path, "--sizes", "64", "128", "--copy-mbytes", "1", "--repeats", "2")
    assert [(row["dtype"], row["size"]) for row in report["products"]] == [
        (dtype, size) for dtype in ("float32", "bfloat16") for size in (64, 128)
    ]
    assert report["copy"]["mbytes_per_second"] > 10


def test_compress(bench, tmp_path):
    report = run(bench.compress, tmp_path, "--models", "tiny", "--dtypes", "float32", "--batch-sizes", "1", "2")
    (group,) = report["groups"]
    assert [row["batch_size"] for row in group["rows"]] == [1, 2]
    row = group["rows"][0]
    seconds = row["vision"]["wall_seconds"] + row["llm"]["wall_seconds"]
    assert row["share"] == pytest.approx(
        sum(group["flops_per_frame"].values()) / seconds / group["ceiling_flops_per_second"]
    )


def test_compress_says_which_types_have_no_arithmetic(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.compress, "is_fast", lambda dtype, *, device: dtype == "float32")
    flags = ("--models", "tiny", "--dtypes", "bfloat16", "float32", "--batch-sizes", "1", "--repeats", "1")
    report = run(bench.compress, tmp_path, *flags)
    assert [group["dtype"] for group in report["groups"]] == ["float32"]
    assert list(report["not_run"]) == ["bfloat16"]


def test_compress_refuses_a_batch_that_is_not_its_frames(bench, tiny, mismatch, monkeypatch):
    def mixed(model, pixels):
        return model.vision_tokens(pixels) + (len(pixels) > 1) * 0.1

    monkeypatch.setattr(bench.compress, "see", mixed)
    pixels = bench.shapes.random_pixels(tiny, 2)
    with pytest.raises(mismatch, match="batch differs from one by one"):
        bench.compress.check_batches(tiny, pixels, num_voco_tokens=2, tolerance=1e-4)


def test_compress_rivals(bench, tmp_path):
    flags = ("--models", "tiny", "--num-frames", "2", "--num-questions", "1", "2", "--num-voco-tokens", "2")
    report = run(bench.compress_rivals, tmp_path, *flags, "--repeats", "1", "--dtypes", "float32")
    assert [row["num_questions"] for row in report["rows"]] == [1, 2]
    for row in report["rows"]:
        assert list(row["sides"]) == ["voco-video", "published", "LLaVA", "LLaVA, kept"]
        assert max(row["errors"].values()) < 1e-4


@pytest.fixture
def work(bench, tiny):
    questions = tuple(bench.shapes.random_text(tiny, 6, seed=seed) for seed in range(2))
    return bench.compress_rivals.Work(tiny, tiny, bench.shapes.random_pixels(tiny, 3), questions, 2)


def test_the_published_mask_is_the_tests_own(bench):
    mask = bench.rivals.dense_mask(2, 4, 1, 2)[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 0, 0, 0, 1, 1, 1],
    ]


def test_compress_rivals_refuse_a_mask_that_shows_vision_tokens(bench, work, mismatch, monkeypatch):
    bench.compress_rivals.check_sides(work, tolerance=1e-4)

    def causal(num_frames, frame_length, num_voco_tokens, text_length):
        size = num_frames * frame_length + text_length
        return torch.ones(size, size, dtype=torch.bool).tril()[None, None]

    monkeypatch.setattr(bench.rivals, "dense_mask", causal)
    with pytest.raises(mismatch, match="voco-video differs from published"):
        bench.compress_rivals.check_sides(work, tolerance=1e-2)


@pytest.mark.parametrize("side", ["LLaVA", "LLaVA, kept"])
def test_compress_rivals_refuse_another_question(bench, work, mismatch, monkeypatch, side):
    right = bench.compress_rivals.SIDES[side]
    wrong = {side: lambda work: right(work).flip(0)}  # the answers the wrong way round
    monkeypatch.setattr(bench.compress_rivals, "SIDES", bench.compress_rivals.SIDES | wrong)
    with pytest.raises(mismatch, match=f"{side} differs"):
        bench.compress_rivals.check_sides(work, tolerance=1e-2)


TINY_ANSWER = ("--model", "tiny", "--num-frames", "1", "4", "--budgets", "1", "3", "--uncompressed-frames", "1", "4")
TINY_ANSWER += ("--num-tokens", "3", "--num-questions", "1", "3", "--repeats", "2", "--video-frames", "2")


def test_answer(bench, tmp_path):
    report = run(bench.answer, tmp_path, *TINY_ANSWER)
    cells = [(row["num_frames"], row["num_voco_tokens"]) for row in report["cached"]]
    assert cells == [(0, 0), (1, 1), (4, 1), (1, 3), (4, 3)]
    assert [row["num_questions"] for row in report["many"]["rows"]] == [1, 3]
    fewer, more = (row["one_by_one"]["wall_seconds"] for row in report["many"]["rows"])
    assert fewer < more
    shape = bench.shapes.SHAPES["tiny"]
    per_token = 2 * shape.layers * shape.kv_heads * (shape.width // shape.heads) * 4
    num_vision_tokens = (shape.image_size // shape.patch_size) ** 2
    assert [row["prefix_bytes"] for row in report["uncompressed"]] == [
        frames * (num_vision_tokens + 2) * per_token for frames in (1, 4)
    ]


def test_answer_refuses_other_answers(bench, tiny, mismatch, monkeypatch):
    settings = bench.answer.Settings(model="tiny", budgets=(2,))
    bench.answer.check_answers(tiny, settings)
    right = bench.answer.generate

    def blind(model, prefix, prompts, **options):
        return right(model, model.empty_prefix(), prompts, **options)

    monkeypatch.setattr(bench.answer, "generate", blind)
    with pytest.raises(mismatch, match="from the cache differs from recomputing"):
        bench.answer.check_answers(tiny, settings)


@pytest.mark.exhaustive
def test_cache(bench, tmp_path):
    flags = ("--shapes", "voco-tiny", "--num-frames", "40", "--num-scenes", "1", "--repeats", "1")
    report = run(bench.cache, tmp_path, *flags)
    native, int8 = report["speeds"]
    assert (native["storage"], int8["storage"]) == ("native", "int8")
    assert native["bytes_per_frame"] == 2 * 5 * 4 * 32 * 4 + 4
    assert {step.split()[0] for step in native["steps"]} == {"write", "open", "first", "again", "slice", "tokens"}
    assert [row["form"] for row in report["int8"]] == ["kv", "embeds"]
    for row in report["int8"]:
        assert row["num_questions"] > 0
        assert 0 < row["logit_error"]["greatest"] < 0.1


def test_cache_refuses_bytes_that_were_not_written(bench, tmp_path, mismatch):
    shape, settings = bench.cache.SHAPES["voco-tiny"], bench.cache.Settings(num_frames=40, folder=str(tmp_path))
    with bench.cache.bench(shape, "native", settings) as on:
        bench.cache.check_bench(on)
        right = on.write

        def write_wrong():
            kept, on.tensors = on.tensors, on.tensors | {"values": on.tensors["values"] + 1e-3}
            right()
            on.tensors = kept

        on.write = write_wrong
        with pytest.raises(mismatch, match="values read differs"):
            bench.cache.check_bench(on)


SHORT = ("--unit-seconds", "2", "--repeats", "1")


@pytest.mark.exhaustive
def test_scaling(bench, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.scaling, "in_process", lambda function, *arguments: function(*arguments))
    report = run(bench.scaling, tmp_path, *SHORT, "--durations", "1", "2", "--overlap-duration", "1")
    assert [(row["seconds"], row["num_frames"]) for row in report["rows"]] == [(2, 2), (4, 4)]
    first, second = report["rows"]
    assert second["size_bytes"] > 1.5 * first["size_bytes"]
    assert first["peak_bytes"] >= first["loaded_bytes"] > 0
    assert list(report["overlap"]["sides"]) == ["decode", "model", "both"]
    each_more = (second["total"]["cpu_seconds"] - first["total"]["cpu_seconds"]) / 2
    assert [row["cpu_seconds_each_more"] for row in report["rows"]] == [None, pytest.approx(each_more)]
    assert report["killed"]["num_frames"] == 4
    assert report["killed"]["tokens_digest"] == second["tokens_digest"] != first["tokens_digest"]


@pytest.mark.exhaustive
def test_a_killed_run_that_gives_other_tokens_is_not_reported(bench, clips, mismatch, monkeypatch):
    monkeypatch.setattr(bench.scaling, "in_process", lambda function, *arguments: function(*arguments))
    clip = bench.clips.make_clip(clips, "h264", 2, 1)
    with pytest.raises(mismatch, match="killed and resumed"):
        bench.scaling.measure_killed(clip, bench.scaling.QUICK, "0" * 64)


@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_bytes_from_shapes_are_those_of_an_entry(bench, tmp_path, form):
    model = bench.scaling.load_model("voco-tiny", dtype="float32", cache_dir=tmp_path)
    voco, shape = model.voco, bench.cache.SHAPES["voco-tiny"]
    tokens = voco.compress(voco.vision_tokens(bench.shapes.random_pixels(voco, 3)), num_voco_tokens=4, form=form)
    with model.cache.writer(bench.cache.CacheKey("0" * 64, model.fingerprint, {}), facts={}) as writer:
        writer.append(tokens.tensors(), np.arange(3.0))
        entry = writer.finish({})
    assert entry.bytes_per_frame == shape.frame_bytes(form, 4, bytes_each=4)


@pytest.mark.exhaustive
def test_needle(bench, clips, tmp_path):
    report = run(bench.needle, tmp_path)
    assert {(r["minutes"], r["policy"]) for r in report["rows"]} >= {(1, "uniform"), (1, "relevant"), (2, "relevant")}
    for row in report["rows"]:
        assert set(row["right"]) == {"0.3", "0.7"}
        assert row["num_questions"] == 2
        assert row["num_pairs"] == 1
    full = [r for r in report["rows"] if r["form"] == "full"]
    assert all(r["found"] == {"0.3": "1", "0.7": "1"} and r["pairs_found"] == "1" for r in full), "it sees every frame"
    joined = run(bench.needle, tmp_path, "--minutes", "1", "--budgets", "4", "--merge")
    names = [(r["minutes"], r["form"], r["K"], r["policy"]) for r in joined["rows"]]
    assert set(names) == {(r["minutes"], r["form"], r["K"], r["policy"]) for r in report["rows"]} | {
        (1.0, "embeds", 4, "relevant"),
        (1.0, "embeds", 4, "uniform"),
    }
    assert len(names) == len(set(names))
    with pytest.raises(SystemExit, match="same settings"):
        run(bench.needle, tmp_path, "--minutes", "1", "--seed", "1", "--merge")


@pytest.mark.exhaustive
def test_how_often(bench, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.how_often, "CLIPS", clips)
    report = run(bench.how_often, tmp_path)
    assert [r["way"] for r in report["rows"]] == ["search", "certain", "relevant", "uniform"]
    assert {r["num_questions"] for r in report["rows"]} == {4}
    searched = report["rows"][0]
    assert searched["right"] == np.mean(list(searched["by_times"].values()))
    assert searched["mean_said"]["4"] > searched["mean_said"]["1"], "what is there more often is found more often"


@pytest.mark.exhaustive
def test_own_world(bench, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.own_world, "CLIPS", clips)
    report = run(bench.own_world, tmp_path)
    recorded = {(r["kind"], r["name"]): r for r in report["rows"] if r["how"] == "recorded"}
    assert {kind for kind, _ in recorded} == {"MovingShapes", "other worlds"}, "there is no footage here"
    assert recorded["MovingShapes", "1 frame a second"]["num_videos"] == 2
    for (kind, _), row in recorded.items():
        is_right = row["foreign"] == 0 if kind == "MovingShapes" else row["foreign"] > 0.8
        assert is_right, row
        assert row["interval"][0] <= row["foreign"] <= row["interval"][1]
    assert {r["name"] for r in report["rows"] if r["how"] == "stored"} == set(bench.own_world.STORED)


def test_the_interval_of_a_share_holds_also_at_its_ends(bench):
    low, high = bench.own_world.wilson(0, 100)
    assert (round(low, 4), round(high, 4)) == (0.0, 0.037)
    low, high = bench.own_world.wilson(50, 100)
    assert (round(low, 3), round(high, 3)) == (0.404, 0.596)


def test_repeated_needles_appear_as_often_as_they_should(bench, tmp_path):
    haystack = bench.haystacks.make_repeats(tmp_path, num_seconds=240, times=(1, 3), num_names=2, seed=5)
    groups = [[n for n in haystack.needles if n.group == g] for g in range(4)]
    assert sorted(map(len, groups)) == [1, 1, 3, 3]
    assert len({g[0].name for g in groups}) == 4
    assert all(len({n.name for n in g}) == 1 for g in groups)
    starts = sorted(n.start_seconds for n in haystack.needles)
    assert np.diff(starts).min() >= bench.haystacks.GAP_SECONDS


def test_haystacks_of_all_lengths_hold_the_same_needles_in_the_same_scenes(bench, tmp_path):
    from voco_video import Fit, read_frames

    options = {"depths": (0.2, 0.8), "needles_per_depth": 3, "seed": 3}
    seen = []
    for num_seconds in (60, 300):
        haystacks = bench.haystacks.make_haystacks(tmp_path, num_seconds=num_seconds, **options)
        shown = {}
        for haystack in haystacks:
            pixels = read_frames(haystack.path, fit=Fit(64, 64, mode="stretch")).pixels
            for n in haystack.needles:
                start = int(n.start_seconds)
                assert abs(start - n.depth * num_seconds) <= 2 * bench.haystacks.GAP_SECONDS
                shown[n.group, n.depth, n.name, n.place] = pixels[start - 3 : start + 5].astype(int)
        seen.append(shown)
    short, long = seen
    assert sorted(short) == sorted(long)
    assert len(short) == 6
    assert all(np.abs(short[n] - long[n]).mean() < 3 for n in short), "what is left is the encoder's"


@pytest.mark.exhaustive
def test_live(bench, tmp_path, monkeypatch):
    """Followed by threads of this process, which are there at once."""
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import contextmanager

    @contextmanager
    def following(live, cache, settings):
        model = bench.live.load_model("voco-tiny", cache_dir=cache.cache_dir)
        streams = [model.open_stream(live.sources[kind], name=kind, publish_seconds=0.5) for kind in settings.sources]
        stopped = []

        def follow(stream):
            with stream:
                for _ in stream:
                    if stopped:
                        return

        with ThreadPoolExecutor() as pool:
            done = [pool.submit(follow, stream) for stream in streams]
            try:
                yield
            finally:
                stopped.append(True)
        for future in done:
            future.result()

    monkeypatch.setattr(bench.live, "following", following)
    flags = ("--sources", "file", "pipe", "http", "--lead-seconds", "9", "--num-publications", "5")
    report = run(bench.live, tmp_path, *flags)
    assert [row["source"] for row in report["rows"]] == ["file", "pipe", "http"]
    for row in report["rows"]:
        assert -2 < row["first_frame"]["seconds"][0] <= row["all_frames"]["seconds"][0]
    # Which frames were there is the machine's doing; that answers are right is for test_live_delay.
    assert list(report["command"]["answers"]) == ["file", "pipe", "http"]
    assert {report["command"]["truth"], *report["command"]["answers"].values()} <= set(PLACES)
    assert report["publishing"]["log_bytes_each"] > 100


def test_a_recorder_writes_what_the_scene_shows(bench, tmp_path):
    from voco_video import Fit, Sampling, read_frames
    from voco_video.shapes.rendering import render

    scene, (needle,) = bench.haystacks.needle_scene(6, [2.0], fps=5, seed=1)
    times = []
    bench.recordings.write_live(
        scene, tmp_path / "a.ts", size=64, wait_until=lambda seconds: times.append(seconds) or 0
    )
    assert times == [n / 5 for n in range(30)]
    frames = read_frames(tmp_path / "a.ts", Sampling(fps=5), fit=Fit(64, 64, mode="stretch"))
    assert frames.pts_seconds == pytest.approx(times, abs=1e-3)
    shown = render(scene, times, size=64)
    assert np.abs(frames.pixels.astype(int) - shown).mean() < 4
    assert np.abs(shown[9].astype(int) - shown[10]).max() > 100, f"{needle} appears"


@pytest.mark.exhaustive
def test_two_events(bench, tmp_path):
    report = run(bench.two_events, tmp_path, "--num-scenes", "6", "--num-joined-scenes", "6")
    seen = {(r["form"], r["K"], r["training"], r["order"]): r for r in report["rows"]}
    assert seen.keys() == {
        (form, k, training, order)
        for form, k in (("kv", 1), ("embeds", 1), ("full", 0))
        for training in ("with", "without")
        for order in ("in order", "shuffled")
    }
    assert seen["full", 0, "with", "in order"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert report["chance"] == 0.5
    assert {r["video"] for r in report["joins"]} == {"one clip", "two clips, joined", "window of a long video"}


def test_two_event_questions_need_both_events(bench):
    """Each names both shapes, and frames without their order leave two answers."""
    from voco_video.shapes.world import staggered_pairs

    cases = list(bench.two_events.two_event_cases(20, seed=1))
    assert len(cases) > 5
    for one in cases:
        ((early, late),) = staggered_pairs(one.case.scene)
        for q in one.case.questions:
            assert len(q.candidates) == 2
            assert q.needs_order
            is_about = [name in q.question for name in (early.colour, early.shape, late.colour, late.shape)]
            assert any(is_about[:2]), q
            assert any(is_about[2:]), q


def test_the_likelier_answer_is_the_one_with_the_smaller_loss(bench):
    from voco_video.data.samples import Turn
    from voco_video.data.turns import encode_turns

    model = bench.shapes.make_model("voco-tiny")
    case = next(bench.two_events.two_event_cases(20, seed=1)).case
    prefix = model.prefix(model.compress(model.vision_tokens(case.pixels(64)), form="kv"))

    @torch.no_grad()
    def loss(question, answer):
        ids, owners = encode_turns(model.backbone, [Turn(question, answer)], max_length=512)
        labels = torch.tensor([[i if owner >= 0 else -100 for i, owner in zip(ids, owners)]])
        return float(model(torch.tensor([ids]), prefix=prefix, labels=labels)[1])

    expected = [min(q.candidates, key=lambda c: loss(q.question, c)) == q.answer for q in case.questions]
    assert bench.two_events.is_likelier(model, prefix, case.questions) == expected


def test_needles_are_in_the_haystack_and_nowhere_else(bench, tmp_path):
    """Seen in the encoded video: what changes where a needle stands, when it appears and when it goes."""
    from voco_video import Fit, read_frames
    from voco_video.shapes.world import COLOURS

    options = {"num_seconds": 60, "depths": (0.2, 0.8), "needles_per_depth": 3, "seed": 3}
    haystacks = bench.haystacks.make_haystacks(tmp_path, **options)
    assert sum(len(h.needles) for h in haystacks) == 6
    assert bench.haystacks.make_haystacks(tmp_path, **options) == haystacks
    for haystack in haystacks:
        frames = read_frames(haystack.path, fit=Fit(64, 64, mode="stretch"))
        assert len(frames) == 60
        assert len({n.name for n in haystack.needles}) == len(haystack.needles)
        for needle in haystack.needles:
            row, column = divmod(PLACES.index(needle.place), 3)
            y, x = (round((0.17, 0.5, 0.83)[cell] * 64) for cell in (row, column))
            colour = np.array(COLOURS[needle.name.split()[0]])
            start = int(needle.start_seconds)
            off = [np.abs(frames.pixels[t, y, x].astype(int) - colour).max() for t in range(start - 1, start + 3)]
            assert max(off[1:3]) < 60 < min(off[0], off[3]), (needle, off)


def test_scaling_refuses_a_video_that_is_not_its_frames(bench, clips, mismatch, monkeypatch):
    clip = bench.clips.make_clip(clips, "h264", 2, 1)
    right = bench.scaling.decode

    def later(model, path, fps):
        batches = right(model, path, fps)
        batches[0].pixels[:] = batches[0].pixels[::-1].copy()
        return batches

    monkeypatch.setattr(bench.scaling, "decode", later)
    with pytest.raises(mismatch, match="video differs from frames in memory"):
        bench.scaling.measure_overlap(clip, bench.scaling.QUICK)


@pytest.mark.exhaustive
def test_decode(bench, clips, tmp_path):
    flags = ("--codecs", "h264", "--repeats", "1", "--choices")
    run(bench.decode, tmp_path, "--seconds", "2", *flags, "8 uniform", "all")
    run(bench.decode, tmp_path, "--seconds", "1", *flags, "8 uniform", "--merge")
    report = run(bench.decode, tmp_path, "--seconds", "2", *flags, "1 fps", "--merge")
    rows = [(row["seconds"], row["frames"]) for row in report["rows"]]
    assert rows == [(1, "8 uniform"), (2, "8 uniform"), (2, "1 fps"), (2, "all")]
    for row in report["rows"]:
        assert row["results"]["voco-video"]["wall_ratio"] == 1
        assert not [result for result in row["results"].values() if "wrong" in result]


def test_decode_gives_no_time_for_wrong_frames(bench, clips, mismatch):
    decode, path = bench.decode, bench.clips.make_clip(clips, "h264", 2, 1)
    frames = [3, 30]
    settings = decode.Settings(repeats=2)
    off_by_one = lambda path, frames: decode.by_voco_video(path, [f + 1 for f in frames])  # noqa: E731
    sides = {decode.OURS: decode.by_voco_video, "late": off_by_one}
    results = decode.measure_row(path, frames, frames, sides, settings)
    assert list(results["late"]) == ["wrong"]
    assert "2 of 2 frames" in results["late"]["wrong"]
    with pytest.raises(mismatch, match="2 of 2 frames"):
        decode.measure_row(path, frames, frames, {decode.OURS: off_by_one}, settings)


def test_a_mismatch_ends_the_command_with_one_line(bench, tmp_path, monkeypatch):
    def wrong(*arguments, **options):
        raise bench.errors.MismatchError("LLaVA differs")

    monkeypatch.setattr(bench.compress, "check_batches", wrong)
    with pytest.raises(SystemExit, match="compress: LLaVA differs"):
        bench.compress.BENCHMARK.main(["--quick", "--out", str(tmp_path), "--models", "tiny"])
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- guard, and all together


def test_guard_records_floors_and_fails_under_them(bench, tmp_path, monkeypatch, capsys):
    guard, floors = bench.guard, tmp_path / "floors.json"
    speeds = iter([2.0, 9.0, 4.0] + [2.1] * 3 + [1.9] * 3 + [math.nan] * 3)
    monkeypatch.setattr(guard, "in_process", lambda name: {f"{name}: ours": next(speeds)})
    flags = ["answer", "--floors", str(floors)]
    floors.write_text(json.dumps({"decode: kept": {"measured": 2, "floor": 1}}))
    assert guard.main([*flags, "--record", "--margin", "0.5"]) == 0
    assert json.loads(floors.read_text()) == {
        "answer: ours": {"measured": 4.0, "floor": 2.0},
        "decode: kept": {"measured": 2, "floor": 1},
    }
    assert guard.main(flags) == 0
    assert guard.main(flags) == 1
    assert "answer: ours: 1.9 is under 2" in capsys.readouterr().err
    assert guard.main(flags) == 1, "a ratio that is not a number is no pass"


def test_guard_with_nothing_to_compare_fails(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench.guard, "in_process", lambda name: {f"{name}: new": 2.0})
    assert bench.guard.main(["decode", "--rounds", "1", "--floors", str(tmp_path / "none.json")]) == 1
    assert "--record" in capsys.readouterr().err


def test_guard_fails_where_sides_disagree(bench, monkeypatch, capsys):
    def wrong(name):
        raise bench.errors.MismatchError("LLaVA differs")

    monkeypatch.setattr(bench.guard, "in_process", wrong)
    assert bench.guard.main(["compress_rivals"]) == 1
    assert "LLaVA differs" in capsys.readouterr().err


def test_guard_says_which_ratios_were_not_measured(bench, tmp_path, monkeypatch, capsys):
    floors = tmp_path / "floors.json"
    floors.write_text(json.dumps({f"decode: {name}": {"measured": 2, "floor": 1} for name in ("decord", "PyAV")}))
    monkeypatch.setattr(bench.guard, "in_process", lambda name: {"decode: PyAV": 1.5})
    assert bench.guard.main(["decode", "--rounds", "1", "--floors", str(floors)]) == 0
    assert "not measured here: decode: decord" in capsys.readouterr().out


def test_guarded_ratios_come_from_the_benchmark_itself(bench, monkeypatch):
    small = bench.compress.Settings(models=("tiny",), dtypes=("float32",), batch_sizes=(1, 2), repeats=1)
    monkeypatch.setattr(
        bench.compress,
        "BENCHMARK",
        bench.compress.BENCHMARK.__class__(**{**vars(bench.compress.BENCHMARK), "quick": small}),
    )
    ratios = bench.guard.measured_ratios("compress")
    assert set(ratios) == {
        "compress: tiny float32: share of the matmul ceiling",
        "compress: tiny float32: best batch over batch of 1",
    }


def test_every_benchmark_is_listed_and_runs_in_its_turn(bench, monkeypatch, capsys):
    everything = bench.__main__
    with pytest.raises(SystemExit):
        everything.main(["--help"])
    listed = capsys.readouterr().out
    sources = {path.stem: path.read_text() for path in (ROOT / "benchmarks").glob("[sq]*/*.py")}
    modules = {name for name, source in sources.items() if 'if __name__ == "__main__"' in source}
    assert modules - {"__main__"} == {*everything.NAMES, *everything.ON_REQUEST}
    assert all(f"    {name} " in listed for name in modules - {"__main__"})

    commands = []
    monkeypatch.setattr(
        subprocess, "run", lambda command: commands.append(command) or SimpleNamespace(returncode="cache" in command[2])
    )
    assert everything.main(["answer", "cache", "train_modes", "--quick", "--out", "x"]) == 1
    assert [command[2] for command in commands] == [f"benchmarks.speed.{n}" for n in ("answer", "cache", "train_modes")]
    assert commands[0][3:] == ["--quick", "--out", "x"]
    with pytest.raises(SystemExit) as refused:
        everything.main(["nonsense"])
    assert refused.value.code == 2


def test_seven_b(bench, tmp_path):
    report = run(bench.seven_b, tmp_path)
    assert [r["batch_size"] for r in report["compress"]] == [1, 2]
    assert report["error"] <= bench.compress.TOLERANCES["float32"]
    shape = bench.shapes.SHAPES["tiny"]
    kept = 2 * shape.layers * shape.kv_heads * (shape.width // shape.heads) * 4
    assert report["bytes_per_frame"] == {"kv": kept, "embeds": 4 * shape.width}
    assert [(r["cached_frames"], r["cached_bytes"]) for r in report["questions"]] == [(1, kept), (8, 8 * kept)]
    assert report["memory"]["resident_bytes"] > report["model_bytes"]


def test_the_7b_shape_is_llava_s(bench):
    with torch.device("meta"):
        from transformers import LlavaForConditionalGeneration

        model = LlavaForConditionalGeneration(bench.shapes._config(bench.shapes.SHAPES["7b"]))
    assert sum(p.numel() for p in model.parameters()) == 7_063_427_072


@pytest.mark.exhaustive
def test_steady(bench, tmp_path, mismatch, monkeypatch):
    report = run(bench.steady, tmp_path)
    assert [(part["name"], part["count"]) for part in report["parts"]] == [("compressing", 24), ("asking", 24)]
    held = []

    def leak(model, clip, number, settings):
        held.append(clip.open("rb"))

    monkeypatch.setattr(bench.steady, "_compress", leak)
    with pytest.raises(mismatch, match="open files grow"):
        bench.steady.measure(bench.steady.QUICK)
    for file in held:
        file.close()


@pytest.mark.exhaustive
def test_answering(bench, tmp_path):
    report = run(bench.answering, tmp_path)
    assert list(report["ways"]) == ["batched", "one by one", "prefix each time", "frames each time"]


def test_ways_that_answer_differently_are_not_timed(bench, tmp_path, monkeypatch, mismatch):
    monkeypatch.setitem(bench.answering.WAYS, "one by one", lambda model, clip: ["no"] * len(clip.questions))
    with pytest.raises(mismatch, match="one by one answered otherwise"):
        bench.answering.measure(bench.answering.BENCHMARK.quick)


@pytest.mark.exhaustive
def test_train_modes(bench, tmp_path):
    report = run(bench.train_modes, tmp_path)
    assert report["speedup"] > 1


@pytest.mark.exhaustive
def test_families(bench, tmp_path):
    chosen = ["qwen2_5_vl", "gemma3"]
    report = run(bench.families, tmp_path, "--families", *chosen)
    assert [row["family"] for row in report["rows"]] == chosen
    of_kv = set(bench.families.OF_KV)
    for row in report["rows"]:
        measured = {*bench.families.LARGEST, *of_kv} - (of_kv if row["family"] == "gemma3" else set())
        assert row["num_cases"] == row["num_equal_prompts"] == row["num_equal_answers"] == 2
        assert all(0 <= row[what] <= report["tolerance"] for what in measured - {"kv_against_embeds"})
        assert {name for name in of_kv if row[name] is None} == of_kv - measured
    assert report["rows"][0]["kv_against_embeds"] > 100 * report["tolerance"]
    both = run(bench.families, tmp_path, "--families", "llava", "--num-cases", "1", "--merge")
    assert [row["family"] for row in both["rows"]] == both["settings"]["families"] == ["llava", "gemma3", "qwen2_5_vl"]


def test_the_table_of_families_in_docs_is_the_recorded_one(bench):
    """All families are in it, equal in every case, and the page shows what was measured."""
    report = json.loads((ROOT / "benchmarks" / "results" / "families.json").read_text())
    assert [row["family"] for row in report["rows"]] == list(bench.families.REFERENCES)
    for row in report["rows"]:
        assert row["num_cases"] == row["num_equal_prompts"] == row["num_equal_answers"] >= 20
        assert all((row[what] or 0) <= report["tolerance"] for what in bench.families.LARGEST)
    assert bench.families.family_table(report).strip() in (ROOT / "docs" / "prompts.md").read_text()
