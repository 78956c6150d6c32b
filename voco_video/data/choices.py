"""Multiple choice as text: options with letters, and the prompt that asks for one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from voco_video.data.letters import LETTERS, read_letter

__all__ = ["LETTERS", "LETTER_PROMPT", "filled_prompt", "likeliest", "read_letter", "without_labels"]

LETTER_PROMPT = "{question}\n{options}\nAnswer with the option's letter from the given choices directly."
"""LLaVA-1.5's format for multiple choice (Liu et al., arXiv:2310.03744), which most scorers ask with."""

_PLACEHOLDERS = re.compile(r"\{(question|options)\}")
_LABEL = re.compile(r"\(?([A-Z])[.):]\s*")


def filled_prompt(prompt: str, question: str, options: Sequence[str] = ()) -> str:
    r"""Fill a question, and options as lines "A. ...", into a prompt.

    >>> filled_prompt("{question}\n{options}", "who runs?", ["a dog", "a cat"])
    'who runs?\nA. a dog\nB. a cat'
    """
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))
    values = {"question": question, "options": lines}
    return _PLACEHOLDERS.sub(lambda match: values[match[1]], prompt)


def without_labels(options: Sequence[str]) -> tuple[str, ...]:
    """Remove the letters that some sets write before options; unless every option has its own, change nothing.

    >>> without_labels(["A. Apples.", "B. Candles."])
    ('Apples.', 'Candles.')
    """
    labels = [_LABEL.match(option) for option in options]
    if not all(label and label[1] == letter for label, letter in zip(labels, LETTERS)):
        return tuple(options)
    bare = tuple(option[label.end() :] if label else option for label, option in zip(labels, options))
    return bare if all(bare) else tuple(options)


def likeliest(log_likelihoods: Sequence[float], num_tokens: Sequence[int] | None = None) -> str:
    """Return the letter of the likeliest option; of equally likely ones the first.

    Args:
        log_likelihoods: of each option, summed over its tokens.
        num_tokens: of each option, to compare means instead of sums, which favour short options.

    >>> likeliest([-3.0, -4.0]), likeliest([-3.0, -4.0], [2, 4])
    ('A', 'B')
    """
    values = [score / count for score, count in zip(log_likelihoods, num_tokens or [1] * len(log_likelihoods))]
    return LETTERS[values.index(max(values))]
