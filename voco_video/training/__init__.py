"""Training: the image stage and the temporal stage, joint or from the frame cache.

>>> from voco_video.training import load_config, train
>>> train(load_config("configs/voco-tiny/image.yaml"))          # doctest: +SKIP
"""

from voco_video.training.config import TrainConfig, load_config
from voco_video.training.engine import TrainingError, TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "TrainingError", "load_config", "train"]
