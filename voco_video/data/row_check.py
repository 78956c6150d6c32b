"""Rows that training would skip, found before a run: too long, without an answer, or refused by a chat template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from voco_video.data.samples import Dataset, Sample, Turn
from voco_video.errors import DataError, UsageError, VocoVideoError

if TYPE_CHECKING:
    from voco_video.model.backbone import Backbone

MAX_LENGTH = 2048
"""Text tokens that a training sample may have by default."""


@dataclass(frozen=True)
class BadRow:
    """A row that training would skip.

    Attributes:
        row: its place in the annotations, from 1.
        name: the video's name, or the row's id.
        reason: why it would be skipped.
    """

    row: int
    name: str
    reason: str


def bad_rows(dataset: Dataset, *, model: str | None = None, max_length: int = MAX_LENGTH) -> tuple[BadRow, ...]:
    """Find the rows whose text training would skip.

    Args:
        model: the checkpoint whose tokenizer and chat template decide, without its weights. None: only rows that every
            tokenizer and template would refuse.
        max_length: text tokens that a sample may have.

    Raises:
        UsageError: ``max_length`` is below 1.
        ModelError: there is no such checkpoint, or it has no tokenizer or chat template.
    """
    if max_length < 1:
        raise UsageError(f"max_length={max_length}: has to be 1 or more")
    backbone = prompts_of(model) if model is not None else None
    bad = []
    for row in _conversations(dataset):
        try:
            if backbone is None:
                _check_words(row.turns, max_length)
            else:
                from voco_video.data.turns import check_turns

                check_turns(backbone, row.turns, max_length=max_length, system=row.system, has_frames=bool(row.media))
        except VocoVideoError as error:
            bad.append(BadRow(row.turns[0].row + 1, row.name, str(error)))
    return tuple(bad)


def prompts_of(model: str) -> Backbone:
    """Load what writes a checkpoint's conversations: a `Backbone` with the shapes of its weights but no values.

    Raises:
        ModelError: there is no such checkpoint, one of its files is damaged, or voco-video does not support it.
    """
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig

    from voco_video.checkpoint.adapter_folder import base_of
    from voco_video.checkpoint.beside import read_beside
    from voco_video.checkpoint.configurations import checked_config
    from voco_video.checkpoint.finding import find_checkpoint
    from voco_video.checkpoint.needed import CONFIG
    from voco_video.checkpoint.published import is_published, open_published
    from voco_video.checkpoint.voco_settings import read_voco_settings
    from voco_video.files.settings import read_settings
    from voco_video.model.backbone import Backbone

    folder = find_checkpoint(model, weights=False)
    base = base_of(folder)
    if base is not None:
        voco = read_voco_settings(folder)
        assert voco is not None  # it names the base
        return replace(prompts_of(base.name), template=voco.template, chat_template=voco.chat_template)
    settings = read_settings(folder / CONFIG)
    if is_published(settings):
        published = open_published(folder, settings)
        with torch.device("meta"):
            shell = AutoModelForImageTextToText.from_config(published.config)
        shell.generation_config.eos_token_id = settings.get("eos_token_id")
        return Backbone(shell, published.tokenizer, published.images, published.template, published.chat_template)
    config = checked_config(folder)
    beside = read_beside(folder, config)
    with torch.device("meta"):
        shell = AutoModelForImageTextToText.from_config(config)
    if (folder / "generation_config.json").is_file():
        shell.generation_config = GenerationConfig.from_pretrained(folder)
    return Backbone(shell, beside.tokenizer, beside.images, beside.template, beside.chat_template)


def _conversations(dataset: Dataset) -> Iterator[Sample]:
    """Yield conversations as training may see them: a set's questions one at a time.

    Questions without a public answer, in sets for evaluation, get a short answer, so that only their length matters.
    """
    for sample in dataset.samples:
        if sample.turns[0].question_id:
            for turn in sample.turns:
                yield replace(sample, turns=(turn if turn.answer else replace(turn, answer="-"),))
        else:
            yield sample


def _check_words(turns: tuple[Turn, ...], max_length: int) -> None:
    if not any(turn.answer.strip() for turn in turns):
        raise DataError("it has no answer, so there is nothing to learn")
    count = len(turns[0].question.split()) + len(turns[0].answer.split())  # later turns are left out if need be
    if count > max_length:
        raise DataError(f"its first turn has {count} words, so more than max_length={max_length} tokens")
