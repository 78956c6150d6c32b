"""Other people's tools on voco-video models. Each tool is imported only by the module that is for it."""

from __future__ import annotations

from typing import Any


def lmms_eval_manifest() -> Any:
    """What lmms-eval registers at its start, whatever model it is about to run; so nothing heavy is imported."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="voco_video", simple_class_path=f"{__name__}.lmms_eval.VocoVideo")
