"""What compressed frames need of the model that answers from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from voco_video.answer.frame_scorer import Retriever
from voco_video.checkpoint.world import World
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions
from voco_video.options.compression import Form


class Engine(Protocol):
    """What generates answers in place of the model's decoder in this process: `voco_video.engine.engines.Engines`."""

    @property
    def kind(self) -> str:
        """What it is, for people and for the settings of a run: its protocol, not its address."""

    def check(self, form: Form) -> None:
        """Raise UsageError for frames of a form that the engine cannot be sent."""

    def generate(
        self, model: VocoModel, prefix: Prefix, prompts: Sequence[Sequence[int]], *, options: AnswerOptions
    ) -> list[tuple[list[int], float]]:
        """Generate as `voco_video.answer.generate.generate`, from a prefix with ``inputs``."""

    def stream(
        self, model: VocoModel, prefix: Prefix, prompt: Sequence[int], *, options: AnswerOptions
    ) -> Iterator[tuple[int, float]]:
        """Yield each token with the logarithm of its probability; the one that ends the answer comes too."""


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
    def engine(self) -> Engine | None:
        """What generates answers; None for ``voco`` itself."""

    @property
    def name(self) -> str:
        """What the model is called; empty where it was not loaded by a name."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits over the compressing weights."""
