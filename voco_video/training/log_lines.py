"""What a run prints while it goes: one line for people at each log step, above the library's bar or in a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer

_TOTALS = ("train_runtime", "total_flos")  # of the line after the last step: the result says it


def log_line(logs: Mapping[str, Any], *, step: int, num_steps: int) -> str:
    """Write what was logged at a step as one line; empty for the library's summary of the whole run.

    >>> log_line({"loss": 2.34567, "learning_rate": 1e-5, "epoch": 1.0}, step=3, num_steps=20)
    'step 3 of 20 · loss 2.346 · learning rate 1e-05 · epoch 1'
    >>> log_line({"train_runtime": 34.2, "train_loss": 2.0}, step=20, num_steps=20)
    ''
    """
    if any(name in logs for name in _TOTALS):
        return ""
    values = (f"{n.replace('_', ' ')} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in logs.items())
    return " · ".join([f"step {step} of {num_steps}", *values])


class _AboveTheBar(ProgressCallback):
    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        line = log_line(logs or {}, step=state.global_step, num_steps=state.max_steps)
        if line and state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(line)


class _Printed(PrinterCallback):
    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        line = log_line(logs or {}, step=state.global_step, num_steps=state.max_steps)
        if line and state.is_world_process_zero:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


def print_plain_lines(trainer: Trainer) -> None:
    """Print `log_line` where the library would print a dictionary, with its bar or without."""
    for library, ours in ((ProgressCallback, _AboveTheBar), (PrinterCallback, _Printed)):
        if trainer.pop_callback(library) is not None:
            trainer.add_callback(ours)
