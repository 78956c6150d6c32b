"""The frame cache: compressed frames on disk, keyed by everything they depend on.

    get(key)      the finished entry, or None
    writer(key)   write one, or resume an interrupted one
    growing_writer(key)   write one that others read meanwhile
    remove, prune, verify, entries

Safe against crashes at any byte, damaged files and several processes at once; see `FrameCache`.
"""

from voco_video.cache.entry import CacheEntry
from voco_video.cache.key import CacheKey
from voco_video.cache.segment import TensorSpec
from voco_video.cache.store import FrameCache, PartialEntry, VerifyResult
from voco_video.cache.writer import EntryWriter, GrowingWriter
from voco_video.files.digest import digest_file

__all__ = [
    "CacheEntry",
    "CacheKey",
    "EntryWriter",
    "FrameCache",
    "GrowingWriter",
    "PartialEntry",
    "TensorSpec",
    "VerifyResult",
    "digest_file",
]
