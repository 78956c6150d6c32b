"""The names of entries on a store. A name counts where two small objects agree on it.

    names/<BLAKE3 of the name>.json        {"digest": "3f9a…", "name": "front door"}
    names/of/3fa9….json                    the same

Whoever names an entry writes the first, then the second. So an entry has one name, and a name one entry, without a
lock: of two that give a name at the same time, the last one counts, and the other entry has none. The name of an entry
that is gone is free.
"""

from __future__ import annotations

import json

from blake3 import blake3

from voco_video.cache.key import is_digest
from voco_video.cache.names import check_name, taken
from voco_video.cache.remote.layout import manifest_path
from voco_video.cache.remote.objects import ObjectStore
from voco_video.errors import UsageError

_NAMES, _OF = "names", "names/of"


class RemoteNames:
    """What `voco_video.cache.names.EntryNames` is for a folder.

    >>> store = ObjectStore("memory://doctest/names")
    >>> names = RemoteNames(store)
    >>> names.give("door", "ab" * 32)
    >>> names.name_of("ab" * 32), names.digest_of("door")  # there is no such entry
    ('door', None)
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def digest_of(self, name: str) -> str | None:
        """Return the digest of the entry of a name; None where no entry has it."""
        digest = self._holder(name)
        return digest if digest is not None and self._objects.exists(manifest_path(digest)) else None

    def name_of(self, digest: str) -> str | None:
        """Return the name of an entry; None where it has none."""
        return self.names_of([digest]).get(digest)

    def names_of(self, digests: list[str]) -> dict[str, str]:
        """Return the names of those entries that have one, by their digests."""
        found = dict(zip(digests, map(_decode, self._objects.read_many([_of_path(digest) for digest in digests]))))
        claimed = {digest: said[0] for digest, said in found.items() if said is not None and said[1] == digest}
        holders = self._objects.read_many([_path(name) for name in claimed.values()])
        agreed = {d: _decode(data) for d, data in zip(claimed, holders)}
        return {digest: name for digest, name in claimed.items() if agreed[digest] == (name, digest)}

    def by_digest(self) -> dict[str, str]:
        """Return the names of all entries that have one, by their digests."""
        digests = [one.path.rpartition("/")[2].removesuffix(".json") for one in self._objects.listed(_OF)]
        return self.names_of([digest for digest in digests if is_digest(digest)])

    def give(self, name: str, digest: str) -> None:
        """Name an entry, in the place of the name that it had.

        Raises:
            UsageError: another entry has this name, or it is no name.
            CacheError: the store cannot be written.
        """
        if self._holder(name) == digest:
            return
        self.check_free(name, digest)
        content = json.dumps({"name": name, "digest": digest}).encode()
        self._objects.write({_path(name): content})
        self._objects.write({_of_path(digest): content})

    def check_free(self, name: str, digest: str) -> None:
        """Refuse a name that an entry cannot get.

        Raises:
            UsageError: another entry has it, or it is no name.
        """
        holder = self.digest_of(name)
        if holder is None:
            check_name(name)
        elif holder != digest:
            raise UsageError(taken(name, holder))

    def drop(self, digest: str) -> None:
        """Take an entry's name away, if it has one."""
        name = self.name_of(digest)
        if name is not None:
            self._objects.delete([_of_path(digest), _path(name)])

    def tidy(self) -> None:
        """Drop the names of entries that are gone."""
        for digest in self.by_digest():
            if not self._objects.exists(manifest_path(digest)):
                self.drop(digest)

    def _holder(self, name: str) -> str | None:
        """Return the digest that a name was given to, whether there is such an entry or not."""
        found = _decode(self._objects.read(_path(name)))
        if found is None or found[0] != name:
            return None
        return found[1] if _decode(self._objects.read(_of_path(found[1]))) == found else None


def _path(name: str) -> str:
    return f"{_NAMES}/{blake3(name.encode(errors='surrogatepass')).hexdigest()}.json"


def _of_path(digest: str) -> str:
    return f"{_OF}/{digest}.json"


def _decode(data: bytes | None) -> tuple[str, str] | None:
    try:
        content = json.loads(data or b"")
        name, digest = content["name"], content["digest"]
    except (ValueError, LookupError, TypeError):
        return None
    return (name, digest) if isinstance(name, str) and is_digest(digest) else None
