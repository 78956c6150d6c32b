"""Multiple choice as text: options with letters, and the prompt that asks for one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from voco_video.data.letters import LETTERS, read_letter

__all__ = ["LETTERS", "LETTER_PROMPT", "filled_prompt", "likeliest", "read_letter", "split_options", "without_labels"]

LETTER_PROMPT = "{question}\n{options}\nAnswer with the option's letter from the given choices directly."
"""LLaVA-1.5's format for multiple choice (Liu et al., arXiv:2310.03744), which most scorers ask with."""

_PLACEHOLDERS = re.compile(r"\{(?:(question)|options(?::([^}]*))?)\}")
_LABEL = re.compile(r"\(?([A-Z])[.):]\s*")


def filled_prompt(prompt: str, question: str, options: Sequence[str] = ()) -> str:
    r"""Fill a question, and options as lines "A. ...", into a prompt.

    Some sets write letters in another way: ``{options:(A) }`` gives "(A) ...", and ``{options:}`` leaves letters out.

    >>> filled_prompt("{question}\n{options}", "who runs?", ["a dog", "a cat"])
    'who runs?\nA. a dog\nB. a cat'
    >>> filled_prompt("{question} {options:(A) }", "who runs?", ["a dog"])
    'who runs? (A) a dog'
    """

    def filled(match: re.Match[str]) -> str:
        if match[1]:
            return question
        label = "A. " if match[2] is None else match[2]
        return "\n".join(label.replace("A", letter) + option for letter, option in zip(LETTERS, options))

    return _PLACEHOLDERS.sub(filled, prompt)


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    r"""Split a question that has its options in its text, on lines that begin with "A.", "(A)" or "A:", from these.

    The last line with an A begins the options; a line without the next letter goes on with the option before it.

    Returns:
        The question, and the options without letters; no options where no line begins so.

    >>> split_options("What year is it?\n(A) 1636\n(B) 1366")
    ('What year is it?', ('1636', '1366'))
    """
    lines = text.strip().splitlines()
    labels = [_LABEL.match(line.strip()) for line in lines]
    starts = [place for place, label in enumerate(labels) if label and label[1] == "A"]
    if not starts:
        return text.strip(), ()
    options: list[str] = []
    for line, label in zip(lines[starts[-1] :], labels[starts[-1] :]):
        if label and len(options) < len(LETTERS) and label[1] == LETTERS[len(options)]:
            options.append(line.strip()[label.end() :].strip())
        elif line.strip():
            options[-1] = f"{options[-1]}\n{line.strip()}"
    return "\n".join(lines[: starts[-1]]).strip(), tuple(options)


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
