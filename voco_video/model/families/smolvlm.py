"""SmolVLM2: a SigLIP tower, vision tokens of several patches each, and SmolLM2."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from voco_video.model.families.family import Family, ImageSettings, one_size, settings_with
from voco_video.video.scaling import Fit


class SmolVLM(Family):
    """Frames are stretched to one square, as the library's video processor does; their times are not written out."""

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

    def processor_settings(self, images: ImageSettings, config: Any) -> dict[str, Any]:
        """Return the processor's settings without tiles: the picture is taken as a whole."""
        edge = {"longest_edge": images.fit.height}
        settings = super().processor_settings(images, config)
        return settings | {"size": edge, "max_image_size": edge, "do_image_splitting": False, "resample": 1}

    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Merge ``scale_factor`` patches along each side of a vision token."""
        patch = one_size(config.vision_config.patch_size) * config.scale_factor
        return fit.height // patch, fit.width // patch

    def vision_tokens(self, model: Any, pixel_values: Tensor) -> Tensor:
        """``[F, 3, H, W] -> [F, N, D]``, past `get_image_features`, which drops pictures that are 0 throughout."""
        parts = model.base_model
        patches = parts.vision_model(pixel_values=pixel_values, return_dict=True).last_hidden_state
        tokens: Tensor = parts.connector(patches)
        return tokens
