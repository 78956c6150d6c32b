"""What compressed frames need of the model that answers from them."""

from __future__ import annotations

from typing import Protocol

from voco_video.answer.frame_scorer import Retriever
from voco_video.checkpoint.world import World
from voco_video.model.voco import VocoModel


class AnsweringModel(Protocol):
    """The model that compressed the frames and answers from them: a `voco_video.api.VideoModel`."""

    @property
    def voco(self) -> VocoModel:
        """The model on tensors."""

    @property
    def retriever(self) -> Retriever | None:
        """The model's learned scorers of frames, or None."""

    @property
    def world(self) -> World | None:
        """What the model was trained on, or None where that is not known."""

    @property
    def name(self) -> str:
        """What the model is called; empty where it was not loaded by a name."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits over the compressing weights."""
