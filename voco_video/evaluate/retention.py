"""A model answers tasks from frames compressed in every way, and from none: what compression keeps of its ability."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from voco_video.api import VideoModel
from voco_video.data.samples import Dataset
from voco_video.errors import ModelError, UsageError
from voco_video.evaluate.options import EvalOptions
from voco_video.evaluate.run import EvalProgress, evaluate
from voco_video.model.compressors import check_compressor
from voco_video.options.compression import parse_compressor
from voco_video.scoring.predictions import read_predictions
from voco_video.scoring.retention import FULL, NONE, TaskRetention, task_retention

log = logging.getLogger(__name__)


def measure_retention(
    model: VideoModel,
    tasks: Sequence[Dataset],
    *,
    options: EvalOptions | None = None,
    out: str | os.PathLike[str],
    facts: Mapping[str, Any] | None = None,
    on_progress: Callable[[str, str, EvalProgress], None] | None = None,
) -> list[TaskRetention]:
    """Answer each task from no frames, from pooled and compressed ones at several k, and from all vision tokens.

    Every row is a run of its own, which goes on where it was interrupted. Rows that the model cannot do are left out,
    and logged.

    Args:
        tasks: splits from `load_dataset`.
        options: how questions are asked; its ``num_voco_tokens`` are the budgets of ``voco`` and ``pool``
            (1, 2, 4, ... up to what the model has where empty), its compressor is not used.
        out: the folder that gets one folder a task.
        facts: JSON values for the run infos, such as the command line.
        on_progress: called with the task, the row and its progress.

    Raises:
        UsageError: options that do not fit, such as a search, for which there has to be a frame.

    >>> measure_retention(model, [load_dataset("msvd", "data/MSVD")], out="runs/retention")          # doctest: +SKIP
    """
    options = options or EvalOptions()
    if options.answer_by == "find":
        raise UsageError("answer_by 'find' searches frames, and the row 'none' has none; leave it out")
    rows = retention_rows(model, options)
    measured = []
    for dataset in tasks:
        task = f"{dataset.name} {dataset.split}"
        runs, tokens = {}, {}
        for name, (compressor, k, num_tokens) in rows.items():
            result = evaluate(
                model,
                dataset,
                options=_fitting(options, dataset, compressor, k),
                out=Path(out) / task.replace(" ", "-"),
                facts=facts,
                on_progress=_told(on_progress, task, name),
            )
            (path,) = result.predictions.values()
            runs[name], tokens[name] = read_predictions(path), num_tokens
        measured.append(task_retention(task, runs, tokens_per_frame=tokens))
    return measured


def retention_rows(model: VideoModel, options: EvalOptions) -> dict[str, tuple[str, int | None, int]]:
    """List the rows that a model can do, none first and full last: compressor, k of voco, tokens per frame.

    Raises:
        UsageError, ModelError: the model cannot do ``full``.
    """
    voco, most = model.voco, model.voco.num_voco_tokens if model.voco.trained else 0
    num_vision = voco.backbone.num_vision_tokens
    budgets = options.num_voco_tokens or tuple(2**n for n in range(8) if 2**n <= (most or num_vision // 4))
    wanted: dict[str, tuple[str, int | None, int]] = {f"pool:{k}": (f"pool:{k}", None, k) for k in budgets}
    wanted |= {f"voco k={k}": ("voco", k, k) for k in budgets} if most else {}
    if not most:
        log.warning("this model has no trained VoCo tokens, so there are no rows of voco")
    rows: dict[str, tuple[str, int | None, int]] = {NONE: (NONE, None, 0)}
    for name, (compressor, k, num_tokens) in {**wanted, FULL: (FULL, None, num_vision)}.items():
        parsed = parse_compressor(compressor)
        try:
            check_compressor(voco, parsed, num_voco_tokens=k, form=voco.form_of(parsed, options.form))
        except (UsageError, ModelError) as error:
            if name == FULL:
                raise
            log.warning("no row %s: %s", name, error)
            continue
        rows[name] = (compressor, k, num_tokens)
    return rows


def _fitting(options: EvalOptions, dataset: Dataset, compressor: str, k: int | None) -> EvalOptions:
    """Return the options of one row; likelihood is for multiple choice alone, so other tasks are generated."""
    way = options.answer_by if dataset.is_multiple_choice else "letter"
    return replace(options, compressor=compressor, num_voco_tokens=() if k is None else (k,), answer_by=way)


def _told(
    on_progress: Callable[[str, str, EvalProgress], None] | None, task: str, row: str
) -> Callable[[EvalProgress], None] | None:
    return None if on_progress is None else lambda progress: on_progress(task, row, progress)
