"""InternVL in its Hugging Face port: InternViT, vision tokens of 2 x 2 patches, and Qwen2 or another decoder."""

from __future__ import annotations

from typing import Any

from voco_video.model.families.family import Family, one_size
from voco_video.model.families.layout import FrameTimes, FrameWords
from voco_video.video.scaling import Fit


class InternVL(Family):
    """A frame stands between ``<img>`` and ``</img>``, behind its number, on a line of its own."""

    title = "InternVL"
    frame_before = "<img>"
    frame_after = "</img>"
    image_processor = "GotOcr2ImageProcessor"

    def words(self, times: FrameTimes) -> FrameWords:
        """Number the frames from 1 on."""
        return FrameWords([f"{chr(10) if f else ''}Frame{f + 1}: " for f in range(len(times))])

    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Merge ``1 / downsample_ratio`` patches along each side of a vision token."""
        patch = one_size(config.vision_config.patch_size)
        return int(fit.height // patch * config.downsample_ratio), int(fit.width // patch * config.downsample_ratio)
