"""Search through all entries of a library: the moments that reading every entry would find, most entries unread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.entry_frames import EntryFrames
from voco_video.answer.frame_scorer import question_ids
from voco_video.answer.several_videos import Asked, Found, best_first
from voco_video.cache.paths import CachePaths
from voco_video.errors import FILE_ERRORS, CacheError, ModelError, UsageError
from voco_video.library.index import Covered, LibraryIndex, Upkeep
from voco_video.library.index_codes import Question
from voco_video.library.index_entries import read_state
from voco_video.library.index_reading import check_is_of
from voco_video.library.index_search import APPROXIMATE_SLACK, Bounds, Shard
from voco_video.library.models import SearchedModel


@dataclass(frozen=True, eq=False)
class LibraryProgress:
    """How far a search is.

    Attributes:
        is_indexing: entries are read into the index; else those that have no index are searched.
        num_done, num_videos: of how many.
    """

    is_indexing: bool
    num_done: int
    num_videos: int


@dataclass(frozen=True, eq=False)
class LibraryMoments:
    """What a search found, and what it took.

    Attributes:
        moments: best first.
        num_videos: entries that were searched, those that failed left out.
        num_frames: of those that the index answers for.
        num_added: entries that were read into the index first.
        num_narrowed: frames whose finer codes were read.
        num_opened: entries of the index that were opened to be scored.
        unindexed: how many entries the index cannot answer for, by reason; they were read one by one.
        failed: the error of each entry that cannot be read, by its digest.
        is_approximate: whether something better may have been missed.
    """

    moments: list[Found]
    num_videos: int = 0
    num_frames: int = 0
    num_added: int = 0
    num_narrowed: int = 0
    num_opened: int = 0
    unindexed: dict[str, int] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)
    is_approximate: bool = False


class Library:
    """Many entries of a cache that one model made, searched together.

    An index in the cache's folder says of each frame how well it may suit a question. Entries that may have one of the
    best moments are opened and scored as ever, until the index rules out all others; so the result is the same as that
    of `voco_video.find` for all of them. What the index does not have is read into it first.

    Args:
        model: that made the entries.
        entries: their digests, 64 hex digits each; None for all entries of this model in its cache.

    Example:
        >>> import voco_video
        >>> library = voco_video.load_model().library()                    # doctest: +SKIP
        >>> library.find("the red star")[0].moment.start_seconds           # doctest: +SKIP
        4017.0
    """

    def __init__(self, model: SearchedModel, entries: Iterable[str] | None = None) -> None:
        self._model = model
        self._entries = None if entries is None else list(entries)
        self._paths = CachePaths(model.cache.cache_dir)
        self.index = LibraryIndex(model)

    def find(
        self,
        query: str,
        *,
        num_moments: int = 5,
        approximate: bool = False,
        on_progress: Callable[[LibraryProgress], None] | None = None,
        on_error: Callable[[str, Exception], None] | None = None,
    ) -> list[Found]:
        """Find the moments that are most relevant to a query, best first; no answer is generated.

        Args:
            query: a question, or what to look for.
            num_moments: how many at most.
            approximate: take less time, and perhaps miss a moment; see `docs/scale.md` for how often.
            on_progress: called after every entry that is read.
            on_error: called with the digest of an entry that cannot be read, and why; the others are searched all the
                same. The error is raised where this is left out.

        Raises:
            UsageError: the query is empty, or frames keep no tokens.
            CacheError, ModelError: an entry is damaged, gone, or of another model, and `on_error` is left out.
        """
        result = self.search(query, num_moments=num_moments, approximate=approximate, on_progress=on_progress)
        for digest, error in result.failed.items():
            if on_error is None:
                raise error
            on_error(digest, error)
        return result.moments

    def search(
        self,
        query: str,
        *,
        num_moments: int = 5,
        approximate: bool = False,
        on_progress: Callable[[LibraryProgress], None] | None = None,
    ) -> LibraryMoments:
        """Do what `find` does, and also tell what it took; entries that cannot be read are in the result."""
        if num_moments < 1:
            raise UsageError(f"num_moments={num_moments}: look for 1 moment at least")
        question_ids(self._model.voco, query)  # an empty query fails before anything is read
        show = on_progress or (lambda progress: None)
        upkeep = self.index.refresh(
            self._entries, on_progress=lambda done, total: show(LibraryProgress(True, done, total))
        )
        return _Search(self._model, self._paths, upkeep, query, num_moments, approximate).run(show)


class _Search:
    """One search."""

    def __init__(
        self,
        model: SearchedModel,
        paths: CachePaths,
        upkeep: Upkeep,
        query: str,
        num_moments: int,
        approximate: bool,
    ) -> None:
        self._model, self._paths, self._upkeep = model, paths, upkeep
        self._asked, self._num_moments = Asked(query), num_moments
        self._slack = APPROXIMATE_SLACK if approximate else 1.0
        self._failed = dict(upkeep.failed)
        self._read: dict[int, list[Found]] = {}  # by number of the entry
        self._unindexed = {number: why for number, why in upkeep.others.items() if number not in self._failed}
        self._num_narrowed = 0

    def run(self, show: Callable[[LibraryProgress], None]) -> LibraryMoments:
        for done, number in enumerate(list(self._unindexed)):
            show(LibraryProgress(False, done, len(self._unindexed)))
            self._read_entry(number)
        num_out = -1
        while num_out != (num_out := len(self._failed) + len(self._unindexed)):
            self._read_best()  # again where an entry failed that was counted on
        found = [one for number in sorted(self._read) for one in self._read[number]]
        upkeep = self._upkeep
        return LibraryMoments(
            best_first(found, self._num_moments),
            num_videos=len(upkeep.digests) - len(self._failed),
            num_frames=sum(int(covered.rows["num_frames"].sum()) for covered in upkeep.covered),
            num_added=upkeep.num_added,
            num_narrowed=self._num_narrowed,
            num_opened=len(self._read.keys() - self._unindexed.keys()),
            unindexed=dict(Counter(why for number, why in self._unindexed.items() if number not in self._failed)),
            failed={upkeep.digests[number]: error for number, error in self._failed.items()},
            is_approximate=self._slack < 1,
        )

    def _read_best(self) -> None:
        """Read entries, the most promising first, until no other can have one of the best moments."""
        covered = [self._searchable(one) for one in self._upkeep.covered]
        shards = [Shard(one.index, one.rows, self._question(one), self._slack) for one in covered]
        known = [one.moment.score for number in self._unindexed for one in self._read.get(number, ())]
        bounds = Bounds(shards, self._num_moments, known)
        self._num_narrowed += bounds.num_read
        numbers = np.concatenate([one.numbers for one in covered]) if covered else np.empty(0, np.int64)
        identities = [identity.tobytes() for one in covered for identity in one.rows["identity"]]
        for place in np.argsort(-bounds.high, kind="stable").tolist():
            if bounds.high[place] < max(bounds.threshold(), self._worst_of_best()):
                break
            self._read_entry(int(numbers[place]), identity=identities[place])

    def _searchable(self, covered: Covered) -> Covered:
        """Leave out entries without frames, those that failed, and those that changed."""
        out = self._failed.keys() | self._unindexed.keys()
        kept = (covered.rows["num_frames"] > 0) & ~np.isin(covered.numbers, list(out))
        return Covered(covered.kind, covered.scorer, covered.index, covered.rows[kept], covered.numbers[kept])

    def _question(self, covered: Covered) -> Question:
        asked = self._asked.by(self._model, covered.scorer)
        return Question(asked.queries.cpu().float(), asked.gates.cpu().float(), float(covered.scorer.bias))

    def _worst_of_best(self) -> float:
        """Return the score of the last of the best moments that were read."""
        found = best_first((one for moments in self._read.values() for one in moments), self._num_moments)
        return found[-1].moment.score if len(found) == self._num_moments else -np.inf

    def _read_entry(self, number: int, *, identity: bytes | None = None) -> None:
        """Score all frames of an entry; one that is not what the index says is no longer counted as in it."""
        if number in self._read:
            return
        digest = self._upkeep.digests[number]
        try:
            with self._model.cache.find(digest) as entry:
                check_is_of(entry, self._model)
                if identity is not None:
                    state = read_state(self._paths.directory(digest))
                    if state is None or state.identity != identity:
                        self._unindexed[number] = "it changed meanwhile"
                video = CompressedVideo(self._model, (EntryFrames(entry, 0, entry.num_frames),))
                self._read[number] = self._asked.moments(video, self._num_moments)
        except (CacheError, ModelError, *FILE_ERRORS) as error:
            self._failed[number] = error
