"""What people type, as token ids: a special token in it, such as ``<image>`` or ``</s>``, is text like any other.

Tokenizers find special tokens wherever they stand, in the chat template's text and in a question alike, and not all of
them can be told otherwise. So each one in typed text is broken: a mark goes in behind its first character, and a copy
of the tokenizer that knows the mark as a token of its own writes the rest, from which the mark is left out.
"""

from __future__ import annotations

import copy
import re
from functools import cached_property
from typing import Any

from voco_video.errors import UsageError

_MARK = "\ufdd0"  # a code point that stands for no character


class TypedText:
    """Special tokens of one tokenizer, and how typed text gets past them.

    Args:
        tokenizer: of the checkpoint; it is not changed.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        names = {name for name in added | set(tokenizer.all_special_tokens) if len(name.strip()) > 1}
        # In any case: a normaliser may ignore case, and breaking one word too many does little harm.
        self._special = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)", re.I)

    def broken(self, text: str) -> str:
        """Typed text that no special token can be found in; the same text where there is none.

        Raises:
            UsageError: it holds bytes that are no text.
        """
        if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError(f"{text!r} holds bytes that are not text in UTF-8; type it again")
        if self._special.search(text) is None:
            return text
        text = text.replace(_MARK, "")
        while match := self._special.search(text):
            place = match.start() + 1
            text = text[:place] + _MARK + text[place:]
        return text

    def token_ids(self, text: str) -> list[int]:
        """Make token ids of a whole prompt whose typed parts are `broken`; nothing is put before or behind it."""
        if _MARK not in text:
            return list(self._tokenizer(text, add_special_tokens=False).input_ids)
        marking = self._marking_tokenizer
        mark_id = marking.convert_tokens_to_ids(_MARK)
        return [token for token in marking(text, add_special_tokens=False).input_ids if token != mark_id]

    def encoded(self, text: str) -> tuple[list[int], list[int]]:
        """Return the same token ids, and for each the place in the text behind its last character."""
        if _MARK not in text:
            encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            return list(encoded.input_ids), [end for _, end in encoded.offset_mapping]
        marking = self._marking_tokenizer
        mark_id = marking.convert_tokens_to_ids(_MARK)
        encoded = marking(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(encoded.input_ids, encoded.offset_mapping, strict=True)
        tokens = [(token, end) for token, (_, end) in pairs if token != mark_id]
        return [token for token, _ in tokens], [end for _, end in tokens]

    @cached_property
    def _marking_tokenizer(self) -> Any:
        from transformers import AddedToken

        marking = copy.deepcopy(self._tokenizer)
        marking.add_tokens([AddedToken(_MARK, special=True, normalized=False)], special_tokens=True)
        return marking
