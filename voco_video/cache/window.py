"""Windows: parts of a video that are compressed one by one, and joined to its entry afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from voco_video.cache.key import CacheKey


@dataclass(frozen=True)
class Window:
    """A part of the pictures that a sampling takes of a video, compressed into an entry of its own.

    The entries of all windows are joined to that of the video: `voco_video.cluster.windows`.

    Attributes:
        first_picture, stop_picture: of all pictures that the sampling takes, in order.
    """

    first_picture: int
    stop_picture: int

    def key(self, whole: CacheKey) -> CacheKey:
        """Return the address of the window's entry; by its digest nobody takes it for the video's.

        Args:
            whole: the address of the video's entry.
        """
        part = f"{whole.digest} {self.first_picture}-{self.stop_picture}"
        settings = {**whole.settings, "part_of": whole.digest, "pictures": [self.first_picture, self.stop_picture]}
        return CacheKey(blake3(part.encode()).hexdigest(), whole.model_fingerprint, settings)

    @staticmethod
    def facts(facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the window's entry records: the facts of the whole, which then do not name the window's entry."""
        return {"source": "", "whole": dict(facts)}
