"""Validation during a run: whole answers, each token predicted from the true answer's earlier tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from voco_video.model.backbone import Backbone
from voco_video.training.batches import Visibility, make_batch
from voco_video.training.config import TrainConfig
from voco_video.training.samples import SampleSource


@dataclass(frozen=True)
class Score:
    """Numbers of right answers and of all answers, by question type."""

    right: dict[str, int]
    total: dict[str, int]

    @property
    def accuracy(self) -> float:
        """Share of right answers over all types."""
        return sum(self.right.values()) / max(1, sum(self.total.values()))

    def text(self) -> str:
        """Write the accuracy as one line: overall, then by type."""
        parts = [f"{name} {self.right.get(name, 0) / count:.0%}" for name, count in sorted(self.total.items())]
        return f"{self.accuracy:.1%} ({', '.join(parts)})"


def visibilities(config: TrainConfig, *, num_voco_tokens: int) -> list[Visibility]:
    """List what texts see in validation: all tokens (if a run trains it), and the fewest and most VoCo tokens."""
    choices = config.num_voco_token_choices or (num_voco_tokens,)
    voco = [Visibility(k, form) for form in config.forms for k in sorted({min(choices), max(choices)})]
    return [Visibility(None), *voco] if config.full_visibility_fraction else voco


@torch.no_grad()
def validate(
    model: nn.Module,
    backbone: Backbone,
    dataset: SampleSource,
    config: TrainConfig,
    *,
    num_voco_tokens: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Score]:
    """Score the model for each visibility.

    An answer is right if each of its tokens, the end token included, is the likeliest: exactly then greedy generation
    gives it.

    Args:
        model: a `TrainableVoco`, or its sharded wrapper, with which all processes take part.
        on_progress: called with how many samples are done, of all passes, and how many there are.
    """
    was_training = model.training
    model.eval()
    scores: dict[str, Score] = {}
    passes = visibilities(config, num_voco_tokens=num_voco_tokens)
    assert dataset.num_samples is not None
    total = dataset.num_samples * len(passes)
    for visibility in passes:
        tell = partial(_tell, on_progress, len(scores) * dataset.num_samples, total)
        scores[visibility.name] = _score(model, backbone, dataset, visibility, config, tell)
    model.train(was_training)
    return scores


def _tell(on_progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    on_progress(before + done, total)


def _score(
    model: nn.Module,
    backbone: Backbone,
    dataset: SampleSource,
    visibility: Visibility,
    config: TrainConfig,
    on_done: Callable[[int], None],
) -> Score:
    right: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    assert dataset.num_samples is not None
    for first in range(0, dataset.num_samples, config.per_device_batch_size):
        indices = range(first, min(first + config.per_device_batch_size, dataset.num_samples))
        samples = [dataset.sample(index) for index in indices]
        batch = make_batch(backbone, samples, visibility, max_length=config.max_length)
        output = model(batch)
        wrong = ~output["correct"].cpu()
        missed = {(int(r), int(t)) for r, t in zip(output["rows"][wrong], output["turns"][wrong], strict=True)}
        for row, types in enumerate(batch.question_types):
            for turn, question_type in enumerate(types):
                total[question_type] += 1
                right[question_type] += (row, turn) not in missed
        on_done(indices.stop)
    return Score(dict(right), dict(total))
