"""Conversations as token ids, and which of them are answers: what training learns, and what `data check` looks at.

Texts come from the function that asking uses (`Backbone.conversation_text`), so a model is trained on the very prompts
that it will be asked with.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from voco_video.data.samples import Turn
from voco_video.errors import DataError, ModelError, UsageError
from voco_video.model.backbone import Backbone

Spans = list[tuple[int, int]]
"""Of each turn's answer the first character, and the one after its end token."""

_MOST_TOKENS_PER_BYTE = 2  # one, but for a blank put before a word and for what Unicode normalisation writes out


def encode_turns(
    backbone: Backbone, turns: Sequence[Turn], *, max_length: int, system: str = ""
) -> tuple[list[int], list[int]]:
    """A conversation as token ids, and for each token the turn whose answer it is part of (-1: none).

    Each question stands as it is asked, and its answer follows as the model has to generate it: up to and with the
    token that ends a turn, which is put there where the chat template writes none. Turns that do not fit in
    ``max_length`` tokens are left out whole.

    Args:
        system: the conversation's system message; "" for what the chat template writes without one.

    Raises:
        ModelError: the chat template refuses the conversation, loses text of it, or does not append turns one after
            the other, so that answers cannot be found in it.
        DataError: there is no answer, or none of whose words the tokenizer knows.
        UsageError: not even the first turn fits.
    """
    text, spans = conversation_spans(backbone, turns, system=system) if turns else ("", [(0, 0)])
    token_ids, ends = backbone.encoded(text)
    before = backbone.template.text_before_ids
    ids, owners = list(before), [-1] * len(before)
    turn = 0
    for token_id, end in zip(token_ids, ends, strict=True):
        while turn < len(spans) - 1 and end > spans[turn][1]:
            turn += 1
        first, last = spans[turn]
        ids.append(token_id)
        owners.append(turn if first < end <= last else -1)
    ids, owners = _cut(ids, owners, max_length)
    if turns and not _says_something(backbone, [i for i, owner in zip(ids, owners, strict=True) if owner >= 0]):
        raise DataError("its answers hold no token that says something, so there is nothing to learn")
    return ids, owners


def conversation_spans(backbone: Backbone, turns: Sequence[Turn], *, system: str = "") -> tuple[str, Spans]:
    """A conversation's text, and where its answers are; raises as `encode_turns` does, but knows nothing of lengths."""
    if not any(turn.answer.strip() for turn in turns):
        raise DataError("it has no answer, so there is nothing to learn")
    return (None if system else _joined(backbone, turns)) or _rendered(backbone, turns, system)


def _says_something(backbone: Backbone, labels: Sequence[int]) -> bool:
    ends = _known(backbone).end_ids
    text: str = backbone.tokenizer.decode([i for i in labels if i not in ends], skip_special_tokens=True)
    return bool(text.strip())


def check_turns(backbone: Backbone, turns: Sequence[Turn], *, max_length: int, system: str = "") -> None:
    """Raise what `encode_turns` would, but count tokens only where a text may have too many."""
    text, _ = conversation_spans(backbone, turns, system=system)
    if _MOST_TOKENS_PER_BYTE * len(text.encode(errors="replace")) > max_length:
        encode_turns(backbone, turns, max_length=max_length, system=system)


def check_rendering(backbone: Backbone, turns: Sequence[Turn], *, max_length: int, system: str = "") -> None:
    """Make sure that a conversation's token ids hold its questions and answers, and its labels the answers.

    Raises:
        ModelError: they cannot, so whatever is trained on such conversations learns something else.
        DataError, UsageError: as `encode_turns` has it.
    """
    ids, owners = encode_turns(backbone, turns, max_length=max_length, system=system)
    everything = _read_back(backbone, ids)
    for number, turn in enumerate(turns[: max(owners) + 1]):
        labels = _read_back(backbone, [i for i, owner in zip(ids, owners, strict=True) if owner == number])
        for what, text, where in (("question", turn.question, everything), ("answer", turn.answer, labels)):
            tokens = backbone.token_ids(_typed(backbone, text))
            if _read_back(backbone, tokens) not in where:
                raise ModelError(
                    f"the {what} {text.strip()!r:.80} is not in the tokens that it was turned into ({where!r:.200}); "
                    "the checkpoint's chat template and tokenizer do not fit each other"
                )


def _read_back(backbone: Backbone, ids: Sequence[int]) -> str:
    """Token ids as text without what tokenizers change: blanks and the Unicode form."""
    text = unicodedata.normalize("NFKC", backbone.tokenizer.decode(list(ids), skip_special_tokens=False))
    return "".join(text.casefold().split())


# ---------------------------------------------------------------------- by the chat template, turn after turn


@dataclass(frozen=True)
class _ToldTurn:
    """A turn as it is trained on, and where that differs, as the chat template tells it in later turns.

    Attributes:
        opening: what asking adds to the turns before: the question, up to where the answer begins.
        lead: what the template writes between that and the answer.
        end: from the answer to its end token, which is put there where the template writes none.
        rest: what the template writes after that.
        told_opening, told_rest: what it writes before and after the answer when later turns follow.
    """

    opening: str
    lead: str
    end: str
    rest: str
    told_opening: str
    told_rest: str


def _rendered(backbone: Backbone, turns: Sequence[Turn], system: str = "") -> tuple[str, Spans]:
    text = ""
    spans: Spans = []
    for turn, told in zip(turns, _told(backbone, turns, system), strict=True):
        first = len(text) + len(told.opening)
        text += f"{told.opening}{told.lead}{_typed(backbone, turn.answer)}{told.end}{told.rest}"
        spans.append((first, len(text) - len(told.rest)))
    return text, spans


def _told(backbone: Backbone, turns: Sequence[Turn], system: str) -> list[_ToldTurn]:
    messages = [{"role": "system", "content": system}] if system else []
    found: list[_ToldTurn] = []
    history = ""
    for turn in turns:
        question, answer = _typed(backbone, turn.question), _typed(backbone, turn.answer)
        messages.append({"role": "user", "content": question})
        asked = backbone.conversation_text(messages)
        messages.append({"role": "assistant", "content": answer})
        told = backbone.conversation_text(messages, add_generation_prompt=False)
        if not (asked.startswith(history) and told.startswith(history)):
            raise ModelError("the chat template changes earlier turns when others follow, so it cannot be trained on")
        # Some templates tell an answer after other blanks than those that ask for it.
        is_same = told.startswith(asked)
        after_question = told.find(question, len(history)) + len(question)
        num_shared = len(os.path.commonprefix([asked, told]))  # noqa: RUF071 (of characters, not of paths)
        begin = len(asked) if is_same else max(after_question, num_shared)
        place = told.find(answer, begin)
        if question not in asked[len(history) :] or place < 0:
            raise ModelError("the chat template writes a question or an answer elsewhere than in its turn")
        told_rest = told[place + len(answer) :]
        lead = told[begin:place] if is_same else ""
        end, rest = _ended(backbone, told_rest)
        found.append(_ToldTurn(asked[len(history) :], lead, end, rest, told[len(history) : place], told_rest))
        history = told
    return found


def _typed(backbone: Backbone, text: str) -> str:
    """A content as it stands in the rendered text."""
    return backbone.typed_text.broken(text.strip())


def _ended(backbone: Backbone, after: str) -> tuple[str, str]:
    """What follows an answer, up to the token that ends a turn, and after it."""
    ends = _known(backbone).end_tokens
    stops = [after.find(end) + len(end) for end in ends if end in after]
    if stops or not ends:
        stop = min(stops, default=len(after))
        return after[:stop], after[stop:]
    return ends[0], after  # without one a model would never learn to stop


# ---------------------------------------------------------------------- faster, from what stands around any turn


@dataclass(frozen=True)
class _Around:
    """What stands before a question, and between it and its answer: asked for, and told; and what follows."""

    before: str
    between: str
    told_before: str
    told_between: str
    turn: _ToldTurn


@dataclass
class _Known:
    """What a tokenizer's chat template was found to do."""

    chat_template: str | None
    end_tokens: tuple[str, ...]
    end_ids: frozenset[int]
    around: list[_Around] | None = None


_known_tokenizers: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()


def _known(backbone: Backbone) -> _Known:
    known = _known_tokenizers.get(backbone.tokenizer)
    if known is None or known.chat_template != backbone.chat_template:
        tokenizer = backbone.tokenizer
        ends = backbone.hf_model.generation_config.eos_token_id
        end_ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
        known = _Known(
            chat_template=backbone.chat_template,
            end_tokens=tuple(tokenizer.convert_ids_to_tokens(end_ids)),
            end_ids=frozenset(end_ids),
        )
        _known_tokenizers[tokenizer] = known
    return known


def _joined(backbone: Backbone, turns: Sequence[Turn]) -> tuple[str, Spans] | None:
    """As `_rendered`, from what stands around any turn, with one rendering to confirm it; None where that differs.

    Rendering turn after turn took a third of a training step of voco-tiny.
    """
    pieces = _around_turns(backbone)
    if not pieces:
        return None
    text, told = "", ""
    messages: list[dict[str, str]] = []
    spans: Spans = []
    for number, turn in enumerate(turns):
        around, question, answer = (
            pieces[min(number, 1)],
            _typed(backbone, turn.question),
            _typed(backbone, turn.answer),
        )
        text += f"{around.before}{question}{around.between}"
        first = len(text)
        text += f"{around.turn.lead}{answer}{around.turn.end}"
        spans.append((first, len(text)))
        text += around.turn.rest
        told += f"{around.told_before}{question}{around.told_between}{answer}{around.turn.told_rest}"
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return (text, spans) if told == backbone.conversation_text(messages, add_generation_prompt=False) else None


def _around_turns(backbone: Backbone) -> list[_Around]:
    """Of a first turn and of later ones; none where turns do not follow such a pattern."""
    known = _known(backbone)
    if known.around is None:
        marks = [Turn(f"{number}question{number}", f"{number}answer{number}") for number in (1, 2)]
        try:
            turns = _told(backbone, marks, "")
        except ModelError:
            turns = []
        known.around = []
        for mark, turn in zip(marks, turns):
            asked, told = turn.opening.split(mark.question), turn.told_opening.split(mark.question)
            if not len(asked) == len(told) == 2:
                known.around = []
                break
            known.around.append(_Around(asked[0], asked[1], told[0], told[1], turn))
    return known.around


def _cut(ids: list[int], owners: list[int], max_length: int) -> tuple[list[int], list[int]]:
    if len(ids) <= max_length:
        return ids, owners
    whole = owners[max_length]  # the turn that the limit cuts, or a question after it
    last = max((i for i in range(max_length) if owners[i] >= 0 and owners[i] != whole), default=-1)
    if last < 0:
        raise UsageError(f"max_length={max_length}: the first turn alone has more tokens ({len(ids)} in all); raise it")
    return ids[: last + 1], owners[: last + 1]
