"""The frame cache: compressed frames on disk, keyed by everything they depend on.

    get(key)      the finished entry, or None
    writer(key)   write one, or resume an interrupted one
    growing_writer(key)   write one that others read meanwhile
    find(name)    the entry of a name, of a video's path, or of the beginning of a digest
    remove, prune, verify, entries

Safe against crashes at any byte, damaged files and several processes at once; see `FrameCache`.

Names are imported where they are first used, so that entries can be looked up without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voco_video.cache.checking import PartialEntry, VerifyResult
    from voco_video.cache.entry import CacheEntry
    from voco_video.cache.key import CacheKey
    from voco_video.cache.lookup import EntryLabel
    from voco_video.cache.segment import TensorSpec
    from voco_video.cache.store import FrameCache
    from voco_video.cache.writer import EntryWriter, GrowingWriter
    from voco_video.files.digest import digest_file

__all__ = [
    "CacheEntry",
    "CacheKey",
    "EntryLabel",
    "EntryWriter",
    "FrameCache",
    "GrowingWriter",
    "PartialEntry",
    "TensorSpec",
    "VerifyResult",
    "digest_file",
]

_HOME_OF = {"CacheEntry": "cache.entry", "CacheKey": "cache.key", "TensorSpec": "cache.segment"}
_HOME_OF |= {"FrameCache": "cache.store"} | dict.fromkeys(("PartialEntry", "VerifyResult"), "cache.checking")
_HOME_OF |= dict.fromkeys(("EntryWriter", "GrowingWriter"), "cache.writer")
_HOME_OF |= {"EntryLabel": "cache.lookup", "digest_file": "files.digest"}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"voco_video.{_HOME_OF[name]}"), name)
