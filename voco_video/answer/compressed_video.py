"""Compressed frames that answer questions: windows, the frames that a question sees, and searching."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import overload

import numpy as np
import torch

from voco_video.answer.answering_model import AnsweringModel
from voco_video.answer.entry_frames import EntryFrames, read_chosen, read_chunks, read_features
from voco_video.answer.foreign import counted, foreign_note
from voco_video.answer.frame_budget import FrameSelection, group_by_view, select_frames
from voco_video.answer.frame_scorer import AskedQuestion, FrameScorer
from voco_video.answer.generate import NUM_MOMENTS, Answer, Message, answer_questions, stream_answer
from voco_video.answer.moments import Moment, find_moments
from voco_video.answer.search import FrameScores, FrameSearch
from voco_video.answer.speech import cues_of, with_spoken
from voco_video.answer.words_around import WordsAround
from voco_video.checkpoint.world import FrameCounts
from voco_video.compress import CompressResult
from voco_video.errors import UsageError
from voco_video.model.mixed_prefix import assemble
from voco_video.model.stage_clock import StageSeconds
from voco_video.model.tokens import Prefix, VocoTokens
from voco_video.options.answering import AnswerOptions, Policy, ViewOptions
from voco_video.options.compression import Form
from voco_video.stored_tokens import compressor_of, form_of, read_tokens, tokens_per_frame
from voco_video.video.subtitles import AUTO_SUBTITLES, Cue

log = logging.getLogger(__name__)
AS_FITS = ViewOptions()  # as many frames as the context has room for
_MAX_SCORED_QUESTIONS = 64  # questions whose scores are kept, 9 bytes a frame each


@dataclass(frozen=True, eq=False)
class CompressedVideo:
    """Compressed frames in time order, ready for questions. Slices and concatenations read nothing from disk.

    Attributes:
        model: the model that compressed the frames and answers from them.
        parts: the cache entries and their frames.
        result: the result of compressing; None for slices, concatenations and opened entries.
    """

    model: AnsweringModel = field(repr=False)
    parts: tuple[EntryFrames, ...]
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
        """F: number of frames."""
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
    def has_speech(self) -> bool:
        """Whether anything is told of what is said: see `with_subtitles`."""
        return any(part.cues for part in self.parts)

    @property
    def from_cache(self) -> bool:
        """Whether all frames came from the cache, so that nothing was decoded or compressed."""
        return self.result is None or self.result.from_cache

    @property
    def stage_seconds(self) -> StageSeconds:
        """Seconds this run spent on decoding, the vision tower, the LLM and writing."""
        return self.result.seconds if self.result else StageSeconds()

    @cached_property
    def foreign_note(self) -> str:
        """A sentence that these frames are of something that the model was never trained on; empty if they are not.

        Answers and scores mean nothing then. Empty also where the checkpoint does not say what it was trained on.
        """
        return "" if self.model.world is None else foreign_note(self.model.world, self.world_counts)

    @cached_property
    def world_counts(self) -> tuple[FrameCounts, ...]:
        """How many frames of each entry are foreign to the model, as far as that is known."""
        world = self.model.world
        entries = {part.entry.digest: part.entry for part in self.parts}.values()
        counts = [] if world is None else [counted(world, entry) for entry in entries]
        return tuple(one for one in counts if one is not None)

    def __getitem__(self, window: slice) -> CompressedVideo:
        """Return the frames with ``start <= pts_seconds < stop``; a slice in seconds.

        Raises:
            UsageError: no frame lies in the window, or a step was given.

        >>> video[30.0:60.0]                                              # doctest: +SKIP
        CompressedVideo(30 frames, 30.00-59.00 s, 8 VoCo tokens each, kv)
        """
        if not isinstance(window, slice) or window.step is not None:
            raise UsageError(f"[{window!r}]: slice a video in seconds, as in video[30.0:60.0]")
        start = -np.inf if window.start is None else float(window.start)
        stop = np.inf if window.stop is None else float(window.stop)
        parts = tuple(inside for part in self.parts if (inside := part.between(start, stop)) is not None)
        if not parts:
            pts = self.pts_seconds
            ends = [f"from {start:g} s on"] * (start > -np.inf) + [f"before {stop:g} s"] * (stop < np.inf)
            raise UsageError(f"no frame {' and '.join(ends)}; frames lie at {pts[0]:g} to {pts[-1]:g} s")
        return CompressedVideo(self.model, parts)

    def tokens(self) -> VocoTokens:
        """Read the VoCo tokens of all frames, memory-mapped where they lie in one segment."""
        return VocoTokens.cat([read_tokens(part.entry, part.start, part.stop) for part in self.parts])

    def view(
        self, question: str | None = None, *, num_voco_tokens: int | None = None, options: ViewOptions = AS_FITS
    ) -> FrameSelection:
        """Select the frames that a question sees, and the number of tokens of each.

        Args:
            question: needed if the policy chooses frames by it and not all frames fit.
            num_voco_tokens: k, at most K.

        Raises:
            UsageError: the budget holds no frame, or the question is missing.
        """
        per_frame = self.num_voco_tokens if num_voco_tokens is None else num_voco_tokens
        budget = self._words.frames_budget(per_frame, options)
        fits = budget is None or self.num_frames * per_frame <= budget
        order = is_about = None
        if options.needs_scores and not fits:
            if question is None:
                raise UsageError(f"policy {options.policy!r} chooses frames by the question, so it needs one")
            relevance = self._relevance(question)
            order = relevance.scores if relevance.claims is None else relevance.claims
            is_about = relevance.is_about
        return select_frames(
            self.num_frames, per_frame, max_voco_tokens=budget, options=options, scores=order, is_about=is_about
        )

    def with_subtitles(self, subtitles: str | os.PathLike[str] | Sequence[Cue] = AUTO_SUBTITLES) -> CompressedVideo:
        """Return the same frames with what is said in their video: it is told with them, and `find` searches it.

        Nothing is compressed again, and no subtitles are kept in the cache.

        Args:
            subtitles: "auto" (a file beside the video, else its own subtitle stream), "none", a file, or lines.

        Raises:
            DataError, UsageError: see `voco_video.video.subtitles.subtitles_of`.

        >>> video.with_subtitles("talk.srt").ask("What does she say?").text          # doctest: +SKIP
        """
        given = self.result.source if self.result else ""
        return replace(
            self, parts=tuple(replace(part, cues=cues_of(part, subtitles, given=given)) for part in self.parts)
        )

    @cached_property
    def _words(self) -> WordsAround:
        return WordsAround(self.model.voco.backbone, self.parts, self.pts_seconds)

    def frame_scores(self, question: str) -> np.ndarray:
        """Score each frame's relevance to a question, float32 ``[F]``: `voco_video.answer.search.FrameScores`.

        >>> video.frame_scores("the red star").argmax()                   # doctest: +SKIP
        4017
        """
        return self._relevance(question).scores

    def _relevance(self, question: str, asked: AskedQuestion | None = None) -> FrameScores:
        scores = self._scores.get(question)
        if scores is None:
            scores = self._search.scores(question, asked=asked)
            if len(self._scores) >= _MAX_SCORED_QUESTIONS:
                self._scores.clear()
            self._scores[question] = scores
        return scores

    @property
    def scorer(self) -> FrameScorer | None:
        """The trained scorer by which these frames are searched; None leaves that to the model's attention."""
        return self._search.scorer

    def find(self, query: str, *, num_moments: int = 5, asked: AskedQuestion | None = None) -> list[Moment]:
        """Find the moments that are most relevant to a query, best first; no answer is generated.

        With subtitles (`with_subtitles`) also what is said is searched: such a moment is a
        `voco_video.answer.speech.SpokenMoment`, with the line that has the query's words.

        Args:
            query: a question, or what to look for.
            num_moments: how many at most.
            asked: the query as it was read for another video of this form; see `FrameSearch.scores`.

        Raises:
            UsageError: the query is empty, or the frames keep no tokens.

        >>> video.find("the red star")[0]                                 # doctest: +SKIP
        Moment(start_seconds=4017.0, end_seconds=4019.0, peak_seconds=4017.0, score=5.1, share=None, is_likely=True)
        """
        found = self._relevance(query, asked)
        # A video that is nothing the model knows has scores too, but their odds mean nothing.
        is_calibrated = found.claims is not None and not self.foreign_note
        moments = find_moments(found.scores, self.pts_seconds, num_moments=num_moments, is_calibrated=is_calibrated)
        return with_spoken(moments, self.parts, query, num_moments=num_moments) if self.has_speech else moments

    def prefix(
        self,
        question: str | None = None,
        *,
        num_voco_tokens: int | None = None,
        options: ViewOptions = AS_FITS,
    ) -> Prefix:
        """Assemble the prefix that the text attends to; the last one is kept for the next question.

        Args:
            question: for policies that choose frames by it.
            num_voco_tokens: k, at most K; only VoCo tokens can be cut to their first k.
            options: which frames are seen.

        Raises:
            UsageError: the frames have fewer than k tokens, or their compressor's tokens cannot be cut.
        """
        return self.prefix_of(self.view(question, num_voco_tokens=num_voco_tokens, options=options), options)

    def prefix_of(self, selection: FrameSelection, options: ViewOptions, *, reads: bool = True) -> Prefix:
        """Assemble the prefix of selected frames as `prefix` does, or what an engine reads itself (``reads=False``)."""
        every = options.clock_every_seconds
        key = *selection.key, every, reads
        if not reads and self.model.engine and selection.num_tokens:
            self.model.engine.check(self.form)
        prefix = self._prefixes.get(key)
        if prefix is None:
            largest = int(selection.counts.max(initial=0))
            tokens = read_chosen(self.parts, selection.frames, num_voco_tokens=largest)
            times = self._words.times(selection.frames, tokens.seconds)
            every, told = every if selection.num_tokens else None, self._words.told(selection, options).lines
            leads = self._words.lead_ids(selection.frames, times, every, told)
            counts = torch.from_numpy(selection.counts)
            texts = dict(enumerate(leads))
            prefix = assemble(self.model.voco, tokens, counts=counts, texts=texts, times=times, reads=reads)
            self._prefixes.clear()
            self._prefixes[key] = prefix
        return prefix

    @cached_property
    def _prefixes(self) -> dict[tuple[bytes, bytes, float | None, bool], Prefix]:
        return {}

    @cached_property
    def _search(self) -> FrameSearch:
        retriever = self.model.retriever
        if retriever is not None and not retriever.belongs_to(self.model.voco, self.model.fingerprint):
            log.warning("the retriever does not match this model; falling back to attention")
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
        top_p: float | None = ...,
        top_k: int | None = ...,
        repetition_penalty: float | None = ...,
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
        top_p: float | None = ...,
        top_k: int | None = ...,
        repetition_penalty: float | None = ...,
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
        top_p: float | None = None,
        top_k: int | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
        with_attention: bool = False,
    ) -> Answer | list[Answer]:
        """Answer one question, or several; questions that see the same frames share one prefix.

        Args:
            question: a question, or a sequence of questions, for which a list is returned.
            num_voco_tokens: budget k per frame, at most K; all K when None.
            max_voco_tokens, policy, neighbours, clock_every_seconds: see `ViewOptions`.
            history: earlier turns, for a conversation.
            max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed: see `AnswerOptions`.
            with_attention: fill in `Answer.frame_attention`.

        >>> video.ask("What colour is the circle?").text                  # doctest: +SKIP
        'red'
        >>> [a.text for a in video.ask(["What moves?", "Where to?"])]     # doctest: +SKIP
        ['circle', 'left']
        """
        questions = [question] if isinstance(question, str) else list(question)
        options = ViewOptions(max_voco_tokens, policy, neighbours, clock_every_seconds)
        selections = [self.view(q, num_voco_tokens=num_voco_tokens, options=options) for q in questions]
        answers: dict[int, Answer] = {}
        for selection, numbers in group_by_view(selections):
            prefix = self.prefix_of(selection, options, reads=self.model.engine is None)
            group = answer_questions(
                self.model.voco,
                prefix,
                [questions[i] for i in numbers],
                history=history,
                options=AnswerOptions(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed),
                frame_pts_seconds=self.pts_seconds[selection.frames][: len(prefix.frame_slots)],  # none for text alone
                with_attention=with_attention,
                engine=self.model.engine,
            )
            answers |= {
                i: self.with_notes(answer, selection, options) for i, answer in zip(numbers, group, strict=True)
            }
        return answers[0] if isinstance(question, str) else [answers[i] for i in range(len(questions))]

    def with_notes(self, answer: Answer, selection: FrameSelection, options: ViewOptions = AS_FITS) -> Answer:
        """Add a note on frames that were not seen, and as evidence the moments that frames were chosen for."""
        notes = (self.foreign_note, selection.note, self._words.told(selection, options).note)
        note = ". ".join(part.removesuffix(".") for part in notes if part)
        note = ". ".join(part for part in (note, answer.note) if part)
        evidence = answer.evidence
        if selection.policy in ("relevant", "elastic") and not evidence:
            seen = self.pts_seconds[selection.frames]
            moments = self.find(answer.question, num_moments=NUM_MOMENTS)
            evidence = tuple(moment for moment in moments if moment.peak_seconds in seen)
        return replace(answer, note=note, evidence=evidence, is_foreign=bool(self.foreign_note))

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
        top_p: float | None = None,
        top_k: int | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yield the answer's text as it is generated; arguments as for `ask`.

        A token is generated only when the next piece is asked for, so generation stops when the caller stops iterating.

        >>> for piece in video.stream("Tell me what happens."):           # doctest: +SKIP
        ...     print(piece, end="", flush=True)
        """
        options = ViewOptions(max_voco_tokens, policy, neighbours, clock_every_seconds)
        selection = self.view(question, num_voco_tokens=num_voco_tokens, options=options)
        for note in filter(None, (self.foreign_note, selection.note, self._words.told(selection, options).note)):
            log.warning(note)
        return stream_answer(
            self.model.voco,
            self.prefix_of(selection, options, reads=self.model.engine is None),
            question,
            history=history,
            options=AnswerOptions(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed),
            engine=self.model.engine,
        )
