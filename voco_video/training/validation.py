"""Validation in a run: whole answers, predicted with the true answer's earlier tokens in sight."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

from voco_video.model.backbone import Backbone
from voco_video.training.batches import Visibility, make_batch
from voco_video.training.config import TrainConfig
from voco_video.training.samples import SampleSource


@dataclass(frozen=True)
class Score:
    """Right and all answers per question type."""

    right: dict[str, int]
    total: dict[str, int]

    @property
    def accuracy(self) -> float:
        """Share of right answers over all types."""
        return sum(self.right.values()) / max(1, sum(self.total.values()))

    def text(self) -> str:
        """One line: overall, then per type."""
        parts = [f"{name} {self.right.get(name, 0) / count:.0%}" for name, count in sorted(self.total.items())]
        return f"{self.accuracy:.1%} ({', '.join(parts)})"


def visibilities(config: TrainConfig, *, num_voco_tokens: int) -> list[Visibility]:
    """What validation lets text see: full (where a run trains it), the fewest and the most VoCo tokens it trains."""
    choices = config.num_voco_token_choices or (num_voco_tokens,)
    voco = [Visibility(k, form) for form in config.forms for k in sorted({min(choices), max(choices)})]
    return [Visibility(None), *voco] if config.full_visibility_fraction else voco


@torch.no_grad()
def validate(
    model: nn.Module, backbone: Backbone, dataset: SampleSource, config: TrainConfig, *, num_voco_tokens: int
) -> dict[str, Score]:
    """Score per visibility.

    An answer counts when every token of it, the end included, is the likeliest: that is exactly when greedy generation
    gives it.

    Args:
        model: a `TrainableVoco`, or what shards it over processes (all of them take part).
    """
    was_training = model.training
    model.eval()
    scores = {}
    for visibility in visibilities(config, num_voco_tokens=num_voco_tokens):
        scores[visibility.name] = _score(model, backbone, dataset, visibility, config)
    model.train(was_training)
    return scores


def _score(
    model: nn.Module, backbone: Backbone, dataset: SampleSource, visibility: Visibility, config: TrainConfig
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
    return Score(dict(right), dict(total))
