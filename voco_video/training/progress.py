"""How far a run is: told to who asked for it, with a line in the log every few steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainProgress:
    """How far a run is.

    Attributes:
        step, num_steps: optimizer steps that are done, with those of an earlier run that is resumed, of the whole run.
        loss: mean of the steps before the last line of the log; None before the first line.
        num_validated, num_to_validate: samples of the validation that is under way; 0 of 0 between validations.
    """

    step: int
    num_steps: int
    loss: float | None = None
    num_validated: int = 0
    num_to_validate: int = 0


OnProgress: TypeAlias = Callable[[TrainProgress], None]


class _Reporter(TrainerCallback):
    """Tells of every step, and logs one line every ``log_steps``."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self.progress = TrainProgress(0, 0)

    def tell(self, **changes: Any) -> None:
        self.progress = replace(self.progress, **changes)
        self._on_progress(self.progress)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.tell(step=state.global_step, num_steps=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.tell(step=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            logger.info("%s", step_line(state.global_step, state.max_steps, logs))
            self.tell(loss=logs["loss"])


def report_progress(trainer: Trainer, on_progress: OnProgress) -> Callable[[int, int], None]:
    """Tell of a trainer's progress, in the place of the library's own bar and of its log lines.

    Returns:
        What a validation has to call with how many of its samples are done, of how many.
    """
    for shown in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(shown)
    reporter = _Reporter(on_progress)
    trainer.add_callback(reporter)

    def tell_validated(done: int, total: int) -> None:
        if trainer.is_world_process_zero():
            is_over = done == total
            reporter.tell(num_validated=0 if is_over else done, num_to_validate=0 if is_over else total)

    return tell_validated


def step_line(step: int, num_steps: int, logs: dict[str, float]) -> str:
    """Write what the library logs of some steps as one line.

    >>> logs = {"loss": 2.5, "grad_norm": 1.25, "learning_rate": 1e-05, "epoch": 0.5}
    >>> step_line(10, 200, {**logs, "loss_full": 2.0, "token_accuracy_full": 0.512})
    'step 10 of 200: loss 2.5, learning rate 1e-05, gradient norm 1.25; full: loss 2, 51.2% of tokens right'
    """
    known = (("loss", "loss"), ("learning_rate", "learning rate"), ("grad_norm", "gradient norm"))
    parts = [", ".join(f"{label} {float(logs[name]):.4g}" for name, label in known if name in logs)]
    for name in logs:
        if (seen := name.removeprefix("loss_")) != name:
            parts.append(f"{seen}: loss {logs[name]:.4g}, {logs[f'token_accuracy_{seen}']:.1%} of tokens right")
    return f"step {step} of {num_steps}: {'; '.join(parts)}"
