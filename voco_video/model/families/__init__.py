"""The families of image-text models that voco-video runs on, found by the ``model_type`` that a checkpoint declares."""

from __future__ import annotations

from typing import Any

from voco_video.errors import ModelError
from voco_video.model.families.family import Family, ImageSettings, image_settings
from voco_video.model.families.gemma3 import Gemma3
from voco_video.model.families.glm4v import Glm4V, Glm4VMoe, Glm46V
from voco_video.model.families.internvl import InternVL
from voco_video.model.families.layout import AsTrained, FrameTimes, FrameWords, PromptTemplate, Variant
from voco_video.model.families.llava import Llava
from voco_video.model.families.llava_next_video import LlavaNextVideo
from voco_video.model.families.llava_onevision import LlavaOnevision
from voco_video.model.families.qwen3_5 import Qwen35, Qwen35Moe
from voco_video.model.families.qwen_vl import Qwen2VL, Qwen3VL, Qwen3VLMoe, QwenVL
from voco_video.model.families.smolvlm import SmolVLM
from voco_video.model.families.video_llama3 import VideoLlama3

FAMILIES: dict[str, Family] = {
    "llava": Llava(),
    "llava_onevision": LlavaOnevision(),
    "llava_next_video": LlavaNextVideo(),
    "smolvlm": SmolVLM(),
    "internvl": InternVL(),
    "glm4v": Glm4V(),
    "glm4v_moe": Glm4VMoe(),
    "glm46v": Glm46V(),
    "qwen2_vl": Qwen2VL(),
    "qwen2_5_vl": QwenVL(),
    "qwen3_vl": Qwen3VL(),
    "qwen3_vl_moe": Qwen3VLMoe(),
    "video_llama_3": VideoLlama3(),
    "gemma3": Gemma3(),
    "qwen3_5": Qwen35(),
    "qwen3_5_moe": Qwen35Moe(),
}
"""`Family` by the ``model_type`` of a checkpoint's config.json."""

REASONS = {
    "llava_next": "it cuts pictures into tiles and has no place for a video; LLaVA-NeXT-Video has one",
}
"""Why some models that people ask for are not supported, by ``model_type``."""


def family_of(config: Any) -> Family:
    """Find the family of a checkpoint's configuration.

    Raises:
        ModelError: no family has this ``model_type``.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        reason = REASONS.get(config.model_type)
        raise ModelError(
            f"model_type {config.model_type!r} is not supported{f' ({reason})' if reason else ''}, only "
            f"{', '.join(FAMILIES)}; see `voco-video models`"
        )
    return family


__all__ = [
    "FAMILIES",
    "AsTrained",
    "Family",
    "FrameTimes",
    "FrameWords",
    "Gemma3",
    "Glm4V",
    "Glm4VMoe",
    "Glm46V",
    "ImageSettings",
    "InternVL",
    "Llava",
    "LlavaNextVideo",
    "LlavaOnevision",
    "PromptTemplate",
    "Qwen2VL",
    "Qwen3VL",
    "Qwen3VLMoe",
    "Qwen35",
    "Qwen35Moe",
    "QwenVL",
    "SmolVLM",
    "Variant",
    "VideoLlama3",
    "family_of",
    "image_settings",
]
