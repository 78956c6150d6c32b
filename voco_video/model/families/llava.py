"""LLaVA-1.5 and LLaVA-Interleave: a CLIP or SigLIP tower, a two-layer projector, any decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from voco_video.model.families.family import Family, ImageSettings, one_size
from voco_video.video.scaling import Fit

_TOWERS_WITH_CLASS_TOKEN = frozenset({"clip_vision_model"})


class Llava(Family):
    """Frames are pictures to it: its chat template has no video."""

    title = "LLaVA-1.5, LLaVA-Interleave"
    takes_pictures = True

    def processor_settings(self, images: ImageSettings, config: Any) -> dict[str, Any]:
        """Return settings of CLIP's processor: resize the shorter side and crop, or stretch."""
        settings = super().processor_settings(images, config)
        crop = images.fit.mode == "crop"
        box = settings["size"]
        return settings | {
            "size": {"shortest_edge": min(box.values())} if crop else box,
            "do_center_crop": crop,
            "crop_size": box,
        }

    def vision_grid(self, config: Any, fit: Fit) -> tuple[int, int]:
        """Count one vision token for every patch."""
        patch = one_size(config.vision_config.patch_size)
        return fit.height // patch, fit.width // patch

    def num_vision_tokens(self, config: Any, fit: Fit) -> int:
        """Count vision tokens, with the class token where the tower has one and the projector sees it."""
        has_class = config.vision_config.model_type in _TOWERS_WITH_CLASS_TOKEN
        dropped = config.vision_feature_select_strategy == "default"
        return super().num_vision_tokens(config, fit) + has_class - dropped

    def vision_tokens(self, model: Any, pixel_values: Tensor, pictures_per_frame: int = 1) -> Tensor:
        """Do as the library's ``get_image_features``, without the layers of a CLIP tower after the one that is read."""
        config, parts = model.config, model.base_model
        feature_layer = config.vision_feature_layer
        is_clip = config.vision_config.model_type in _TOWERS_WITH_CLASS_TOKEN
        if not is_clip or not isinstance(feature_layer, int):
            return super().vision_tokens(model, pixel_values, pictures_per_frame)
        tower = getattr(parts.vision_tower, "vision_model", parts.vision_tower)
        layers = list(tower.encoder.layers)
        hidden = tower.pre_layrnorm(tower.embeddings(pixel_values))  # [F, 1 + N, width]
        for layer in layers[: feature_layer % (len(layers) + 1)]:  # hidden state 0 is what enters the first
            hidden = layer(hidden, None)
        kept = hidden[:, 1:] if config.vision_feature_select_strategy == "default" else hidden
        tokens: Tensor = parts.multi_modal_projector(kept)
        return tokens  # [F, N, D]
