"""SmolVLM2: a SigLIP tower, vision tokens of several patches each, and SmolLM2."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from voco_video.errors import ModelError
from voco_video.model.families.family import Family, ImageSettings, one_size, settings_with
from voco_video.model.families.layout import FrameTimes, FrameWords
from voco_video.video.scaling import Fit


class SmolVLM(Family):
    """Frames are stretched to one square, as the library's video processor does, and each stands behind its time."""

    title = "SmolVLM2"
    frame_before = "<fake_token_around_image><global-img>"
    frame_after = "<fake_token_around_image>"
    image_processor = "SmolVLMImageProcessor"
    vision_tower = "vision_model"
    projector = "connector"

    def image_settings(self, processor: Any, config: Any) -> ImageSettings:
        """Return the size of a tile, which is also that of a video's frame."""
        side = dict(processor.max_image_size)["longest_edge"]
        return settings_with(processor, Fit(height=side, width=side, mode="stretch"))

    def as_library(self, images: ImageSettings, processor: Any) -> ImageSettings:
        """Take the detour over the size for still pictures, which the library's video processor takes by mistake.

        That size stands in the same file as the one for videos, and overrides it (transformers 5.24).
        """
        side = dict(processor.size)["longest_edge"]
        if side == images.fit.height:
            return images
        try:
            nn.functional.interpolate(
                torch.zeros(1, 1, 2, 2, dtype=torch.uint8), size=3, mode="lanczos", antialias=True
            )
        except (ValueError, NotImplementedError, RuntimeError) as error:
            raise ModelError(
                f"layout='library' resizes SmolVLM2's frames by Lanczos, which torch {torch.__version__} cannot; use "
                "torch 2.13, or layout='released'"
            ) from error
        return replace(images, detour=side)

    def processor_settings(self, images: ImageSettings, config: Any) -> dict[str, Any]:
        """Return the processor's settings without tiles: the picture is taken as a whole."""
        edge = {"longest_edge": images.fit.height}
        settings = super().processor_settings(images, config)
        return settings | {"size": edge, "max_image_size": edge, "do_image_splitting": False, "resample": 1}

    def video_chat_template(self) -> str:
        """Return the library's own: it puts that in place of the checkpoint's wherever there is a video."""
        from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

        template: str = DEFAULT_CHAT_TEMPLATE
        return template

    def words(self, times: FrameTimes) -> FrameWords:
        """Say how many frames of how long a video follow, and the minute and second of each."""
        from num2words import num2words  # type: ignore[import-untyped]  # takes a while to import, and only this family needs it

        duration = timedelta(seconds=int(times.duration_seconds))
        before = [f"\nFrame from {int(s // 60):02d}:{int(s % 60):02d}:" for s in times.starts.clip(0)]
        if before:
            series = f"the following series of {num2words(len(before))} frames from a {duration} [H:MM:SS] video"
            before[0] = f"You are provided {series}.\n{before[0]}"
        return FrameWords(before, "\n\n")

    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Merge ``scale_factor`` patches along each side of a vision token."""
        patch = one_size(config.vision_config.patch_size) * config.scale_factor
        return fit.height // patch, fit.width // patch

    def vision_tokens(self, model: Any, pixel_values: Tensor, pictures_per_frame: int = 1) -> Tensor:
        """``[F, 3, H, W] -> [F, N, D]``, past `get_image_features`, which drops pictures that are 0 throughout."""
        parts = model.base_model
        patches = parts.vision_model(pixel_values=pixel_values, return_dict=True).last_hidden_state
        tokens: Tensor = parts.connector(patches)
        return tokens
