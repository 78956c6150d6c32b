"""Evaluation: a model answers every question of a split, resumably, on any number of processes.

>>> from voco_video.evaluate import EvalOptions, evaluate
>>> result = evaluate(model, load_dataset("msvd", "data/MSVD"), out="runs/msvd")      # doctest: +SKIP
"""

from voco_video.evaluate.answer_likelihood import answer_vocabulary
from voco_video.evaluate.options import EvalOptions
from voco_video.evaluate.processes import Alone, Spawned, Torchrun
from voco_video.evaluate.run import EvalProgress, EvalResult, evaluate

__all__ = ["Alone", "EvalOptions", "EvalProgress", "EvalResult", "Spawned", "Torchrun", "answer_vocabulary", "evaluate"]
