"""`scripts/gpu_checks.sh`, rehearsed on a processor: no step may fail for a trivial reason where a GPU is at hand."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import wheels
from benchmarks.gpu.__main__ import LIMITS, MACHINE_SECONDS, Run, main, steps_of
from benchmarks.gpu.arithmetic import compress_flops, rows, uncompressed_flops
from benchmarks.gpu.plan import REHEARSAL, RESULTS, Bench, Part, run_parts
from benchmarks.gpu.step import STEPS
from benchmarks.shapes import make_model, random_pixels
from voco_video.model.compressors import compress_frames
from voco_video.options.compression import parse_compressor

ROOT = Path(__file__).parents[2]
NEEDS_A_GPU = "there is no GPU"


def lines(out):
    return [json.loads(line) for line in (out / RESULTS).read_text().splitlines()]


def assert_rehearsed(found):
    for line in found:
        assert line["status"] in ("ok", "skipped"), line
        assert line["status"] == "ok" or NEEDS_A_GPU in line["why"], line


@pytest.mark.parametrize(
    "step", [pytest.param(name, marks=[pytest.mark.exhaustive] if name != "b" else []) for name in STEPS]
)
def test_every_part_of_a_step_runs_on_a_processor(step, tmp_path):
    bench = Bench(REHEARSAL, tmp_path)
    parts = importlib.import_module(f"benchmarks.gpu.{STEPS[step]}").parts(bench)
    assert run_parts(step, parts, bench, tmp_path)
    assert_rehearsed(lines(tmp_path))


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_script_rehearses_all_steps(tmp_path):
    command = ["bash", ROOT / "scripts" / "gpu_checks.sh", tmp_path, "--rehearse"]
    environment = os.environ | {"PYTHON": sys.executable}
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    found = lines(tmp_path)
    assert_rehearsed(found)
    assert {line["step"] for line in found} == {"machine", *STEPS}


# ---------------------------------------------------------------------- a step that fails costs itself alone


def test_a_part_that_fails_or_does_not_fit_costs_itself_alone(tmp_path):
    def fail():
        raise RuntimeError("illegal memory access")

    parts = [
        Part("too large", dict, needs_bytes=1e18),
        Part("fails", fail),
        Part("lacks", fail, lacks="no such library"),
        Part("good", lambda: {"figure": 1}),
    ]
    assert not run_parts("b", iter(parts), Bench(REHEARSAL, tmp_path), tmp_path)
    found = lines(tmp_path)
    assert [line["status"] for line in found] == ["refused", "failed", "skipped", "ok"]
    assert "needs 931322574.6 GiB" in found[0]["why"]
    assert found[1]["why"] == "RuntimeError: illegal memory access"
    assert found[3]["figure"] == 1


def test_a_step_that_takes_too_long_is_ended_and_the_next_begins(tmp_path):
    run = Run(tmp_path, is_rehearsal=True, ends=time.monotonic() + 100)
    assert not run.step("b", 0.05)
    assert not run.step("c", 0.05)
    assert [(line["step"], line["status"]) for line in lines(tmp_path)] == [("b", "timeout"), ("c", "timeout")]


def test_a_step_is_not_begun_with_no_time_left(tmp_path):
    assert not Run(tmp_path, is_rehearsal=True, ends=time.monotonic() + 1).step("b", 60)
    assert lines(tmp_path)[0]["status"] == "skipped"


def test_a_machine_without_a_gpu_is_told_so(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main([str(tmp_path), "--only", "b"]) == 1
    assert "--rehearse needs none" in capsys.readouterr().err
    assert [line["step"] for line in lines(tmp_path)] == ["machine"]


def test_steps_are_chosen_by_their_letters(capsys):
    assert steps_of("c, b") == ["b", "c"]
    with pytest.raises(argparse.ArgumentTypeError, match="z: no such step"):
        steps_of("b,z")
    with pytest.raises(SystemExit, match="2"):
        main(["out", "--only", "z"])
    assert LIMITS.keys() == STEPS.keys()
    assert max(LIMITS.values()) + MACHINE_SECONDS < 480


# ---------------------------------------------------------------------- arithmetic


def test_arithmetic_is_what_torch_counts():
    """Causal attention needs half of the square that torch counts, and the last layer's outputs are not needed."""
    model = make_model("small", attention="eager")  # torch counts nothing of fused attention on a processor
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counted:
            vision_tokens = model.vision_tokens(random_pixels(model, 4))
            model.compress(vision_tokens, num_voco_tokens=1)
        assert 0.8 < 4 * compress_flops(model) / counted.get_total_flops() <= 1
        tokens = compress_frames(model, vision_tokens, parse_compressor("full"), form="embeds")
        with FlopCounterMode(display=False) as counted:
            model.prefix(tokens)
    assert 0.8 < uncompressed_flops(model, 4) / counted.get_total_flops() <= 1


def test_the_page_shows_what_the_arithmetic_gives():
    page = (ROOT / "docs" / "gpu.md").read_text()
    for row in rows():
        assert f"| {' | '.join(row)} |" in page, "run `python -m benchmarks.gpu.arithmetic` and put its table there"


# ---------------------------------------------------------------------- the folder of wheels


def wheel(folder, name, version, *requirements):
    path = folder / f"{name}-{version}-py3-none-any.whl"
    metadata = "\n".join([f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requirements)])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", metadata + "\n")
    return path


def closure(roots, folder, **installed):
    chosen, unmet = wheels.closure(map(Requirement, roots), wheels.wheels_in(folder), installed.get)
    return {w.name for w in chosen}, {str(r) for r in unmet}


def test_only_what_is_missing_or_too_old_is_installed(tmp_path):
    wheel(tmp_path, "typer", "0.20", "click>=8", "rich>=14; extra == 'all'", "tomli; python_version < '3'")
    wheel(tmp_path, "click", "8.2")
    wheel(tmp_path, "av", "18.1")
    assert closure(["typer>=0.16", "av>=18"], tmp_path, av="19.0") == ({"typer", "click"}, set())
    assert closure(["typer>=0.16", "av>=18"], tmp_path, av="17.0", typer="0.16", click="8.0") == ({"av"}, set())
    assert closure(["av>=19", "rich"], tmp_path, av="17.0") == (set(), {"av>=19", "rich"})


def test_an_older_transformers_is_used_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wheels, "declared", lambda: [Requirement("transformers>=5.18"), Requirement("blake3>=1")])
    monkeypatch.setattr(wheels, "installed_version", {"transformers": "5.17.0"}.get)
    monkeypatch.setattr(wheels.closure, "__defaults__", (wheels.installed_version,))
    path = wheel(tmp_path, "blake3", "1.0")
    assert wheels.missing(tmp_path) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [str(path)]
    assert "transformers 5.17.0 is older than >=5.18" in printed.err
    assert wheels.missing(tmp_path / "none") == 1
    assert "blake3>=1 is neither installed nor in" in capsys.readouterr().err


def test_the_list_has_name_version_and_size(tmp_path, capsys):
    path = wheel(tmp_path, "blake3", "1.0")
    assert wheels.main(["list", str(tmp_path)]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.split() == ["blake3", "1.0", f"{path.stat().st_size / 1e6:.2f}", "MB"]
    assert last.split()[0] == "1"


def test_a_folder_that_is_too_large_is_refused(tmp_path, monkeypatch, capsys):
    wheel(tmp_path, "blake3", "1.0")
    monkeypatch.setattr(wheels, "MAX_BYTES", 10)
    assert wheels.main(["list", str(tmp_path)]) == 1
    assert "error: more than" in capsys.readouterr().err
