"""InternVL in its Hugging Face port: InternViT, vision tokens of 2 x 2 patches, and Qwen2 or another decoder."""

from __future__ import annotations

from typing import Any

from voco_video.model.families.family import Family, one_size
from voco_video.video.scaling import Fit


class InternVL(Family):
    """A frame between ``<img>`` and ``</img>`` and a newline, as in its videos, but without ``Frame1:`` before it."""

    title = "InternVL"
    frame_before = "<img>"
    frame_after = "</img>\n"
    image_processor = "GotOcr2ImageProcessor"

    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Merge ``1 / downsample_ratio`` patches along each side of a vision token."""
        patch = one_size(config.vision_config.patch_size)
        return int(fit.height // patch * config.downsample_ratio), int(fit.width // patch * config.downsample_ratio)
