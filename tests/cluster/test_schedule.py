"""What becomes of rows: tries again, windows, workers that end, errors that concern all."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from voco_video.cache.window import Window
from voco_video.cluster.pieces import Cut, Outcome, Piece
from voco_video.cluster.pool import Event, drive
from voco_video.cluster.schedule import FIRST_WAIT_SECONDS, MAX_DEATHS, MAX_JOINS, Schedule
from voco_video.errors import ModelError, VocoVideoError
from voco_video.library.manifest import VideoRow
from voco_video.options.compression import CompressOptions

WINDOWS = (Window(0, 32), Window(32, 64), Window(64, 70))
CUT = Cut("ab" * 32, "", CompressOptions(), WINDOWS)


@dataclass
class Run:
    """A schedule, the rows that it finished, and a clock that a test sets."""

    num: int = 2
    retries: int = 2
    now: float = 0.0
    rows: dict[int, VideoRow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        videos = [VideoRow(f"/{number}.mp4") for number in range(self.num)]
        self.schedule = Schedule(
            videos, retries=self.retries, on_row=self.rows.__setitem__, clock=lambda: self.now
        )  # fmt: skip

    def take(self) -> Piece:
        piece = self.schedule.take()
        assert piece is not None
        return piece

    def compressed(self, piece: Piece, **stages: float) -> None:
        row = VideoRow(piece.row.uri, status="compressed", entry="ab" * 32, stage_seconds=stages)
        self.schedule.finish(piece, Outcome(row=row))

    @property
    def statuses(self) -> dict[int, str | None]:
        return {number: row.status for number, row in self.rows.items()}


def test_damage_fails_at_once_and_costs_nobody_else():
    run = Run()
    first = run.take()
    run.schedule.finish(first, Outcome(error="/0.mp4: no video"))
    run.compressed(run.take())
    assert run.schedule.is_finished
    assert run.statuses == {0: "failed", 1: "compressed"}
    assert (run.rows[0].error, run.rows[0].num_attempts, run.rows[0].entry) == ("/0.mp4: no video", 1, None)


def test_what_may_pass_is_tried_again_later_and_not_for_ever():
    run = Run(num=1)
    for number in range(3):
        run.schedule.finish(run.take(), Outcome(error="503", may_pass=True))
        if number < 2:
            assert run.schedule.take() is None
            assert not run.schedule.is_finished
            assert run.schedule.seconds_until_next() == FIRST_WAIT_SECONDS * 2**number
            run.now += run.schedule.seconds_until_next()
    assert run.schedule.is_finished
    assert (run.rows[0].status, run.rows[0].num_attempts) == ("failed", 3)


def test_a_retry_may_succeed():
    run = Run(num=1)
    run.schedule.finish(run.take(), Outcome(error="503", may_pass=True))
    run.now = 100.0
    run.compressed(run.take())
    assert run.statuses == {0: "compressed"}


def test_a_piece_whose_worker_ended_is_done_by_another_a_few_times():
    run = Run(num=1, retries=0)
    for _ in range(MAX_DEATHS):
        assert not run.schedule.is_finished
        run.schedule.lose(run.take(), "ended by SIGKILL")
    assert run.schedule.is_finished
    assert run.rows[0].status == "failed"
    assert f"{MAX_DEATHS} workers ended while they did it (ended by SIGKILL)" in run.rows[0].error


def test_deaths_do_not_use_up_the_tries_after_network_failures():
    run = Run(num=1, retries=1)
    run.schedule.lose(run.take(), "ended")
    run.schedule.finish(run.take(), Outcome(error="503", may_pass=True))
    assert not run.schedule.is_finished


def test_a_long_video_is_windows_then_joined_and_its_seconds_are_sums():
    run = Run()
    run.schedule.finish(run.take(), Outcome(cut=CUT))
    pieces = [run.take() for _ in WINDOWS]
    assert [piece.window for piece in pieces] == list(WINDOWS), "in front of the next video"
    for piece in reversed(pieces):
        assert run.schedule.num_waiting == 1, "nothing is joined yet"
        run.schedule.finish(piece, Outcome(stage_seconds={"llm": 1.0, "total": 2.0}))
    joining = run.take()
    assert (joining.number, joining.window, joining.cut) == (0, None, CUT)
    run.compressed(joining, write=0.5, total=0.5)
    assert run.rows[0].stage_seconds == {"llm": 3.0, "write": 0.5, "total": 6.5}


def test_windows_that_were_dropped_are_made_again_and_then_the_video_as_a_whole():
    run = Run(num=1)
    run.schedule.finish(run.take(), Outcome(cut=CUT))
    for piece in [run.take() for _ in WINDOWS]:
        run.schedule.finish(piece, Outcome())
    for _ in range(MAX_JOINS - 1):
        run.schedule.finish(run.take(), Outcome(missing=WINDOWS[1:2]))
        again = run.take()
        assert again.window == WINDOWS[1]
        run.schedule.finish(again, Outcome())
    run.schedule.finish(run.take(), Outcome(missing=WINDOWS[1:2]))
    whole = run.take()
    assert (whole.cut, whole.may_cut) == (None, False)


def test_a_window_that_fails_makes_the_video_whole_and_the_others_count_no_more():
    run = Run(num=1)
    run.schedule.finish(run.take(), Outcome(cut=CUT))
    first, second = run.take(), run.take()
    run.schedule.finish(first, Outcome(error="not one frame"))
    whole = run.take()
    assert (whole.cut, whole.may_cut) == (None, False)
    run.schedule.finish(second, Outcome())
    run.schedule.lose(whole, "ended")
    assert run.take().may_cut is False
    assert run.schedule.take() is None, "the third window is not wanted any more"


def test_an_error_of_the_model_ends_the_run_unless_a_video_succeeded():
    run = Run()
    with pytest.raises(ModelError, match="no VoCo tokens"):
        run.schedule.finish(run.take(), Outcome(error="no VoCo tokens", concerns_all=True))
    run = Run()
    run.compressed(run.take())
    run.schedule.finish(run.take(), Outcome(error="out of memory", concerns_all=True))
    assert run.statuses == {0: "compressed", 1: "failed"}


class FakePool:
    """Workers that are numbers; ``ends`` says at which piece, counted from 1, or while loading (0), each one ends."""

    def __init__(self, ends: dict[int, int]) -> None:
        self.ends, self.num_started, self.most_at_once = ends, 0, 0
        self.events: list[Event] = []
        self.given: dict[int, int] = {}

    def start(self) -> int:
        worker, self.num_started = self.num_started, self.num_started + 1
        self.given[worker] = 0
        self.most_at_once = max(self.most_at_once, len(self.given))
        self._event(worker, Event(worker))
        return worker

    def give(self, worker, piece) -> None:
        self.given[worker] += 1
        row = VideoRow(piece.row.uri, status="compressed", num_attempts=piece.num_attempts + 1)
        self._event(worker, Event(worker, outcome=Outcome(row=row)))

    def _event(self, worker: int, event: Event) -> None:
        if self.ends.get(worker) == self.given[worker]:
            del self.given[worker]
            event = Event(worker, lost="ended by SIGKILL")
        self.events.append(event)

    def wait(self, timeout_seconds: float) -> list[Event]:
        events, self.events = self.events, []
        return events


@pytest.fixture(autouse=True)
def _starts_at_once(monkeypatch):
    monkeypatch.setattr("voco_video.cluster.pool.FIRST_START_WAIT_SECONDS", 0.0)


def test_workers_that_end_are_replaced_and_every_row_is_finished():
    run = Run(num=40)
    pool = FakePool({0: 3, 1: 1, 2: 0, 3: 7, 4: 0})
    drive(pool, run.schedule, fewest=1, most=3)
    assert len(run.rows) == 40
    assert set(run.statuses.values()) == {"compressed"}
    assert sum(row.num_attempts == 2 for row in run.rows.values()) == 3
    assert pool.most_at_once == 3


def test_there_are_no_more_workers_than_pieces():
    run = Run(num=2)
    pool = FakePool({})
    drive(pool, run.schedule, fewest=1, most=8)
    assert pool.num_started == 2


def test_workers_that_never_come_up_end_the_run():
    with pytest.raises(
        VocoVideoError, match=r"5 workers in a row ended before their model was loaded: ended by SIGKILL"
    ):
        drive(FakePool(dict.fromkeys(range(9), 0)), Run().schedule, fewest=1, most=1)
