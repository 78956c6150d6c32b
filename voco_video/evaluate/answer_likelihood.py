"""Answers of a vocabulary ranked by their likelihood, for comparison with top-1 and top-10 of classifiers.

    log p(answer | frames, question) = sum of log p(token | frames, question, tokens before), the end token included

The answers' tokens form a trie. One pass over a prefix that stays shared reads the question and every inner node:

    VoCo tokens (prefix) | question, causal | nodes, each seeing prefix, question and the nodes that lead to it

so a beginning that many answers share is read once, and no keys are copied for each answer. Layers with a running
state, or a window of tokens, take no such mask: with them, each longest beginning is a row of its own behind the
question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from voco_video.data.samples import Dataset
from voco_video.errors import ModelError, UsageError
from voco_video.model.backbone import CACHE_ARGUMENT, Backbone
from voco_video.model.inference import undisturbed
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel

MAX_NODES_PER_PASS = 1024
_ROWS_PER_PASS = 32  # of answers one by one
_ROWS_PER_HEAD_PASS = 256  # logits of a row take as many floats as the vocabulary has tokens


def answer_vocabulary(train: Dataset, size: int) -> tuple[str, ...]:
    """Return the commonest answers of a training split, commonest first; equally common ones alphabetically.

    Raises:
        UsageError: ``size`` is below 1.

    >>> answer_vocabulary(load_dataset("msvd", "data/MSVD", split="train"), 3)      # doctest: +SKIP
    ('man', 'someone', 'woman')
    """
    if size < 1:
        raise UsageError(f"a vocabulary of {size} answers cannot be ranked; give 1 or more")
    counts = Counter(turn.answer for sample in train.samples for turn in sample.turns)
    return tuple(sorted(counts, key=lambda answer: (-counts[answer], answer))[:size])


@dataclass(frozen=True)
class Ranker:
    """A model with a vocabulary of A answers, tokenized once.

    Attributes:
        model: the model that gives the likelihoods.
        answers: the vocabulary.
        tries: the answers' tokens, in parts that one pass can read.
    """

    model: VocoModel
    answers: tuple[str, ...]
    tries: tuple[Trie, ...] = field(repr=False)

    @staticmethod
    def of(model: VocoModel, answers: Sequence[str]) -> Ranker:
        """Tokenize a vocabulary.

        Raises:
            ModelError: the chat template does not write an answer unchanged after a question.
            UsageError: the attention implementation takes no masks.
        """
        implementation = model.backbone.text_config._attn_implementation
        if implementation not in ("sdpa", "eager"):
            raise UsageError(f"attention {implementation!r} cannot rank a vocabulary; use 'sdpa'")
        return Ranker(model, tuple(answers), build_tries(answer_token_ids(model.backbone, answers)))

    def log_likelihoods(self, prefix: Prefix, question: str) -> Tensor:
        """Compute the natural logarithm of each answer's probability after a question, float32 ``[A]`` on the CPU."""
        return score_tries(self.model, prefix, self._prompt(prefix, question), self.tries)[0]

    def losses(self, prefix: Prefix, question: str) -> tuple[Tensor, Tensor]:
        """Score each answer: mean negative log-likelihood per token, and whether greedy decoding gives it.

        Returns:
            float32 ``[A]`` and bool ``[A]``, on the CPU.
        """
        scores, is_greedy = score_tries(self.model, prefix, self._prompt(prefix, question), self.tries)
        num_tokens = sum(torch.bincount(trie.step_answers, minlength=len(self.answers)) for trie in self.tries)
        return -scores / num_tokens, is_greedy

    def rank(self, prefix: Prefix, question: str, answer: str) -> int | None:
        """Count the answers that are at least as likely as this one, itself included; None outside the vocabulary.

        Answers of exactly the same likelihood count against it, so a model that gives all the same gets no credit.
        """
        if answer not in self.answers:
            return None
        scores = self.log_likelihoods(prefix, question)
        return int((scores >= scores[self.answers.index(answer)]).sum())

    def _prompt(self, prefix: Prefix, question: str) -> list[int]:
        messages = [{"role": "user", "content": question.strip()}]
        return self.model.backbone.conversation_ids(messages, has_frames=len(prefix.frame_slots) > 0)


@dataclass(frozen=True)
class Trie:
    """The token sequences of several answers as a tree of their M beginnings, without empty and whole ones.

    Attributes:
        token_ids: last token of each beginning, ``[M]``; a beginning comes after those that it extends.
        depths: number of tokens before that token, ``[M]``.
        visible: ``[M, M]``, whether a row's beginning starts with a column's.
        step_sources: for each token of every answer the place that predicts it: 0 for the question's end, m + 1 for
            node m.
        step_token_ids, step_answers: that token, and the answer that it belongs to.
        num_answers: A, over all tries of a vocabulary.
    """

    token_ids: Tensor
    depths: Tensor
    visible: Tensor = field(repr=False)
    step_sources: Tensor = field(repr=False)
    step_token_ids: Tensor = field(repr=False)
    step_answers: Tensor = field(repr=False)
    num_answers: int


def answer_token_ids(backbone: Backbone, answers: Sequence[str]) -> list[tuple[int, ...]]:
    """Return what the model would have to generate for exactly each answer: its tokens, and the end token.

    Raises:
        ModelError: an answer's tokens do not follow the question's unchanged.
    """
    asked = [{"role": "user", "content": "what is it?"}]
    prompt = backbone.conversation_ids(asked)
    start = len(backbone.conversation_text(asked))
    ends = backbone.hf_model.generation_config.eos_token_id
    end_ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
    usual_end = end_ids[0] if end_ids else None
    sequences = []
    for answer in map(backbone.typed_text.broken, answers):
        told = [*asked, {"role": "assistant", "content": answer}]
        text = backbone.conversation_text(told, add_generation_prompt=False)
        stop = text.find(answer.strip(), start) + len(answer.strip())
        ids = backbone.text_ids(text[:stop])
        if stop < start or list(ids[: len(prompt)]) != prompt or len(ids) == len(prompt):
            raise ModelError(f"answer {answer!r} cannot be ranked: its tokens do not simply follow the question's")
        after = backbone.token_ids(text[stop:])
        end = next((token for token in after if token in end_ids), usual_end)
        sequences.append((*ids[len(prompt) :], *([] if end is None else [end])))
    return sequences


def build_tries(sequences: Sequence[Sequence[int]], *, max_nodes: int = MAX_NODES_PER_PASS) -> tuple[Trie, ...]:
    """Build tries of at most ``max_nodes`` nodes (or one sequence) each from token sequences, none of them empty."""
    order = sorted(
        range(len(sequences)), key=lambda i: tuple(sequences[i])
    )  # puts those with shared beginnings together
    groups: list[list[int]] = []
    num_nodes = 0
    for place, i in enumerate(order):
        before = sequences[order[place - 1]] if place else ()
        num_new = len(sequences[i]) - 1 - _num_shared(before, sequences[i])
        if not groups or num_nodes + num_new > max_nodes:
            groups.append([])
            num_nodes, num_new = 0, len(sequences[i]) - 1
        groups[-1].append(i)
        num_nodes += max(0, num_new)
    return tuple(_build_trie(sequences, group) for group in groups)


def _num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the nodes that two neighbours in order share: beginnings of both, without either's last token."""
    longest = min(len(one), len(other)) - 1
    return next((i for i in range(longest) if one[i] != other[i]), max(0, longest))


def _build_trie(sequences: Sequence[Sequence[int]], group: Sequence[int]) -> Trie:
    nodes: dict[tuple[int, ...], int] = {}
    steps: list[tuple[int, int, int]] = []
    for i in group:
        for depth, token in enumerate(sequences[i]):
            beginning = tuple(sequences[i][:depth])
            if depth:
                nodes.setdefault(beginning, len(nodes))
            steps.append((nodes[beginning] + 1 if depth else 0, token, i))
    visible = torch.eye(len(nodes), dtype=torch.bool)
    for beginning, m in nodes.items():
        if len(beginning) > 1:
            visible[m] |= visible[nodes[beginning[:-1]]]
    sources, token_ids, answers = torch.tensor(steps).T
    return Trie(
        token_ids=torch.tensor([beginning[-1] for beginning in nodes], dtype=torch.long),
        depths=torch.tensor([len(beginning) - 1 for beginning in nodes], dtype=torch.long),
        visible=visible,
        step_sources=sources,
        step_token_ids=token_ids,
        step_answers=answers,
        num_answers=len(sequences),
    )


@undisturbed()
def score_tries(
    model: VocoModel, prefix: Prefix, prompt: Sequence[int], tries: Sequence[Trie]
) -> tuple[Tensor, Tensor]:
    """Score every answer after a prompt of token ids: its log-likelihood, and whether greedy decoding gives it.

    Returns:
        float32 ``[A]`` and bool ``[A]``, on the CPU.
    """
    scores = torch.zeros(tries[0].num_answers, dtype=torch.float32)
    num_missed = torch.zeros(tries[0].num_answers, dtype=torch.float32)
    for trie in tries:
        find = _hidden_states if model.backbone.keeps_all_keys else _hidden_states_by_row
        hidden = find(model, prefix, prompt, trie)  # [1 + M, D]
        for rows, log_probs in _log_probs(model, hidden):
            here = (trie.step_sources >= rows.start) & (trie.step_sources < rows.stop)
            sources = (trie.step_sources[here] - rows.start).to(log_probs.device)
            values = log_probs[sources, trie.step_token_ids[here].to(log_probs.device)]
            is_missed = (values < log_probs.max(-1).values[sources]).float()
            scores.index_add_(0, trie.step_answers[here], values.cpu())
            num_missed.index_add_(0, trie.step_answers[here], is_missed.cpu())
    return scores, num_missed == 0


def _hidden_states(model: VocoModel, prefix: Prefix, prompt: Sequence[int], trie: Trie) -> Tensor:
    """Compute the last hidden states at the prompt's last token and at every node, ``[1 + M, D]``."""
    device, length = model.backbone.device, len(prompt)
    token_ids = torch.cat([torch.tensor(prompt), trie.token_ids])  # [T + M]
    offsets = torch.cat([torch.arange(length), length + trie.depths])
    with model.answering(prefix.form):
        hidden = model.backbone.decoder(
            inputs_embeds=model.backbone.embed(token_ids)[None],
            attention_mask=_mask(prefix.length, length, trie).to(device, model.backbone.dtype),
            position_ids=(prefix.text_start + offsets)[None].to(device),
            use_cache=True,
            **{CACHE_ARGUMENT: prefix.to_cache()},
        ).last_hidden_state
    return hidden[0, length - 1 :]


def _hidden_states_by_row(model: VocoModel, prefix: Prefix, prompt: Sequence[int], trie: Trie) -> Tensor:
    """Compute the same without a mask: rows of one length, each the question and one beginning that none goes on from.

    Shared beginnings are read again in every row.
    """
    paths = [row.nonzero()[:, 0].tolist() for row in trie.visible]  # the nodes that lead to each, itself the last
    goes_on = {path[-2] for path in paths if len(path) > 1}
    by_length: dict[int, list[list[int]]] = {0: [[]]}  # the question alone, where there are no nodes
    for path in paths:
        if path[-1] not in goes_on:
            by_length.setdefault(len(path), []).append(path)
    found: dict[int, Tensor] = {}
    for same in by_length.values():
        for first in range(0, len(same), _ROWS_PER_PASS):
            some = same[first : first + _ROWS_PER_PASS]
            ids = torch.tensor([[*prompt, *trie.token_ids[path].tolist()] for path in some])
            positions = torch.arange(prefix.text_start, prefix.text_start + ids.shape[1])
            with model.answering(prefix.form):
                hidden = model.backbone.decoder(
                    inputs_embeds=model.backbone.embed(ids),
                    position_ids=positions.expand(len(ids), -1).to(model.backbone.device),
                    use_cache=True,
                    **{CACHE_ARGUMENT: prefix.to_cache(len(ids))},
                ).last_hidden_state[:, len(prompt) - 1 :]  # [rows, 1 + nodes of each, D]
            for path, states in zip(some, hidden, strict=True):
                found |= dict(zip((-1, *path), states, strict=True))
    return torch.stack([found[node] for node in range(-1, len(paths))])


def _mask(prefix_length: int, prompt_length: int, trie: Trie) -> Tensor:
    """Build the additive attention mask, ``[1, 1, T + M, S + T + M]``: 0 where a row sees a column, else -inf."""
    num_nodes = len(trie.token_ids)
    seen = torch.zeros(prompt_length + num_nodes, prefix_length + prompt_length + num_nodes, dtype=torch.bool)
    end = prefix_length + prompt_length
    seen[:, :prefix_length] = True
    seen[:prompt_length, prefix_length:end] = torch.ones(prompt_length, prompt_length, dtype=torch.bool).tril()
    seen[prompt_length:, prefix_length:end] = True
    seen[prompt_length:, end:] = trie.visible
    return torch.zeros(seen.shape, dtype=torch.float32).masked_fill(~seen, float("-inf"))[None, None]


def _log_probs(model: VocoModel, hidden: Tensor) -> Iterator[tuple[range, Tensor]]:
    """Yield next-token log-probabilities ``[rows, vocabulary]`` of some rows of ``hidden`` at a time."""
    for start in range(0, len(hidden), _ROWS_PER_HEAD_PASS):
        rows = range(start, min(start + _ROWS_PER_HEAD_PASS, len(hidden)))
        yield rows, model.backbone.logits(hidden[rows.start : rows.stop]).float().log_softmax(-1)
