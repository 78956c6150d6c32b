"""Conversations as token ids, and which of them belong to answers: for training, and for `data check`.

Texts come from the function that is used for asking (`Backbone.conversation_text`), so a model is trained on exactly
the prompts that it will be asked with.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from voco_video.data.samples import Turn
from voco_video.errors import DataError, ModelError, UsageError
from voco_video.model.backbone import Backbone

Spans = list[tuple[int, int]]
"""For each turn's answer its first character, and the character after its end token."""

_MOST_TOKENS_PER_BYTE = 2  # usually at most 1; blanks before words and Unicode normalisation can add characters


def encode_turns(
    backbone: Backbone, turns: Sequence[Turn], *, max_length: int, system: str = "", has_frames: bool = True
) -> tuple[list[int], list[int]]:
    """Encode a conversation as token ids, and return for each token the turn whose answer it belongs to (-1: none).

    Each question is written as it is asked, and its answer as the model has to generate it, including the token that
    ends a turn, which is added if the chat template writes none. Turns that do not fit completely in ``max_length``
    tokens are left out.

    Args:
        system: the conversation's system message; "" for the default of the chat template.
        has_frames: whether it is about frames: then these are the ids behind the last of them.

    Raises:
        ModelError: the chat template refuses the conversation, loses a part of its text, or does not write turns one
            after the other, so that answers cannot be found.
        DataError: there is no answer, or the tokenizer knows none of its words.
        UsageError: not even the first turn fits.
    """
    text, spans = "", [(0, 0)]
    if turns:
        text, spans = conversation_spans(backbone, turns, system=system, has_frames=has_frames)
    token_ids, ends = backbone.encoded(text, has_frames=has_frames)
    ids, owners = list[int](), list[int]()
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


def conversation_spans(
    backbone: Backbone, turns: Sequence[Turn], *, system: str = "", has_frames: bool = True
) -> tuple[str, Spans]:
    """Write a conversation as text, with the places of its answers; raises as `encode_turns` does, except on length."""
    if not any(turn.answer.strip() for turn in turns):
        raise DataError("it has no answer, so there is nothing to learn")
    return (None if system else _joined(backbone, turns, has_frames)) or _rendered(backbone, turns, system, has_frames)


def _says_something(backbone: Backbone, labels: Sequence[int]) -> bool:
    ends = _known(backbone).end_ids
    text: str = backbone.tokenizer.decode([i for i in labels if i not in ends], skip_special_tokens=True)
    return bool(text.strip())


def check_turns(
    backbone: Backbone, turns: Sequence[Turn], *, max_length: int, system: str = "", has_frames: bool = True
) -> None:
    """Raise what `encode_turns` would raise, but count tokens only if there may be too many."""
    text, _ = conversation_spans(backbone, turns, system=system, has_frames=has_frames)
    if _MOST_TOKENS_PER_BYTE * len(text.encode(errors="replace")) > max_length:
        encode_turns(backbone, turns, max_length=max_length, system=system, has_frames=has_frames)


def check_rendering(
    backbone: Backbone, turns: Sequence[Turn], *, max_length: int, system: str = "", has_frames: bool = True
) -> None:
    """Check that a conversation's token ids contain its questions and answers, and its labels the answers.

    Raises:
        ModelError: they do not, so training on such conversations would teach something else.
        DataError, UsageError: see `encode_turns`.
    """
    ids, owners = encode_turns(backbone, turns, max_length=max_length, system=system, has_frames=has_frames)
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
    """Decode token ids to a text without blanks and in one Unicode form, since tokenizers may change both."""
    text = unicodedata.normalize("NFKC", backbone.tokenizer.decode(list(ids), skip_special_tokens=False))
    return "".join(text.casefold().split())


# ---------------------------------------------------------------------- by the chat template, turn after turn


@dataclass(frozen=True)
class _RenderedTurn:
    """The texts around a turn's answer: as it is trained on, and as the chat template repeats it before later turns.

    Attributes:
        opening: the text that asking adds to the turns before: the question, up to where the answer begins.
        lead: the template's text between that and the answer.
        end: the text from the answer to its end token, which is added if the template writes none.
        rest: the template's text after that.
        told_opening, told_rest: the template's text before and after the answer if later turns follow.
    """

    opening: str
    lead: str
    end: str
    rest: str
    told_opening: str
    told_rest: str


def _rendered(
    backbone: Backbone, turns: Sequence[Turn], system: str = "", has_frames: bool = True
) -> tuple[str, Spans]:
    text = ""
    spans: Spans = []
    for turn, told in zip(turns, _render_turns(backbone, turns, system, has_frames), strict=True):
        first = len(text) + len(told.opening)
        text += f"{told.opening}{told.lead}{_typed(backbone, turn.answer)}{told.end}{told.rest}"
        spans.append((first, len(text) - len(told.rest)))
    return text, spans


def _render_turns(backbone: Backbone, turns: Sequence[Turn], system: str, has_frames: bool) -> list[_RenderedTurn]:
    messages = [{"role": "system", "content": system}] if system else []
    rendered: list[_RenderedTurn] = []
    history = ""
    for turn in turns:
        question, answer = _typed(backbone, turn.question), _typed(backbone, turn.answer)
        messages.append({"role": "user", "content": question})
        asked = backbone.conversation_text(messages, has_frames=has_frames)
        messages.append({"role": "assistant", "content": answer})
        told = backbone.conversation_text(messages, has_frames=has_frames, add_generation_prompt=False)
        if not (asked.startswith(history) and told.startswith(history)):
            raise ModelError("the chat template changes earlier turns when others follow, so it cannot be trained on")
        # Some templates write other blanks before a given answer than before an answer to be generated.
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
        rendered.append(_RenderedTurn(asked[len(history) :], lead, end, rest, told[len(history) : place], told_rest))
        history = told
    return rendered


def _typed(backbone: Backbone, text: str) -> str:
    """Write a message's content as it appears in the rendered text."""
    return backbone.typed_text.broken(text.strip())


def _ended(backbone: Backbone, after: str) -> tuple[str, str]:
    """Split the text after an answer behind the token that ends a turn."""
    ends = _known(backbone).end_tokens
    stops = [after.find(end) + len(end) for end in ends if end in after]
    if stops or not ends:
        stop = min(stops, default=len(after))
        return after[:stop], after[stop:]
    return ends[0], after  # without an end token a model would never learn to stop


# ---------------------------------------------------------------------- faster, from what stands around any turn


@dataclass(frozen=True)
class _Around:
    """The texts before a question and between it and its answer, as asked and as repeated, and those after it."""

    before: str
    between: str
    told_before: str
    told_between: str
    turn: _RenderedTurn


@dataclass
class _Known:
    """Facts about a tokenizer and its chat template."""

    layout: tuple[str | None, Any]
    end_tokens: tuple[str, ...]
    end_ids: frozenset[int]
    around: dict[bool, list[_Around]] = field(default_factory=dict)  # with frames, and without


_known_tokenizers: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()


def _known(backbone: Backbone) -> _Known:
    known = _known_tokenizers.get(backbone.tokenizer)
    layout = backbone.chat_template, backbone.template.as_trained
    if known is None or known.layout != layout:
        tokenizer = backbone.tokenizer
        ends = backbone.hf_model.generation_config.eos_token_id
        end_ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
        known = _Known(
            layout=layout,
            end_tokens=tuple(tokenizer.convert_ids_to_tokens(end_ids)),
            end_ids=frozenset(end_ids),
        )
        _known_tokenizers[tokenizer] = known
    return known


def _joined(backbone: Backbone, turns: Sequence[Turn], has_frames: bool = True) -> tuple[str, Spans] | None:
    """Do the same as `_rendered` from the texts around any turn, checked by one rendering; None if that differs.

    Rendering each turn took a third of a training step of voco-tiny.
    """
    pieces = _around_turns(backbone, has_frames)
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
    whole = backbone.conversation_text(messages, has_frames=has_frames, add_generation_prompt=False)
    return (text, spans) if told == whole else None


def _around_turns(backbone: Backbone, has_frames: bool) -> list[_Around]:
    """Return the texts around a first turn and around later ones; none if the template has no such pattern."""
    known = _known(backbone)
    if has_frames not in known.around:
        marks = [Turn(f"{number}question{number}", f"{number}answer{number}") for number in (1, 2)]
        try:
            turns = _render_turns(backbone, marks, "", has_frames)
        except ModelError:
            turns = []
        around: list[_Around] = []
        for mark, turn in zip(marks, turns):
            asked, told = turn.opening.split(mark.question), turn.told_opening.split(mark.question)
            if not len(asked) == len(told) == 2:
                around = []
                break
            around.append(_Around(asked[0], asked[1], told[0], told[1], turn))
        known.around[has_frames] = around
    return known.around[has_frames]


def _cut(ids: list[int], owners: list[int], max_length: int) -> tuple[list[int], list[int]]:
    if len(ids) <= max_length:
        return ids, owners
    whole = owners[max_length]  # the turn that the limit cuts, or a question after it
    last = max((i for i in range(max_length) if owners[i] >= 0 and owners[i] != whole), default=-1)
    if last < 0:
        raise UsageError(f"max_length={max_length}: the first turn alone has more tokens ({len(ids)} in all); raise it")
    return ids[: last + 1], owners[: last + 1]
