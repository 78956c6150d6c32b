"""An index survives crashes at any byte, damage and other writers, and never answers for what is not there."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch

from tests.helpers.libraries import QUERIES, searching_model, shown, slow_way, write_entry
from voco_video.library.find import Library
from voco_video.library.index_codes import Codebook
from voco_video.library.index_file import ROW, Encoded, IndexFolder

KIND = b"k" * 32


@pytest.fixture
def folder(tmp_path) -> IndexFolder:
    return IndexFolder(tmp_path / "index", KIND, 2)


def encoded(number: int, num_frames: int = 3, codebook: Codebook | None = None) -> Encoded:
    keys = torch.full((num_frames * 2, 4, 32), float(number + 1))
    coarse, fine = (codebook or Codebook(torch.zeros(4, 1, 32))).encode(keys)
    digest = f"{number:064x}"
    return Encoded(
        digest, bytes([number] * 16), (number, 1, 2), coarse.reshape(num_frames, 8), fine.reshape(num_frames, 8)
    )


def held(folder: IndexFolder) -> dict[int, float]:
    """By entry, the value that its frames were made of."""
    index = folder.open()
    found = {}
    for row in index.rows:
        fine = index.fine[row["first_frame"] : row["first_frame"] + row["num_frames"]]
        values = np.unique(fine["key"] * fine["scale"].astype(np.float32)[..., None])
        assert np.allclose(values, values[0], rtol=1e-2)
        found[int(row["digest"].tobytes().hex(), 16)] = round(float(values[0]))
    return found


def begin(folder: IndexFolder, *numbers: int) -> None:
    folder.write_anew((), Codebook(torch.zeros(4, 1, 32)), num_trained=1)
    for number in numbers:
        assert folder.append([encoded(number)], folder.open())


def test_what_is_appended_is_there_and_the_later_row_counts(folder):
    assert folder.open() is None
    begin(folder, 1, 2)
    assert folder.append([encoded(3, 1), encoded(1, 5)], folder.open())
    assert held(folder) == {1: 2, 2: 3, 3: 4}
    index = folder.open()
    assert index.num_frames == 3 + 1 + 5
    assert index.num_rows == 4
    assert not index.is_wasteful


def test_a_crash_at_any_byte_of_the_rows_loses_the_last_entry_at_most(folder):
    begin(folder, 1, 2)
    rows = folder.folder / "rows.bin"
    data = rows.read_bytes()
    for cut in range(len(data) - ROW.itemsize, len(data)):
        rows.write_bytes(data[:cut])
        assert held(folder) == {1: 2}
        if cut % 40 == 0:
            assert folder.append([encoded(3)], folder.open())
            assert held(folder) == {1: 2, 3: 4}
    for cut in (0, 5, 60, 119):
        rows.write_bytes(data[:cut])
        assert folder.open() is None or held(folder) == {}


def test_codes_of_a_crash_are_written_over(folder):
    begin(folder, 1)
    for name in ("coarse", "fine"):
        path = next(folder.folder.glob(f"{name}-*.bin"))
        path.write_bytes(path.read_bytes() + os.urandom(4321))
    assert held(folder) == {1: 2}
    assert folder.append([encoded(2)], folder.open())
    assert held(folder) == {1: 2, 2: 3}


@pytest.mark.parametrize("name", ["rows", "coarse", "centroids"])
def test_a_changed_byte_is_noticed(folder, name):
    begin(folder, 1, 2)
    path = next(folder.folder.glob(f"{name}*.bin"))
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        index = folder.open()
        left = {} if index is None else held(folder)
        assert left.items() < {1: 2, 2: 3}.items()


@pytest.mark.parametrize("name", ["coarse", "fine"])
def test_codes_that_are_not_there_are_not_counted_on(folder, name):
    begin(folder, 1, 2)
    path = next(folder.folder.glob(f"{name}-*.bin"))
    os.truncate(path, path.stat().st_size - 1)
    assert held(folder) == {1: 2}


def test_an_index_of_another_kind_is_not_opened(folder):
    begin(folder, 1)
    assert IndexFolder(folder.folder, b"o" * 32, 2).open() is None


def test_a_reader_goes_on_while_the_index_is_written_anew(folder):
    begin(folder, 1, 2)
    index = folder.open()
    folder.write_anew([encoded(5)], Codebook(torch.ones(4, 1, 32)), num_trained=2)
    assert not folder.append([encoded(6)], index), "its codes are of other centroids"
    assert len(index.rows) == 2
    assert index.fine[0]["key"].any()
    assert held(folder) == {5: 6}
    assert len(list(folder.folder.glob("fine-*"))) == 1


def test_writing_anew_that_fails_changes_nothing(folder):
    begin(folder, 1)

    def failing():
        yield encoded(2)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.write_anew(failing(), Codebook(torch.ones(4, 1, 32)), num_trained=2)
    assert held(folder) == {1: 2}
    assert len(list(folder.folder.glob("fine-*"))) == 1


# ---------------------------------------------------------------------- as a library uses it


def test_damaged_fine_codes_answer_nothing(tmp_path):
    model = searching_model(tmp_path)
    digests = [write_entry(model, f"v{n}", 20).digest for n in range(12)]
    Library(model, digests).find(QUERIES[0])
    path = next(tmp_path.glob("index/*/fine-*.bin"))
    data = bytearray(path.read_bytes())
    data[1::997] = os.urandom(len(data[1::997]))
    path.write_bytes(data)
    for query in QUERIES[:2]:
        assert shown(Library(model, digests).find(query)) == slow_way(model, digests, query, 5)


def test_a_library_that_grows_gets_better_centroids_and_loses_what_was_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr("voco_video.library.index_reading._BATCH", 4)
    model = searching_model(tmp_path)
    digests = [write_entry(model, "first", 2).digest]
    Library(model, digests).find(QUERIES[0])
    first = next(tmp_path.glob("index/*/centroids-*"))
    digests += [write_entry(model, f"v{n}", 30).digest for n in range(9)]
    library = Library(model, digests)
    assert shown(library.find(QUERIES[0])) == slow_way(model, digests, QUERIES[0], 5)
    assert not first.exists()
    (status,) = library.index.status()
    assert (status.num_entries, status.num_frames) == (10, 2 + 9 * 30)
    library.index.remove()
    assert library.index.status() == []
    assert shown(library.find(QUERIES[1])) == slow_way(model, digests, QUERIES[1], 5)


def test_where_the_index_cannot_be_written_entries_are_read(tmp_path):
    model = searching_model(tmp_path)
    digests = [write_entry(model, f"v{n}", 5).digest for n in range(3)]
    (tmp_path / "index").write_text("a file, where the folder would be")
    result = Library(model, digests).search(QUERIES[0])
    assert shown(result.moments) == slow_way(model, digests, QUERIES[0], 5)
    (reason,) = result.unindexed
    assert "cannot be written" in reason


def test_several_searches_at_once_make_one_index(tmp_path):
    model = searching_model(tmp_path)
    digests = [write_entry(model, f"v{n}", 12).digest for n in range(10)]
    expected = slow_way(model, digests, QUERIES[0], 5)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(shown(Library(model, digests).find(QUERIES[0])))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3
    result = Library(model, digests).search(QUERIES[0])
    assert (result.num_added, result.unindexed) == (0, {})
