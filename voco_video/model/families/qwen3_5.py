"""Qwen3.5: Qwen3-VL's tower and words, and a decoder most of whose layers keep a running state in place of keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from voco_video.model.families.qwen_vl import Qwen3VL, QwenVL


class Qwen35(Qwen3VL):
    """As Qwen3-VL, but of its tower only the last layer is read.

    Its layers with a running state are gated delta networks (arXiv:2412.06464).
    """

    title = "Qwen3.5"
    needs_embeds = "most of its layers keep one running state in place of keys and values, and no frame a part of it"

    def vision_tokens(self, model: Any, pixel_values: Tensor, pictures_per_frame: int = 1) -> Tensor:
        """``[F * P, 3, H, W] -> [F, N, D]``."""
        return QwenVL.vision_tokens(self, model, pixel_values, pictures_per_frame)


class Qwen35Moe(Qwen35):
    """As Qwen3.5, with a decoder of many experts."""

    title = "Qwen3.5-MoE"
