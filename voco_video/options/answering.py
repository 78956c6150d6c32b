"""How questions are answered: which frames they see, and how an answer is generated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from voco_video.errors import UsageError
from voco_video.options.fields import Options, documented, option

Policy = Literal["uniform", "recent", "relevant", "elastic"]
WHAT_IS_SEEN = "What a question sees"
"""The group of options on which frames and tokens an answer rests on."""
MAX_QUESTIONS_PER_BATCH = 32
MIN_TEMPERATURE = 1e-6  # below, scores divided by it may not be finite
MIN_PENALTY = 0.01


@documented
@dataclass(frozen=True)
class ViewOptions(Options, panel=WHAT_IS_SEEN):
    """How many tokens of a video a question sees, and how frames are chosen where they do not all fit.

    Policies: ``"uniform"`` spreads the frames evenly, ``"recent"`` takes the last ones, ``"relevant"`` those that have
    most to do with the question, with their neighbours, and no more than those where the model has learned which frames
    a question is about; ``"elastic"`` spends half of the budget on many frames at one VoCo token each and the rest on
    the relevant ones at all k. Where everything fits, everything is seen.
    """

    max_voco_tokens: int | None = option(
        None,
        "Tokens of all frames that a question sees.",
        unit="tokens",
        at_least=1,
        unset="what the model's context has room for",
    )
    policy: Policy = option(
        "uniform",
        "Which frames, where not all fit: evenly spread, the last ones, those that have to do with the question, or "
        "(elastic) many at one token each and those at all of theirs.",
    )
    neighbours: int = option(2, "Frames on each side that a relevant one brings with it.", unit="frames", at_least=0)
    clock_every_seconds: float | None = option(
        None, "Tell the model the time as text, this often.", unit="seconds", above=0, unset="never"
    )

    @property
    def needs_scores(self) -> bool:
        """Whether frames are chosen by what is asked."""
        return self.policy in ("relevant", "elastic")


@documented
@dataclass(frozen=True)
class AnswerOptions(Options, panel="Generation"):
    """How answers are generated.

    What is None is taken from the checkpoint's generation_config.json. By default the likeliest token is taken, also
    where that file says to sample. With a temperature each question of a batch is sampled as if it were asked alone.

    With ``stop_at_end=False`` an answer always has ``max_new_tokens`` tokens, whatever the model says.
    """

    max_new_tokens: int = option(64, "Cut an answer after this many tokens.", unit="tokens", at_least=1)
    temperature: float = option(0.0, "0 takes the likeliest token; above 0 samples.", at_least=0)
    top_p: float | None = option(
        None,
        "Sample from the likeliest tokens that have this share together.",
        above=0,
        at_most=1,
        unset="the checkpoint's, or all",
    )
    top_k: int | None = option(
        None,
        "Sample from this many of the likeliest tokens; 0: all.",
        unit="tokens",
        at_least=0,
        unset="the checkpoint's, or 50",
    )
    repetition_penalty: float | None = option(
        None,
        "Make tokens that were said less likely; 1: not at all.",
        at_least=MIN_PENALTY,
        at_most=1 / MIN_PENALTY,
        unset="the checkpoint's, or 1",
    )
    seed: int = option(0, "Another seed samples other tokens where --temperature is above 0.")
    stop_at_end: bool = option(True, "Stop at the model's end-of-text token.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise UsageError(f"temperature={self.temperature}: has to be 0, or {MIN_TEMPERATURE:g} or more")
        for name in ("top_p", "top_k"):
            if getattr(self, name) is not None and not self.temperature:
                raise UsageError(
                    f"{name}={getattr(self, name)} is for sampling, and temperature=0 takes the likeliest token; "
                    "give a temperature above 0"
                )
