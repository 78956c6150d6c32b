"""The words around compressed frames: how many there are, and the tokens of frames that the context has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from voco_video.answer.clock import clock_frames, clock_text, time_token_ids
from voco_video.answer.entry_frames import EntryFrames
from voco_video.answer.frame_budget import FrameSelection
from voco_video.answer.speech import SHARE, ToldSpeech, num_speech_tokens, told_speech
from voco_video.auto_compressor import context_budget
from voco_video.model.backbone import Backbone
from voco_video.model.families import FrameTimes
from voco_video.options.answering import ViewOptions
from voco_video.stored_tokens import read_tokens
from voco_video.video.subtitles import Cue


@dataclass(frozen=True, eq=False)
class WordsAround:
    """What is written before frames: the conversation's opening, numbers, times, the clock.

    Attributes:
        backbone: the model that reads them.
        parts: the cache entries and their frames.
        pts_seconds: the time of each frame, float64 ``[F]``.
    """

    backbone: Backbone
    parts: Sequence[EntryFrames]
    pts_seconds: np.ndarray

    def context_budget(self, num_voco_tokens: int, options: ViewOptions) -> int | None:
        """Compute how many tokens of frames the context has room for beside text and clock; at least one frame's.

        None where the model does not say how long its context is.
        """
        budget = context_budget(self.backbone.context_length, frame_length=self.first_position)
        if budget is None:
            return None
        if options.clock_every_seconds is not None:
            num_times = len(clock_frames(self.pts_seconds, options.clock_every_seconds))
            longest = len(time_token_ids(self.backbone, float(self.pts_seconds.max())))
            budget -= min(num_times, budget // (num_voco_tokens + longest)) * longest
        if self.words_per_frame:
            most = budget // (num_voco_tokens + self.words_per_frame)
            budget -= min(len(self.pts_seconds), most) * self.words_per_frame
        return max(num_voco_tokens, budget)

    def budget(self, num_voco_tokens: int, options: ViewOptions) -> int | None:
        """Return how many tokens frames and speech may take together; None for any number."""
        if options.max_voco_tokens is None and num_voco_tokens and len(self.pts_seconds):
            return self.context_budget(num_voco_tokens, options)
        return options.max_voco_tokens

    def frames_budget(self, num_voco_tokens: int, options: ViewOptions) -> int | None:
        """Return how many tokens frames may take, of which speech takes its share; None for any number."""
        budget = self.budget(num_voco_tokens, options)
        if budget is None or not self.num_speech_tokens:
            return budget
        return max(min(budget, num_voco_tokens), budget - min(self.num_speech_tokens, int(budget * SHARE)))

    def told(self, selection: FrameSelection, options: ViewOptions) -> ToldSpeech:
        """Choose what is said with the frames that a question sees."""
        if not self.num_speech_tokens or not selection.num_tokens:
            return ToldSpeech({})
        budget = self.budget(int(selection.counts.max()), options)
        room = None if budget is None else max(0, budget - selection.num_tokens)
        return told_speech(self.parts, selection.frames, self.num_spoken_tokens, room=room)

    @cached_property
    def num_speech_tokens(self) -> int:
        """Number of tokens of all that is said during the frames."""
        return num_speech_tokens(self.parts, self.num_spoken_tokens)

    def times(self, frames: npt.NDArray[np.int64], seconds: torch.Tensor | None = None) -> FrameTimes:
        """Return when some of the frames are seen.

        Args:
            frames: their numbers.
            seconds: the times of their pictures, where a frame is merged of several.
        """
        pictures = self.pts_seconds[frames] if seconds is None else seconds.numpy()
        ends = [part.entry.facts.get("video", {}).get("duration_seconds") for part in self.parts]
        known = [end for end in ends if isinstance(end, (int, float))]
        return FrameTimes.of(pictures, max(known) if len(known) == len(ends) else None)

    def lead_ids(
        self,
        frames: npt.NDArray[np.int64],
        times: FrameTimes,
        every: float | None,
        lines: Mapping[int, Sequence[Cue]] | None = None,
    ) -> list[list[int]]:
        """Make the token ids before each of some frames; an empty list where nothing is written before any.

        Args:
            every: seconds between two times of the clock; None for no clock.
            lines: what is said before some of these frames, by their place among them.
        """
        marks: dict[int, str] = {}
        if every is not None:
            seconds = self.pts_seconds[frames]
            marks = {f: clock_text(float(seconds[f])) for f in clock_frames(seconds, every).tolist()}
        speech = {f: "".join(map(self.spoken_text, cues)) for f, cues in (lines or {}).items()}
        if not (marks or speech or self.backbone.template.as_trained):
            return []
        return self.backbone.lead_ids(times, marks=marks, speech=speech)

    def spoken_text(self, cue: Cue) -> str:
        """Write a line as the model reads it: on a line of its own, with special tokens in it as plain letters."""
        return f"{self.backbone.typed_text.broken(cue.text)}\n"

    def num_spoken_tokens(self, cue: Cue) -> int:
        """Count the tokens of a line; among others it may take fewer."""
        return len(self.backbone.token_ids(self.spoken_text(cue)))

    @cached_property
    def first_position(self) -> int:
        """Position of the first frame's first token."""
        template = self.backbone.template
        if template.as_trained:
            return len(self._last_leads[0]) + sum(map(len, self._last_leads[2:]))
        positions = read_tokens(self.parts[0].entry, 0, 1).positions
        return len(template.frame_before_ids) if positions is None else int(positions.min())

    @property
    def words_per_frame(self) -> int:
        """The most tokens of text that stand before a frame; 0 with frames first."""
        return len(self._last_leads[1]) if self.backbone.template.as_trained else 0

    @cached_property
    def _last_leads(self) -> list[list[int]]:
        """Token ids before the first frame and before the last: numbers and times only get longer."""
        return self.backbone.lead_ids(self.times(np.array([0, len(self.pts_seconds) - 1])))
