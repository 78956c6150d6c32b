"""The simulated cluster against cases computed by hand, known bounds and known formulas."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pytest

from benchmarks.library import simulation
from benchmarks.library.lengths import Lengths, read_lengths
from benchmarks.library.simulation import Cluster, RandomFaults, cut, simulate
from voco_video.errors import DataError, UsageError


class Scripted:
    """Faults that come as written down; what is not written down does not come."""

    def __init__(
        self,
        *,
        worker: Iterable[float] = (),
        node: Iterable[float] = (),
        errors: Iterable[bool] = (),
        broken: Sequence[int] = (),
    ) -> None:
        self.worker, self.node, self.errors, self.broken = iter(worker), iter(node), iter(errors), broken

    def worker_fails_after(self) -> float:
        return next(self.worker, math.inf)

    def node_lives(self) -> float:
        return next(self.node, math.inf)

    def is_error(self) -> bool:
        return next(self.errors, False)

    def is_broken(self, video: int) -> bool:
        return video in self.broken


TWO_WORKERS = Cluster(nodes=1, workers_per_node=2, speed=1.0)
TWO_NODES = Cluster(nodes=2, workers_per_node=1, speed=1.0, replace_seconds=3.0)
FOUR_VIDEOS = [4.0, 3.0, 2.0, 8.0]


def test_whole_videos_by_hand():
    # worker 0: 4 (0 to 4), 8 (4 to 12); worker 1: 3 (0 to 3), 2 (3 to 5), then nothing to do.
    run = simulate(FOUR_VIDEOS, TWO_WORKERS, Scripted())
    assert (run.makespan_seconds, run.ideal_seconds, run.queue_empty_seconds) == (12.0, 8.5, 5.0)
    assert (run.pieces, run.attempts, run.finished, run.failed, run.lost_work) == (4, 4, 4, 0, 0.0)
    assert run.last_video_seconds == 8.0
    assert run.over_ideal == pytest.approx(12 / 8.5)
    assert run.tail_share == pytest.approx(7 / 12)


def test_windows_by_hand():
    # worker 0: 4 (0 to 4), 4 (4 to 8); worker 1: 3 (0 to 3), 2 (3 to 5), 4 (5 to 9).
    run = simulate(FOUR_VIDEOS, TWO_WORKERS, Scripted(), window_seconds=4.0)
    assert (run.makespan_seconds, run.queue_empty_seconds, run.pieces) == (9.0, 8.0, 5)


def test_longest_first_by_hand():
    # worker 0: 8 (0 to 8); worker 1: 4 (0 to 4), 3 (4 to 7), 2 (7 to 9).
    run = simulate(FOUR_VIDEOS, TWO_WORKERS, Scripted(), longest_first=True)
    assert (run.makespan_seconds, run.queue_empty_seconds) == (9.0, 8.0)


def test_every_piece_pays_for_its_start():
    cluster = Cluster(nodes=1, workers_per_node=2, speed=2.0, start_seconds=1.0)
    # worker 0: 4 (0 to 3), 8 (3 to 8); worker 1: 3 (0 to 2.5), 2 (2.5 to 4.5).
    assert simulate(FOUR_VIDEOS, cluster, Scripted()).makespan_seconds == 8.0
    # worker 0: 4 (0 to 3), 4 (3 to 6); worker 1: 3 (0 to 2.5), 2 (2.5 to 4.5), 4 (4.5 to 7.5).
    assert simulate(FOUR_VIDEOS, cluster, Scripted(), window_seconds=4.0).makespan_seconds == 7.5


def test_a_lost_node_by_hand():
    # Node 0 is lost at 4 and back at 7: 10 (0 to 4, in vain), again 10 (7 to 17); node 1: 10 (0 to 10).
    run = simulate([10.0, 10.0], TWO_NODES, Scripted(node=[4.0]))
    assert (run.makespan_seconds, run.lost_work, run.node_losses, run.attempts) == (17.0, 4.0, 1, 3)
    # Pieces a to d of 5. Node 0: a (0 to 4, in vain), c (7 to 12); node 1: b (0 to 5), a (5 to 10), d (10 to 15).
    run = simulate([10.0, 10.0], TWO_NODES, Scripted(node=[4.0]), window_seconds=5.0)
    assert (run.makespan_seconds, run.lost_work, run.attempts) == (15.0, 4.0, 5)


def test_who_waits_takes_what_a_lost_node_had():
    # Node 1 is done at 2 and waits; node 0 is lost at 4: node 1 does its video from 4 to 14.
    run = simulate([10.0, 2.0], TWO_NODES, Scripted(node=[4.0]))
    assert (run.makespan_seconds, run.queue_empty_seconds) == (14.0, 2.0)
    # Both are lost at 4: node 1 waits for its own, until 7.
    run = simulate([10.0, 2.0], TWO_NODES, Scripted(node=[4.0, 4.0]))
    assert run.makespan_seconds == 17.0


def test_a_failed_worker_by_hand():
    cluster = Cluster(nodes=1, workers_per_node=1, speed=1.0, restart_seconds=2.0, safe_every_seconds=4.0)
    # 9 of 10 s are done when it fails, 8 of them are safe; from 11 it does the other 2.
    run = simulate([10.0], cluster, Scripted(worker=[9.0]))
    assert (run.makespan_seconds, run.lost_work, run.worker_failures) == (13.0, 1.0, 1)


@pytest.mark.parametrize(("errors", "finished", "attempts"), [([True], 2, 3), ([True, True], 2, 4), ([True] * 9, 0, 6)])
def test_errors_that_may_pass_are_tried_again_a_bounded_number_of_times(errors, finished, attempts):
    one = Cluster(nodes=1, workers_per_node=1, speed=1.0, start_seconds=1.0, max_attempts=3)
    run = simulate([5.0, 5.0], one, Scripted(errors=errors))
    assert (run.finished, run.failed, run.attempts) == (finished, 2 - finished, attempts)
    assert run.makespan_seconds == 5.0 * finished + attempts


def test_being_killed_is_no_attempt():
    one = Cluster(nodes=1, workers_per_node=1, speed=1.0, max_attempts=1)
    run = simulate([5.0], one, Scripted(worker=[1.0] * 20))
    assert (run.finished, run.attempts, run.worker_failures, run.makespan_seconds) == (1, 21, 20, 25.0)


def test_a_broken_video_costs_itself_alone():
    one = Cluster(nodes=1, workers_per_node=1, speed=1.0, start_seconds=1.0)
    run = simulate([5.0, 5.0, 5.0], one, Scripted(broken=[1]), window_seconds=1.0)
    assert (run.finished, run.failed, run.attempts, run.makespan_seconds) == (2, 1, 11, 5 * 2.0 + 1.0 + 5 * 2.0)


def test_a_slow_node_does_its_share_slowly():
    slow = Cluster(nodes=2, workers_per_node=1, speed=1.0, slow_share=0.5, slow_factor=4.0)
    assert sorted(slow.speeds(0)) == [0.25, 1.0]
    assert {tuple(slow.speeds(seed)) for seed in range(20)} == {(0.25, 1.0), (1.0, 0.25)}
    run = simulate([4.0, 4.0], slow, Scripted())
    assert (run.makespan_seconds, run.ideal_seconds) == (16.0, 8 / 1.25)
    # The fast one takes 1 s pieces four times as often: 16 s of work at 1.25 would be 6.4 s.
    assert simulate([4.0, 4.0], slow, Scripted(), window_seconds=1.0).makespan_seconds <= 6.4 + 4.0


@pytest.mark.parametrize("window", [None, 600.0])
@pytest.mark.parametrize("longest_first", [False, True])
def test_grahams_bound_holds(window, longest_first):
    for seed in range(5):
        lengths = Lengths(360, 2.1, 43200).shuffled(300, seed=seed)
        cluster = Cluster(nodes=4, workers_per_node=4, speed=10.0)
        run = simulate(lengths, cluster, Scripted(), window_seconds=window, longest_first=longest_first)
        longest = max(piece for length in lengths for piece in cut(length, window)) / cluster.speed
        assert max(run.ideal_seconds, longest) <= run.makespan_seconds * (1 + 1e-9)
        assert run.makespan_seconds <= run.ideal_seconds + longest * (1 - 1 / 16) + 1e-6
        work = sum(run.busy) / len(run.busy) * run.makespan_seconds * 16
        assert work == pytest.approx(sum(lengths) / cluster.speed, rel=1e-3)


@pytest.mark.parametrize("hours", [0.5, 1.0])
def test_restarting_from_nothing_takes_exponentially_long(hours):
    # With M hours between losses, T hours without a break take M (exp(T / M) - 1) hours on average.
    one = Cluster(nodes=1, workers_per_node=1, speed=1.0)
    faults = RandomFaults(3, worker_hours=0, node_hours=hours, error_share=0, broken_share=0)
    run = simulate([3600.0] * 4000, one, faults)
    assert run.makespan_seconds / 4000 / 3600 == pytest.approx(hours * (math.exp(1 / hours) - 1), rel=0.05)


def test_the_same_seed_gives_the_same_run_and_another_another():
    cluster = Cluster(2, 2, 20.0, 1.0, restart_seconds=60, replace_seconds=300)

    def run(seed):
        faults = RandomFaults(seed, worker_hours=0.5, node_hours=1.0, error_share=0.05, broken_share=0.05)
        return simulate(Lengths(360, 2.1, 43200).shuffled(200, seed=seed), cluster, faults).as_json()

    assert run(0) == run(0)
    assert run(0) != run(1)
    assert run(0)["failed"] > 0
    assert run(0)["worker_failures"] > 0
    assert run(0)["node_losses"] > 0


def test_windows_have_the_same_broken_videos():
    cluster, lengths = Cluster(2, 2, 20.0), Lengths(360, 2.1, 43200).shuffled(500, seed=0)
    failed = set()
    for window in (None, 3600.0, 60.0):
        faults = RandomFaults(0, worker_hours=1.0, node_hours=1.0, error_share=0, broken_share=0.1)
        failed.add(simulate(lengths, cluster, faults, window_seconds=window).failed)
    assert len(failed) == 1


def test_a_run_that_cannot_end_says_so(monkeypatch):
    monkeypatch.setattr(simulation, "MAX_ATTEMPTS_PER_PIECE", 10)
    one = Cluster(nodes=1, workers_per_node=1, speed=1.0)
    faults = RandomFaults(0, worker_hours=0, node_hours=0.001, error_share=0, broken_share=0)
    with pytest.raises(UsageError, match="do not live long enough; give a window"):
        simulate([1000.0], one, faults)
    with pytest.raises(UsageError, match="no videos"):
        simulate([], one, faults)


@pytest.mark.parametrize(
    ("seconds", "window", "pieces"), [(25.0, 10.0, [10, 10, 5]), (20.0, 10.0, [10, 10]), (5, 10, [5])]
)
def test_cutting(seconds, window, pieces):
    assert cut(seconds, window) == pieces
    assert cut(seconds, None) == [seconds]


@pytest.mark.parametrize(
    ("mean", "sigma", "longest"), [(360, 2.1, 43200), (360, 0, 43200), (60, 1.0, 600), (9000, 3, 10000)]
)
def test_lengths_have_their_mean_and_their_limit(mean, sigma, longest):
    lengths = Lengths(mean, sigma, longest)
    spread = lengths.spread(20_000)
    assert sum(spread) / len(spread) == pytest.approx(mean, rel=2e-3)
    assert max(spread) <= longest
    assert spread == sorted(spread)
    assert spread[10_000] == pytest.approx(lengths.at(0.5), rel=1e-3)
    assert sorted(lengths.shuffled(1000, seed=4)) == lengths.spread(1000)
    assert sigma == 0 or lengths.shuffled(1000, seed=4) != lengths.shuffled(1000, seed=5)


def test_lengths_that_cannot_be():
    with pytest.raises(UsageError, match="500 s on average cannot be 100 s at most"):
        Lengths(500, 1, 100)


def test_lengths_of_a_file(tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_text("# seconds\n12.5\n\n3600\n")
    assert read_lengths(path) == [12.5, 3600.0]
    for text, message in (
        ("1\nx\n", "line 2: 'x' is no length"),
        ("-1", "line 1: '-1'"),
        ("nan", "'nan'"),
        ("#", "holds no"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_lengths(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_lengths(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        read_lengths(path)
