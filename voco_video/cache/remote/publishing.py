"""An entry on disk becomes one on a store: its segments as they are, the digests of its frames, the manifest last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from voco_video.cache.entry import CacheEntry, Manifest
from voco_video.cache.remote.layout import (
    FramesBlock,
    RemoteManifest,
    SegmentFrames,
    entry_folder,
    manifest_path,
    new_publication,
    segment_name,
)
from voco_video.cache.remote.objects import ObjectStore
from voco_video.cache.segment import Segment
from voco_video.errors import CacheError

BATCH_BYTES = 64 << 20  # of segments that are sent side by side


def read_remote_manifest(objects: ObjectStore, digest: str) -> RemoteManifest | None:
    """Read the manifest of an entry; None where the store has no such entry.

    Raises:
        CacheError: it is damaged, or the store cannot be reached.
    """
    data = objects.read(manifest_path(digest))
    if data is None:
        return None
    try:
        return RemoteManifest.decode(data, digest)
    except CacheError as error:
        raise CacheError(
            f"damaged cache entry {digest[:12]} in {objects.name}: {error}; delete it with `voco-video cache rm "
            f"{digest}` or compress again with --force"
        ) from error


def publish(objects: ObjectStore, entry: CacheEntry) -> RemoteManifest:
    """Copy an entry of this machine to a store, in the place of what the store has of its key.

    Readers of what was there go on with it, until a prune deletes it.

    Raises:
        CacheError: a file is not what was written, or the store cannot be written; then readers see no change.
    """
    digest, publication = entry.digest, new_publication()
    folder = f"{entry_folder(digest)}/{publication}"
    blocks: list[bytes] = []
    sending: dict[str, bytes] = {}
    for segment, data in _files(entry.directory, entry.manifest):
        blocks += SegmentFrames.of(memoryview(data)).encode()
        sending[f"{folder}/{segment_name(segment.file, segment.blake3)}"] = data
        if sum(map(len, sending.values())) >= BATCH_BYTES:
            objects.write(sending)
            sending = {}
    frames = b"".join(blocks)
    name = f"frames.{blake3(frames).hexdigest()}"
    objects.write({**sending, f"{folder}/{name}": frames})
    manifest = RemoteManifest(digest, entry.manifest.encode(), publication, name, _placed(blocks))
    objects.write({manifest_path(digest): manifest.encode()})
    return manifest


def _files(directory: Path, manifest: Manifest) -> Iterator[tuple[Segment, bytes]]:
    """Yield the bytes of an entry's files, checked."""
    for segment in manifest.segments:
        try:
            data = (directory / segment.file).read_bytes()
        except OSError as error:
            raise CacheError(f"cannot read {directory / segment.file}: {error.strerror or error}") from error
        if blake3(data).hexdigest() != segment.blake3:
            raise CacheError(f"damaged cache entry {directory}: {segment.file} does not match its checksum")
        yield segment, data


def _placed(blocks: list[bytes]) -> tuple[FramesBlock, ...]:
    placed, begin = [], 0
    for block in blocks:
        placed.append(FramesBlock(begin, begin + len(block), blake3(block).hexdigest()))
        begin += len(block)
    return tuple(placed)
