"""The learned scorer of frames: how likely a frame shows what a question is about, from its cached tokens alone.

A question's tokens t are projected to queries with a gate each, a frame's tokens j to keys, in H heads. The score is
the logarithm of the odds that the frame shows what is asked about:

    s(question, frame) = b + log sum over t, h, j of exp(2 q_th . k_jh / sqrt(R) + g_th)

so a question that names two things finds frames with either. The sum over tokens is ColBERT's late interaction
(arXiv:2004.12832, equation 3) with a soft maximum, and gates in place of its stop list.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from voco_video.checkpoint.files import RETRIEVAL_WEIGHTS
from voco_video.errors import ModelError, UsageError
from voco_video.files.settings import FETCH_AGAIN, first_line, has_file
from voco_video.files.weights import read_small_weights
from voco_video.model.adapters import adapters_off
from voco_video.model.inference import undisturbed
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.compression import Form

NUM_HEADS, HEAD_DIM, HIDDEN = 4, 32, 256


class FrameScorer(nn.Module):
    """The projections for tokens of one form.

    Args:
        question_width: D of the question's hidden states.
        frame_width: W of a token's features, see `token_features`.
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
        """Project hidden states ``[..., T, D]`` to queries ``[..., T, H, R]`` and log-gates ``[..., T, H]``."""
        projected = self.queries((hidden - self.question_mean) / self.question_scale)
        both = projected.unflatten(-1, (NUM_HEADS, HEAD_DIM + 1))
        return both[..., :-1] * (2 / math.sqrt(HEAD_DIM)), both[..., -1]

    def forward(self, queries: Tensor, gates: Tensor, tokens: Tensor) -> Tensor:
        """Score F frames for Q questions.

        Args:
            queries, gates: from `question`, ``[Q, T, H, R]`` and ``[Q, T, H]``; gates of -inf are padding.
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
        """Project frames' tokens ``[F, K, W]`` to keys ``[H, R, F, K]``, all that any question needs of them."""
        weights, offsets = self._projection()
        keys = torch.addmm(offsets[:, None], weights, tokens.flatten(0, 1).T)  # [H * R, F * K]
        return keys.unflatten(0, (NUM_HEADS, HEAD_DIM)).unflatten(2, tokens.shape[:2])

    def compact(self, tokens: Tensor) -> Tensor:
        """Turn frames' tokens ``[F, K, W]`` into keys if these are fewer numbers; else return them unchanged."""
        return self.project(tokens).permute(2, 3, 0, 1).flatten(2) if self._is_wide else tokens

    def odds(self, queries: Tensor, gates: Tensor, features: Iterable[Tensor]) -> Tensor:
        """Compute how much each token of one question adds to the odds of each frame, before the bias.

        Args:
            queries, gates: of one question, ``[T, H, R]`` and ``[T, H]``.
            features: from `compact`, ``[F, K, W]`` of some frames at a time.

        Returns:
            ``[F, T]``; the logarithm of their sum over T, plus the bias, is the result of `forward`.
        """
        weights, offsets = self._question_weights(queries, gates)
        odds = []
        for tokens in features:
            products = torch.addmm(offsets.flatten(), tokens.flatten(0, 1), weights.flatten(0, 1).T)  # [F * K, T * H]
            # One pass instead of a logsumexp for each sum; float32 holds the exponentials of anything from -87 to 88.
            odds.append(products.clamp_(-80, 80).exp_().unflatten(0, tokens.shape[:2]).sum(1))
        return torch.cat(odds).unflatten(1, gates.shape).sum(2)

    def _question_weights(self, queries: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a question's queries into weights ``[T, H, W]`` and offsets ``[T, H]`` for compacted features.

        This is cheaper than projecting the tokens, q . (P x) = (P' q) . x: a question has fewer of them than a video.
        """
        if self._is_wide:
            heads = torch.eye(NUM_HEADS, dtype=queries.dtype, device=queries.device)
            return torch.einsum("thr,hg->thgr", queries, heads).flatten(2), gates
        projection, shift = (t.unflatten(0, (NUM_HEADS, HEAD_DIM)) for t in self._projection())
        return torch.einsum("thr,hrw->thw", queries, projection), gates + torch.einsum("thr,hr->th", queries, shift)

    @property
    def _is_wide(self) -> bool:
        return len(self.frame_mean) > NUM_HEADS * HEAD_DIM

    def _projection(self) -> tuple[Tensor, Tensor]:
        """Return weights ``[H * R, W]`` and offsets ``[H * R]`` that include the features' mean and scale."""
        weights = self.keys.weight / self.frame_scale
        return weights, self.keys.bias - weights @ self.frame_mean


@dataclass(frozen=True)
class Retriever:
    """A model's learned scorers of frames.

    Attributes:
        scorers: by form of tokens.
        model_fingerprint: fingerprint of the compressing weights that they were trained with, in float32.
    """

    scorers: dict[Form, FrameScorer]
    model_fingerprint: str

    def belongs_to(self, model: VocoModel, fingerprint: str) -> bool:
        """Check that it was trained with this model's compressing weights.

        Fingerprints depend on the weights' type, so for types other than float32 only widths are compared.
        """
        if model.backbone.dtype == torch.float32:
            return fingerprint == self.model_fingerprint
        return all(len(s.question_mean) == model.backbone.hidden_size for s in self.scorers.values())

    def save(self, folder: Path) -> Path:
        """Write the scorers into a checkpoint's folder."""
        tensors = {f"{form}.{n}": t.contiguous() for form, s in self.scorers.items() for n, t in s.state_dict().items()}
        path = folder / RETRIEVAL_WEIGHTS
        save_file(tensors, path, metadata={"model_fingerprint": self.model_fingerprint})
        return path

    @staticmethod
    def load(folder: Path, *, device: torch.device | str = "cpu") -> Retriever | None:
        """Load the scorers of a checkpoint's folder to a device; None if it has none.

        Raises:
            ModelError: the file does not hold scorers.
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
                f"{path} does not hold a retriever: {first_line(error)}; {FETCH_AGAIN}, or delete it to fall back to "
                "attention"
            ) from error
        return Retriever(scorers, fingerprint)


def token_features(tokens: VocoTokens) -> Tensor:
    """Return the features for a `FrameScorer`, float32 ``[F, K, W]``: embeddings, or the values of the last layer."""
    if tokens.form == "embeds":
        assert tokens.embeds is not None
        return tokens.embeds.float()
    assert tokens.values is not None
    return value_features(tokens.values[:, -1])


def value_features(values: Tensor) -> Tensor:
    """Return the features of the last layer's values, ``[F, kv_heads, K, head_dim]``."""
    return values.transpose(1, 2).flatten(2).float()  # [F, K, kv_heads * head_dim]


@dataclass(frozen=True, eq=False)
class AskedQuestion:
    """A question as a scorer sees it; the same for all frames of a form.

    Attributes:
        queries, gates: ``[T, H, R]`` and ``[T, H]``; see `FrameScorer.question`.
    """

    queries: Tensor
    gates: Tensor


@undisturbed()
def read_question(model: VocoModel, scorer: FrameScorer, question: str) -> AskedQuestion:
    """Read a question without any frames.

    Raises:
        UsageError: it is empty.
        ModelError: the model has no tokenizer or no chat template.
    """
    return AskedQuestion(*scorer.question(question_states(model, question)))


@undisturbed()
def question_states(model: VocoModel, question: str) -> Tensor:
    """Read a question without any frames, with the compressing weights: last hidden states, float32 ``[T, D]``."""
    embeds = model.backbone.embed(question_ids(model, question))[None]
    with adapters_off(model.backbone.decoder):
        output = model.backbone.decoder(inputs_embeds=embeds, use_cache=False)
    return output.last_hidden_state[0].float()


def question_ids(model: VocoModel, question: str) -> list[int]:
    """Return the token ids of a question's prompt.

    Raises:
        UsageError: it is empty.
    """
    if not question.strip():
        raise UsageError("the query is empty: say what to look for")
    messages = [{"role": "user", "content": question.strip()}]
    return model.backbone.conversation_ids(messages, has_frames=False)
