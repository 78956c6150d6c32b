"""Mutated cache entries by seed: a few here, thousands by `python -m benchmarks.fuzz cache`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fuzz.cache import cases
from benchmarks.fuzz.cache_entries import MUTATIONS


def test_no_mutation_of_an_entry_is_a_finding(tmp_path: Path) -> None:
    outcomes = list(cases(count=60, seed=100, folder=tmp_path))
    assert [outcome for outcome in outcomes if outcome.is_finding] == []
    assert {"error", "partial", "right"} <= {outcome.outcome for outcome in outcomes}
    assert len({outcome.mutation.partition(",")[0] for outcome in outcomes}) > len(set(MUTATIONS)) / 2


def test_a_seed_repeats_its_case(tmp_path: Path) -> None:
    (once,) = cases(count=1, seed=103, folder=tmp_path / "once")
    assert once == list(cases(count=4, seed=100, folder=tmp_path / "four"))[-1]
