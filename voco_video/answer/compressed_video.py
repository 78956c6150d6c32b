"""Compressed frames that answer questions: windows, what a question sees of them, and where things are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol, overload

import numpy as np
import torch

from voco_video.answer.entry_frames import Part, read_chosen, read_chunks, read_features
from voco_video.answer.frame_budget import (
    Policy,
    View,
    ViewOptions,
    choose_view,
    clock_frames,
    clock_text,
    context_budget,
)
from voco_video.answer.generate import NUM_MOMENTS, Answer, AnswerOptions, Message, answer_questions, stream_answer
from voco_video.answer.moments import Moment, find_moments, weighted
from voco_video.answer.retrieval import FrameScores, FrameSearch, Retriever
from voco_video.compress import CompressResult, Form, StageSeconds
from voco_video.errors import ModelError, UsageError
from voco_video.model.mixed_prefix import assemble
from voco_video.model.tokens import Prefix, VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.stored_tokens import compressor_of, form_of, read_tokens, tokens_per_frame

log = logging.getLogger(__name__)
AS_FITS = ViewOptions()  # as many frames as the context has room for
_SCORES_KEPT = 64  # questions whose scores are remembered, 9 bytes a frame each


class AnsweringModel(Protocol):
    """The model that compressed the frames and answers from them: a `voco_video.api.VideoModel`."""

    @property
    def voco(self) -> VocoModel:
        """The model on tensors."""

    @property
    def retriever(self) -> Retriever | None:
        """What it has learned about finding frames, or None."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits over the compressing weights."""


@dataclass(frozen=True, eq=False)
class CompressedVideo:
    """Compressed frames in time order, ready for questions. Slices and concatenations read nothing from disk.

    Attributes:
        model: what compressed them, and answers.
        parts: where the frames are.
        result: how the entry came about; None for slices, concatenations and opened entries.
    """

    model: AnsweringModel = field(repr=False)
    parts: tuple[Part, ...]
    result: CompressResult | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        pts = self.pts_seconds
        span = f"{pts[0]:.2f}-{pts[-1]:.2f} s" if len(pts) else "no frames"
        kept = f"{self.num_voco_tokens} {'VoCo ' if self.compressor == 'voco' else ''}tokens each, {self.form}"
        return f"CompressedVideo({self.num_frames} frames, {span}, {kept})"

    def __len__(self) -> int:
        return self.num_frames

    @property
    def num_frames(self) -> int:
        """F."""
        return sum(part.num_frames for part in self.parts)

    @cached_property
    def pts_seconds(self) -> np.ndarray:
        """The time of each frame in its own video, float64 ``[F]``."""
        return np.concatenate([part.pts_seconds for part in self.parts])

    @property
    def compressor(self) -> str:
        """``"voco"``, ``"full"``, ``"pool:k"`` or ``"none"``."""
        return str(compressor_of(self.parts[0].entry))

    @property
    def num_voco_tokens(self) -> int:
        """K: tokens kept per frame, VoCo tokens or those of another compressor."""
        return tokens_per_frame(self.parts[0].entry)

    @property
    def form(self) -> Form:
        """``"kv"`` or ``"embeds"``."""
        return form_of(self.parts[0].entry)

    @property
    def from_cache(self) -> bool:
        """True where nothing had to be decoded or compressed."""
        return self.result is None or self.result.from_cache

    @property
    def stage_seconds(self) -> StageSeconds:
        """Seconds this run spent on decoding, the vision tower, the LLM and writing."""
        return self.result.seconds if self.result else StageSeconds()

    def __getitem__(self, window: slice) -> CompressedVideo:
        """Frames with ``start <= pts_seconds < stop``; a slice in seconds.

        Raises:
            UsageError: no frame lies in the window, or a step was given.

        >>> video[30.0:60.0]                                              # doctest: +SKIP
        CompressedVideo(30 frames, 30.00-59.00 s, 8 VoCo tokens each, kv)
        """
        if not isinstance(window, slice) or window.step is not None:
            raise UsageError(f"[{window!r}]: slice a video in seconds, as in video[30.0:60.0]")
        start = -np.inf if window.start is None else float(window.start)
        stop = np.inf if window.stop is None else float(window.stop)
        parts = tuple(cut for part in self.parts if (cut := part.between(start, stop)) is not None)
        if not parts:
            pts = self.pts_seconds
            raise UsageError(f"no frame between {start:g} s and {stop:g} s; frames lie at {pts[0]:g} to {pts[-1]:g} s")
        return CompressedVideo(self.model, parts)

    def tokens(self) -> VocoTokens:
        """Read the VoCo tokens of all frames, memory-mapped where they lie in one segment."""
        return VocoTokens.cat([read_tokens(part.entry, part.start, part.stop) for part in self.parts])

    def view(
        self, question: str | None = None, *, num_voco_tokens: int | None = None, options: ViewOptions = AS_FITS
    ) -> View:
        """Which frames a question sees, and with how many tokens each.

        Args:
            question: needed where the policy asks for it and not everything fits.
            num_voco_tokens: k, at most K.

        Raises:
            UsageError: the budget holds no frame, or the question is missing.
        """
        per_frame = self.num_voco_tokens if num_voco_tokens is None else num_voco_tokens
        budget = options.max_voco_tokens
        if budget is None and per_frame and self.num_frames:
            budget = self._context_budget(per_frame, options)
        fits = budget is None or self.num_frames * per_frame <= budget
        order = is_about = None
        if options.needs_scores and not fits:
            if question is None:
                raise UsageError(f"policy {options.policy!r} chooses frames by the question, so it needs one")
            found = self._found(question)
            order, is_about = (found.scores if found.claims is None else found.claims), found.is_about
        return choose_view(
            self.num_frames, per_frame, max_voco_tokens=budget, options=options, scores=order, is_about=is_about
        )

    def _context_budget(self, num_voco_tokens: int, options: ViewOptions) -> int | None:
        """What the context length leaves for frames beside text, the clock's included; one frame at least."""
        budget = context_budget(self.model.voco.backbone.context_length, frame_length=self._first_position)
        if budget is None:
            return None
        if options.clock_every_seconds is not None:
            times = len(clock_frames(self.pts_seconds, options.clock_every_seconds))
            longest = len(self._clock_ids(float(self.pts_seconds.max())))
            budget -= min(times, budget // (num_voco_tokens + longest)) * longest
        return max(num_voco_tokens, budget)

    @cached_property
    def _first_position(self) -> int:
        """Where the first frame's first token stands."""
        positions = read_tokens(self.parts[0].entry, 0, 1).positions
        before = self.model.voco.backbone.template.frame_before_ids
        return len(before) if positions is None else int(positions.min())

    def _clock_ids(self, seconds: float) -> list[int]:
        if self.model.voco.backbone.tokenizer is None:
            raise ModelError("this checkpoint has no tokenizer, so it cannot be told the time (clock_every_seconds)")
        return self.model.voco.backbone.token_ids(clock_text(seconds))

    def frame_scores(self, question: str) -> np.ndarray:
        """How much each frame has to do with a question, float32 ``[F]``: `voco_video.answer.retrieval.FrameScores`.

        >>> video.frame_scores("the red star").argmax()                   # doctest: +SKIP
        4017
        """
        return self._found(question).scores

    def _found(self, question: str) -> FrameScores:
        found = self._scores.get(question)
        if found is None:
            found = self._search.scores(question)
            if len(self._scores) >= _SCORES_KEPT:
                self._scores.clear()
            self._scores[question] = found
        return found

    def find(self, query: str, *, num_moments: int = 5) -> list[Moment]:
        """The moments that have most to do with a query, best first; nothing is generated.

        Args:
            query: a question, or what to look for.
            num_moments: how many at most.

        Raises:
            UsageError: the query is empty, or the frames keep no tokens.

        >>> video.find("the red star")[0]                                 # doctest: +SKIP
        Moment(start_seconds=4017.0, end_seconds=4019.0, peak_seconds=4017.0, score=5.1, weight=0.97)
        """
        return find_moments(self.frame_scores(query), self.pts_seconds, num_moments=num_moments)

    def prefix(
        self,
        question: str | None = None,
        *,
        num_voco_tokens: int | None = None,
        options: ViewOptions = AS_FITS,
    ) -> Prefix:
        """What the text attends to, assembled once and kept for the view last used.

        Args:
            question: for policies that choose frames by it.
            num_voco_tokens: k, at most K; only VoCo tokens can be cut to their first few.
            options: which frames are seen.

        Raises:
            UsageError: there are no k tokens, or not of this compressor.
        """
        return self._prefix(self.view(question, num_voco_tokens=num_voco_tokens, options=options), options)

    def _prefix(self, view: View, options: ViewOptions) -> Prefix:
        key = view.frames.tobytes(), view.counts.tobytes(), options.clock_every_seconds
        prefix = self._prefixes.get(key)
        if prefix is None:
            largest = int(view.counts.max(initial=0))
            tokens = read_chosen(self.parts, view.frames, num_voco_tokens=largest)
            prefix = assemble(
                self.model.voco, tokens, counts=torch.from_numpy(view.counts), texts=self._clock(view, options)
            )
            self._prefixes.clear()
            self._prefixes[key] = prefix
        return prefix

    def _clock(self, view: View, options: ViewOptions) -> dict[int, list[int]]:
        """Token ids of the times that stand before some of the frames seen."""
        if options.clock_every_seconds is None or not view.num_tokens:
            return {}
        pts_seconds = self.pts_seconds[view.frames]
        told = clock_frames(pts_seconds, options.clock_every_seconds).tolist()
        return {f: self._clock_ids(float(pts_seconds[f])) for f in told}

    @cached_property
    def _prefixes(self) -> dict[tuple[bytes, bytes, float | None], Prefix]:
        return {}

    @cached_property
    def _search(self) -> FrameSearch:
        retriever = self.model.retriever
        if retriever is not None and not retriever.belongs_to(self.model.voco, self.model.fingerprint):
            log.warning("what finds frames was trained with other weights than this model's; attention finds them")
            retriever = None
        scorer = retriever.scorers.get(self.form) if retriever and self.compressor == "voco" else None
        readers = partial(read_chunks, self.parts), partial(read_features, self.parts)
        return FrameSearch(self.model.voco, *readers, scorer=scorer)

    @cached_property
    def _scores(self) -> dict[str, FrameScores]:
        return {}

    @overload
    def ask(  # type: ignore[overload-overlap]
        self,
        question: str,
        *,
        num_voco_tokens: int | None = ...,
        max_voco_tokens: int | None = ...,
        policy: Policy = ...,
        neighbours: int = ...,
        clock_every_seconds: float | None = ...,
        history: Sequence[Message] = ...,
        max_new_tokens: int = ...,
        temperature: float = ...,
        seed: int = ...,
        with_attention: bool = ...,
    ) -> Answer: ...
    @overload
    def ask(
        self,
        question: Sequence[str],
        *,
        num_voco_tokens: int | None = ...,
        max_voco_tokens: int | None = ...,
        policy: Policy = ...,
        neighbours: int = ...,
        clock_every_seconds: float | None = ...,
        history: Sequence[Message] = ...,
        max_new_tokens: int = ...,
        temperature: float = ...,
        seed: int = ...,
        with_attention: bool = ...,
    ) -> list[Answer]: ...
    def ask(
        self,
        question: str | Sequence[str],
        *,
        num_voco_tokens: int | None = None,
        max_voco_tokens: int | None = None,
        policy: Policy = "uniform",
        neighbours: int = 2,
        clock_every_seconds: float | None = None,
        history: Sequence[Message] = (),
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        with_attention: bool = False,
    ) -> Answer | list[Answer]:
        """Answer one question, or several; those that see the same frames share one prefix.

        Args:
            question: a question, or a sequence of them, which then gives a list.
            num_voco_tokens: budget k per frame, at most what was compressed; all of them when None.
            max_voco_tokens, policy, neighbours, clock_every_seconds: see `ViewOptions`.
            history: earlier turns, for a conversation.
            max_new_tokens, temperature, seed: see `AnswerOptions`.
            with_attention: fill in `Answer.frame_attention`.

        >>> video.ask("What colour is the circle?").text                  # doctest: +SKIP
        'red'
        >>> [a.text for a in video.ask(["What moves?", "Where to?"])]     # doctest: +SKIP
        ['circle', 'left']
        """
        questions = [question] if isinstance(question, str) else list(question)
        options = ViewOptions(max_voco_tokens, policy, neighbours, clock_every_seconds)
        views = [self.view(q, num_voco_tokens=num_voco_tokens, options=options) for q in questions]
        answers: dict[int, Answer] = {}
        for view, asked in _together(views):
            prefix = self._prefix(view, options)
            group = answer_questions(
                self.model.voco,
                prefix,
                [questions[i] for i in asked],
                history=history,
                options=AnswerOptions(max_new_tokens, temperature, seed),
                frame_pts_seconds=self.pts_seconds[view.frames][: len(prefix.frame_slots)],  # none for text alone
                with_attention=with_attention,
            )
            answers |= {i: self._told(answer, view) for i, answer in zip(asked, group, strict=True)}
        return answers[0] if isinstance(question, str) else [answers[i] for i in range(len(questions))]

    def _told(self, answer: Answer, view: View) -> Answer:
        """An answer that says which frames it did not see, and for which moments the others were chosen."""
        note = ". ".join(part for part in (view.note, answer.note) if part)
        evidence = answer.evidence
        if view.policy in ("relevant", "elastic") and not evidence:
            found = find_moments(self.frame_scores(answer.question), self.pts_seconds, num_moments=NUM_MOMENTS)
            seen = self.pts_seconds[view.frames]
            evidence = tuple(weighted([m for m in found if m.peak_seconds in seen]))
        return replace(answer, note=note, evidence=evidence)

    def stream(
        self,
        question: str,
        *,
        num_voco_tokens: int | None = None,
        max_voco_tokens: int | None = None,
        policy: Policy = "uniform",
        neighbours: int = 2,
        clock_every_seconds: float | None = None,
        history: Sequence[Message] = (),
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yield the answer's text as it is generated; arguments as for `ask`.

        A token is generated when the next piece is asked for. Whoever stops asking stops the generation.

        >>> for piece in video.stream("Tell me what happens."):           # doctest: +SKIP
        ...     print(piece, end="", flush=True)
        """
        options = ViewOptions(max_voco_tokens, policy, neighbours, clock_every_seconds)
        view = self.view(question, num_voco_tokens=num_voco_tokens, options=options)
        if view.note:
            log.warning(view.note)
        return stream_answer(
            self.model.voco,
            self._prefix(view, options),
            question,
            history=history,
            options=AnswerOptions(max_new_tokens, temperature, seed),
        )


def _together(views: Sequence[View]) -> list[tuple[View, list[int]]]:
    """Questions that see the same, by their numbers: each such view once."""
    groups: dict[tuple[bytes, bytes], tuple[View, list[int]]] = {}
    for i, view in enumerate(views):
        groups.setdefault((view.frames.tobytes(), view.counts.tobytes()), (view, []))[1].append(i)
    return list(groups.values())
