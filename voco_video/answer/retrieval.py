"""Which cached frames a question is about: scores from their tokens alone, chunk by chunk, without pixels.

    question, read without any frame -> queries          frame's tokens, as they are cached -> keys

Learned (`Retriever`, stored with a model): a question's tokens t are projected to queries with a gate each, a frame's
tokens j to keys, in H heads, and the score is the logarithm of the odds that the frame shows what is asked about:

    s(question, frame) = b + log sum over t, h, j of exp(2 q_th . k_jh / sqrt(R) + g_th)

so a question that names two things finds frames with either. One of them may be easier to tell than the other, so
frames are chosen (`FrameScores.claims`) by how near they come to the best one for the token t that speaks most for
them:

    c(frame) = max over t of  s_t(frame) - max(0, largest s_t of all frames)      s_t: s with the terms of t alone

which gives each thing that is found its share of a budget. The sum over tokens is ColBERT's late interaction
(arXiv:2004.12832, equation 3) with a soft maximum, and gates in place of its stop list.

Training-free, for models without one: the attention of the question's last token to each frame as if it stood alone
before the question, its logarithm averaged over heads and over layers behind the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from voco_video.checkpoint.files import RETRIEVAL_WEIGHTS
from voco_video.errors import ModelError, UsageError
from voco_video.files.settings import FETCH_AGAIN, first_line, has_file
from voco_video.files.weights import read_small_weights
from voco_video.model.adapters import adapters_off
from voco_video.model.backbone import CACHE_ARGUMENT
from voco_video.model.inference import undisturbed
from voco_video.model.tokens import Form, VocoTokens
from voco_video.model.voco import VocoModel

KEPT_BYTES = 128 << 20  # of what is remembered of a video's frames: nine hours of the embedded model's
NUM_HEADS, HEAD_DIM, HIDDEN = 4, 32, 256
NEAR_BEST, CERTAIN = 1.5, 3.0  # logarithms of odds; tuned on haystacks of seed 7; needle.py reports seed 0
_RECORDING = "voco_recorded_queries"


# ---------------------------------------------------------------------- learned


class FrameScorer(nn.Module):
    """The projections of one form of tokens.

    Args:
        question_width: D of the question's hidden states.
        frame_width: of what is kept of a token, see `token_features`.
    """

    question_mean: Tensor
    question_scale: Tensor
    frame_mean: Tensor
    frame_scale: Tensor

    def __init__(self, question_width: int, frame_width: int) -> None:
        super().__init__()
        self.register_buffer("question_mean", torch.zeros(question_width))
        self.register_buffer("question_scale", torch.ones(question_width))
        self.register_buffer("frame_mean", torch.zeros(frame_width))
        self.register_buffer("frame_scale", torch.ones(frame_width))
        self.queries = nn.Sequential(
            nn.Linear(question_width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, NUM_HEADS * (HEAD_DIM + 1))
        )
        self.keys = nn.Linear(frame_width, NUM_HEADS * HEAD_DIM)
        self.bias = nn.Parameter(torch.tensor(-6.0, dtype=torch.float32))

    def question(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states ``[..., T, D]`` to queries ``[..., T, H, R]`` and the logarithms of gates ``[..., T, H]``."""
        projected = self.queries((hidden - self.question_mean) / self.question_scale)
        both = projected.unflatten(-1, (NUM_HEADS, HEAD_DIM + 1))
        return both[..., :-1] * (2 / math.sqrt(HEAD_DIM)), both[..., -1]

    def forward(self, queries: Tensor, gates: Tensor, tokens: Tensor) -> Tensor:
        """Scores of Q questions for F frames.

        Args:
            queries, gates: as `question` gives them, ``[Q, T, H, R]`` and ``[Q, T, H]``; -inf gates are padding.
            tokens: ``[F, K, W]``.

        Returns:
            Logarithms of odds, ``[Q, F]``.
        """
        by_head = self.project(tokens).flatten(2)  # [H, R, F * K]
        products = queries.permute(2, 0, 1, 3).flatten(1, 2) @ by_head  # [H, Q * T, F * K]
        products = products.unflatten(2, tokens.shape[:2]).logsumexp(-1)  # [H, Q * T, F]
        products = products.unflatten(1, queries.shape[:2]) + gates.permute(2, 0, 1)[..., None]  # [H, Q, T, F]
        return products.transpose(1, 2).flatten(0, 1).logsumexp(0) + self.bias  # [Q, F]

    def project(self, tokens: Tensor) -> Tensor:
        """Frames' tokens ``[F, K, W]`` to keys ``[H, R, F, K]``, all that any question needs of them."""
        weights, offsets = self._projection()
        keys = torch.addmm(offsets[:, None], weights, tokens.flatten(0, 1).T)  # [H * R, F * K]
        return keys.unflatten(0, (NUM_HEADS, HEAD_DIM)).unflatten(2, tokens.shape[:2])

    def compact(self, tokens: Tensor) -> Tensor:
        """What is to be kept of frames' tokens, ``[F, K, W]``: themselves or, where those are fewer numbers, keys."""
        return self.project(tokens).permute(2, 3, 0, 1).flatten(2) if self._is_wide else tokens

    def odds(self, queries: Tensor, gates: Tensor, kept: Iterable[Tensor]) -> Tensor:
        """What each of one question's tokens adds to the odds of each frame, before the bias.

        Queries are taken to where tokens are, q . (P x) = (P' q) . x: one question's are fewer than a video's tokens.

        Args:
            queries, gates: of one question, ``[T, H, R]`` and ``[T, H]``.
            kept: ``[F, K, W]`` of some frames at a time, see `compact`.

        Returns:
            ``[F, T]``; the logarithm of their sum over T, plus the bias, is what `forward` gives.
        """
        if self._is_wide:
            heads = torch.eye(NUM_HEADS, dtype=queries.dtype, device=queries.device)
            weights, offsets = torch.einsum("thr,hg->thgr", queries, heads).flatten(2), gates
        else:
            projection, shift = (t.unflatten(0, (NUM_HEADS, HEAD_DIM)) for t in self._projection())
            weights = torch.einsum("thr,hrw->thw", queries, projection)
            offsets = gates + torch.einsum("thr,hr->th", queries, shift)
        odds = []
        for tokens in kept:
            products = torch.addmm(offsets.flatten(), tokens.flatten(0, 1), weights.flatten(0, 1).T)  # [F * K, T * H]
            # One pass instead of a logsumexp for each sum; float32 holds the exponentials of anything from -87 to 88.
            odds.append(products.clamp_(-80, 80).exp_().unflatten(0, tokens.shape[:2]).sum(1))
        return torch.cat(odds).unflatten(1, gates.shape).sum(2)

    @property
    def _is_wide(self) -> bool:
        return len(self.frame_mean) > NUM_HEADS * HEAD_DIM

    def _projection(self) -> tuple[Tensor, Tensor]:
        """Weights ``[H * R, W]`` and offsets ``[H * R]`` for tokens as they are, without mean and scale taken off."""
        weights = self.keys.weight / self.frame_scale
        return weights, self.keys.bias - weights @ self.frame_mean


@dataclass(frozen=True)
class Retriever:
    """What a model has learned about finding frames.

    Attributes:
        scorers: by form of tokens.
        model_fingerprint: of the compressing weights that it belongs to, in float32.
    """

    scorers: dict[Form, FrameScorer]
    model_fingerprint: str

    def belongs_to(self, model: VocoModel, fingerprint: str) -> bool:
        """Whether it was trained with this model's compressing weights, as far as those can be told apart.

        A fingerprint tells the same weights in another type from these, so then only their widths are compared.
        """
        if model.backbone.dtype == torch.float32:
            return fingerprint == self.model_fingerprint
        return all(len(s.question_mean) == model.backbone.hidden_size for s in self.scorers.values())

    def save(self, folder: Path) -> Path:
        """Write it into a checkpoint's folder."""
        tensors = {f"{form}.{n}": t.contiguous() for form, s in self.scorers.items() for n, t in s.state_dict().items()}
        path = folder / RETRIEVAL_WEIGHTS
        save_file(tensors, path, metadata={"model_fingerprint": self.model_fingerprint})
        return path

    @staticmethod
    def load(folder: Path, *, device: torch.device | str = "cpu") -> Retriever | None:
        """That of a checkpoint's folder, on a device; None where it has none.

        Raises:
            ModelError: the file is no such thing.
        """
        path = folder / RETRIEVAL_WEIGHTS
        if not has_file(folder, RETRIEVAL_WEIGHTS):
            return None
        tensors = read_small_weights(path)
        scorers: dict[Form, FrameScorer] = {}
        try:
            with safe_open(path, "pt") as file:
                fingerprint = file.metadata()["model_fingerprint"]
            forms: set[Any] = {name.partition(".")[0] for name in tensors}
            for form in forms:
                own = {n.partition(".")[2]: t.float() for n, t in tensors.items() if n.startswith(f"{form}.")}
                with torch.device("meta"):  # shapes are compared before memory is taken
                    scorer = FrameScorer(len(own["question_mean"]), len(own["frame_mean"]))
                scorer.load_state_dict(own, assign=True)
                scorers[form] = scorer.eval().requires_grad_(False).to(device)
            if not forms or not forms <= set(get_args(Form)):
                raise ValueError(f"it is for {sorted(forms)}, not for some of {', '.join(get_args(Form))}")
        except Exception as error:  # the library raises anything
            raise ModelError(
                f"{path} does not hold what finds frames: {first_line(error)}; {FETCH_AGAIN}, or delete it, and "
                "attention finds them"
            ) from error
        return Retriever(scorers, fingerprint)


def token_features(tokens: VocoTokens) -> Tensor:
    """What a `FrameScorer` reads of tokens, float32 ``[F, K, W]``: embeddings, or the values of the last layer."""
    if tokens.form == "embeds":
        assert tokens.embeds is not None
        return tokens.embeds.float()
    assert tokens.values is not None
    return value_features(tokens.values[:, -1])


def value_features(values: Tensor) -> Tensor:
    """The same of the last layer's values, ``[F, kv_heads, K, head_dim]``."""
    return values.transpose(1, 2).flatten(2).float()  # [F, K, kv_heads * head_dim]


@undisturbed()
def question_states(model: VocoModel, question: str) -> Tensor:
    """Last hidden states of a question that stands alone, read with the compressing weights, float32 ``[T, D]``."""
    embeds = model.backbone.embed(question_ids(model, question))[None]
    with adapters_off(model.backbone.decoder):
        output = model.backbone.decoder(inputs_embeds=embeds, use_cache=False)
    return output.last_hidden_state[0].float()


def question_ids(model: VocoModel, question: str) -> list[int]:
    """Token ids of a question as it would be asked.

    Raises:
        UsageError: it is empty.
    """
    if not question.strip():
        raise UsageError("there is nothing to look for: the query is empty")
    return model.backbone.conversation_ids([{"role": "user", "content": question.strip()}])


# ---------------------------------------------------------------------- training-free


def _recorded(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
    """SDPA that keeps the queries of the last token, with their scale, in the list that the caller passed."""
    recorded = kwargs.pop("recorded", None)
    if recorded is not None:
        recorded.append(query[0, :, -1] * kwargs["scaling"])
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **kwargs)


AttentionInterface.register(_RECORDING, _recorded)
AttentionMaskInterface.register(_RECORDING, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@undisturbed()
def last_token_queries(model: VocoModel, question: str, *, position: int, form: Form) -> Tensor:
    """Queries of a question's last token, rotated and scaled, ``[layers, heads, head_dim]``.

    Args:
        position: of the question's first token.
        form: of the frames that it is to be held against.
    """
    prompt = question_ids(model, question)
    recorded: list[Tensor] = []
    position_ids = torch.arange(position, position + len(prompt), device=model.backbone.device)[None]
    embeds = model.backbone.embed(prompt)[None]
    decoder = model.backbone.decoder_by(_RECORDING)
    with model.answering(form):
        decoder(inputs_embeds=embeds, position_ids=position_ids, use_cache=False, recorded=recorded)
    return torch.stack(recorded).float()


def attention_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Logarithm of attention, up to a constant, from one token to each frame, ``[F]``.

    Its mean over all heads and all layers but the first, whose keys tell little of frames.

    Args:
        queries: ``[layers, heads, head_dim]``, scaled.
        keys: ``[F, layers, kv_heads, K, head_dim]``.
    """
    groups = queries.shape[1] // keys.shape[2]
    grouped = queries.unflatten(1, (keys.shape[2], groups))  # [layers, kv_heads, groups, head_dim]
    products = torch.einsum("lhgd,flhkd->flhgk", grouped, keys.float()).logsumexp(-1).flatten(2)  # [F, layers, heads]
    return products[:, min(1, products.shape[1] - 1) :].mean((1, 2))


@undisturbed()
def frame_keys(model: VocoModel, tokens: VocoTokens) -> tuple[Tensor, int]:
    """Keys of frames of which each stands alone, ``[F, layers, kv_heads, K, head_dim]``, and where text would begin."""
    if tokens.form == "kv":
        assert tokens.keys is not None
        assert tokens.positions is not None
        return tokens.keys.to(model.backbone.device), int(tokens.positions.max()) + 1
    assert tokens.embeds is not None
    start = len(model.backbone.template.frame_before_ids)
    before = model.backbone.embed(model.backbone.template.frame_before_ids)
    embeds = tokens.embeds.to(before.device, before.dtype)  # [F, K, D]
    sequence = torch.cat([before.expand(len(embeds), -1, -1), embeds], dim=1)  # [F, 1 + K, D]
    with model.answering("embeds"):
        cache = model.backbone.decoder(inputs_embeds=sequence, use_cache=True)[CACHE_ARGUMENT]
    keys = torch.stack([layer.keys[:, :, start:] for layer in cache.layers], dim=1)
    return keys, sequence.shape[1]


# ---------------------------------------------------------------------- both


@dataclass(frozen=True, eq=False)
class FrameScores:
    """How much each of F frames has to do with a question.

    Attributes:
        scores: float32 ``[F]``. With a retriever logarithms of odds: above 0 it is likelier than not that the frame
            shows what is asked about. Without one only their order means something.
        claims: float32 ``[F]``, 0 for the best frames and less for others: in what order frames are worth seeing, where
            a question names several things. None without a retriever.
        is_about: bool ``[F]``: those within `NEAR_BEST` of the best claim, and those that are `CERTAIN`. Others would
            only mislead. None without a retriever.
    """

    scores: np.ndarray
    claims: np.ndarray | None = None
    is_about: np.ndarray | None = None


class FrameSearch:
    """Holds frames against one question after another.

    With a scorer, what it reads of frames is kept, where that is little: at most 512 bytes a token, 15 MB for an hour
    at one frame a second and K = 8. A further question then reads nothing from disk. Nothing is kept of questions, so
    that a question's scores do not depend on what was asked before, or meanwhile.

    Args:
        model: what compressed the frames.
        read: gives all frames, some at a time, whenever it is called; of one form.
        read_features: in the same way what `token_features` makes of them.
        scorer: what has learned to tell frames of that form; None where nothing has.
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
        self._kept: list[Tensor] | None = None

    @undisturbed()
    def scores(self, question: str) -> FrameScores:
        """How much each frame has to do with a question.

        Raises:
            UsageError: the question is empty, or the frames keep no tokens.
            ModelError: the model has no tokenizer or no chat template.
        """
        if self._scorer is not None:
            return self._by_learned(question, self._scorer)
        parts = list(self._by_attention(question))
        return FrameScores(torch.cat(parts).cpu().numpy() if parts else np.empty(0, np.float32))

    def _by_learned(self, question: str, scorer: FrameScorer) -> FrameScores:
        odds = self._odds(question, scorer)  # [F, T]
        scores, by_token = odds.sum(1).log() + scorer.bias, odds.log() + scorer.bias
        claims = (by_token - by_token.amax(0).clamp(min=0)).amax(1)
        claims -= claims.max()
        is_about = (claims >= -NEAR_BEST) | (scores >= CERTAIN)
        return FrameScores(*(t.cpu().numpy() for t in (scores, claims, is_about)))

    def _odds(self, question: str, scorer: FrameScorer) -> Tensor:
        """What each token of a question adds to the odds of each frame, ``[F, T]``."""
        queries, gates = scorer.question(question_states(self._model, question))
        return scorer.odds(queries, gates, self._compacted(scorer) if self._kept is None else self._kept)

    def _compacted(self, scorer: FrameScorer) -> Iterator[Tensor]:
        """What is kept of some frames at a time, ``[F, K, W]``; the next question finds it while it is little."""
        kept, size_bytes = [], 0
        for features in self._read_features():
            piece = scorer.compact(features.to(self._model.backbone.device))
            size_bytes += piece.nbytes
            if size_bytes <= KEPT_BYTES:
                kept.append(piece)
            else:
                kept.clear()
            yield piece
        if size_bytes <= KEPT_BYTES:
            self._kept = kept

    def _by_attention(self, question: str) -> Iterator[Tensor]:
        queries = None
        for tokens in self._read():
            if tokens.num_voco_tokens == 0:
                raise UsageError("these frames keep no tokens (compressor 'none'), so nothing can be found in them")
            keys, position = frame_keys(self._model, tokens)
            if queries is None:
                queries = last_token_queries(self._model, question, position=position, form=tokens.form)
            yield attention_scores(queries, keys)
