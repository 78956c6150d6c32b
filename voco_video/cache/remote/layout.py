"""What an entry is made of on a store, and how a range of a segment is checked.

<store>/
    manifests/3f/3fa9….json.xz                        written last; where it exists, the entry is whole
    entries/3f/3fa9…/<publication>/
        frames.<BLAKE3>                               digests of single frames
        segment-000000.<BLAKE3>.safetensors           the bytes of the segment on disk
        segment-000001.<BLAKE3>.safetensors
    names/91c4….json, names/of/3fa9….json             see `voco_video.cache.remote.names`

Each publication has a folder of its own, named at random. So whoever writes an entry never touches the objects of
another, and who deletes an entry deletes no objects but its own: no locks are needed. A manifest names its publication.

A segment's digest covers all of it, so it proves nothing about a range. The object of frames has a block for every 32
frames of each segment: where the segment's tensors begin, and the digest of each of these frames, over its tensors in
order of their names. The manifest has the digest of every block.
"""

from __future__ import annotations

import json
import lzma
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from voco_video.cache.key import FORMAT_VERSION, canonical_json, is_digest
from voco_video.errors import CacheError

MANIFESTS, ENTRIES = "manifests", "entries"
DIGEST_BYTES = 32
FRAMES_PER_BLOCK = 32
_PUBLICATION = re.compile("[0-9a-f]{32}")
_OBJECT = re.compile(r"frames\.[0-9a-f]{64}|segment-[0-9]{6,}\.[0-9a-f]{64}\.safetensors")
_PTS_SECONDS = "pts_seconds"


def manifest_path(digest: str) -> str:
    """Return the path of an entry's manifest."""
    return f"{MANIFESTS}/{digest[:2]}/{digest}.json.xz"


def digest_of_manifest(path: str) -> str | None:
    """Undo `manifest_path`; None for the path of something else."""
    digest = path.rpartition("/")[2].removesuffix(".json.xz")
    return digest if is_digest(digest) and manifest_path(digest) == path else None


def entry_folder(digest: str) -> str:
    """Return the folder of an entry's objects, in all publications."""
    return f"{ENTRIES}/{digest[:2]}/{digest}"


def new_publication() -> str:
    """Return a name that no other publication has."""
    return uuid.uuid4().hex


def segment_name(file: str, digest: str) -> str:
    """Name the object of a segment.

    >>> segment_name("segment-000003.safetensors", "ab12")
    'segment-000003.ab12.safetensors'
    """
    stem, _, ending = file.rpartition(".")
    return f"{stem}.{digest}.{ending}"


@dataclass(frozen=True)
class FramesBlock:
    """Where a block is in the object of frames, and its digest."""

    begin: int
    end: int
    blake3: str


@dataclass(frozen=True)
class RemoteManifest:
    """An entry's manifest on a store: that of the entry on disk, and where its objects are.

    Attributes:
        text: the bytes of `manifest.json`.
        publication: the folder of its objects.
        frames: the object of frames.
        blocks: in order of segments and frames.
    """

    digest: str
    text: bytes
    publication: str
    frames: str
    blocks: tuple[FramesBlock, ...]

    @property
    def folder(self) -> str:
        """The folder of its objects."""
        return f"{entry_folder(self.digest)}/{self.publication}"

    @property
    def content(self) -> dict[str, Any]:
        """`manifest.json` as a JSON value."""
        content: dict[str, Any] = json.loads(self.text)
        return content

    @property
    def objects(self) -> dict[str, int]:
        """The size of each of its objects by path, the manifest left out."""
        segments = {segment_name(s["file"], s["blake3"]): s["size_bytes"] for s in self.content["segments"]}
        sizes = {**segments, self.frames: self.blocks[-1].end}
        return {f"{self.folder}/{name}": size for name, size in sizes.items()}

    def _names_own_objects(self) -> bool:
        """Tell whether all objects are in this entry's folder: what a manifest names may be deleted with it."""
        return bool(_PUBLICATION.fullmatch(self.publication)) and all(
            _OBJECT.fullmatch(path.rpartition("/")[2]) and path.count("/") == self.folder.count("/") + 1
            for path in self.objects
        )

    def encode(self) -> bytes:
        """Return the bytes of the object: JSON with the BLAKE3 of its canonical form, compressed by xz."""
        content = {
            "format_version": FORMAT_VERSION,
            "digest": self.digest,
            "publication": self.publication,
            "frames": self.frames,
            "blocks": [[block.begin, block.end, block.blake3] for block in self.blocks],
            "manifest": self.text.decode("ascii"),
        }
        checksum = blake3(canonical_json(content).encode()).hexdigest()
        return lzma.compress(json.dumps({**content, "blake3": checksum}).encode())

    @classmethod
    def decode(cls, data: bytes, digest: str) -> RemoteManifest:
        """Rebuild the manifest of the entry with this digest; CacheError for anything else."""
        try:
            content = json.loads(lzma.decompress(data))
            checksum = content.pop("blake3")
            if content["format_version"] != FORMAT_VERSION:
                raise CacheError(f"it has format {content['format_version']}, this voco-video reads {FORMAT_VERSION}")
            if blake3(canonical_json(content).encode()).hexdigest() != checksum:
                raise CacheError("its manifest does not match its checksum")
            if content["digest"] != digest:
                raise CacheError(f"it holds the result for another key, {content['digest']}")
            blocks = tuple(FramesBlock(*block) for block in content["blocks"])
            text = content["manifest"].encode("ascii")
            manifest = cls(digest, text, content["publication"], content["frames"], blocks)
            counts = [num_blocks(segment["num_frames"]) for segment in manifest.content["segments"]]
            if not manifest._names_own_objects() or len(blocks) != sum(counts):
                raise CacheError("its manifest names objects that are none of its own")
            return manifest
        except (lzma.LZMAError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise CacheError(f"its manifest is unreadable: {error!r}") from error


def num_blocks(num_frames: int) -> int:
    """Return how many blocks a segment has."""
    return -(-num_frames // FRAMES_PER_BLOCK)


@dataclass(frozen=True)
class SegmentFrames:
    """What blocks say of frames of a segment.

    Attributes:
        begins: by name, at which byte of the segment a tensor begins; `pts_seconds` left out.
        digests: of consecutive frames, `DIGEST_BYTES` each.
    """

    begins: Mapping[str, int]
    digests: bytes

    @classmethod
    def of(cls, data: memoryview) -> SegmentFrames:
        """Compute those of all frames of a segment from the bytes of its file."""
        length = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8:length]))
        num_frames = int(header.pop("__metadata__")["num_frames"])
        del header[_PTS_SECONDS]
        begins = {name: length + header[name]["data_offsets"][0] for name in sorted(header)}
        ends = {name: length + header[name]["data_offsets"][1] for name in begins}
        frame_bytes = {name: (ends[name] - begins[name]) // num_frames for name in begins}
        digests = [
            frame_digest([data[b + number * frame_bytes[n] :][: frame_bytes[n]] for n, b in begins.items()])
            for number in range(num_frames)
        ]
        return cls(begins, b"".join(digests))

    def encode(self) -> list[bytes]:
        """Return the bytes of the blocks of a whole segment."""
        head, size = json.dumps(dict(self.begins), separators=(",", ":")).encode() + b"\n", len(self.digests)
        step = FRAMES_PER_BLOCK * DIGEST_BYTES
        return [head + self.digests[begin : begin + step] for begin in range(0, size, step)]

    @classmethod
    def decode(cls, data: bytes) -> SegmentFrames:
        """Read a block whose digest is right."""
        head, _, digests = data.partition(b"\n")
        return cls(json.loads(head), digests)

    def digest(self, frame: int) -> bytes:
        """Return the digest of one frame, counted from the first of these."""
        return self.digests[frame * DIGEST_BYTES : (frame + 1) * DIGEST_BYTES]


def frame_digest(pieces: Sequence[memoryview]) -> bytes:
    """Compute the digest of a frame from the bytes of its tensors, in order of their names."""
    hasher = blake3()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()
