"""Multiple choice as text (pure): options under letters, the prompt that asks for one, and the letter in an answer."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

LETTERS = string.ascii_uppercase

LETTER_PROMPT = "{question}\n{options}\nAnswer with the option's letter from the given choices directly."
"""LLaVA-1.5's format for multiple choice (Liu et al., arXiv:2310.03744), which most scorers ask with."""

_PLACEHOLDERS = re.compile(r"\{(question|options)\}")
_LABEL = re.compile(r"\(?([A-Z])[.):]\s*")
_ALONE = re.compile(r"[^\w\s]*([A-Z])[^\w\s]*", re.IGNORECASE)
_FIRST = re.compile(r"[^\w\s]*([A-Z])(?:\s*[^\w\s'’-].*|\s*\n.*)", re.IGNORECASE | re.DOTALL)
_SAID = re.compile(
    r"\b(?:answer|option|choice)(?:\s+is)?(?:\s+option)?\s*:?\s*[^\w\s]*([A-Z])(?=[^\w\s'’-]|\s*$|\s+(?:or|and)\b)",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"\(([A-Z])\)")


def filled_prompt(prompt: str, question: str, options: Sequence[str] = ()) -> str:
    """A prompt with its question, and with its options as lines "A. ...".

    >>> filled_prompt("{question}\\n{options}", "who runs?", ["a dog", "a cat"])
    'who runs?\\nA. a dog\\nB. a cat'
    """
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))
    values = {"question": question, "options": lines}
    return _PLACEHOLDERS.sub(lambda match: values[match[1]], prompt)


def without_labels(options: Sequence[str]) -> tuple[str, ...]:
    """Options without the letters that some sets write before them; as they are unless all have their own.

    >>> without_labels(["A. Apples.", "B. Candles."])
    ('Apples.', 'Candles.')
    """
    labels = [_LABEL.match(option) for option in options]
    if not all(label and label[1] == letter for label, letter in zip(labels, LETTERS)):
        return tuple(options)
    bare = tuple(option[label.end() :] if label else option for label, option in zip(labels, options))
    return bare if all(bare) else tuple(options)


def likeliest(log_likelihoods: Sequence[float], num_tokens: Sequence[int] | None = None) -> str:
    """The letter of the likeliest option; of equally likely ones the first.

    Args:
        log_likelihoods: of each option, summed over its tokens.
        num_tokens: of each option, to take means instead of sums; otherwise a longer option is the unlikelier one,
            whatever it says.

    >>> likeliest([-3.0, -4.0]), likeliest([-3.0, -4.0], [2, 4])
    ('A', 'B')
    """
    values = [score / count for score, count in zip(log_likelihoods, num_tokens or [1] * len(log_likelihoods))]
    return LETTERS[values.index(max(values))]


def read_letter(text: str, options: Sequence[str]) -> str | None:
    """The option that an answer names; None where it names none.

    The first of these that holds:

    1. it is a letter: "B", "(b)", "B.";
    2. it is an option's text, capitals and the full stop aside;
    3. it begins with a letter that stands alone: "B. to see", "B: to see", "**B**, for", but not "A man runs";
    4. it begins with a letter and that option's text: "B to see the toy";
    5. it says so: "the answer is B", "Option: (B)", of one letter only;
    6. one letter, and no other, stands in brackets: "I think (B) fits".

    >>> read_letter("The best answer is B.", ["a dog", "a cat"])
    'B'
    """
    text, known = text.strip(), LETTERS[: len(options)]
    texts = {letter: _plain(option) for letter, option in zip(known, options)}
    found = [
        _letters(_ALONE.fullmatch(text)),
        {letter for letter, option in texts.items() if option == _plain(text)},
        _letters(_FIRST.fullmatch(text)),
        {letter for letter, option in texts.items() if f"{letter.lower()} {option}" == _plain(text)},
        {letter.upper() for letter in _SAID.findall(text)},
        {letter.upper() for letter in _BRACKETED.findall(text)},
    ]
    named = next((letters for letters in found if letters & set(known)), set())
    return named.pop() if len(named) == 1 else None


def _letters(match: re.Match[str] | None) -> set[str]:
    return {match[1].upper()} if match else set()


def _plain(text: str) -> str:
    return " ".join(text.lower().strip().rstrip(".").split())
