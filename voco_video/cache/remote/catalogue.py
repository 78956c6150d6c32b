"""The entries on a store, looked up by words. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable

from voco_video.cache.lookup import EntryLabel
from voco_video.cache.remote.layout import MANIFESTS, RemoteManifest, digest_of_manifest, manifest_path
from voco_video.cache.remote.location import tier_folder
from voco_video.cache.remote.names import RemoteNames
from voco_video.cache.remote.objects import ObjectStore, StoredObject
from voco_video.errors import CacheError

_BATCH = 256  # manifests read side by side, so that a million of them need not be in memory


class RemoteCatalogue:
    """What `voco_video.cache.lookup.FolderCatalogue` is for a folder.

    A whole digest or a name takes a few requests, the beginning of a digest a listing of the manifests that begin with
    its first two digits. Only a word that stands for the path of a video takes a look at all manifests.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self.location, self.names = objects.name, RemoteNames(objects)

    def digests(self, beginning: str = "") -> list[str]:
        """See `voco_video.cache.lookup.Catalogue.digests`."""
        return [digest for digest in self.listed(beginning) if digest.startswith(beginning)]

    def listed(self, beginning: str = "") -> dict[str, StoredObject]:
        """List the manifests, by the digests of their entries; at least those whose digests begin so."""
        folder = f"{MANIFESTS}/{beginning[:2]}" if len(beginning) >= 2 else MANIFESTS
        found = {digest_of_manifest(one.path): one for one in self.objects.listed(folder)}
        return {digest: one for digest, one in found.items() if digest is not None}

    def has(self, digest: str) -> bool:
        """See `voco_video.cache.lookup.Catalogue.has`."""
        return self.objects.exists(manifest_path(digest))

    def labels(self, digests: Iterable[str]) -> list[EntryLabel]:
        """See `voco_video.cache.lookup.Catalogue.labels`."""
        digests, labels = list(digests), []
        for begin in range(0, len(digests), _BATCH):
            some = digests[begin : begin + _BATCH]
            names = self.names.names_of(some)
            found = self.objects.read_many([manifest_path(digest) for digest in some])
            labels += [self._label(d, data, names.get(d, "")) for d, data in zip(some, found) if data is not None]
        return labels

    def followed_now(self) -> list[EntryLabel]:
        """Return none: live sources are not followed into stores."""
        return []

    def begun_of(self, video: str) -> str | None:
        """Return None, for the same reason."""
        return None

    def _label(self, digest: str, data: bytes, name: str) -> EntryLabel:
        directory = tier_folder(self.objects.url) / digest[:2] / digest
        try:
            remote = RemoteManifest.decode(data, digest)
            content, size_bytes = remote.content, sum(remote.objects.values())
            key, facts = content["key"], dict(content["facts"])
            video, fingerprint, settings = key["video_digest"], key["model_fingerprint"], dict(key["settings"])
            return EntryLabel(digest, directory, "whole", name, video, fingerprint, settings, facts, size_bytes)
        except (CacheError, ValueError, LookupError, TypeError):  # damaged
            return EntryLabel(digest, directory, "whole", name)
