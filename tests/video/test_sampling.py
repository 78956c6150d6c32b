"""The rule "the frame for time t is the last one with pts <= t" against its slow, obvious reading."""

import json

import numpy as np
import pytest

from voco_video.errors import UsageError
from voco_video.options.sampling import Sampling
from voco_video.video.sampling import pick_frames


def frame_at(pts, time):
    """The obvious reading: walk forward while the next frame is already on."""
    index = 0
    while index + 1 < len(pts) and pts[index + 1] <= time + 1e-6:
        index += 1
    return index


def pick_slowly(pts, end, sampling):
    start = max(sampling.start_seconds or pts[0], pts[0])
    stop = min(end if sampling.end_seconds is None else sampling.end_seconds, end)
    if sampling.num_frames:
        step = (stop - start) / sampling.num_frames
        times = [start + (i + 0.5) * step for i in range(sampling.num_frames)]
    else:
        times, i = [], 0
        while not times or start + i / sampling.fps < stop - 1e-6:
            times.append(start + i / sampling.fps)
            i += 1
    return sorted({frame_at(pts, time) for time in times})


def random_video(seed):
    rng = np.random.default_rng(seed)
    gaps = rng.choice([0.001, 1 / 30, 0.04, 0.5, 2.0], size=rng.integers(1, 80))
    pts = rng.choice([0.0, -0.08, 8.333]) + np.cumsum(gaps) - gaps[0]
    return pts, rng.random(len(pts)) < 0.2, float(pts[-1] + 0.04)


@pytest.mark.parametrize("seed", range(40))
def test_grid_policies_follow_the_rule(seed):
    pts, keys, end = random_video(seed)
    rng = np.random.default_rng(seed + 1000)
    windows = [{}, {"start_seconds": max(0.0, pts[0] + 0.3 * (end - pts[0])), "end_seconds": max(0.1, end - 0.01)}]
    for window in windows:
        for policy in ({"fps": float(rng.choice([0.3, 1, 2, 29.97, 120]))}, {"num_frames": int(rng.integers(1, 200))}):
            sampling = Sampling(**policy, **window)
            if max(sampling.start_seconds or pts[0], pts[0]) >= min(sampling.end_seconds or end, end):
                continue
            picked = pick_frames(pts, keys, end, sampling)
            assert picked.tolist() == pick_slowly(pts, end, sampling), sampling


@pytest.mark.parametrize("seed", range(10))
def test_timestamps_give_one_frame_each(seed):
    pts, keys, end = random_video(seed)
    times = np.random.default_rng(seed).uniform(0, max(end, 0.0), 20)
    picked = pick_frames(pts, keys, end, Sampling(timestamps=tuple(times)))
    assert picked.tolist() == [frame_at(pts, time) for time in sorted(times)]


def test_a_time_equal_to_a_pts_takes_that_frame_despite_rounding():
    pts = np.arange(90) * 1001 / 30000
    picked = pick_frames(pts, pts == 0, 3.003, Sampling(fps=30000 / 1001))
    assert picked.tolist() == list(range(90))


def test_short_video_gives_fewer_frames_and_never_repeats():
    pts = np.array([0.0, 0.5])
    for sampling in (Sampling(num_frames=100), Sampling(fps=1000)):
        assert pick_frames(pts, pts == 0, 1.0, sampling).tolist() == [0, 1]


def test_fine_grid_on_a_long_video_costs_no_more_than_its_frames():
    pts = np.arange(100_000) / 25
    picked = pick_frames(pts, pts == 0, 4000.0, Sampling(fps=1e6))
    assert len(picked) == 100_000


def test_keyframes_within_the_window():
    pts = np.arange(10) / 10
    keys = np.arange(10) % 3 == 0
    assert pick_frames(pts, keys, 1.0, Sampling(keyframes=True)).tolist() == [0, 3, 6, 9]
    window = Sampling(keyframes=True, start_seconds=0.3, end_seconds=0.9)
    assert pick_frames(pts, keys, 1.0, window).tolist() == [3, 6]


def test_late_start_anchors_the_grid_at_the_first_frame():
    pts = 8.333 + np.arange(60) / 30
    assert pick_frames(pts, pts == 8.333, 10.333, Sampling(fps=1)).tolist() == [0, 30]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps=0: has to be above 0"),
        ({"fps": -1.5}, "-1.5"),
        ({"fps": float("nan")}, "fps=nan: has to be above 0"),
        ({"fps": "2"}, "fps='2' has to be a number"),
        ({"num_frames": 0}, "1 or more"),
        ({"num_frames": 2.5}, "whole number"),
        ({"num_frames": True}, "whole number"),
        ({"keyframes": 1}, "true or false"),
        ({"fps": 1, "num_frames": 4}, "fps=1 and num_frames=4"),
        ({"keyframes": True, "timestamps": (1.0,)}, "keyframes=True and timestamps"),
        ({"timestamps": ()}, "at least one time"),
        ({"timestamps": 3.0}, "a list of numbers"),
        ({"timestamps": (1.0,), "start_seconds": 2}, "start_seconds"),
        ({"start_seconds": 5, "end_seconds": 5}, "not before"),
        ({"end_seconds": float("inf")}, "finite"),
    ],
)
def test_bad_options_name_the_value(options, message):
    with pytest.raises(UsageError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("options", [{"timestamps": (-1.0, 2.0)}, {"start_seconds": -1.0}])
def test_times_before_the_beginning_are_refused_unless_the_clock_begins_below_zero(options):
    times = np.arange(5.0)
    with pytest.raises(UsageError, match="-1 s is before the beginning"):
        pick_frames(times, times == 0, 5.0, Sampling(**options))
    picked = pick_frames(times - 2, times == 0, 3.0, Sampling(**options))
    assert picked[0] == 1


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(fps=1, start_seconds=10), r"0\.000 to 4\.000 s"),
        (Sampling(fps=1, start_seconds=4), "holds nothing"),
        (Sampling(timestamps=(1.0, 4.5)), r"4\.5 s is past the end"),
        (Sampling(keyframes=True, start_seconds=1), "no keyframe between"),
    ],
)
def test_what_lies_outside_the_video_is_refused(sampling, message):
    pts = np.arange(4.0)
    with pytest.raises(UsageError, match=message):
        pick_frames(pts, pts == 0, 4.0, sampling)


def test_description_is_json_and_canonical():
    samplings = [
        Sampling(),
        Sampling(num_frames=4, end_seconds=9),
        Sampling(keyframes=True),
        Sampling(timestamps=[2, 1]),
    ]
    for sampling in samplings:
        assert json.loads(json.dumps(sampling.describe())) == sampling.describe()
    assert Sampling().describe() == Sampling(fps=1).describe() == Sampling(fps=np.float64(1.0)).describe()
    assert Sampling(timestamps=[2, 1]).describe() == Sampling(timestamps=(1.0, 2.0)).describe()
    assert len({json.dumps(sampling.describe()) for sampling in samplings}) == len(samplings)


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        (Sampling(fps=1, start_seconds=30, end_seconds=60), "1 fps, 30.0-60.0 s"),
        (Sampling(num_frames=8), "8 frames"),
        (Sampling(keyframes=True, start_seconds=5), "keyframes, 5.0-end s"),
        (Sampling(timestamps=(1, 2.5)), "at 1, 2.5 s (2 times)"),
    ],
)
def test_text_for_people(sampling, text):
    assert str(sampling) == text
