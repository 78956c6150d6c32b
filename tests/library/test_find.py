"""Searching a library by its index finds what reading every entry finds."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch

from tests.helpers.libraries import QUERIES, SearchingModel, searching_model, shown, slow_way, write_entry
from voco_video.errors import CacheError, ModelError, UsageError
from voco_video.library.find import Library


@pytest.fixture
def model(tmp_path) -> SearchingModel:
    return searching_model(tmp_path / "cache")


def assert_finds_the_same(model: SearchingModel, digests: list[str], library: Library | None = None) -> None:
    library = library or Library(model, digests)
    for query, num_moments in zip(QUERIES, (1, 5)):
        expected = slow_way(model, digests, query, num_moments)
        assert shown(library.find(query, num_moments=num_moments)) == expected


def test_a_mixed_library(model):
    """Of both forms, of 1 to 8 tokens, of different lengths, with what no scorer searches, and with doubles."""
    digests = [
        write_entry(model, f"{form}{k}{n}", n, num_voco_tokens=k, form=form).digest
        for form in ("embeds", "kv")
        for k, n in ((1, 30), (2, 1), (3, 17), (4, 40), (8, 33))
    ]
    digests.append(write_entry(model, "pooled", 5, compressor="pool:4").digest)
    digests.insert(3, digests[0])
    library = Library(model, digests)
    assert_finds_the_same(model, digests, library)
    result = library.search(QUERIES[0])
    assert result.num_added == 0, "what is in the index stays there"
    assert result.unindexed == {"no trained scorer searches it": 1}
    assert result.num_videos == len(digests)


def test_the_whole_cache_is_searched_but_not_what_other_models_made(model):
    own = [write_entry(model, f"own{n}", 20).digest for n in range(3)]
    write_entry(model, "other", 20, fingerprint="ef" * 32)
    library = Library(model)
    for _ in range(2):  # the second time it is known which are another model's
        result = library.search(QUERIES[0])
        assert result.num_videos == 3
        assert shown(result.moments) == slow_way(model, sorted(own), QUERIES[0], 5)
    new = write_entry(model, "new", 20).digest
    assert shown(library.find(QUERIES[0])) == slow_way(model, sorted([*own, new]), QUERIES[0], 5)
    model.cache.remove(own[0])
    assert library.search(QUERIES[0]).num_videos == 3
    assert shown(Library(model).find(QUERIES[0])) == slow_way(model, sorted([*own[1:], new]), QUERIES[0], 5)


def test_most_entries_stay_closed(model, monkeypatch):
    digests = [write_entry(model, f"v{n}", 24).digest for n in range(40)]
    library = Library(model, digests)
    library.search(QUERIES[0])
    for query in QUERIES[:2]:
        result = library.search(query, num_moments=3)
        assert 3 <= result.num_opened <= 12
        assert shown(result.moments) == slow_way(model, digests, query, 3)
        assert result.num_frames == 40 * 24


def test_ties_are_in_the_order_of_the_entries(model):
    tokens = torch.randn(9, 4, 64) * 2
    digests = [write_entry(model, f"same{n}", 9, tokens=tokens).digest for n in range(12)]
    assert_finds_the_same(model, digests)
    assert_finds_the_same(model, digests[::-1])


def test_frames_that_no_code_stands_for_are_read(model):
    """Huge values, infinities and NaN: their entries are opened, whatever the question is."""
    digests = [write_entry(model, f"v{n}", 20).digest for n in range(12)]
    for name, value in (("nan", torch.nan), ("inf", torch.inf), ("huge", 1e30), ("zero", 0.0)):
        tokens = torch.randn(6, 4, 64)
        tokens[3] = value
        digests.insert(4, write_entry(model, name, 6, tokens=tokens).digest)
    library = Library(model, digests)
    for query in QUERIES:
        expected = slow_way(model, digests, query, 5)
        found = shown(library.find(query))
        assert [(d, str(m)) for d, m in found] == [(d, str(m)) for d, m in expected]


def test_an_entry_that_was_made_again_is_read_again(model):
    digests = [write_entry(model, f"v{n}", 20).digest for n in range(8)]
    library = Library(model, digests)
    assert_finds_the_same(model, digests, library)
    write_entry(model, "v3", 20, tokens=torch.randn(20, 4, 64) * 4, restart=True)
    assert_finds_the_same(model, digests, library)
    result = Library(model, digests).search(QUERIES[0])
    assert result.num_added == 0
    for digest in digests:  # used since, but the same
        os.utime(model.cache.find(digest).directory / "manifest.json", (1, 1))
    assert Library(model, digests).search(QUERIES[0]).num_added == 0
    assert_finds_the_same(model, digests)


def test_a_live_entry_is_read_each_time(model):
    digests = [write_entry(model, f"v{n}", 20).digest for n in range(4)]
    key = dataclasses.replace(model.cache.find(digests[0]).key, video_digest="ee" * 32)
    with model.cache.growing_writer(key, facts={}) as writer:
        for step in range(3):
            writer.append({"embeds": torch.randn(4, 4, 64) * 3}, np.arange(4.0) + 4 * step)
            writer.publish()
            library = Library(model, [*digests, key.digest])
            assert_finds_the_same(model, [*digests, key.digest], library)
            assert library.search(QUERIES[0]).unindexed == {"its source is still followed": 1}
        writer.append({"embeds": torch.randn(4, 4, 64) * 3}, np.arange(12.0, 16.0))
        writer.publish(is_ended=True)
    library = Library(model, [*digests, key.digest])
    assert_finds_the_same(model, [*digests, key.digest], library)
    assert library.search(QUERIES[0]).unindexed == {}


def test_an_entry_that_cannot_be_read_costs_itself(model):
    """Also where the others were left out because of what the index said of it."""
    digests = [write_entry(model, f"v{n}", 20).digest for n in range(30)]
    gone = write_entry(model, "best", 20, tokens=torch.randn(20, 4, 64) * 9)
    library = Library(model, [*digests, gone.digest])
    first = library.find(QUERIES[0], num_moments=1)[0].video.parts[0].entry
    segment = next(first.directory.glob("segment-*"))
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    left = [digest for digest in [*digests, gone.digest] if digest != first.digest]
    failed = {}
    again = searching_model(model.cache.cache_dir)  # what this process has read is not checked twice
    found = Library(again, [*digests, gone.digest]).find(QUERIES[0], num_moments=1, on_error=failed.__setitem__)
    assert shown(found) == slow_way(again, left, QUERIES[0], 1)
    assert list(failed) == [first.digest]
    assert isinstance(failed[first.digest], CacheError)
    with pytest.raises(CacheError, match="damaged"):
        Library(again, [*digests, gone.digest]).find(QUERIES[0], num_moments=1)
    failed.clear()
    other = write_entry(model, "other", 4, fingerprint="ef" * 32).digest
    found = Library(again, [*left, "ab" * 32, other]).find(QUERIES[0], on_error=failed.__setitem__)
    assert shown(found) == slow_way(again, left, QUERIES[0], 5)
    assert {digest: type(error) for digest, error in failed.items()} == {"ab" * 32: CacheError, other: ModelError}


@pytest.mark.parametrize("forms", [(), ("kv",)])
def test_without_a_scorer_every_entry_is_read(tmp_path, forms):
    model = searching_model(tmp_path, forms=forms)
    digests = [write_entry(model, f"v{n}", 6).digest for n in range(4)]
    library = Library(model, digests)
    assert_finds_the_same(model, digests, library)
    assert library.search(QUERIES[0]).unindexed == {"no trained scorer searches it": 4}
    assert not list(tmp_path.glob("index/*/rows.bin"))


def test_another_scorer_does_not_use_this_ones_index(model):
    digests = [write_entry(model, f"v{n}", 20).digest for n in range(6)]
    assert_finds_the_same(model, digests)
    other = searching_model(model.cache.cache_dir, seed=1)
    library = Library(other, digests)
    assert_finds_the_same(other, digests, library)
    assert_finds_the_same(model, digests)


def test_what_cannot_be_asked(model):
    with pytest.raises(UsageError, match="empty"):
        Library(model).find(" ")
    with pytest.raises(UsageError, match="num_moments"):
        Library(model).find("the star", num_moments=0)
    assert Library(model).find("the star") == []
    assert Library(model, []).find("the star") == []


def test_an_approximate_search_finds_nearly_all_and_says_what_it_is(model):
    digests = [write_entry(model, f"v{n}", 24).digest for n in range(40)]
    library = Library(model, digests)
    hits = total = 0
    for query in QUERIES:
        result = library.search(query, approximate=True)
        assert result.is_approximate
        expected = slow_way(model, digests, query, 5)
        hits += len({str(one) for one in shown(result.moments)} & {str(one) for one in expected})
        total += 5
    assert hits >= 0.9 * total


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(12))
def test_random_libraries(tmp_path, seed):
    rng = np.random.default_rng(seed)
    model = searching_model(tmp_path, seed=seed)
    digests = []
    for number in range(int(rng.integers(1, 60))):
        form, k = ("embeds", "kv")[rng.integers(2)], int(rng.integers(1, 9))
        digests.append(
            write_entry(model, f"{seed}v{number}", int(rng.integers(1, 50)), num_voco_tokens=k, form=form).digest
        )
        if rng.random() < 0.1:
            assert_finds_the_same(model, digests)
    assert_finds_the_same(model, digests)
