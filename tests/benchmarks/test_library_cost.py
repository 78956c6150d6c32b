"""The arithmetic of a library against numbers worked out by hand, and against the product's own code."""

from __future__ import annotations

import inspect
import json
import math

import numpy as np
import pytest
import torch

from benchmarks.library import arithmetic, cost, inputs, measured
from benchmarks.library.arithmetic import Arithmetic
from benchmarks.library.inputs import Inputs
from benchmarks.speed import cache as cache_benchmark
from voco_video.cache import CacheKey, FrameCache
from voco_video.cache.paths import DEFAULT_MAX_BYTES
from voco_video.cache.segment import MAX_SEGMENT_BYTES
from voco_video.checkpoint.describe import bytes_per_token, describe_checkpoint
from voco_video.errors import DataError, ModelError, UsageError


@pytest.fixture(scope="module")
def report():
    return Arithmetic(Inputs()).report()


def row(rows, **values):
    (found,) = [one for one in rows if all(one[key] == value for key, value in values.items())]
    return found


# ---------------------------------------------------------------------- by hand


def test_frames_a_second_by_hand(report):
    # 100 000 h at 1 fps are 360 million frames; in 7 days of 86 400 s that is 595.238 a second, on 64 GPUs 9.3006 each.
    week = row(report["needed"], days=7.0)
    assert week["frames_per_second"] == pytest.approx(595.238, abs=1e-3)
    assert week["per_gpu"]["64"] == pytest.approx(9.3006, abs=1e-4)
    assert row(report["needed"], days=1)["per_gpu"]["8"] == pytest.approx(520.833, abs=1e-3)


def test_a_gpu_by_hand():
    on = Arithmetic(Inputs(gpu_tflops=100, gpu_share=0.5, cores_per_gpu=2))
    flops = json.loads((measured.RESULTS / "seven_b.json").read_text())["flops_per_frame"]
    worker = on.worker
    assert worker["gpu_rate"] == pytest.approx(50e12 / flops)
    assert worker["rate"] == worker["gpu_rate"]
    assert worker["hours"] == pytest.approx(360e6 * flops / 50e12 / 3600)
    assert worker["dollars"] == pytest.approx(worker["hours"] * 3.0)
    assert worker["count"] == math.ceil(worker["hours"] / 168)


def test_a_gpu_waits_for_its_cores():
    rows = json.loads((measured.RESULTS / "decode.json").read_text())["rows"]
    (decode,) = [r for r in rows if (r["codec"], r["seconds"], r["frames"]) == ("hevc", 600, "1 fps")]
    each = decode["results"]["voco-video"]["cpu_seconds"] / 600
    on = Arithmetic(Inputs(codec="hevc", gpu_frames_per_second=1000, cores_per_gpu=8, core_speed=2, videos=10**5))
    opening = measured.per_video_figure().value * 1e5 / 360e6
    assert on.worker["rate"] == pytest.approx(8 * 2 / (each + opening))
    assert on.worker["rate"] < 1000
    assert on.worker["cores_wanted"] == pytest.approx(1000 * (each + opening) / 2)


@pytest.fixture
def three_videos(monkeypatch):
    """A library of videos of 10, 40 and 70 s, in place of a spread."""
    monkeypatch.setattr(arithmetic, "_STRATA", 3)
    monkeypatch.setattr("benchmarks.library.lengths.Lengths.spread", lambda self, count: [10.0, 40.0, 70.0])
    return Inputs(videos=3, hours=120 / 3600, segment_frames=32, days=1)


def test_objects_and_requests_by_hand(three_videos):
    # 10, 40 and 70 frames are 1, 2 and 3 segments of 32, and three manifests: 9 objects, one answer lists them.
    found = Arithmetic(three_videos).request
    assert found["objects"] == 9
    assert found["mean_object_bytes"] == pytest.approx((8192 + 8) * 120 / 6)
    assert found["put_dollars"] == pytest.approx(9 * 0.005 / 1000)
    assert (found["list_requests"], found["list_seconds"]) == (1, 0.15)
    assert found["puts_per_second"] == pytest.approx(9 / 86400)
    # A minute of frames touches its first segment and, on average, 59 / 32 more; and the manifest.
    assert found["question_gets"] == pytest.approx(2 + 59 / 32)


def test_what_a_question_reads_is_the_average_over_all_its_beginnings():
    for wanted, full in ((60, 32), (8, 32), (1, 32), (33, 32), (60, 7)):
        touched = [(start + wanted - 1) // full - start // full + 1 for start in range(full)]
        on = Inputs(question_seconds=wanted, segment_frames=full)
        assert Arithmetic(on).request["question_gets"] == pytest.approx(1 + sum(touched) / full)


def test_dollars_by_hand():
    on = Inputs(store_dollars_per_gb_month=0.02, form="kv", num_voco_tokens=8)
    found = {line["item"]: line for line in Arithmetic(on).bill()}
    frame = 8 * (2 * 32 * 32 * 128 * 2 + 4) + 8
    assert found["GB kept"]["amount"] == pytest.approx(360e6 * frame / 1e9)
    assert found["GB kept"]["dollars"] == pytest.approx(360e6 * frame / 2**30 * 0.02)
    assert found["videos read"]["dollars"] == pytest.approx(0.4)


def test_limits_by_hand(report):
    limits = {one["what"]: one for one in report["limits"]}
    stragglers = limits["stragglers: the longest video takes as long as all work shared out"]
    assert stragglers["breaks_at"] == pytest.approx(100_000 / 12)
    kept = limits["one cache: what was unused longest is deleted"]
    assert kept["breaks_at"] == pytest.approx(50e9 / (8200 * 3600))
    small = limits["small objects: writing one costs more than a month of keeping it"]
    assert small["breaks_at"] == pytest.approx(5e-6 / 0.023 * 2**30)
    assert small["times"] == pytest.approx(small["breaks_at"] / small["here"])
    times = [one["times"] for one in report["limits"]]
    assert times == sorted(times, reverse=True)


# ---------------------------------------------------------------------- against the product


def test_defaults_are_those_of_the_product():
    writer = inspect.signature(FrameCache.writer).parameters
    assert Inputs().segment_frames == writer["segment_frames"].default
    assert Inputs().cache_gb * 1e9 == DEFAULT_MAX_BYTES
    assert arithmetic.MAX_SEGMENT_BYTES == MAX_SEGMENT_BYTES


@pytest.mark.parametrize(("num_frames", "k"), [(1, 1), (32, 2), (33, 1), (100, 8)])
def test_objects_and_bytes_are_those_of_a_real_entry(tmp_path, monkeypatch, num_frames, k):
    monkeypatch.setattr(arithmetic, "_STRATA", 1)
    on = Arithmetic(Inputs(videos=1, hours=num_frames / 3600, sigma=0, form="kv", num_voco_tokens=k, model="voco-tiny"))
    with FrameCache(tmp_path).writer(CacheKey("0" * 64, "0" * 64, {}), facts={}) as writer:
        half = torch.ones(num_frames, 5, 4, k, 32, dtype=torch.float16)
        tensors = {"keys": half, "values": half, "positions": torch.ones(num_frames, k, dtype=torch.int32)}
        for start in range(0, num_frames, 8):
            batch = {name: tensor[start : start + 8] for name, tensor in tensors.items()}
            writer.append(batch, np.arange(start, min(start + 8, num_frames), dtype=float))
        entry = writer.finish()
    files = [path for path in entry.directory.iterdir() if path.is_file()]
    assert on.request["objects"] == len(files)
    payload = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    header = 1000 * (len(files) - 1)  # each file's head
    assert on.kept_bytes * num_frames <= payload <= on.kept_bytes * num_frames + header


@pytest.mark.parametrize("shape", inputs.SHAPES)
def test_bytes_of_tokens_are_those_of_the_products_own_code(shape):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    sizes = cache_benchmark.SHAPES[shape]
    config = LlamaConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.width // sizes.head_dim,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
    )
    found = bytes_per_token(LlavaConfig(vision_config=CLIPVisionConfig(), text_config=config), "float16")
    assert measured.token_bytes_figure(shape, "embeds").value == found["embeds"]
    assert measured.token_bytes_figure(shape, "kv").value == found["kv"] + 4


def test_a_checkpoint_in_place_of_a_model():
    on = Arithmetic(Inputs(checkpoint="voco-tiny", gpu_frames_per_second=100.0, num_voco_tokens=8))
    assert on.kept_bytes == 8 * describe_checkpoint("voco-tiny").bytes_per_frame["embeds"] + 8
    assert on.worker["gpu_rate"] == 100.0
    assert on.report()["bill"]
    with pytest.raises(ModelError):
        Arithmetic(Inputs(checkpoint="/nowhere", gpu_frames_per_second=1.0)).report()


def test_a_figure_comes_from_its_key(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"rows": [{"n": 1, "v": {"s": 2.5}}, {"n": 2, "v": 3}, {"n": 2}]}))
    assert measured.pick("x", "rows", {"n": 1}, "v", "s", results=tmp_path) == (2.5, "x.json: rows[n=1].v.s")
    assert measured.pick("x", "rows", 1, "v", results=tmp_path) == (3, "x.json: rows[1].v")
    for steps, message in (
        (("rows", {"n": 2}, "v"), r"has 2 rows at rows\[n=2\]"),
        (("rows", {"n": 3}, "v"), "has 0 rows"),
        (("rows", 7), r"has no rows\[7\]"),
        (("other",), "has no other; run"),
        (("rows",), "no number at rows"),
    ):
        with pytest.raises(DataError, match=message):
            measured.pick("x", *steps, results=tmp_path)
    (tmp_path / "y.json").write_text("{")
    for name in ("y", "z"):
        with pytest.raises(DataError, match="cannot be read"):
            measured.pick(name, "rows", results=tmp_path)


# ---------------------------------------------------------------------- the command


def test_json_has_inputs_figures_and_tables(capsys):
    assert cost.main(["--json", "--videos", "20_000", "--fps", "0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert row(found["inputs"], flag="--videos")["value"] == 20000
    assert all(figure["source"] and figure["value"] > 0 for figure in found["figures"].values())
    assert found["figures"]["decoding"]["source"].startswith("decode.json: rows[codec=h264")
    assert any("1 frame a second" in note for note in found["notes"])
    assert all(one["source"] for one in found["inputs"] if one["kind"] == "published")


def test_tables_are_printed(capsys):
    assert cost.main([]) == 0
    text = capsys.readouterr().out
    for title, _ in cost.TABLES.values():
        assert f"## {title}" in text
    assert "nan" not in text
    with pytest.raises(SystemExit):
        cost.main(["--help"])
    assert "python -m benchmarks.library.cost --form kv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fps", "-1"], "--fps: must be more than 0, not -1"),
        (["--fps", "nan"], "must be a number, not nan"),
        (["--days", "inf"], "must be at most 1e+12, not inf"),
        (["--videos", "1" + 400 * "0"], "must be at most 1e+12"),
        (["--gpus", "x"], "must be a whole number, not 'x'"),
        (["--videos", "1.5"], "must be a whole number"),
        (["--gpu-share", "1.1"], "must be at most 1"),
        (["--model", "gpt"], "model must be one of voco-tiny, LLaVA-1.5-7B, not 'gpt'"),
        (["--codec", "av1"], "codec must be one of"),
        (["--form", "x"], "form must be one of"),
        (["--checkpoint", "x"], "give --gpu-frames-per-second"),
        (["--hours", "1e12"], "give fewer hours"),
    ],
)
def test_what_cannot_be_is_refused(flags, message, capsys):
    try:
        code = cost.main(flags)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_inputs_are_checked_in_python_too():
    for values in ({"fps": 0.0}, {"hours": math.inf}, {"videos": -1}, {"gpu_share": 2.0}):
        with pytest.raises(UsageError, match="must be"):
            Inputs(**values)
    Inputs(gpu_dollars_per_hour=0.0, store_dollars_per_gb_month=0.0)
    free = Arithmetic(Inputs(store_dollars_per_gb_month=0.0)).report()
    assert not any("small objects" in one["what"] for one in free["limits"])
    json.dumps(free, allow_nan=False)
