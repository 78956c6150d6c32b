"""Speech told with frames: which lines stand before which frame, how many fit, and which say what is asked for.

As in LongVideoBench (longvideobench_dataset.py, `insert_subtitles_into_frames`), a line is told where a frame is seen
while it is said, and it stands behind the frames up to its middle. A line that is said for less than a second counts as
if it took one. No line can stand behind the last frame, so the last lines stand right before it.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from voco_video.answer.entry_frames import EntryFrames
from voco_video.answer.moments import Moment
from voco_video.video.subtitles import AUTO_SUBTITLES, Cue, subtitles_of

T = TypeVar("T")
Floats = npt.NDArray[np.floating]
SHARE = 0.5
"""The most of a budget that speech takes from frames."""

_LEAST_SECONDS = 1.0
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_COMMON_WORDS = (
    "a an and are as at be been but by did do does for from had has have he her him his how i if in into is it its me "
    "my of on or our she so that the their them then there they this to was we were what when where which who why "
    "will with you your say says said about"
)
_STOP_WORDS = frozenset(_COMMON_WORDS.split())
_LEAST_COVERAGE = 0.5


@dataclass(frozen=True)
class SpokenMoment(Moment):
    """A moment in which something is said.

    Attributes:
        text: the line; `score` is the share of the query's words that it has, rarer words counting more.
    """

    text: str = ""


def lines_by_frame(cues: Sequence[Cue], pts_seconds: Floats) -> dict[int, list[Cue]]:
    """Return the lines that stand before some of V frames, by the frame's place among them.

    >>> cues = [Cue(0.0, 0.2, "a"), Cue(1.0, 3.0, "b"), Cue(5.0, 7.0, "c"), Cue(30.0, 40.0, "d")]
    >>> {f: [cue.text for cue in some] for f, some in lines_by_frame(cues, np.arange(0.0, 8.0, 2.0)).items()}
    {1: ['a'], 2: ['b'], 3: ['c']}
    """
    found: dict[int, list[Cue]] = {}
    for cue in cues:
        middle = (cue.start_seconds + cue.end_seconds) / 2
        half = max(cue.end_seconds - cue.start_seconds, _LEAST_SECONDS) / 2
        if len(pts_seconds) and ((pts_seconds > middle - half) & (pts_seconds < middle + half)).any():
            place = int(np.searchsorted(pts_seconds, middle, side="right"))
            found.setdefault(min(place, len(pts_seconds) - 1), []).append(cue)
    return found


@dataclass(frozen=True)
class ToldSpeech:
    """The lines that are told with some frames.

    Attributes:
        lines: before each frame, by its place among these.
        num_left_out: lines that these frames would have, but there was no room for.
    """

    lines: dict[int, list[Cue]]
    num_left_out: int = 0

    @property
    def note(self) -> str:
        """A sentence on lines that were left out; empty if none were."""
        num_told = sum(map(len, self.lines.values()))
        return f"was told {num_told} of {num_told + self.num_left_out} lines of speech" if self.num_left_out else ""


def told_speech(
    parts: Sequence[EntryFrames],
    frames: npt.NDArray[np.int64],
    count_tokens: Callable[[Cue], int],
    *,
    room: int | None,
) -> ToldSpeech:
    """Choose what is told with some frames.

    Args:
        parts: the cache entries with their speech.
        frames: numbers of the frames over all parts, ascending.
        count_tokens: counts the tokens of a line.
        room: tokens that lines may take; None: any number.
    """
    placed: list[tuple[int, Cue]] = []
    first = 0
    for part in parts:
        places = np.flatnonzero((frames >= first) & (frames < first + part.num_frames))
        found = lines_by_frame(part.cues, part.pts_seconds[frames[places] - first])
        placed += [(int(places[place]), cue) for place, cues in sorted(found.items()) for cue in cues]
        first += part.num_frames
    kept = fitting(placed, lambda one: count_tokens(one[1]), room=room)
    lines: dict[int, list[Cue]] = {}
    for place, cue in kept:
        lines.setdefault(place, []).append(cue)
    return ToldSpeech(lines, len(placed) - len(kept))


def cues_of(
    part: EntryFrames, subtitles: str | os.PathLike[str] | Sequence[Cue], *, given: str = ""
) -> tuple[Cue, ...]:
    """Return the lines of one video: those given, or read as `subtitles_of` does; none where its file is gone.

    Args:
        given: the file as it was given, which may be a copy of the one that the entry was made from.

    Raises:
        DataError, UsageError: see `subtitles_of`.
    """
    if not isinstance(subtitles, (str, os.PathLike)):
        return tuple(subtitles)
    recorded = str(part.entry.facts.get("source") or "")
    names = (os.path.expanduser(given), recorded if os.path.isabs(recorded) else "")
    source = next((name for name in names if os.path.isfile(name)), "")
    return () if subtitles == AUTO_SUBTITLES and not source else subtitles_of(source, subtitles)


def fitting(lines: Sequence[T], count_tokens: Callable[[T], int], *, room: int | None) -> list[T]:
    """Choose lines that take no more tokens than there is room for: all, or evenly spread ones.

    >>> fitting(["a", "b", "c", "d"], lambda line: 10, room=25)
    ['a', 'c']
    """
    counts = [count_tokens(line) for line in lines]
    if room is None or sum(counts) <= room:
        return list(lines)
    for step in range(2, len(lines) + 1):
        if sum(counts[::step]) <= room:
            return list(lines[::step])
    return []


def search_speech(cues: Sequence[Cue], query: str, *, num_moments: int) -> list[SpokenMoment]:
    """Find the lines that have most of a query's words, best first; those that have less than half are left out.

    Words that fewer lines have count more. Words are compared without case and a plural's "s"; words such as "the" do
    not count. A line is read together with the next one, which may hold the end of its sentence.

    >>> cues = [Cue(0.0, 2.0, "Now we cut the onions."), Cue(2.0, 4.0, "Then the garlic.")]
    >>> [(m.start_seconds, m.text, m.score) for m in search_speech(cues, "where does he cut an onion?", num_moments=3)]
    [(0.0, 'Now we cut the onions.', 1.0)]
    """
    asked = set(_words(query))
    if not asked or not cues:
        return []
    lines = [set(_words(cue.text)) for cue in cues]
    num_with = Counter(word for words in lines for word in words & asked)
    weights = {word: math.log(1 + len(lines) / (1 + num_with[word])) for word in asked}
    total = sum(weights.values())
    scored = []
    for place, words in enumerate(lines):
        own = sum(weights[word] for word in asked & words)
        joined = sum(weights[word] for word in asked & words.union(*lines[place + 1 : place + 2]))
        goes_on = own > 0 and joined > own and own / total < 1
        scored.append((joined if goes_on else own, place, goes_on))
    scored.sort(key=lambda one: (-one[0], one[1]))
    moments: list[SpokenMoment] = []
    taken: set[int] = set()
    for score, place, goes_on in scored:
        if len(moments) == num_moments or score / total < _LEAST_COVERAGE:
            break
        parts = [place, place + 1] if goes_on else [place]
        if taken.isdisjoint(parts):
            taken.update(parts)
            moments.append(_spoken([cues[part] for part in parts], score / total))
    return moments


def _spoken(cues: Sequence[Cue], score: float) -> SpokenMoment:
    start, end = cues[0].start_seconds, cues[-1].end_seconds
    return SpokenMoment(start, end, (start + end) / 2, score=round(score, 6), text=" ".join(cue.text for cue in cues))


def _words(text: str) -> list[str]:
    words = (word.lower().replace("’", "'") for word in _WORD.findall(text))
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words if word not in _STOP_WORDS]


def with_spoken(
    moments: Sequence[Moment], parts: Sequence[EntryFrames], query: str, *, num_moments: int
) -> list[Moment]:
    """Add the moments in which a query's words are said to those that frames show, best first; as many in all."""
    said = [moment for part in parts for moment in search_speech(_during(part), query, num_moments=num_moments)]
    return sorted([*moments, *said], key=order_of)[:num_moments]


def _during(part: EntryFrames) -> list[Cue]:
    """Return the lines that are said from the first of some frames to the last."""
    pts = part.pts_seconds
    return [cue for cue in part.cues if len(pts) and cue.end_seconds >= pts[0] and cue.start_seconds <= pts[-1] + 1]


def num_speech_tokens(parts: Sequence[EntryFrames], count_tokens: Callable[[Cue], int]) -> int:
    """Count the tokens of all lines that are said during some frames."""
    return sum(count_tokens(cue) for part in parts for cue in _during(part))


def order_of(moment: Moment) -> tuple[int, float]:
    """Return a key that puts the better moments first, of frames and of speech.

    A line with all of a query's words comes first, then what frames show, then lines with some of the words, then what
    frames more likely than not do not show.
    """
    if isinstance(moment, SpokenMoment):
        return (0 if moment.score >= 1 else 2, -moment.score)
    return (3 if moment.is_likely is False else 1, -moment.score)
