"""Video understanding on compressed frame caches: compress every frame once, ask as often as you like.

    import voco_video

    model = voco_video.load_model()
    video = model.compress("clip.mp4")
    print(video.ask("What happens?"))

Names are imported where they are first used, so that ``import voco_video`` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voco_video.answer.generate import Answer, Message
    from voco_video.api import CompressedVideo, VideoModel, concat, find, load_model
    from voco_video.cache import CacheEntry, CacheKey, FrameCache
    from voco_video.errors import CacheError, DataError, ModelError, UsageError, VideoError, VocoVideoError
    from voco_video.options.sampling import Sampling
    from voco_video.training import TrainConfig, TrainResult, train
    from voco_video.version import __version__
    from voco_video.video.frames import Fit, FrameBatch
    from voco_video.video.pictures import Pictures
    from voco_video.video.reading import open_video, probe, read_frames

_HOMES = {
    "answer.generate": ("Answer", "Message"),
    "api": ("CompressedVideo", "VideoModel", "concat", "find", "load_model"),
    "cache": ("CacheEntry", "CacheKey", "FrameCache"),
    "errors": ("CacheError", "DataError", "ModelError", "UsageError", "VideoError", "VocoVideoError"),
    "options.sampling": ("Sampling",),
    "training": ("TrainConfig", "TrainResult", "train"),
    "video.frames": ("Fit", "FrameBatch"),
    "video.pictures": ("Pictures",),
    "video.reading": ("open_video", "probe", "read_frames"),
    "version": ("__version__",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "CacheEntry",
    "CacheError",
    "CacheKey",
    "CompressedVideo",
    "DataError",
    "Fit",
    "FrameBatch",
    "FrameCache",
    "Message",
    "ModelError",
    "Pictures",
    "Sampling",
    "TrainConfig",
    "TrainResult",
    "UsageError",
    "VideoError",
    "VideoModel",
    "VocoVideoError",
    "__version__",
    "concat",
    "find",
    "load_model",
    "open_video",
    "probe",
    "read_frames",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
