"""Training: the image stage and the temporal stage, joint or from the frame cache.

>>> from voco_video.training import load_config, train
>>> train(load_config("own-clips", ["dataset=clips.json"]))          # doctest: +SKIP

Names are imported where they are first used, so that recipes can be listed without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voco_video.training.checkpoints import TrainingError
    from voco_video.training.config import TrainConfig
    from voco_video.training.engine import TrainResult, train
    from voco_video.training.progress import TrainProgress
    from voco_video.training.recipes import load_config

__all__ = ["TrainConfig", "TrainProgress", "TrainResult", "TrainingError", "load_config", "train"]

_HOME_OF = {"TrainConfig": "config", "load_config": "recipes", "TrainingError": "checkpoints"}
_HOME_OF |= {"TrainProgress": "progress", "TrainResult": "engine", "train": "engine"}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
