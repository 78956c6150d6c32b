"""Reading a clip in every way, against what it must give: the numbers and times that it was made with, and the pixels
of a plain sequential decode.
"""

import itertools

import numpy as np
import pytest

from tests.helpers.matrix import Case
from tests.helpers.sequential import decode
from voco_video.options.sampling import Sampling
from voco_video.video.reading import open_video, read_frames
from voco_video.video.sampling import pick_frames
from voco_video.video.scaling import Fit

SMALL = Fit(height=40, width=56, mode="stretch")
_FLAG_NO_KEYFRAMES = {"qtrle", "svq1", "apng"}  # decoders that call no picture a keyframe, or every one
TOLERANCE_SECONDS = 0.0015  # Matroska and FLV count milliseconds


def samplings(case: Case):
    """All ways of choosing frames, for a clip with these times."""
    first, last = case.times[0], case.times[-1]
    middle = (first + last) / 2
    rng = np.random.default_rng(len(case.name))
    yield Sampling(num_frames=1_000_000)
    yield Sampling(fps=1)
    yield Sampling(fps=7.3)
    yield Sampling(num_frames=5)
    yield Sampling(timestamps=tuple(np.maximum(0, rng.uniform(first, last, 5))))
    yield Sampling(timestamps=(max(0, middle), max(0, last + 0.01), max(0, last + 0.01)))
    if last > 0:
        yield Sampling(fps=12, start_seconds=max(0, (first + middle) / 2), end_seconds=last)


def check_facts(case: Case, video) -> None:
    """Counts, duration and rate are about pictures."""
    count, duration = len(case.times), case.times[-1] - case.times[0]
    info = video.info
    assert info.num_frames == count
    assert np.abs(video.pts_seconds - case.times).max() <= TOLERANCE_SECONDS
    assert video.pts_seconds.tolist() == sorted(set(video.pts_seconds.tolist()))
    assert duration < info.duration_seconds <= duration + 4 * case.step + 0.1
    assert info.average_fps == pytest.approx(count / info.duration_seconds)


def stand_ins(case: Case, pixels: list) -> list[int]:
    """For each shown frame the number of the decoded picture that it must show."""
    if not case.num_lost:
        return list(range(len(pixels)))
    numbers, place = [], -1
    for before, number in itertools.pairwise((None, *case.numbers)):
        place += number != before
        numbers.append(place)
    return numbers


def check_case(case: Case, folder, backend: str = "pyav") -> None:
    """Read a clip in every way, and compare."""
    path = case.make(folder)
    truth = decode(path, SMALL)
    shown = stand_ins(case, truth)
    with open_video(path, backend=backend) as video:
        check_facts(case, video)
        end, times = video.info.end_seconds, video.pts_seconds
        is_key = np.zeros(len(times), bool)
        for sampling in samplings(case):
            plan = pick_frames(times, is_key, end, sampling)
            expected = np.stack([truth[shown[frame]].pixels for frame in plan])
            numbers = [case.numbers[frame] for frame in plan]
            for fit in (SMALL, None):
                batches = list(video.batches(sampling, fit=fit, batch_size=7, prefetch_batches=0))
                got = np.concatenate([batch.pixels for batch in batches])
                drawn = np.rot90(got, case.quarter_turns, axes=(1, 2))
                if case.num_lost and sampling.timestamps is None:  # what stands in comes once
                    keep = [place for place, number in enumerate(numbers) if number not in numbers[:place]]
                    assert case.read(drawn) == [numbers[place] for place in keep], sampling
                    continue
                assert case.read(drawn) == numbers, sampling
                shown_at = [case.numbers.index(number) for number in numbers]
                assert np.concatenate([batch.pts_seconds for batch in batches]).tolist() == times[shown_at].tolist()
                assert fit is None or backend != "pyav" or np.array_equal(got, expected), sampling
                assert video.num_undecodable == 0 or case.num_lost
            with open_video(path, backend=backend) as again:
                assert len(again.plan(sampling)) == len(plan), sampling
            if not case.num_lost and backend == "pyav":
                assert np.array_equal(read_frames(path, sampling, fit=SMALL).pixels, expected)
        check_keyframes(case, truth, video)
        if case.num_lost:
            list(video.batches(Sampling(num_frames=1_000_000)))
            assert video.num_undecodable == case.num_lost


def check_keyframes(case: Case, truth, video) -> None:
    """What counts as keyframes are pictures that decoding gives as such."""
    if video.info.codec in _FLAG_NO_KEYFRAMES:
        return
    keys = {case.numbers[place] for place, picture in enumerate(truth) if picture.is_key}
    if not case.num_lost:
        batches = list(video.batches(Sampling(keyframes=True)))
        pixels = np.concatenate([batch.pixels for batch in batches])
        numbers = case.read(np.rot90(pixels, case.quarter_turns, axes=(1, 2)))
        assert numbers == sorted(keys, key=case.numbers.index), "keyframes"
