"""Generation settings of evaluation harnesses: Hugging Face's names of options, and texts to stop at."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voco_video.errors import UsageError
from voco_video.options.answering import AnswerOptions

log = logging.getLogger(__name__)

HARNESS_DEFAULT_STOP = "\n\n"
"""The stop text that lmms-eval adds to every task without one: it separates examples, and would cut answers after a
paragraph. Its own models ignore it too."""


@dataclass(frozen=True)
class Generation:
    """Settings for generating answers.

    Attributes:
        options: how tokens are chosen, and how many.
        until: an answer ends before the first of these texts.
    """

    options: AnswerOptions
    until: tuple[str, ...] = ()

    @staticmethod
    def of(settings: Mapping[str, Any], *, max_new_tokens: int) -> Generation:
        r"""Read a harness's settings of a request.

        ``max_new_tokens``, ``do_sample``, ``temperature``, ``top_p``, ``top_k``, ``repetition_penalty``, ``seed`` and
        ``until`` are used; what is for sampling only if ``do_sample`` is not false. Beams are not supported: a warning
        says so. What a task leaves out is the checkpoint's own.

        Args:
            max_new_tokens: default for settings without it.

        Raises:
            UsageError: an invalid number.

        >>> Generation.of({"temperature": 0, "until": ["\\n"]}, max_new_tokens=16).until
        ('\\n',)
        """
        if settings.get("num_beams") not in (None, 0, 1):
            log.warning("num_beams=%r has no effect: answers are greedy, or sampled", settings["num_beams"])
        temperature = _temperature(settings)
        names = ("max_new_tokens", "repetition_penalty", "seed", *(("top_p", "top_k") if temperature else ()))
        given = {name: settings[name] for name in names if settings.get(name) is not None}
        options = AnswerOptions(**{"max_new_tokens": max_new_tokens, "temperature": temperature, **given})
        until = settings.get("until") or ()
        stops = (until,) if isinstance(until, str) else tuple(until)
        return Generation(options, tuple(stop for stop in stops if stop and stop != HARNESS_DEFAULT_STOP))

    def cut(self, text: str) -> str:
        """Cut an answer where it should have ended.

        >>> Generation(AnswerOptions(), ("Q:", "###")).cut("a cat Q: and you?")
        'a cat '
        """
        ends = [text.find(stop) for stop in self.until if stop in text]
        return text[: min(ends)] if ends else text


def _temperature(settings: Mapping[str, Any]) -> float:
    if settings.get("do_sample") is False:
        return 0.0
    temperature = settings.get("temperature")
    if temperature is None:
        return 1.0 if settings.get("do_sample") else 0.0
    try:
        return float(temperature)
    except (TypeError, ValueError):
        raise UsageError(f"temperature={temperature!r} is not a number; 0 takes the likeliest token") from None
