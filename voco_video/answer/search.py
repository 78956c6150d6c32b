"""Which cached frames a question is about: scores from their tokens alone, chunk by chunk, without pixels.

    question, read without any frame -> queries          frame's tokens, as they are cached -> keys

Scores come from a model's learned scorer (`frame_scorer`), or without one from attention (`attention_scores`).

Where a question names two things, one of them may be easier to tell than the other. So frames are chosen
(`FrameScores.claims`) by how near they come to the best frame for the token t that speaks most for them:

    c(frame) = max over t of  s_t(frame) - max(0, largest s_t of all frames)      s_t: s with the terms of t alone

which gives each thing that is found its share of a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from voco_video.answer.attention_scores import attention_scores, frame_keys, last_token_queries
from voco_video.answer.frame_scorer import AskedQuestion, FrameScorer, read_question
from voco_video.errors import UsageError
from voco_video.model.inference import undisturbed
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel

MAX_KEPT_FEATURE_BYTES = 128 << 20  # of one video's frames, for further questions: nine hours with voco-tiny
# Logarithms of odds, tuned on haystacks of seed 7; needle.py reports seed 0.
NEAR_BEST_LOG_ODDS, SURE_LOG_ODDS = 1.5, 3.0
_NO_KEYS = (
    "these frames cannot be searched: the model has no trained scorer of frames, and its attention cannot stand in for "
    "one, as some of its layers keep a running state or a window of tokens; ask with policy 'uniform' or 'recent'"
)


@dataclass(frozen=True, eq=False)
class FrameScores:
    """How relevant each of F frames is to a question.

    Attributes:
        scores: float32 ``[F]``. With a retriever these are logarithms of odds: above 0 the frame more likely than not
            shows what is asked about. Without one only their order has a meaning.
        claims: float32 ``[F]``, 0 for the best frames and less for others: the order in which frames are chosen, fair
            to questions that name several things. None without a retriever.
        is_about: bool ``[F]``, the frames within `NEAR_BEST_LOG_ODDS` of the best claim, and those with a score of at
            least `SURE_LOG_ODDS`; other frames would only mislead. None without a retriever.
    """

    scores: np.ndarray
    claims: np.ndarray | None = None
    is_about: np.ndarray | None = None


class FrameSearch:
    """A search through frames, for one question after another.

    With a scorer, the features of frames are kept in memory if they are small: at most 512 bytes a token, 15 MB for an
    hour at one frame a second and K = 8. The next question then reads nothing from disk. Nothing is kept of questions,
    so a question's scores do not depend on other questions.

    Args:
        model: the model that compressed the frames.
        read: reads all frames, some at a time; all of one form.
        read_features: reads the features of all frames (see `token_features`), some at a time.
        scorer: trained scorer for this form, or None.
    """

    def __init__(
        self,
        model: VocoModel,
        read: Callable[[], Iterable[VocoTokens]],
        read_features: Callable[[], Iterable[Tensor]],
        *,
        scorer: FrameScorer | None = None,
    ) -> None:
        self._model, self._read, self._read_features = model, read, read_features
        self._scorer = scorer and scorer.to(model.backbone.device)
        self._features: list[Tensor] | None = None

    @property
    def scorer(self) -> FrameScorer | None:
        """The trained scorer that is used, or None."""
        return self._scorer

    @undisturbed()
    def scores(self, question: str, *, asked: AskedQuestion | None = None) -> FrameScores:
        """Score each frame's relevance to a question.

        Args:
            question: what is asked.
            asked: the same as `read_question` gives it, where it was read before.

        Raises:
            UsageError: the question is empty, the frames keep no tokens, or the model has no means to search.
            ModelError: the model has no tokenizer or no chat template.
        """
        if self._scorer is not None:
            return self._learned_scores(asked or read_question(self._model, self._scorer, question), self._scorer)
        chunks = list(self._attention_scores(question))
        return FrameScores(torch.cat(chunks).cpu().numpy() if chunks else np.empty(0, np.float32))

    def _learned_scores(self, asked: AskedQuestion, scorer: FrameScorer) -> FrameScores:
        features = self._read_compacted(scorer) if self._features is None else self._features
        odds = scorer.odds(asked.queries, asked.gates, features)  # [F, T]
        scores, by_token = odds.sum(1).log() + scorer.bias, odds.log() + scorer.bias
        claims = (by_token - by_token.amax(0).clamp(min=0)).amax(1)
        claims -= claims.max()
        is_about = (claims >= -NEAR_BEST_LOG_ODDS) | (scores >= SURE_LOG_ODDS)
        return FrameScores(*(t.cpu().numpy() for t in (scores, claims, is_about)))

    def _read_compacted(self, scorer: FrameScorer) -> Iterator[Tensor]:
        """Yield frames' compacted features, ``[F, K, W]`` of some at a time, and keep them if all of them are small."""
        kept, size_bytes = [], 0
        for features in self._read_features():
            piece = scorer.compact(features.to(self._model.backbone.device))
            size_bytes += piece.nbytes
            if size_bytes <= MAX_KEPT_FEATURE_BYTES:
                kept.append(piece)
            else:
                kept.clear()
            yield piece
        if size_bytes <= MAX_KEPT_FEATURE_BYTES:
            self._features = kept

    def _attention_scores(self, question: str) -> Iterator[Tensor]:
        queries = None
        for tokens in self._read():
            if tokens.num_voco_tokens == 0:
                raise UsageError("these frames keep no tokens (compressor 'none'), so they cannot be searched")
            if tokens.form == "embeds" and not self._model.backbone.keeps_all_keys:
                raise UsageError(_NO_KEYS)
            keys, position = frame_keys(self._model, tokens)
            if queries is None:
                queries = last_token_queries(self._model, question, position=position, form=tokens.form)
            yield attention_scores(queries, keys)
