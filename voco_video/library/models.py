"""What a library needs of the model that searches it."""

from __future__ import annotations

from typing import Protocol

from voco_video.answer.answering_model import AnsweringModel
from voco_video.cache import FrameCache


class SearchedModel(AnsweringModel, Protocol):
    """The model that compressed a library's entries, and the cache that they are in: a `voco_video.api.VideoModel`."""

    @property
    def cache(self) -> FrameCache:
        """Where the entries are."""
