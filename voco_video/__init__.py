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
    from voco_video.answer.moments import Moment
    from voco_video.answer.several_videos import Compressed, Found, concat, find
    from voco_video.api import CompressedVideo, VideoModel, VideoStream, load_model
    from voco_video.cache import CacheEntry, CacheKey, FrameCache, TensorSpec
    from voco_video.cluster.run import ClusterProgress, ClusterResult, compress_many
    from voco_video.compress import CompressResult, Progress
    from voco_video.errors import (
        CacheError,
        DataError,
        EngineError,
        JudgeError,
        ModelError,
        UsageError,
        VideoError,
        VocoVideoError,
    )
    from voco_video.evaluate.options import EvalOptions
    from voco_video.follow import StreamProgress
    from voco_video.library.find import Library, LibraryMoments
    from voco_video.library.manifest import VideoRow, read_manifest, write_manifest
    from voco_video.model.voco import VocoModel
    from voco_video.options.answering import AnswerOptions, ViewOptions
    from voco_video.options.cluster import ClusterOptions
    from voco_video.options.compression import CompressOptions, StreamOptions
    from voco_video.options.engine import EngineOptions
    from voco_video.options.judging import Judging
    from voco_video.options.loading import LoadOptions
    from voco_video.options.sampling import Sampling
    from voco_video.training import TrainConfig, TrainResult, train
    from voco_video.version import __version__
    from voco_video.video.frames import Fit, FrameBatch
    from voco_video.video.pictures import Pictures
    from voco_video.video.reading import Video, open_video, probe, read_frames
    from voco_video.video.sources import VideoLike

_HOMES = {
    "answer.generate": (
        "Answer",
        "Message",
    ),
    "answer.moments": ("Moment",),
    "answer.several_videos": (
        "Compressed",
        "Found",
        "concat",
        "find",
    ),
    "api": (
        "CompressedVideo",
        "VideoModel",
        "VideoStream",
        "load_model",
    ),
    "cache": (
        "CacheEntry",
        "CacheKey",
        "FrameCache",
        "TensorSpec",
    ),
    "cluster.run": (
        "ClusterProgress",
        "ClusterResult",
        "compress_many",
    ),
    "compress": (
        "CompressResult",
        "Progress",
    ),
    "errors": (
        "CacheError",
        "DataError",
        "EngineError",
        "JudgeError",
        "ModelError",
        "UsageError",
        "VideoError",
        "VocoVideoError",
    ),
    "evaluate.options": ("EvalOptions",),
    "follow": ("StreamProgress",),
    "library.find": (
        "Library",
        "LibraryMoments",
    ),
    "library.manifest": (
        "VideoRow",
        "read_manifest",
        "write_manifest",
    ),
    "model.voco": ("VocoModel",),
    "options.answering": (
        "AnswerOptions",
        "ViewOptions",
    ),
    "options.cluster": ("ClusterOptions",),
    "options.compression": (
        "CompressOptions",
        "StreamOptions",
    ),
    "options.engine": ("EngineOptions",),
    "options.judging": ("Judging",),
    "options.loading": ("LoadOptions",),
    "options.sampling": ("Sampling",),
    "training": (
        "TrainConfig",
        "TrainResult",
        "train",
    ),
    "version": ("__version__",),
    "video.frames": (
        "Fit",
        "FrameBatch",
    ),
    "video.pictures": ("Pictures",),
    "video.reading": (
        "Video",
        "open_video",
        "probe",
        "read_frames",
    ),
    "video.sources": ("VideoLike",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "AnswerOptions",
    "CacheEntry",
    "CacheError",
    "CacheKey",
    "ClusterOptions",
    "ClusterProgress",
    "ClusterResult",
    "CompressOptions",
    "CompressResult",
    "Compressed",
    "CompressedVideo",
    "DataError",
    "EngineError",
    "EngineOptions",
    "EvalOptions",
    "Fit",
    "Found",
    "FrameBatch",
    "FrameCache",
    "JudgeError",
    "Judging",
    "Library",
    "LibraryMoments",
    "LibraryProgress",
    "LibraryResult",
    "LoadOptions",
    "Message",
    "ModelError",
    "Moment",
    "Pictures",
    "Progress",
    "Sampling",
    "StreamOptions",
    "StreamProgress",
    "TensorSpec",
    "TrainConfig",
    "TrainResult",
    "UsageError",
    "Video",
    "VideoError",
    "VideoLike",
    "VideoModel",
    "VideoRow",
    "VideoStream",
    "ViewOptions",
    "VocoModel",
    "VocoVideoError",
    "__version__",
    "compress_many",
    "concat",
    "find",
    "load_model",
    "open_video",
    "probe",
    "read_frames",
    "read_manifest",
    "train",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
