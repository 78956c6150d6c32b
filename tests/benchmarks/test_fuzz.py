"""Fuzzing itself: the same seed is the same case, bad ends of children are outcomes, and what is wrong is seen."""

from __future__ import annotations

import importlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from voco_video.video.pyav_reader import FrameReader
from voco_video.video.scaling import Fit

ROOT = Path(__file__).parents[2]
FIT = Fit(40, 56, "stretch")
KIND = """
import os, signal, time
from benchmarks.fuzz.outcome import Outcome

def cases(*, count, seed, folder):
    for number in range(seed, seed + count):
        print("noise")
        if number == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 5:
            time.sleep(600)
        if number == 6:
            raise KeyError("six")
        if number == 8:
            bytearray(1 << 40)
        yield Outcome(number, "none", "right")
"""


@pytest.fixture(scope="module")
def fuzz():
    """The modules of `benchmarks.fuzz`, by name."""
    names = ("__main__", "children", "clips", "outcome")
    return SimpleNamespace(**{name: importlib.import_module(f"benchmarks.fuzz.{name}") for name in names})


@pytest.mark.exhaustive
def test_bad_ends_are_outcomes_and_the_next_seed_goes_on(fuzz, tmp_path, monkeypatch):
    (tmp_path / "bad_ends.py").write_text(KIND)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(fuzz.children, "_SEEDS_PER_CHILD", 5)
    children = fuzz.children.Children("bad_ends", tmp_path / "work", num_jobs=2, limit_seconds=15, memory_gib=8)
    outcomes = sorted(children.run(range(10)), key=lambda outcome: outcome.seed)
    assert [outcome.seed for outcome in outcomes] == list(range(10))
    ends = {outcome.seed: outcome.outcome for outcome in outcomes if outcome.outcome != "right"}
    assert ends == {3: "crash", 5: "hang", 6: "exception", 8: "exception"}
    details = [outcomes[seed].detail for seed in (3, 5, 6, 8)]
    for detail, part in zip(details, ("SIGSEGV; bad_ends.py:9 cases", "bad_ends.py:11", "KeyError", "MemoryError")):
        assert part in detail


def test_counts_of_kinds_stand_side_by_side_and_findings_fail(fuzz, tmp_path):
    right, wrong = (fuzz.outcome.Outcome(seed, "flip", name) for seed, name in ((7, "right"), (8, "silent")))
    report = fuzz.__main__.report_of([wrong, right], seed=7, seconds=1.0)
    assert report["outcomes"]["right"] == report["outcomes"]["silent"] == 1
    assert [finding["seed"] for finding in report["findings"]] == [8]
    for kind in ("clips", "cache"):
        fuzz.__main__.merge(report, kind, tmp_path / "fuzz.json")
    assert list(json.loads((tmp_path / "fuzz.json").read_text())) == ["cache", "clips"]


@pytest.mark.slow
def test_the_command_runs_and_counts_every_case(fuzz, tmp_path, capsys):
    code = fuzz.__main__.main(["clips", "--count", "4", "--jobs", "2", "--out", str(tmp_path / "fuzz.json")])
    report = json.loads((tmp_path / "fuzz.json").read_text())["clips"]
    assert (report["count"], sum(report["outcomes"].values())) == (4, 4)
    assert code == bool(report["findings"])
    assert "clips: " in capsys.readouterr().out


def test_a_seed_is_one_case(fuzz, tmp_path):
    for seed in range(12):
        cases = []
        for folder in (tmp_path / "one", tmp_path / "other"):
            folder.mkdir(exist_ok=True)
            base, mutation, path = fuzz.clips.make_case(seed, folder)
            cases.append((base.name, mutation, path.read_bytes()))
        assert cases[0] == cases[1]
        assert cases[0][2] != (tmp_path / "one" / "made" / cases[0][0]).read_bytes()


@pytest.fixture(scope="module")
def sound(fuzz, tmp_path_factory):
    """A sound clip, and one reading of it."""
    case = next(case for case in fuzz.clips.BASES if case.name == "h264_b.mp4")
    path = case.make(tmp_path_factory.mktemp("sound"))
    return path, fuzz.clips.read(path, FIT)


def test_wrong_results_are_seen(fuzz, sound):
    path, reading = sound

    def judged(*changed, said=()):
        return fuzz.clips.judge([*changed] or [reading] * 2, path, path, FIT, list(said))[0]

    everything, *others = reading.results
    late = tuple((seconds + 1.0, digest) for seconds, digest in everything)
    (first, one), (second, other), *rest = everything
    swapped = ((first, other), (second, one), *rest)
    foreign = ((everything[0][0], "0" * 16), *everything[1:])
    short = replace(reading, results=(everything[:-2], *others))
    assert judged() == "right"
    assert judged(reading, short) == "varies"
    assert judged(short) == "silent"
    assert judged(short, said=["something"]) == "silent"  # counted 30, given 28, none called lost
    assert judged(replace(short, num_lost=2), said=["something"]) == "partial"
    for wrong in (late, swapped, foreign):
        assert judged(replace(reading, results=(wrong, *others))) == "silent"
    assert judged(replace(reading, error="FILE: is broken")) == "error"


@pytest.fixture(scope="module")
def damaged(fuzz, tmp_path_factory):
    """A clip some of whose pictures do not decode, and the one that it was made from."""
    folder = tmp_path_factory.mktemp("damaged")
    base, _, path = fuzz.clips.make_case(557, folder)
    return path, base.make(folder / "made")


@pytest.mark.parametrize(
    "seed",
    [
        89,  # VP9 pictures that are shown again
        603,  # damage that was met, and then skipped
        781,  # parameters that come after the pictures that they would change
        977,  # a keyframe that only decoding from there gives
        1236,  # MPEG-2 damage that several threads pass over
        1632,  # FFV1 whose decoder leaves parts of pictures as they were in memory
    ],
)
def test_damage_that_was_once_read_wrongly(fuzz, tmp_path, seed):
    assert not (outcome := fuzz.clips.run_case(seed, tmp_path)).is_finding, outcome


def one_earlier(pictures):
    """Each picture at the time of the next."""
    earlier = None
    for time, picture in pictures:
        yield time, earlier or picture
        earlier = picture


def one_wrong(pictures):
    """The last picture is the one before it."""
    *others, before, last = pictures
    yield from (*others, before, (last[0], before[1]))


def one_late(pictures):
    """The last picture comes 500 ticks late."""
    *others, (time, picture) = pictures
    yield from (*others, (time + 500, picture))


def one_missing(pictures):
    """The picture in the middle does not come."""
    pictures = list(pictures)
    yield from pictures[: len(pictures) // 2] + pictures[len(pictures) // 2 + 1 :]


def changed_reading(monkeypatch, change, is_changed=lambda number: True):
    """Have the reader change what it gives, in those of its readings whose number is_changed says."""
    whole, numbers = FrameReader.read, itertools.count()

    def read(self, plan, *arguments, **options):
        pictures = whole(self, plan, *arguments, **options)
        return change(pictures) if is_changed(next(numbers)) else pictures

    monkeypatch.setattr(FrameReader, "read", read)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", ["sound", "damaged"])
@pytest.mark.parametrize("change", [one_earlier, one_wrong, one_late, one_missing])
def test_planted_faults_are_seen(fuzz, sound, damaged, monkeypatch, kind, change):
    path, base = (sound[0], sound[0]) if kind == "sound" else damaged
    said = ["it is damaged; reading it from the start instead"]
    assert fuzz.clips.judge([fuzz.clips.read(path, FIT)] * 2, path, base, FIT, said)[0] in ("right", "partial")
    changed_reading(monkeypatch, change)
    assert fuzz.clips.judge([fuzz.clips.read(path, FIT)] * 2, path, base, FIT, said)[0] == "silent"


@pytest.mark.parametrize("way", range(4))
@pytest.mark.parametrize("change", [one_wrong, one_late])
def test_faults_of_one_way_of_reading_are_seen(fuzz, sound, monkeypatch, way, change):
    path, _ = sound
    changed_reading(monkeypatch, change, lambda number: number == way)
    reading = fuzz.clips.read(path, FIT)
    assert fuzz.clips.judge([reading] * 2, path, path, FIT, [])[0] == "silent"


def test_a_fault_of_one_reading_is_seen(fuzz, damaged, monkeypatch):
    path, base = damaged
    changed_reading(monkeypatch, one_wrong, lambda number: number == 13)
    readings = [fuzz.clips.read(path, FIT) for _ in range(4)]
    assert fuzz.clips.judge(readings, path, base, FIT, [])[0] == "varies"
