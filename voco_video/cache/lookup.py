"""Which entries a user means by a word: a name, the path of a video, or the beginning of a digest.

What comes first: a whole digest, a file of this path, a name, the beginning of a digest, the path or URL that was
recorded of a video (whose file may be gone). Nothing here needs torch, so a command can refuse early.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from voco_video.cache.key import is_digest
from voco_video.cache.locks import GROWING, JOURNAL, MANIFEST
from voco_video.cache.names import EntryNames, Names
from voco_video.cache.paths import CachePaths, is_complete
from voco_video.errors import CacheError, used_wrongly
from voco_video.files.digest import digest_file
from voco_video.files.paths import expanded
from voco_video.files.urls import is_url, short_name, without_secrets
from voco_video.options.fields import did_you_mean

MIN_DIGITS = 4
_DIGITS = re.compile(r"[0-9a-f]{1,64}")
_NUM_SHOWN = 4
_CHECKSUM_CHARACTERS = 65  # of a line of a log, with the space behind it


@dataclass(frozen=True)
class EntryLabel:
    """What an entry says about itself, read without checking its bytes; nothing but its digest where it is damaged.

    Attributes:
        state: "growing" also where its source has ended but its log was kept; "unfinished" cannot be read yet.
        name: that people gave it; empty where it has none.
        size_bytes: of an entry on a store; 0 for one in a folder, where its files tell.
    """

    digest: str
    directory: Path
    state: Literal["whole", "growing", "unfinished"]
    name: str = ""
    video_digest: str = ""
    model_fingerprint: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    size_bytes: int = 0

    @property
    def source(self) -> str:
        """The video as it was recorded: the whole path of a file, a URL without secrets, or what it was."""
        return str(self.facts.get("source") or "")

    @property
    def stream(self) -> str:
        """The name under which a live source was followed first; empty for a whole video."""
        return str(self.settings.get("stream") or "")

    @property
    def model(self) -> str:
        """What the model is called; the beginning of its fingerprint where that was not recorded."""
        return str(self.facts.get("model") or self.model_fingerprint[:8])

    def __str__(self) -> str:
        compressor = self.settings.get("compressor") or f"voco K={self.settings.get('num_voco_tokens', '?')}"
        kept = f"{compressor} {self.settings.get('form', '')}".rstrip()
        said = [self.name, short_name(self.source), self.model, kept, str(self.facts.get("sampling") or "")]
        return f"{self.digest[:12]} ({', '.join(filter(None, said))})"

    def is_of(self, video: str) -> bool:
        """Tell whether its video was recorded under this path or URL."""
        if is_url(video):
            return self.source == without_secrets(video) and not self.source.endswith("?...")
        path = expanded(video)
        return os.path.isabs(self.source) and self.source in (os.path.abspath(path), os.path.realpath(path))


class Catalogue(Protocol):
    """Where entries are looked up: a cache in a folder, or one on a store."""

    @property
    def location(self) -> str:
        """The folder or the URL, as it may be shown."""

    @property
    def names(self) -> Names:
        """What people call the entries."""

    def digests(self, beginning: str = "") -> list[str]:
        """List the digests of all entries in any state; of those only that begin with these digits."""

    def has(self, digest: str) -> bool:
        """Tell whether there is an entry with this whole digest, in any state."""

    def labels(self, digests: Iterable[str]) -> list[EntryLabel]:
        """Read what some entries say about themselves."""

    def followed_now(self) -> list[EntryLabel]:
        """List the live entries that processes are making right now."""

    def begun_of(self, video: str) -> str | None:
        """Return the digest of a live entry of a path or URL that is followed, with nothing to read yet, if any."""


class FolderCatalogue:
    """The entries in a folder of this machine."""

    def __init__(self, paths: CachePaths) -> None:
        self._paths = paths
        self.location, self.names = str(paths.cache_dir), EntryNames(paths)

    def digests(self, beginning: str = "") -> list[str]:
        """See `Catalogue.digests`."""
        return [directory.name for directory in self._paths.directories(beginning)]

    def has(self, digest: str) -> bool:
        """See `Catalogue.has`."""
        return self._paths.directory(digest).exists()

    def labels(self, digests: Iterable[str]) -> list[EntryLabel]:
        """See `Catalogue.labels`."""
        names = self.names.by_digest()
        return [_read_label(self._paths.directory(digest), names.get(digest, "")) for digest in digests]

    def followed_now(self) -> list[EntryLabel]:
        """See `Catalogue.followed_now`."""
        growing = (directory for directory in self._paths.directories() if (directory / GROWING).exists())
        return self.labels([path.name for path in growing if self._paths.is_being_written(path.name)])

    def begun_of(self, video: str) -> str | None:
        """See `Catalogue.begun_of`."""
        paths = self._paths
        for lock in sorted((paths.cache_dir / "locks").glob("*.lock")):
            digest = lock.stem
            if is_digest(digest) and not is_complete(paths.directory(digest)) and paths.is_being_written(digest):
                label = EntryLabel(digest, paths.directory(digest), "growing", facts={"source": _read_note(lock)})
                if label.source and label.is_of(video):
                    return digest
        return None


def all_labels(catalogue: Catalogue) -> list[EntryLabel]:
    """Read the labels of all entries in any state, by digest."""
    return catalogue.labels(catalogue.digests())


def candidates(catalogue: Catalogue, given: str) -> list[EntryLabel]:
    """List the entries that a word stands for; several for a video that was compressed in several ways.

    Args:
        given: a name, the path or URL of a video, or the beginning of a digest, at least four digits.

    Raises:
        CacheError: the file of this path cannot be read.
    """
    if not given or "\0" in given:
        return []
    if is_digest(given):
        return catalogue.labels([given] if catalogue.has(given) else [])
    if os.path.isfile(expanded(given)):  # which takes any name, however long
        digest = digest_file(expanded(given))
        return [label for label in all_labels(catalogue) if label.video_digest == digest or label.is_of(given)]
    if named := catalogue.names.digest_of(given):
        return catalogue.labels([named])
    if is_prefix(given):
        return catalogue.labels(catalogue.digests(given))
    labels = all_labels(catalogue)
    return [label for label in labels if label.stream == given and not label.name] or [
        label for label in labels if label.is_of(given)
    ]


def is_prefix(text: str) -> bool:
    """Tell whether this can be the beginning of a digest: at least four hex digits.

    >>> is_prefix("3f9a"), is_prefix("3f9"), is_prefix("door")
    (True, False, False)
    """
    return len(text) >= MIN_DIGITS and bool(_DIGITS.fullmatch(text))


def one_entry(catalogue: Catalogue, given: str) -> EntryLabel:
    """Find the one entry that a word stands for.

    Raises:
        CacheError: none, or several, which are listed.
    """
    found = candidates(catalogue, given)
    if not found:
        raise used_wrongly(CacheError(_no_entry(catalogue, given)))
    if len(found) > 1:
        raise used_wrongly(CacheError(several(given, found)))
    return found[0]


def several(given: str, labels: list[EntryLabel]) -> str:
    """Say that a word stands for several entries, and list them."""
    shown = "; ".join(map(str, labels[:_NUM_SHOWN])) + ("; …" if len(labels) > _NUM_SHOWN else "")
    if is_prefix(given):
        return f"{len(labels)} cache entries start with {given!r}; give more digits: {shown}"
    return f"{len(labels)} cache entries are of {given}; give the digest of one: {shown}"


def _read_note(lock: Path) -> str:
    try:
        return lock.read_bytes().decode(errors="surrogateescape")
    except OSError:  # deleted meanwhile
        return ""


def similar_name(catalogue: Catalogue, given: str) -> str:
    """Return a question after the name of an entry that is spelt nearly so; empty where there is none."""
    return did_you_mean(given, catalogue.names.by_digest().values())


def _no_entry(catalogue: Catalogue, given: str) -> str:
    if _DIGITS.fullmatch(given):
        if len(given) < MIN_DIGITS:
            return f"no cache entry is found by {given!r} alone: give at least {MIN_DIGITS} digits of its digest"
        return (
            f"no cache entry in {catalogue.location} starts with {given!r}; `voco-video cache ls` lists what is there"
        )
    if is_url(given) or "/" in given or "." in given:
        what = without_secrets(given) if is_url(given) else given
        return f"no cache entry in {catalogue.location} is of {what}; `voco-video cache ls` lists what is there"
    meant = similar_name(catalogue, given) or "; `voco-video cache ls` lists them"
    return f"no cache entry in {catalogue.location} has the name {given!r}{meant}"


def _read_label(directory: Path, name: str) -> EntryLabel:
    state: Literal["whole", "growing", "unfinished"] = "unfinished"
    try:
        if (directory / MANIFEST).exists():
            state = "whole"
            head = json.loads((directory / MANIFEST).read_bytes())
            facts = head["facts"]
        else:
            state = "growing" if (directory / GROWING).exists() else "unfinished"
            head, facts = _read_log(directory / (GROWING if state == "growing" else JOURNAL))
        key = head["key"]
        video, fingerprint, settings = key["video_digest"], key["model_fingerprint"], dict(key["settings"])
        return EntryLabel(directory.name, directory, state, name, video, fingerprint, settings, dict(facts))
    except (OSError, ValueError, LookupError, TypeError):  # damaged, or deleted meanwhile
        return EntryLabel(directory.name, directory, state, name)


def _read_log(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the head of a log, and the facts of all its whole lines."""
    lines = path.read_bytes().split(b"\n")[:-1]
    head = json.loads(lines[0][_CHECKSUM_CHARACTERS:])
    facts = dict(head.get("facts") or {})
    for line in lines[1:]:
        if b'"facts"' in line:
            facts |= json.loads(line[_CHECKSUM_CHARACTERS:]).get("facts") or {}
    return head, facts
