"""Which piece is done next, and what becomes of a row: retries, windows of long videos, workers that ended."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from voco_video.cache.window import Window
from voco_video.cluster.pieces import Cut, Outcome, Piece
from voco_video.errors import ModelError
from voco_video.library.manifest import VideoRow, with_error

MAX_DEATHS = 5
"""Workers that may end while they do one piece, before its row fails: it would end the next one, too."""
MAX_JOINS = 3
FIRST_WAIT_SECONDS = 2.0  # before another try; doubled after every failure


@dataclass
class _Windows:
    """The windows of one long video that are still to do, and what the others took."""

    cut: Cut
    waiting: set[Window]
    num_joins: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class Schedule:
    """The pieces of a run. It computes nothing and starts nothing: engines take pieces and say what came of them.

    Args:
        rows: the videos.
        retries: tries after the first, where the error may pass.
        on_row: called with the number and the row of each video that is finished.
        clock: the time in seconds.

    Attributes:
        num_running: pieces that were taken and not yet finished.
    """

    def __init__(
        self,
        rows: Sequence[VideoRow],
        *,
        retries: int,
        on_row: Callable[[int, VideoRow], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = deque(Piece(number, row) for number, row in enumerate(rows))
        self._later: list[tuple[float, int, Piece]] = []
        self._order = itertools.count()
        self._windows: dict[int, _Windows] = {}
        self._retries, self._on_row, self._clock = retries, on_row, clock
        self._has_succeeded = False
        self.num_running = 0

    @property
    def num_waiting(self) -> int:
        """Pieces that nobody does yet."""
        return len(self._queue) + len(self._later)

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do or to wait for."""
        return not (self.num_waiting or self.num_running)

    def seconds_until_next(self) -> float:
        """Return how long to wait for a piece at most, if no other becomes ready meanwhile; 0 where one is ready."""
        if self._queue or not self._later:
            return 0.0
        return max(0.0, self._later[0][0] - self._clock())

    def take(self) -> Piece | None:
        """Take the next piece; None where none is ready now."""
        while self._later and self._later[0][0] <= self._clock():
            self._queue.append(heapq.heappop(self._later)[2])
        while self._queue:
            piece = self._queue.popleft()
            if self._is_wanted(piece):
                self.num_running += 1
                return piece
        return None

    def finish(self, piece: Piece, outcome: Outcome) -> None:
        """Take note of what came of a piece.

        Raises:
            ModelError: the first video shows that this model cannot do it.
        """
        self.num_running -= 1
        if not self._is_wanted(piece):
            return
        if outcome.concerns_all and not self._has_succeeded:
            raise ModelError(outcome.error)
        if outcome.error:
            self._failed(piece, outcome)
        elif outcome.cut is not None:
            self._has_succeeded = True
            self._windows[piece.number] = _Windows(outcome.cut, set(outcome.cut.windows))
            self._put_windows(piece, outcome.cut.windows)
        elif outcome.missing:
            self._make_again(piece, outcome.missing)
        elif outcome.row is not None:
            self._finish_row(piece, outcome.row)
        else:
            self._finish_window(piece, outcome)

    def lose(self, piece: Piece, why: str) -> None:
        """Take note that the worker ended that did this piece: another one does it."""
        self.num_running -= 1
        if not self._is_wanted(piece):
            return
        if piece.num_deaths + 1 >= MAX_DEATHS:
            self._fail(piece, f"{piece.row.id}: {MAX_DEATHS} workers ended while they did it ({why})")
            return
        again = replace(piece, num_deaths=piece.num_deaths + 1, num_attempts=piece.num_attempts + 1)
        self._queue.appendleft(again)

    def _is_wanted(self, piece: Piece) -> bool:
        """Tell whether a piece still counts: not a window of a video that is done as a whole meanwhile."""
        if piece.cut is None:
            return True
        known = self._windows.get(piece.number)
        return known is not None and known.cut is piece.cut

    def _put_windows(self, piece: Piece, windows: Sequence[Window]) -> None:
        """Put windows in front: what is long has to begin early."""
        cut = self._windows[piece.number].cut
        pieces = [replace(piece, cut=cut, window=window) for window in windows]
        self._queue.extendleft(reversed(pieces))

    def _finish_window(self, piece: Piece, outcome: Outcome) -> None:
        known = self._windows[piece.number]
        assert piece.window is not None
        known.waiting.discard(piece.window)
        for stage, seconds in outcome.stage_seconds.items():
            known.seconds[stage] = known.seconds.get(stage, 0.0) + seconds
        if not known.waiting:
            self._queue.appendleft(replace(piece, window=None, num_deaths=0))

    def _make_again(self, piece: Piece, missing: tuple[Window, ...]) -> None:
        """Do windows again that the cache has dropped meanwhile; after a few times the video as a whole."""
        known = self._windows[piece.number]
        known.num_joins += 1
        if known.num_joins >= MAX_JOINS:
            self._do_whole(piece)
            return
        known.waiting = set(missing)
        self._put_windows(piece, missing)

    def _do_whole(self, piece: Piece) -> None:
        """Compress a video uncut: a window failed or has no frames, and the video's own error is what counts."""
        del self._windows[piece.number]
        self._queue.appendleft(Piece(piece.number, piece.row, may_cut=False, num_attempts=piece.num_attempts))

    def _finish_row(self, piece: Piece, row: VideoRow) -> None:
        self._has_succeeded = True
        known = self._windows.pop(piece.number, None)
        if known is not None:
            stages = {**known.seconds, **row.stage_seconds}
            sums = {s: known.seconds.get(s, 0.0) + row.stage_seconds.get(s, 0.0) for s in stages}
            row = replace(row, stage_seconds=sums)
        self._on_row(piece.number, row)

    def _failed(self, piece: Piece, outcome: Outcome) -> None:
        if outcome.may_pass and piece.num_attempts - piece.num_deaths < self._retries:
            wait = FIRST_WAIT_SECONDS * 2 ** (piece.num_attempts - piece.num_deaths)
            again = replace(piece, num_attempts=piece.num_attempts + 1)
            heapq.heappush(self._later, (self._clock() + wait, next(self._order), again))
        elif piece.cut is not None:
            self._do_whole(piece)
        else:
            self._fail(piece, outcome.error)

    def _fail(self, piece: Piece, error: str) -> None:
        self._windows.pop(piece.number, None)
        self._on_row(piece.number, with_error(piece.row, error, num_attempts=piece.num_attempts + 1))
