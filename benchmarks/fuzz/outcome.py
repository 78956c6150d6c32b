"""What can come of one mutated input."""

from __future__ import annotations

from dataclasses import dataclass

# What is right, however damaged the input was.
SOUND = (
    "right",  # the mutation does not matter: the same result as without it
    "partial",  # what can be read is read, the same in every run, and the loss is counted and said
    "error",  # one clear VocoVideoError
)
# What must never happen.
FINDINGS = (
    "exception",  # anything else than a VocoVideoError
    "crash",  # the process died
    "hang",  # it did not end in time
    "varies",  # another result in another run
    "silent",  # a wrong result without a word
)
OUTCOMES = SOUND + FINDINGS


@dataclass(frozen=True)
class Outcome:
    """One case: seed and mutation repeat it, outcome is one of OUTCOMES, detail is the error or the difference."""

    seed: int
    mutation: str
    outcome: str
    detail: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}, not {self.outcome!r}")

    @property
    def is_finding(self) -> bool:
        """Whether this is a fault of the package."""
        return self.outcome in FINDINGS
