"""Several questions on one view, generated together token by token: streamed, stopped and cancelled one by one.

The answers are those of `voco_video.answer.compressed_video.CompressedVideo.ask`; what differs is that each question
may have its own history, length, stop words and listener, and may be given up in the middle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from voco_video.answer.answering_model import Engine
from voco_video.answer.choosing import end_token_ids
from voco_video.answer.compressed_video import AS_FITS, CompressedVideo
from voco_video.answer.frame_budget import FrameSelection, group_by_view
from voco_video.answer.generate import (
    Answer,
    Message,
    answer_note,
    frame_attention,
    generate_steps,
    looked_at,
    prompt_ids,
)
from voco_video.errors import ModelError, UsageError
from voco_video.model.memory import unless_out_of_memory
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions, ViewOptions

_BATCH_CHARACTERS = 1000
Finish = Literal["stop", "length"]


class CancelledAskError(Exception):
    """The client that asked has gone, or the server stops."""


@dataclass(frozen=True)
class Answered:
    """An answer and what a protocol tells of it.

    Attributes:
        answer: as `CompressedVideo.ask` gives it; text and tokens end before a stop word.
        finish: "stop" at the model's end or at a stop word, "length" at the limit.
        num_prompt_tokens: of frames, conversation and question.
        num_new_tokens: that were generated.
    """

    answer: Answer
    finish: Finish
    num_prompt_tokens: int
    num_new_tokens: int


@dataclass(eq=False)
class Ask:
    """One question that waits for its answer.

    Attributes:
        video: what it is about; None for a question without a video.
        on_piece: called with each piece of the text, in the thread that owns the model; None where nobody listens.
        future: gets the `Answered`.
        is_cancelled: set by who gave up on it.
    """

    video: CompressedVideo | None
    question: str
    history: tuple[Message, ...] = ()
    view: ViewOptions = AS_FITS
    num_voco_tokens: int | None = None
    options: AnswerOptions = AnswerOptions()
    stop: tuple[str, ...] = ()
    with_attention: bool = False
    on_piece: Callable[[str], None] | None = None
    future: Future[Answered] = field(default_factory=Future)
    is_cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def key(self) -> Hashable:
        """Equal for questions that may be answered together: same frames, view and way of choosing tokens."""
        options = replace(self.options, max_new_tokens=1, seed=self.options.seed if self.options.temperature else 0)
        num_characters = len(self.question) + sum(len(turn.content) for turn in self.history)
        length = num_characters // _BATCH_CHARACTERS  # all prompts of a batch are padded to the longest
        return frames_key(self.video), self.view, self.num_voco_tokens, options, length

    def cancel(self) -> None:
        """Give up on the answer; generation stops before its next token."""
        self.is_cancelled.set()

    def fail(self, error: BaseException) -> None:
        """Hand an error to who waits."""
        with suppress(InvalidStateError):  # nobody waits any more
            self.future.set_exception(error)


def frames_key(video: CompressedVideo | None) -> Hashable:
    """Return what is equal for equal frames of equal entries, and differs for an entry that has grown."""
    if video is None:
        return None
    return tuple((p.entry.digest, p.start, p.stop, p.entry.created.timestamp()) for p in video.parts)


def answer_together(model: VocoModel, asks: Sequence[Ask], engine: Engine | None = None) -> None:
    """Answer questions with equal `Ask.key`, and hand each its answer, or why there is none.

    Args:
        engine: generates the answers in place of the model.
    """
    selections: list[tuple[Ask, FrameSelection | None]] = []
    for ask in asks:
        try:
            selections.append((ask, _selection(ask)))
        except Exception as error:
            ask.fail(error)
    seen = [selection for _, selection in selections if selection is not None]
    by_view = [(s, [selections[i][0] for i in numbers]) for s, numbers in group_by_view(seen)] if seen else []
    groups: list[tuple[FrameSelection | None, list[Ask]]] = [*by_view]
    if blind := [ask for ask, selection in selections if selection is None]:
        groups.append((None, blind))
    for selection, group in groups:
        try:
            _answer_group(model, selection, group, engine)
        except Exception as error:
            for ask in group:
                ask.fail(error)


def _selection(ask: Ask) -> FrameSelection | None:
    if ask.is_cancelled.is_set():
        raise CancelledAskError
    if ask.video is None:
        return None
    return ask.video.view(ask.question, num_voco_tokens=ask.num_voco_tokens, options=ask.view)


def _answer_group(
    model: VocoModel, selection: FrameSelection | None, asks: Sequence[Ask], engine: Engine | None
) -> None:
    video = asks[0].video
    prefix = model.empty_prefix()
    if video is not None and selection is not None:
        prefix = video.prefix_of(selection, asks[0].view, reads=engine is None)
    rows: list[_Row] = []
    for ask in asks:
        try:
            if ask.with_attention and len(prefix.frame_slots) and (prefix.state is not None or engine is not None):
                raise UsageError(
                    "with_attention: where an answer of this model looked cannot be measured; leave it out"
                )
            prompt = prompt_ids(model, prefix, ask.question, ask.history)
            _check_room(model, prefix, prompt)
            rows.append(_Row(model, ask, prompt))
        except Exception as error:
            ask.fail(error)
    by_length: dict[int, list[_Row]] = {}
    for row in rows:  # padding would go into the state of models that do not keep all keys
        by_length.setdefault(0 if model.backbone.keeps_all_keys else len(row.prompt), []).append(row)
    if engine is not None:
        _ask_engine(model, prefix, rows, engine)
        by_length.clear()
    for together in by_length.values():
        _generate(model, prefix, together)
    for row in rows:
        if not row.ask.future.done():
            try:
                answered = _answered(model, prefix, selection, row)
                with suppress(InvalidStateError):
                    row.ask.future.set_result(answered)
            except Exception as error:
                row.ask.fail(error)


def _check_room(model: VocoModel, prefix: Prefix, prompt: Sequence[int]) -> None:
    context = model.backbone.context_length
    if context is not None and prefix.text_start + len(prompt) >= context and not len(prefix.frame_slots):
        raise UsageError(f"the conversation takes {len(prompt)} tokens, but the model reads {context}; shorten it")


def _generate(model: VocoModel, prefix: Prefix, rows: Sequence[_Row]) -> None:
    """Generate for rows until each has ended; in halves where memory runs out."""
    waiting = [list(rows)]
    while waiting:
        batch = waiting.pop()
        done = unless_out_of_memory(lambda batch=batch: _run(model, prefix, batch))  # type: ignore[misc]
        if done is not None:
            continue
        if len(batch) == 1:
            batch[0].ask.fail(ModelError("out of memory with one question; ask about fewer frames"))
            continue
        for row in batch:
            row.start_again()
        half = len(batch) // 2
        waiting += [batch[half:], batch[:half]]


def _run(model: VocoModel, prefix: Prefix, rows: Sequence[_Row]) -> None:
    options = replace(rows[0].ask.options, max_new_tokens=max(row.ask.options.max_new_tokens for row in rows))
    for token_ids, log_probs in generate_steps(model, prefix, [row.prompt for row in rows], options=options):
        for row, token_id, log_prob in zip(rows, token_ids.tolist(), log_probs.tolist(), strict=True):
            if not row.is_over:
                row.take(token_id, log_prob)
        if all(row.is_over for row in rows):
            return


def _ask_engine(model: VocoModel, prefix: Prefix, rows: Sequence[_Row], engine: Engine) -> None:
    """Have an engine generate all rows at once, each in a thread."""

    def ask(row: _Row) -> None:
        try:
            tokens = engine.stream(model, prefix, row.prompt, options=row.ask.options)
            for token_id, log_prob in tokens:
                row.take(token_id, log_prob)
                if row.is_over:
                    break
        except Exception as error:
            row.ask.fail(error)

    with ThreadPoolExecutor(max(1, len(rows)), "voco-video engine") as pool:
        list(pool.map(ask, rows))


class _Row:
    """One answer while it is generated."""

    def __init__(self, model: VocoModel, ask: Ask, prompt: list[int]) -> None:
        self.ask, self.prompt = ask, prompt
        self._backbone = model.backbone
        self._ends = end_token_ids(model) if ask.options.stop_at_end else set()
        self._held = max([1, *map(len, ask.stop)]) - 1  # characters that may be the beginning of a stop word
        self._sent = ""
        self.start_again()

    def start_again(self) -> None:
        """Forget what was generated, but not what was sent."""
        self.ids: list[int] = []
        self.text = ""
        self.log_probs: list[float] = []
        self.finish: Finish = "length"
        self.is_over = False

    def take(self, token_id: int, log_prob: float) -> None:
        """Add a token."""
        if self.ask.is_cancelled.is_set():
            self.is_over = True
            self.ask.fail(CancelledAskError())
            return
        self.log_probs.append(log_prob)
        if token_id in self._ends:
            self.finish, self.is_over = "stop", True
        else:
            self.ids.append(token_id)
            self.is_over = len(self.ids) >= self.ask.options.max_new_tokens
        if self.is_over or self.ask.stop or self.ask.on_piece is not None:
            self._read_text()
        if self.ask.on_piece is not None:
            self._send(self.ask.on_piece)

    def _read_text(self) -> None:
        self.text = self._backbone.text(self.ids)
        places = [place for word in self.ask.stop if (place := self.text.find(word)) >= 0]
        if places:
            self.text, self.finish, self.is_over = self.text[: min(places)], "stop", True

    def _send(self, on_piece: Callable[[str], None]) -> None:
        """Send what no later token can change: whole words, without what may begin a stop word."""
        sure = self.text
        if not self.is_over:
            sure = sure[: len(sure) - self._held] if self._held else sure
            sure = sure[: max(sure.rfind(" "), sure.rfind("\n"), 0)]
        if len(sure) > len(self._sent) and sure.startswith(self._sent):
            piece, self._sent = sure[len(self._sent) :], sure
            on_piece(piece)


def _answered(model: VocoModel, prefix: Prefix, selection: FrameSelection | None, row: _Row) -> Answered:
    ask = row.ask
    times = np.empty(0)
    if ask.video is not None and selection is not None:
        times = ask.video.pts_seconds[selection.frames][: len(prefix.frame_slots)]  # none for text alone
    attention: tuple[Any, Any] = (None, None)
    if ask.with_attention:
        attention = frame_attention(model, prefix, row.prompt, row.ids)
    answer = Answer(
        question=ask.question,
        text=row.text,
        token_ids=tuple(row.ids),
        confidence=float(np.exp(np.mean(row.log_probs))) if row.log_probs else 0.0,
        num_frames=len(prefix.frame_slots),
        num_voco_tokens=prefix.frame_slots.shape[-1],
        seconds=0.0,
        note=answer_note(model, prefix, num_text_tokens=len(row.prompt) + len(row.ids)),
        frame_pts_seconds=times,
        frame_attention=attention[0],
        video_attention=attention[1],
        evidence=looked_at(attention[0], times),
        is_cut=row.finish == "length",
    )
    if ask.video is not None and selection is not None:
        answer = ask.video.with_notes(answer, selection)
    return Answered(answer, row.finish, prefix.length + len(row.prompt), len(row.ids))
