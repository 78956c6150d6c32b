"""A cluster that compresses a library, event by event: stragglers, failures, retries, lost nodes.

Workers take pieces from one queue, the next as soon as they are free, as engines of batch inference do. A piece is a
whole video, or a window of one. Every piece pays for its start (fetch, open, seek, the first batch) and then takes as
long as its video is over the worker's speed. What can go wrong:

    a worker fails     it loads the model again; another one goes on with the piece from the last safe segment
    a node is lost     with all its workers, until another takes its place; their pieces begin anew
    an error           that may pass, such as one of the network; tried again, up to a number of attempts
    a broken video     fails once, at its start, and is not tried again
    a slow node        does everything, but slowly

Pieces that were finished are safe, whatever happens to their worker. Nothing here measures anything: what comes out
follows from the numbers that go in.
"""

from __future__ import annotations

import heapq
import math
import random
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from voco_video.errors import UsageError

_BACK, _END, _FREE = 0, 1, 2  # at one moment, pieces come back before workers look for them


@dataclass(frozen=True)
class Cluster:
    """What the work is done on; all times in seconds.

    Attributes:
        nodes, workers_per_node: how many.
        speed: seconds of video that a worker does in a second.
        start_seconds: what every piece pays, however short.
        slow_share, slow_factor: the share of nodes that are slow, and how many times as long they take.
        restart_seconds: until a worker that failed has its model loaded again.
        replace_seconds: until another node stands in a lost one's place.
        safe_every_seconds: video between two safe points; what was done up to the last survives a worker.
        max_attempts: of a piece whose errors may pass.
    """

    nodes: int
    workers_per_node: int
    speed: float
    start_seconds: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 1.0
    restart_seconds: float = 0.0
    replace_seconds: float = 0.0
    safe_every_seconds: float = 32.0
    max_attempts: int = 3

    @property
    def num_workers(self) -> int:
        """Of all nodes."""
        return self.nodes * self.workers_per_node

    def speeds(self, seed: int) -> list[float]:
        """The speed of each node; which ones are slow is up to the seed, how many is not."""
        count = round(self.slow_share * self.nodes)
        slow = set(random.Random(f"{seed} nodes").sample(range(self.nodes), count))
        return [self.speed / (self.slow_factor if node in slow else 1) for node in range(self.nodes)]


class Faults(Protocol):
    """When something goes wrong; every call is one draw."""

    def worker_fails_after(self) -> float:
        """Seconds from the start of an attempt until its worker fails; infinite where it does not."""

    def node_lives(self) -> float:
        """Seconds from a node's start until it is lost."""

    def is_error(self) -> bool:
        """Whether an attempt ends in an error that may pass."""

    def is_broken(self, video: int) -> bool:
        """Whether nothing can be made of a video; asked once for each, in order."""


class RandomFaults:
    """Faults without memory: failures come at a rate, however long nothing happened.

    Args:
        worker_hours, node_hours: on average between two failures of a worker, two losses of a node; 0 for never.
        error_share: of attempts that end in an error that may pass.
        broken_share: of videos that are broken.
    """

    def __init__(
        self, seed: int, *, worker_hours: float, node_hours: float, error_share: float, broken_share: float
    ) -> None:
        self._draw = random.Random(f"{seed} faults").random
        # Drawn apart, so that runs with other windows have the same broken videos.
        self._draw_broken = random.Random(f"{seed} broken").random
        self._broken_share, self._error_share = broken_share, error_share
        self._worker_seconds, self._node_seconds = worker_hours * 3600, node_hours * 3600

    def worker_fails_after(self) -> float:
        return self._after(self._worker_seconds)

    def node_lives(self) -> float:
        return self._after(self._node_seconds)

    def is_error(self) -> bool:
        return self._error_share > 0 and self._draw() < self._error_share

    def is_broken(self, video: int) -> bool:
        return self._broken_share > 0 and self._draw_broken() < self._broken_share

    def _after(self, mean_seconds: float) -> float:
        return -math.log(1 - self._draw()) * mean_seconds if mean_seconds else math.inf


@dataclass
class Outcome:
    """What a run came to; times in seconds, work in seconds of video.

    Attributes:
        makespan_seconds: until the last video was finished or given up.
        ideal_seconds: all work shared out over all workers, with no starts, no faults and no waiting.
        queue_empty_seconds: when a worker first found nothing to do.
        last_video_seconds: length of the video that was resolved last.
        finished, failed: videos.
        pieces, attempts: what was to be done, and how often something was begun.
        worker_failures, node_losses, errors: that hit a piece under way (a lost node counts once a piece).
        lost_work: video done in vain.
        busy: share of the workers at work, in 200 equal steps of the makespan.
    """

    makespan_seconds: float
    ideal_seconds: float
    queue_empty_seconds: float
    last_video_seconds: float
    finished: int
    failed: int
    pieces: int
    attempts: int
    worker_failures: int
    node_losses: int
    errors: int
    lost_work: float
    busy: list[float]

    @property
    def over_ideal(self) -> float:
        """How many times the ideal it took."""
        return self.makespan_seconds / self.ideal_seconds

    @property
    def tail_share(self) -> float:
        """The share of the time in which a worker had nothing to do."""
        return 1 - self.queue_empty_seconds / self.makespan_seconds

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self) | {"over_ideal": self.over_ideal, "tail_share": self.tail_share}


@dataclass(slots=True)
class _Piece:
    video: int
    seconds: float  # what is left of it
    attempts: int = 0


def cut(seconds: float, window_seconds: float | None) -> list[float]:
    """The pieces of one video: windows of a length, the last as long as what is left; uncut without a window.

    >>> cut(25.0, 10.0), cut(25.0, None)
    ([10.0, 10.0, 5.0], [25.0])
    """
    if window_seconds is None or seconds <= window_seconds:
        return [seconds]
    whole = int(seconds // window_seconds)
    rest = seconds - whole * window_seconds
    return [window_seconds] * whole + ([rest] if rest > 1e-9 * seconds else [])


def simulate(
    lengths: Sequence[float],
    cluster: Cluster,
    faults: Faults,
    *,
    window_seconds: float | None = None,
    longest_first: bool = False,
    seed: int = 0,
) -> Outcome:
    """Run a library through a cluster.

    Args:
        lengths: of the videos in seconds, in the order in which they lie in the queue.
        window_seconds: cut longer videos into pieces of that length; None leaves them whole.
        longest_first: put the queue in that order first.
        seed: which nodes are slow.

    Raises:
        UsageError: there are no videos, or no run can end because nothing outlives its faults.
    """
    if not lengths:
        raise UsageError("there are no videos to simulate")
    return _Run(lengths, cluster, faults, window_seconds, longest_first, seed).outcome()


MAX_ATTEMPTS_PER_PIECE = 1000  # on average, after which a run is taken for one that cannot end


class _Run:
    def __init__(
        self,
        lengths: Sequence[float],
        cluster: Cluster,
        faults: Faults,
        window_seconds: float | None,
        longest_first: bool,
        seed: int,
    ) -> None:
        self.lengths, self.cluster, self.faults, self.window = lengths, cluster, faults, window_seconds
        self.speeds = cluster.speeds(seed)
        self.broken = bytearray(faults.is_broken(video) for video in range(len(lengths)))
        order = sorted(range(len(lengths)), key=lambda v: -lengths[v]) if longest_first else range(len(lengths))
        self.fresh = self._pieces(order)
        self.back: deque[_Piece] = deque()
        self.left = array("l", [0]) * len(lengths)  # pieces that are not resolved, by video
        self.given_up = bytearray(len(lengths))
        self.idle: deque[int] = deque()
        self.heap: list[tuple[float, int, int, Any]] = []
        self.count = 0  # breaks ties, so that equal times keep their order
        self.lost_at = [faults.node_lives() for _ in range(cluster.nodes)]
        self.starts, self.ends = array("d"), array("d")
        self.num_pieces = self.attempts = self.failed = self.errors = 0
        self.worker_failures = self.node_losses = self.resolved = 0
        self.lost_work = 0.0
        self.queue_empty: float | None = None

    def _pieces(self, order: Sequence[int]) -> Iterator[_Piece]:
        for video in order:
            parts = [self.lengths[video]] if self.broken[video] else cut(self.lengths[video], self.window)
            self.left[video] = len(parts)
            self.num_pieces += len(parts)
            for seconds in parts:
                yield _Piece(video, seconds)

    def outcome(self) -> Outcome:
        for worker in range(self.cluster.num_workers):
            self._push(0.0, _FREE, worker)
        time, last = 0.0, 0
        while self.resolved < len(self.lengths):
            time, kind, _, what = heapq.heappop(self.heap)
            if kind == _BACK:
                self.back.append(what)
                self._wake(time)
            elif kind == _END:
                worker, piece, is_error = what
                last = piece.video
                self._settle(piece, is_error, time)
                self._begin(worker, time)
            else:
                self._begin(what, time)
            if self.attempts > MAX_ATTEMPTS_PER_PIECE * max(1000, self.num_pieces):
                raise UsageError(
                    f"after {self.attempts:,} attempts at {self.num_pieces:,} pieces {self.resolved:,} of "
                    f"{len(self.lengths):,} videos are done: workers do not live long enough; give a window, or fewer "
                    "failures"
                )
        total_speed = sum(self.speeds) * self.cluster.workers_per_node
        return Outcome(
            makespan_seconds=time,
            ideal_seconds=math.fsum(self.lengths) / total_speed,
            queue_empty_seconds=time if self.queue_empty is None else self.queue_empty,
            last_video_seconds=self.lengths[last],
            finished=len(self.lengths) - self.failed,
            failed=self.failed,
            pieces=self.num_pieces,
            attempts=self.attempts,
            worker_failures=self.worker_failures,
            node_losses=self.node_losses,
            errors=self.errors,
            lost_work=self.lost_work,
            busy=self._busy(time),
        )

    def _begin(self, worker: int, time: float) -> None:
        """Let a free worker take the next piece, or wait for one, or for its node."""
        node = worker // self.cluster.workers_per_node
        up_at = self._up_at(node, time)
        if up_at > time:
            self._push(up_at, _FREE, worker)
            return
        piece = self._next()
        if piece is None:
            self.queue_empty = time if self.queue_empty is None else self.queue_empty
            self.idle.append(worker)
            return
        self.attempts += 1
        start, speed = self.cluster.start_seconds, self.speeds[node]
        piece.attempts += 1
        is_error = bool(self.broken[piece.video]) or self.faults.is_error()
        end = time + start + (0 if is_error else piece.seconds / speed)
        fails_at, lost_at = time + self.faults.worker_fails_after(), self.lost_at[node]
        stop = min(fails_at, lost_at)
        self.starts.append(time)
        self.ends.append(min(end, stop))
        if end <= stop:
            self._push(end, _END, (worker, piece, is_error))
            return
        done = min(piece.seconds, max(0.0, stop - time - start) * speed)
        is_node = lost_at <= fails_at
        kept = 0.0 if is_node else done // self.cluster.safe_every_seconds * self.cluster.safe_every_seconds
        self.lost_work += done - kept
        self.node_losses += is_node
        self.worker_failures += not is_node
        # Whoever is killed is not to blame: attempts count errors alone.
        self._push(stop, _BACK, _Piece(piece.video, piece.seconds - kept, piece.attempts - 1))
        pause = self.cluster.replace_seconds if is_node else self.cluster.restart_seconds
        self._push(stop + pause, _FREE, worker)

    def _settle(self, piece: _Piece, is_error: bool, time: float) -> None:
        """Take note of a piece that came to its end, well or in an error."""
        video = piece.video
        if not is_error:
            self.left[video] -= 1
            self.resolved += self.left[video] == 0 and not self.given_up[video]
            return
        self.errors += 1
        if not self.broken[video] and piece.attempts < self.cluster.max_attempts:
            self._push(time, _BACK, piece)
        elif not self.given_up[video]:
            self.given_up[video] = 1
            self.failed += 1
            self.resolved += 1

    def _next(self) -> _Piece | None:
        """The next piece of a video that was not given up: one that came back, else a fresh one."""
        while self.back:
            if not self.given_up[(piece := self.back.popleft()).video]:
                return piece
        for piece in self.fresh:
            if not self.given_up[piece.video]:
                return piece
        return None

    def _wake(self, time: float) -> None:
        """Hand pieces that came back to workers that wait; those of lost nodes wait for their node."""
        for _ in range(len(self.idle)):
            if not self.back:
                return
            self._begin(self.idle.popleft(), time)

    def _up_at(self, node: int, time: float) -> float:
        """When a node works again: now, unless it was lost and none stands in its place yet."""
        while self.lost_at[node] <= time:
            up_at = self.lost_at[node] + self.cluster.replace_seconds
            if up_at > time:
                return up_at
            self.lost_at[node] = up_at + self.faults.node_lives()
        return time

    def _push(self, time: float, kind: int, what: Any) -> None:
        self.count += 1
        heapq.heappush(self.heap, (time, kind, self.count, what))

    def _busy(self, makespan: float, steps: int = 200) -> list[float]:
        """The share of all workers that had a piece, in each of equal steps of the time."""
        step = makespan / steps
        seconds = [0.0] * (steps + 1)
        for start, end in zip(self.starts, self.ends, strict=True):
            end = min(end, makespan)
            first, last = min(int(start / step), steps), min(int(end / step), steps)
            if first == last:
                seconds[first] += end - start
                continue
            seconds[first] += (first + 1) * step - start
            seconds[last] += end - last * step
            for middle in range(first + 1, last):
                seconds[middle] += step
        return [round(found / step / self.cluster.num_workers, 6) for found in seconds[:steps]]
