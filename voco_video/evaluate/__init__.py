"""Evaluation: a model answers every question of a split, resumably, on any number of processes.

>>> from voco_video.evaluate import EvalOptions, evaluate
>>> result = evaluate(model, load_dataset("msvd", "data/MSVD"), out="runs/msvd")      # doctest: +SKIP

Names are imported where they are first used, so that the command line's help needs `EvalOptions` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voco_video.evaluate.answer_likelihood import answer_vocabulary
    from voco_video.evaluate.explaining import explain
    from voco_video.evaluate.options import EvalOptions
    from voco_video.evaluate.processes import Alone, Spawned, Torchrun
    from voco_video.evaluate.run import EvalProgress, EvalResult, evaluate

__all__ = [
    "Alone",
    "EvalOptions",
    "EvalProgress",
    "EvalResult",
    "Spawned",
    "Torchrun",
    "answer_vocabulary",
    "evaluate",
    "explain",
]

_HOME_OF = {"answer_vocabulary": "answer_likelihood", "EvalOptions": "options", "explain": "explaining"}
_HOME_OF |= dict.fromkeys(("Alone", "Spawned", "Torchrun"), "processes")
_HOME_OF |= dict.fromkeys(("EvalProgress", "EvalResult", "evaluate"), "run")


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
