"""Files that broke this package once: each gives its truth, in every way in which a video can be read."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from tests.helpers.matrix import Case, even
from tests.helpers.models import voco_tiny_in_kv
from tests.helpers.reading import SMALL, check_case
from tests.helpers.sequential import decode
from voco_video.cache import FrameCache
from voco_video.compress import compress_video
from voco_video.errors import VocoVideoError
from voco_video.options.compression import CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.stored_tokens import read_tokens
from voco_video.video.reading import open_video, read_frames

ALL = Sampling(num_frames=1_000_000)
SAMPLINGS = [Sampling(fps=1), Sampling(num_frames=5), Sampling(keyframes=True), Sampling(timestamps=(1.5, 1.7))]
NUM_RUNS = 8


@pytest.fixture(scope="session")
def faults(shared) -> Path:
    """The folder of files that broke us."""
    folder = shared / "clips" / "faults"
    if not folder.is_dir():
        pytest.skip(f"the files that broke us are not here ({folder})")
    return folder


def read_blocks(pixels: np.ndarray, num_rows: int = 3) -> list[int]:
    """The numbers of pictures [F, h, w, 3] that show them in blocks, four in a row, over the whole picture."""
    _, height, width, _ = pixels.shape
    rows, columns = ((np.arange(n) + 0.5) * side / n for n, side in ((num_rows, height), (4, width)))
    is_white = pixels[:, rows.astype(int)][:, :, columns.astype(int)].mean(-1).reshape(len(pixels), -1) > 128
    return (is_white @ (1 << np.arange(4 * num_rows))).tolist()


def read_two_rows(pixels: np.ndarray) -> list[int]:
    """As `read_blocks`, for the pictures that have two rows: more than 255 begins anew."""
    return read_blocks(pixels, 2)


def _case(name: str, times: tuple[float, ...], numbers=None, **settings) -> Case:
    numbers = tuple(range(len(times))) if numbers is None else tuple(numbers)
    return Case(name, lambda folder: folder / name, times, numbers, **{"read": read_blocks, **settings})


HOLE = [*range(20), *[19] * 20, *range(40, 100)]
SOUND = [
    _case("dup.mkv", (*even(50), *even(50, 10.0))),
    _case("cat_off.ts", even(200, 1.48)),
    _case("hole.avi", even(100), HOLE, num_lost=20),
    _case("hole.mkv", even(100), HOLE, num_lost=20),
    _case("paff_frames.ts", even(100), read=read_two_rows),
    _case("paff_frames.mp4", even(100), read=read_two_rows),
]
# These carry no numbers.
GAP = (*even(50), *even(50, 12.0))
DAMAGED = ["fuzz52.ts", "fuzz928.ts", "p7fuzz788.264", "p7fuzz286.mp4"]


@pytest.mark.parametrize("case", SOUND, ids=lambda case: case.name)
def test_every_way_of_reading_gives_the_truth(case, faults):
    check_case(case, faults)


def test_one_missing_time_leaves_the_gap(faults):
    truth = decode(faults / "gap_nopts.ts", SMALL)
    batch = read_frames(faults / "gap_nopts.ts", ALL, fit=SMALL)
    assert batch.pts_seconds.tolist() == pytest.approx(GAP)
    assert np.array_equal(batch.pixels, np.stack([picture.pixels for picture in truth]))
    late = read_frames(faults / "gap_nopts.ts", Sampling(timestamps=(1.2, 11.0, 13.0)), fit=SMALL)
    assert np.array_equal(late.pixels, np.stack([truth[number].pixels for number in (30, 49, 75)]))


def test_a_colour_matrix_that_nothing_converts_is_read_by_the_nearest(faults):
    batch = read_frames(faults / "ycgco.mp4", ALL)
    assert batch.pts_seconds.tolist() == pytest.approx(even(60))
    with av.open(str(faults / "ycgco.mp4")) as container:
        luma = [frame.to_ndarray()[: frame.height].astype(float) for frame in container.decode(video=0)]
    for pixels, expected in zip(batch.pixels, luma, strict=True):
        assert np.corrcoef(pixels.mean(-1).ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(("name", "size"), [("camera.jpg", (96, 160)), ("exif6.jpg", (160, 96))])
def test_photographs_come_upright(faults, name, size):
    from PIL import Image, ImageOps

    batch = read_frames(faults / name, Sampling(num_frames=1))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(faults / name)).convert("RGB"), float)
    assert batch.pixels.shape[1:3] == size
    assert np.abs(batch.pixels[0] - upright).mean() < 4


def test_a_grid_of_tiles_comes_whole_or_not_at_all(faults):
    try:
        pixels = read_frames(faults / "grid.avif", Sampling(num_frames=1)).pixels[0]
    except VocoVideoError:
        return
    assert pixels.shape[:2] == (256, 512)
    corners = [pixels[y, x].tolist() for y in (64, 192) for x in (128, 384)]
    assert len({tuple(np.array(corner) // 64) for corner in corners}) == 4


def test_an_absurd_size_is_one_clear_error(faults, run):
    with pytest.raises(VocoVideoError, match=r"p7fuzz308\.apng"):
        read_frames(faults / "p7fuzz308.apng", ALL)
    code, _, err = run("inspect", faults / "p7fuzz308.apng")
    assert (code, err.count("\n")) == (1, 1)


# --- damage


@pytest.fixture
def busy():
    """Threads that keep every processor decoding beside the test."""
    stop = threading.Event()

    def work() -> None:
        data = np.random.default_rng(0).integers(0, 256, (256, 256))
        while not stop.is_set():
            np.linalg.svd(data)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()


# Long, with all processors busy beside it; the tests below have all of these files.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive)
        if name in ("fuzz52.ts", "fuzz928.ts", "p7fuzz788.264")
        else name
        for name in DAMAGED
    ],
)
def test_damage_gives_the_same_frames_in_every_run(faults, name, busy, caplog):
    caplog.set_level(logging.INFO)
    truth = {picture.packet: picture for picture in decode(faults / name, SMALL)}
    pictures = {picture.pixels.tobytes() for picture in truth.values()}
    for sampling in (ALL, Sampling(fps=2), Sampling(num_frames=5), Sampling(timestamps=(0.5, 1.0, 1.5, 2.0))):
        results, lost = [], set()
        for _ in range(NUM_RUNS):
            with open_video(faults / name) as video:
                batches = list(video.batches(sampling, fit=SMALL))
                lost.add(video.num_undecodable)
            results.append(np.concatenate([batch.pixels for batch in batches]).tobytes())
            times = np.concatenate([batch.pts_seconds for batch in batches])
            results[-1] += times.tobytes()
            assert (np.diff(times) >= 0).all()
            assert all(pixels.tobytes() in pictures for batch in batches for pixels in batch.pixels), sampling
        assert len(set(results)) == 1, sampling
        assert len(lost) == 1, sampling
    assert caplog.records, "nothing was said"


# --- the whole way


@pytest.fixture(scope="module")
def voco():
    return voco_tiny_in_kv()


ENTIRE = [case.name for case in SOUND] + ["gap_nopts.ts", "ycgco.mp4", *DAMAGED]


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize("name", ENTIRE)
def test_compressing_keeps_the_tokens_of_the_frames_that_reading_gives(faults, name, voco, tmp_path):
    for number, sampling in enumerate(SAMPLINGS):
        frames = read_frames(faults / name, sampling, fit=voco.backbone.images.fit)
        options = CompressOptions(batch_size=4)
        entry, again = (
            compress_video(voco, faults / name, cache=FrameCache(folder), sampling=sampling, options=options).entry
            for folder in (tmp_path / f"{number}", tmp_path / f"{number} again")
        )
        assert entry.pts_seconds.tolist() == frames.pts_seconds.tolist()
        for tensor_name, tensor in read_tokens(entry).tensors().items():
            assert np.array_equal(tensor, read_tokens(again).tensors()[tensor_name]), sampling


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ENTIRE)
def test_looking_at_it(faults, name, run):
    code, out, err = run("inspect", faults / name, "--json", "-o", "sheet.png")
    assert (code, Path("sheet.png").exists()) == (0, True), err
    assert "Traceback" not in err
    assert json.loads(out)["video"]["num_frames"] > 0
    looked = ["--show-frames", "--out", "strip.png"]
    code, _, err = run("ask", faults / name, "what?", "--anyway", *looked, "--max-new-tokens", "2")
    assert (code, Path("strip.png").exists()) == (0, True), err


@pytest.mark.one_in(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cat_off.ts", "gap_nopts.ts", "paff_frames.ts", "hole.mkv", "dup.mkv"])
def test_following_it_as_a_stream(faults, name, run, tmp_path):
    (tmp_path / "done").touch()
    follow = ["--follow", "--fps", "25", "--end-marker", tmp_path / "done", "--name", "it"]
    code, _, err = run("compress", faults / name, *follow)
    assert code == 0, err
    entry = next(iter(FrameCache().entries()))
    expected = {case.name: case.times for case in SOUND} | {"gap_nopts.ts": GAP}
    if name == "hole.mkv":
        expected[name] = (*even(20), *even(60, 1.6))
    # A stream's next picture may be long in coming: one whose own time is unusable is passed over.
    places = np.searchsorted(np.array(expected[name]) - 0.002, entry.pts_seconds, side="right") - 1
    assert entry.pts_seconds.tolist() == pytest.approx(np.array(expected[name])[places].tolist(), abs=0.002)
    assert len(set(places)) == len(places) >= len(expected[name]) - 1
