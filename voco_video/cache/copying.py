"""Entries copied between a folder and a store, both ways, as they are: the same manifest, the same bytes.

What both have is not copied. Where they have different results for the same key, as of two machines, each keeps its
own, unless told otherwise. One entry that cannot be copied costs itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from voco_video.cache.entry import CacheEntry
from voco_video.cache.lookup import EntryLabel
from voco_video.cache.remote.cache import RemoteCache
from voco_video.cache.remote.reader import RemoteEntry
from voco_video.cache.store import FrameCache
from voco_video.errors import CacheError, UsageError


@dataclass(frozen=True)
class Copied:
    """What became of one entry.

    Attributes:
        status: "copied"; "same", where it was there; "differs", where another result was there and stays; "growing",
            where its source has not ended; "failed".
        to: where it was to go: the "store", or "here".
        reason: in words, except of those that were copied and those that were there.
        size_bytes: of its segments.
    """

    digest: str
    status: Literal["copied", "same", "differs", "growing", "failed"]
    to: Literal["store", "here"]
    reason: str = ""
    size_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether the other side has this very entry now."""
        return self.status in ("copied", "same")


@dataclass(frozen=True)
class Compared:
    """How an entry in a folder and one on a store compare."""

    digest: str
    status: Literal["same", "differs", "only here", "only there", "damaged"]
    reason: str = ""

    @property
    def ok(self) -> bool:
        """False where the two differ, or one is damaged; one that is on one side only is fine."""
        return self.status not in ("differs", "damaged")


Report = Callable[[Copied], None]


def push(
    local: FrameCache,
    remote: RemoteCache,
    given: Sequence[str] = (),
    *,
    force: bool = False,
    on_entry: Report | None = None,
) -> list[Copied]:
    """Copy entries of a folder to a store, with their names.

    Args:
        given: words that stand for entries (see `FrameCache.candidates`); all whole ones when empty.
        force: also where the store has another result for the same key.
        on_entry: called after each.

    Raises:
        CacheError: a word stands for no entry.
    """
    _check_sides(local, remote)
    labels = [label for label in _labels(local, given) if given or label.state != "unfinished"]
    return _each(labels, lambda label: _push(local, remote, label, force=force), "store", on_entry)


def pull(
    remote: RemoteCache,
    local: FrameCache,
    given: Sequence[str] = (),
    *,
    force: bool = False,
    on_entry: Report | None = None,
) -> list[Copied]:
    """Copy entries of a store to a folder, with their names; arguments and errors as for `push`.

    The folder keeps to its limit: what was unused longest goes.
    """
    _check_sides(local, remote)
    return _each(_labels(remote, given), lambda label: _pull(remote, local, label, force=force), "here", on_entry)


def sync(local: FrameCache, remote: RemoteCache, *, on_entry: Report | None = None) -> list[Copied]:
    """Copy what only one side has to the other one. Nothing is deleted, and different results stay as they are."""
    sent = push(local, remote, on_entry=on_entry)
    known = {one.digest for one in sent}
    labels = [label for label in remote.labels() if label.digest not in known]
    return sent + _each(labels, lambda label: _pull(remote, local, label, force=False), "here", on_entry)


def compare(local: FrameCache, remote: RemoteCache, given: str | None = None) -> list[Compared]:
    """Compare what a folder and a store have, by their manifests; `FrameCache.verify` reads the bytes of a side.

    Args:
        given: a word that stands for entries of either side; all of both when None.

    Raises:
        CacheError: the word stands for no entry of either side.
    """
    _check_sides(local, remote)
    here, there = (
        {label.digest: label for label in (side.labels() if given is None else side.candidates(given))}
        for side in (local, remote)
    )
    if given is not None and not here and not there:
        _labels(remote, [given])
    digests = sorted({*there, *(digest for digest, label in here.items() if label.state != "unfinished")})
    return [_compared(local, remote, here.get(digest), there.get(digest)) for digest in digests]


def _compared(local: FrameCache, remote: RemoteCache, here: EntryLabel | None, there: EntryLabel | None) -> Compared:
    digest = (here or there).digest  # type: ignore[union-attr]
    if there is None:
        return Compared(digest, "only here")
    if here is None or here.state == "unfinished":
        return Compared(digest, "only there")
    try:
        with local.open(here) as mine:
            theirs = remote.open(there)
            if _is_same(mine, theirs):
                return Compared(digest, "same")
            return Compared(digest, "differs", "the two sides have different results for the same key")
    except CacheError as error:
        return Compared(digest, "damaged", str(error))


def _push(local: FrameCache, remote: RemoteCache, label: EntryLabel, *, force: bool) -> Copied:
    with local.open(label) as entry:
        if entry.is_growing:
            reason = "its source has not ended; push it then"
            return Copied(label.digest, "growing", "store", reason)
        theirs = _whole(remote, entry) if force else remote.get(entry.key)
        is_same = theirs is not None and _is_same(entry, theirs)
        if theirs is not None and not is_same and not force:
            return _differs(label, "store")
        if not is_same:
            remote.publish(entry, replace=True)
        _take_name(label, remote)
        return Copied(label.digest, "same" if is_same else "copied", "store", size_bytes=entry.size_bytes)


def _whole(remote: RemoteCache, entry: CacheEntry) -> CacheEntry | None:
    """Open the entry of the same key on the store; None where there is none, or it is damaged."""
    try:
        theirs = remote.get(entry.key)
        if theirs is not None:
            theirs.verify(full=False)
        return theirs
    except CacheError:
        return None


def _pull(remote: RemoteCache, local: FrameCache, label: EntryLabel, *, force: bool) -> Copied:
    theirs = remote.open(label)
    assert isinstance(theirs, RemoteEntry)
    mine = local.get(theirs.key)
    if mine is not None:
        with mine:
            is_same = _is_same(mine, theirs)
        if is_same:
            _take_name(label, local)
            return Copied(label.digest, "same", "here", size_bytes=theirs.size_bytes)
        if not force:
            return _differs(label, "here")
    local.take_in(theirs.manifest, theirs.segment_files(), replace=force)
    _take_name(label, local)
    return Copied(label.digest, "copied", "here", size_bytes=theirs.size_bytes)


def _differs(label: EntryLabel, to: Literal["store", "here"]) -> Copied:
    return Copied(label.digest, "differs", to, "another result for the same key is there; --force replaces it")


def _is_same(mine: CacheEntry, theirs: CacheEntry) -> bool:
    return mine.manifest.identity == theirs.manifest.identity


def _take_name(label: EntryLabel, side: FrameCache) -> None:
    """Give an entry the name that it has on the other side, where that is free."""
    if label.name:
        try:
            side.names.give(label.name, label.digest)
        except UsageError:  # another entry has it: names are each side's own
            return


def _labels(side: FrameCache, given: Iterable[str]) -> list[EntryLabel]:
    """Find the entries that words stand for; all for no word."""
    if not given:
        return side.labels()
    found: dict[str, EntryLabel] = {}
    for word in given:
        labels = side.candidates(word)
        if not labels:
            side.find(word)  # says what is wrong with the word
        found |= {label.digest: label for label in labels}
    return list(found.values())


def _each(
    labels: Iterable[EntryLabel],
    copy: Callable[[EntryLabel], Copied],
    to: Literal["store", "here"],
    on_entry: Report | None,
) -> list[Copied]:
    results = []
    for label in labels:
        try:
            result = copy(label)
        except CacheError as error:
            result = Copied(label.digest, "failed", to, str(error))
        results.append(result)
        if on_entry is not None:
            on_entry(result)
    return results


def _check_sides(local: FrameCache, remote: FrameCache) -> None:
    if local.is_remote or not remote.is_remote:
        raise UsageError(
            f"entries are copied between a folder and a store, and these are {local.location} and {remote.location}"
        )
