"""Options of a question scored by their likelihood as its answer: multiple choice without generating.

    plain              log p(option | frames, prompt) = sum of log p(token | frames, prompt, tokens before)
    length-normalised  the same divided by the number of tokens; the option of least perplexity

both over the option's tokens and the end token, so an option is likely only as the whole answer. Options are scored
without their letters. By default the prompt is the question alone, so an option's score does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from voco_video.evaluate.answer_likelihood import Ranker
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel

_NUM_DIGITS = 4  # float32 has no more digits for sums in the hundreds


def score_options(
    model: VocoModel, prefix: Prefix, prompt: str, options: Sequence[str]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Compute each option's log-likelihood after a prompt, and the number of tokens that it is a sum over.

    Raises:
        ModelError: the chat template does not write an option unchanged after a question.
        UsageError: the attention implementation takes no masks.
    """
    ranker = Ranker.of(model, options)
    scores = ranker.log_likelihoods(prefix, prompt)
    counts = torch.stack([torch.bincount(trie.step_answers, minlength=len(options)) for trie in ranker.tries]).sum(0)
    return tuple(round(score, _NUM_DIGITS) for score in scores.tolist()), tuple(counts.tolist())
