"""Times of pictures in the order in which they are shown, where not all of a file's own times can be right. Pure.

one time is missing, repeated or far off   it is worked out from its neighbours; the others stay
the clock is set back (joined recordings)  it goes on from where it was, one usual step later
the clock jumps forward                    that stays a gap
"""

from __future__ import annotations

import logging
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Time = TypeVar("Time", int, float)

# Pictures that may wait for the next time that is known. A decoder holds back about as many.
_MAX_WAITING = 16
_NUM_LATER = 6  # known times that a time is held against
_RECENT_STEPS = 9


class Timeline(Generic[Time]):
    """Gives each picture a time, always later than the one before.

    Times are whole ticks or seconds as floats, whichever `usual_step` is.

    Args:
        usual_step: time from one picture to the next, until the pictures themselves have told.
        place_first: called with the first picture's own time: where it goes, if not there.
        eager: give a picture out at once where its time is later than the one before, without looking at the next times
            first: for sources that are still being recorded.

    Attributes:
        offset: a picture's time minus its own, once one has come.
        num_repaired: pictures so far whose own time was not used.
        num_set_back: how often so far the clock was set back.
    """

    def __init__(
        self, usual_step: Time, *, eager: bool = False, place_first: Callable[[Time], Time] | None = None
    ) -> None:
        self.offset: Time = usual_step - usual_step
        self.num_repaired = 0
        self.num_set_back = 0
        self._eager = eager
        self._place_first_at: Callable[[Time], Time] | None = place_first
        self._last: Time | None = None
        self._recent_steps: deque[Time] = deque([usual_step], maxlen=_RECENT_STEPS)

    def placed(self, pictures: Iterable[tuple[Time | None, Item]]) -> Iterator[tuple[Time, Item]]:
        """Yield (time, item) for each (own time or None, item), which come in the order in which they are shown."""
        waiting: deque[tuple[Time | None, Item]] = deque()
        for picture in pictures:
            waiting.append(picture)
            while waiting and self._has_seen_enough(waiting):
                yield self._place_first(waiting)
        while waiting:
            yield self._place_first(waiting)

    @property
    def _step(self) -> Time:
        return statistics.median_low(self._recent_steps)

    def _has_seen_enough(self, waiting: deque[tuple[Time | None, Item]]) -> bool:
        own = waiting[0][0]
        if self._eager and own is not None and (self._last is None or own + self.offset > self._last):
            return True
        num_known = sum(time is not None for time, _ in waiting)
        return len(waiting) > _MAX_WAITING or num_known > (2 if self._eager else _NUM_LATER)

    def _place_first(self, waiting: deque[tuple[Time | None, Item]]) -> tuple[Time, Item]:
        own, item = waiting.popleft()
        time = None if own is None else own + self.offset
        later = [None if own is None else own + self.offset for own, _ in waiting]
        if time is not None and self._is_set_back(time, later):
            assert self._last is not None
            shift = self._last + self._step - time
            self.offset += shift
            self.num_set_back += 1
            time += shift
            later = [None if time is None else time + shift for time in later]
        elif time is not None and not self._fits(time, later):
            time = None
        if time is None:
            self.num_repaired += 1
            time = self._between_neighbours(later)
        elif self._last is not None:
            self._recent_steps.append(time - self._last)
        if self._last is None and self._place_first_at:
            placed = self._place_first_at(time)
            self.offset += placed - time
            time = placed
        self._last = time
        return time, item

    def _is_set_back(self, time: Time, later: list[Time | None]) -> bool:
        """Whether this picture and the next go on from an earlier time, rather than this one's being wrong."""
        following = next((known for known in later if known is not None), None)
        return self._last is not None and following is not None and time < following <= self._last

    def _fits(self, time: Time, later: list[Time | None]) -> bool:
        """Whether a time is later than the one before and agrees with those that follow."""
        last, step = self._last, self._step
        if last is not None and time <= last:
            return False
        if self._eager:
            return True
        known = [(num_steps, other) for num_steps, other in enumerate(later, start=2) if other is not None]
        if last is None:  # alone against two: the first one is wrong; against one, the other may be
            return not known or known[0][1] > time or (len(known) > 1 and known[1][1] > time)
        for num_steps, other in known:
            # Either this one is too late or that one too early: keep the one nearer to where it is expected. One that
            # is far from there is neither: the clock is set back before it.
            if last < other <= time and other - last <= 2 * num_steps * step:
                return abs(time - last - step) < abs(other - last - num_steps * step)
        return True

    def _between_neighbours(self, later: list[Time | None]) -> Time:
        """A time between the last picture's and the next usable one, with room for those before it that have none."""
        num_steps = 1
        for time in later:
            if time is not None and (self._last is None or time > self._last):
                break
            num_steps += 1
        else:
            time = None
        if self._last is None:
            return self.offset if time is None else time - num_steps * self._step
        if time is None:
            return self._last + self._step
        distance = time - self._last
        even = distance // (num_steps + 1) if isinstance(distance, int) else distance / (num_steps + 1)
        if even > 2 * self._step:  # there is a gap, and nothing tells on which side of it this picture lies
            even = self._step
        return self._last + (max(1, even) if isinstance(distance, int) else even)


def log_repairs(logger: logging.Logger, name: object, timeline: Timeline[Time]) -> None:
    """Say what a timeline had to change, if anything."""
    if timeline.num_set_back:
        logger.info("%s: its clock is set back %d time(s); it goes on from where it was", name, timeline.num_set_back)
    if timeline.num_repaired:
        logger.warning(
            "%s: %d frame(s) without a usable time; each gets one between its neighbours'", name, timeline.num_repaired
        )
