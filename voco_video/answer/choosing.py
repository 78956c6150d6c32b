"""How the next token of each answer is chosen: the likeliest, or a random one, after what changes the scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from voco_video.checkpoint.generation import Processors, departures, logits_processors, settings_in_force
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions

_CHOOSES = ("temperature", "top_p", "top_k", "repetition_penalty")


class TokenChooser:
    """Chooses the next token for each of several prompts, as if each had been asked alone.

    Prompts of one length are handled together. Padding never counts as a token that was said, and each prompt has
    random numbers of its own, so an answer does not depend on the questions beside it.

    Args:
        before: token ids that stand before every prompt, and count as said.
    """

    def __init__(
        self,
        model: VocoModel,
        prompts: Sequence[Sequence[int]],
        options: AnswerOptions,
        *,
        before: Sequence[int] = (),
    ) -> None:
        device = model.backbone.device
        by_length: dict[int, list[int]] = defaultdict(list)
        for row, prompt in enumerate(prompts):
            by_length[len(prompt)].append(row)
        self._groups = []
        for rows in by_length.values():
            ids = torch.tensor([[*before, *prompts[row]] for row in rows], device=device)
            processors = _processors(model, ids, options)
            self._groups.append(_Group(torch.tensor(rows, device=device), ids, processors))
        num_randoms = len(prompts) if options.temperature else 0
        self._randoms = [torch.Generator(device).manual_seed(options.seed) for _ in range(num_randoms)]

    def scores(self, logits: Tensor) -> Tensor:
        """Change the scores of the next tokens by the settings: float32 ``[B, vocabulary]`` to the same."""
        if not any(group.processors for group in self._groups):
            return logits
        scores = logits.clone()
        for group in self._groups:
            scores[group.rows] = group.processors(group.ids, logits[group.rows])
        return scores

    def choose(self, logits: Tensor) -> Tensor:
        """Choose a token for each row: float32 ``[B, vocabulary]`` to int64 ``[B]``."""
        scores = self.scores(logits)
        if self._randoms:
            shares = scores.softmax(-1)
            tokens = [torch.multinomial(row, 1, generator=random) for row, random in zip(shares, self._randoms)]
            token_ids = torch.cat(tokens)
        else:
            token_ids = scores.argmax(-1)
        for group in self._groups:
            group.ids = torch.cat([group.ids, token_ids[group.rows, None]], dim=1)
        return token_ids


@dataclass
class _Group:
    """Prompts of one length.

    Attributes:
        rows: their rows in the batch, ``[G]``.
        ids: their tokens so far, ``[G, T]``.
        processors: what changes their scores.
    """

    rows: Tensor
    ids: Tensor
    processors: Processors


def _processors(model: VocoModel, input_ids: Tensor, options: AnswerOptions) -> Processors:
    # If it shall not stop, use an id outside the vocabulary: None would be replaced by the model's own end tokens.
    ends = sorted(end_token_ids(model)) if options.stop_at_end else [model.backbone.text_config.vocab_size]
    settings = {
        "max_new_tokens": options.max_new_tokens,
        "eos_token_id": ends or None,
        "pad_token_id": ends[0] if ends and options.stop_at_end else 0,
        "repetition_penalty": None if options.repetition_penalty is None else float(options.repetition_penalty),
    }
    if options.temperature:
        settings |= {"top_p": options.top_p, "top_k": options.top_k}
    return logits_processors(model.backbone.hf_model, input_ids, settings, temperature=options.temperature)


def end_token_ids(model: VocoModel) -> set[int]:
    """Return the tokens that end an answer."""
    ends: int | list[int] | None = model.backbone.hf_model.generation_config.eos_token_id
    return set() if ends is None else set(ends) if isinstance(ends, list) else {ends}


def generation_facts(model: VocoModel, options: AnswerOptions) -> dict[str, Any]:
    """Return the settings by which tokens are chosen, and how that differs from the checkpoint's own file.

    >>> import voco_video
    >>> generation_facts(voco_video.load_model("voco-tiny").voco, AnswerOptions())
    {'temperature': 0.0, 'differs_from_checkpoint': ''}
    """
    given = {name: getattr(options, name) for name in _CHOOSES}
    file: Any = model.backbone.hf_model.generation_config
    difference = departures({**file.to_dict(), **({"do_sample": False} if options.temperature else {})})
    return {**settings_in_force(file, given), "differs_from_checkpoint": difference}
