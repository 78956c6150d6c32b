"""Strict parsing of a judge's reply: anything but a clear verdict is a failure, never a score."""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass
from typing import Any

MAX_SCORE = 5
_MAX_LENGTH = 4000
_KEYS = {"pred", "score"}
_SHOWN = 60


class UnparsableReplyError(ValueError):
    """A reply that is no verdict; the message says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's opinion of a prediction.

    Attributes:
        is_right: whether the prediction means the same as the reference.
        score: 0 to 5, as the judge gave it, decimals included.
    """

    is_right: bool
    score: float


def parse_reply(reply: str) -> Verdict:
    """Parse the verdict in a reply.

    The reply has to hold one dictionary, in the spelling of Python or JSON, with "pred" and "score" and nothing else.
    Prose or a code fence may surround it, but no other brackets. "pred" is yes or no, in lower or upper case; "score"
    is a number from 0 to 5, or such a number as text.

    Raises:
        UnparsableReplyError: the reply is anything else.

    >>> parse_reply("Sure! {'pred': 'yes', 'score': 4.8}")
    Verdict(is_right=True, score=4.8)
    """
    values = _dictionary(reply)
    said = values["pred"]
    word = said.strip().lower() if isinstance(said, str) else said
    if word not in ("yes", "no") or not isinstance(said, str):
        raise UnparsableReplyError(f"pred is {said!r:.{_SHOWN}}, neither 'yes' nor 'no'")
    return Verdict(word == "yes", _score(values["score"]))


def _dictionary(reply: str) -> dict[str, Any]:
    if not reply.strip():
        raise UnparsableReplyError("the reply is empty")
    found = re.fullmatch(r"[^{}\[\]]*({[^{}]*})[^{}\[\]]*", reply) if len(reply) <= _MAX_LENGTH else None
    if found is None:
        raise UnparsableReplyError(f"{reply!r:.{_SHOWN}} does not hold one dictionary, with at most prose around it")
    pairs = _pairs(found[1])
    keys = [key for key, _ in pairs]
    if sorted(map(str, keys)) != sorted(_KEYS):
        raise UnparsableReplyError(f"the keys are {', '.join(map(repr, keys)) or 'none'}, not 'pred' and 'score'")
    return dict(pairs)


def _pairs(text: str) -> list[tuple[Any, Any]]:
    """Parse a dictionary into its keys and values, repeated keys included."""
    try:
        pairs: list[tuple[Any, Any]] = json.loads(text, object_pairs_hook=list)
        return pairs
    except ValueError:
        pass
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Dict):
            raise UnparsableReplyError(f"{text!r:.{_SHOWN}} is not a dictionary")
        return [(ast.literal_eval(key), ast.literal_eval(value)) for key, value in zip(node.keys, node.values) if key]
    except UnparsableReplyError:
        raise
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UnparsableReplyError(f"{text!r:.{_SHOWN}} is neither Python nor JSON") from error


def _score(value: Any) -> float:
    try:
        number = float(value) if type(value) in (int, float, str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= MAX_SCORE:
        raise UnparsableReplyError(f"score is {value!r:.{_SHOWN}}, not a number from 0 to {MAX_SCORE}")
    return number
