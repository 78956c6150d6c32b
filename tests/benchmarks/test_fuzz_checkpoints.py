"""Fuzzing of checkpoint folders: what counts as right, and that a mutation is the same again by its seed."""

from __future__ import annotations

import importlib
import random
import shutil

import pytest

from voco_video.checkpoint.finding import find_checkpoint

mutate = importlib.import_module("benchmarks.fuzz.checkpoint_folders").mutate
fuzz = importlib.import_module("benchmarks.fuzz.checkpoints")
Result = fuzz.Result
SOUND = Result(entry="e", tokens="t", answer="a")


@pytest.mark.parametrize(
    ("found", "is_gone", "outcome"),
    [
        (SOUND, False, "right"),
        (SOUND, True, "right"),
        (Result(error="config.json is empty"), True, "error"),
        (Result(fault="exception: Traceback"), False, "exception"),
        (Result(error="config.json is empty", fault="exception: train ended with 3"), False, "exception"),
        (Result(fault="hang: 120 s of 130 s"), False, "hang"),
        (Result(fault="crash: the process ended with -9"), False, "crash"),
        (Result(entry="e", tokens="t", answer="b"), True, "silent"),
        (Result(entry="f", tokens="u", answer="a"), True, "silent"),
        (Result(entry="e", tokens="u", answer="a"), False, "silent"),
        (Result(entry="f", tokens="u", answer="b"), False, "right"),
        (Result(entry="e", tokens="t", answer="b"), False, "right"),
    ],
)
def test_what_is_right(found, is_gone, outcome):
    assert fuzz.judged(found, SOUND, is_gone=is_gone)[0] == outcome


def test_a_seed_is_one_mutation(tmp_path):
    done = []
    for name in ("a", "b"):
        folder = shutil.copytree(find_checkpoint("voco-tiny"), tmp_path / name)
        what = [mutate(folder, random.Random(seed)) for seed in (3, 11)]
        files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        done.append((what, files))
    assert done[0] == done[1]


@pytest.mark.exhaustive
def test_every_mutation_has_an_outcome(tmp_path):
    outcomes = list(fuzz.cases(count=8, seed=3, folder=tmp_path))
    assert [outcome.seed for outcome in outcomes] == list(range(3, 11))
    assert not [outcome for outcome in outcomes if outcome.is_finding]
    assert {outcome.outcome for outcome in outcomes} >= {"error", "right"}


@pytest.mark.exhaustive
def test_a_second_child_may_work_in_the_same_folder(tmp_path):
    for seed in (3, 4):
        (outcome,) = fuzz.cases(count=1, seed=seed, folder=tmp_path)
        assert not outcome.is_finding
