"""Times in the order in which pictures are shown: what is repaired, what stays."""

import itertools

import pytest

from voco_video.video.timeline import Timeline

SOUND = tuple(range(0, 800, 40))


def placed(times, *, step=40, eager=False):
    timeline = Timeline(step, eager=eager)
    result = list(timeline.placed(zip(times, range(len(times)), strict=True)))
    assert [item for _, item in result] == list(range(len(times)))
    found = [time for time, _ in result]
    assert all(later > earlier for earlier, later in itertools.pairwise(found))
    return found, timeline


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("times", [SOUND, (*SOUND, 9000, 9040, 9080), (5, 6, 200, 201, 5000), (-80, -40, 0, 40), (7,)])
def test_sound_times_stay(times, eager):
    found, timeline = placed(times, eager=eager)
    assert found == list(times)
    assert (timeline.num_repaired, timeline.num_set_back) == (0, 0)


WRONG = {
    "missing": None, "wildly late": 10**12, "wildly early": -(10**12), "that of the one before": -1, "of the next": 1,
}  # fmt: skip


@pytest.mark.parametrize("number", [1, 2, 7, len(SOUND) - 2])
@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_time_is_repaired_from_its_neighbours(number, wrong):
    value = WRONG[wrong]
    times = list(SOUND)
    times[number] = SOUND[number + value] if value in (1, -1) else value
    found, timeline = placed(times)
    assert found == list(SOUND)
    assert (timeline.num_repaired, timeline.num_set_back) == (1, 0)


@pytest.mark.parametrize("first", [None, 10**12])
def test_a_wrong_first_time(first):
    assert placed([first, *SOUND[1:]])[0] == list(SOUND)


def test_missing_times_share_the_room_between_their_neighbours():
    assert placed([0, 40, None, None, 160, 200])[0] == [0, 40, 80, 120, 160, 200]
    assert placed([0.0, 0.25, None, 0.5], step=0.25)[0] == [0.0, 0.25, 0.375, 0.5]


def test_a_missing_time_before_a_gap_follows_the_one_before():
    assert placed([0, 40, None, 10_000, 10_040])[0] == [0, 40, 80, 10_000, 10_040]


def test_missing_times_at_the_end():
    assert placed([0, 40, 80, None, None])[0] == [0, 40, 80, 120, 160]


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("back", [-700, -300, -(10**9)])
def test_a_clock_set_back_goes_on_from_where_it_was(back, eager):
    again = [SOUND[-1] + 40 + back + time for time in SOUND]
    found, timeline = placed([*SOUND, *again], eager=eager)
    assert found == list(range(0, 1600, 40))
    assert timeline.num_set_back == 1


def test_a_clock_set_back_twice_with_a_gap_in_between():
    found, timeline = placed([0, 40, 80, 0, 40, 80, 5000, 5040, 10, 50])
    assert found == [0, 40, 80, 120, 160, 200, 5120, 5160, 5200, 5240]
    assert timeline.num_set_back == 2


def test_live_sources_wait_for_nothing_that_is_sound():
    def pictures():
        for time in (0, 40, 80):
            yield time, time
        raise AssertionError("asked for more than it needed")

    timeline = Timeline(40, eager=True)
    placed_so_far = timeline.placed(pictures())
    assert [next(placed_so_far)[0] for _ in range(3)] == [0, 40, 80]
