"""Models to measure with, and the arithmetic that compressing a frame cannot do without.

    voco-tiny   the trained one of this package                                     N = 64,  D = 128
    tiny        random weights, for tests                                           N = 16,  D = 64
    small       random weights, seconds on any machine                              N = 196, D = 256
    mid         CLIP ViT-B/16 and the 135 M-parameter SmolLM2's shape, random       N = 196, D = 576
    7b          CLIP ViT-L/14-336 and Vicuna-7B's shape (LLaVA-1.5), random         N = 576, D = 4096

All are LLaVA-shaped: vision features of the last layer but one, two-layer projector, Llama decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voco_video.checkpoint.folder import load_voco_model
from voco_video.checkpoint.loading import resolve_attention
from voco_video.model.backbone import Backbone
from voco_video.model.families import ImageSettings, PromptTemplate
from voco_video.model.freed_memory import keep_freed_memory
from voco_video.model.voco import VocoModel
from voco_video.options.loading import LoadOptions
from voco_video.video.scaling import Fit

NUM_VOCO_TOKENS = 8
MODELS = ("voco-tiny", "tiny", "small", "mid", "7b")


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA-shaped model; the decoder's MLP has three matrices, the tower's two."""

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int


SHAPES = {
    "tiny": Shape(32, 8, 32, 2, 2, 64, 96, 3, 4, 2, 97),
    "small": Shape(224, 16, 192, 4, 3, 256, 704, 6, 4, 2, 1000),
    "mid": Shape(224, 16, 768, 12, 12, 576, 1536, 30, 9, 3, 49152),
    "7b": Shape(336, 14, 1024, 24, 16, 4096, 11008, 32, 32, 32, 32064),
}


def make_model(
    name: str, *, dtype: str = "float32", device: str = "cpu", attention: str = "auto", seed: int = 0
) -> VocoModel:
    """A model of `MODELS`, in eval mode; random weights are the same on every call."""
    if device == "cpu":
        keep_freed_memory()  # as the command line does
    if name == "voco-tiny":
        return load_voco_model(name, dtype=dtype, device=device, attn_implementation=attention)
    from transformers import LlavaForConditionalGeneration
    from transformers.initialization import no_init_weights

    shape = SHAPES[name]
    config = _config(shape)
    config._attn_implementation = resolve_attention(LoadOptions(device, dtype, attention))
    torch.manual_seed(seed)
    # Made in its own type: 7b would be 28 GB first in float32.
    with torch.device(device), default_dtype(getattr(torch, dtype)), no_init_weights():
        hugging_face = LlavaForConditionalGeneration(config).eval()
    randomise(hugging_face)
    voco_embeds = torch.randn(NUM_VOCO_TOKENS, shape.width) * config.text_config.initializer_range
    fit = Fit(shape.image_size, shape.image_size, mode="stretch")
    images = ImageSettings(fit, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    template = PromptTemplate(frame_before_ids=(1,), frame_after_ids=(5,), text_before_ids=(6,))
    return VocoModel(Backbone(hugging_face, None, images, template), voco_embeds).eval()


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Normal numbers in every matrix, 1 / sqrt(columns) wide; seconds for billions: a block of them over and over.

    Norms and biases begin as 1 and 0.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(float(name.endswith("weight")))
            continue
        block = torch.randn(1_000_003, device=parameter.device) * parameter.shape[-1] ** -0.5  # a prime: rows differ
        block, flat = block.to(parameter.dtype), parameter.view(-1)
        for start in range(0, len(flat), len(block)):
            part = flat[start : start + len(block)]
            part.copy_(block[: len(part)])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make tensors of that type where none is named."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _config(shape: Shape) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=4 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=shape.image_size,
        patch_size=shape.patch_size,
    )
    text = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        # Wide enough that attention is not uniform: a wrong mask then shows in the logits.
        initializer_range=shape.width**-0.5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=shape.vocabulary - 1,
        image_seq_length=(shape.image_size // shape.patch_size) ** 2,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )


def random_pixels(model: VocoModel, num_frames: int, *, seed: int = 1) -> np.ndarray:
    """uint8 ``[F, H, W, 3]``, coarse enough to survive as pictures."""
    fit, rng = model.backbone.images.fit, np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_frames, -(-fit.height // 8), -(-fit.width // 8), 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)[:, : fit.height, : fit.width]


def random_text(model: VocoModel, length: int, *, seed: int = 2) -> Tensor:
    """Token ids ``[length]`` that are none of the special ones."""
    highest = model.backbone.text_config.vocab_size - 1
    ids = torch.randint(8, highest, (length,), generator=torch.Generator().manual_seed(seed))
    return ids.to(model.backbone.device)


# ---------------------------------------------------------------------- arithmetic


def vision_flops(model: VocoModel) -> float:
    """Additions and multiplications that one frame's vision tokens need: patches, layers that are read, projector."""
    config, llava = model.backbone.hf_model.config, model.backbone.hf_model.model
    tower, num_vision_tokens = llava.vision_tower, model.backbone.num_vision_tokens
    layers = list(tower.encoder.layers)
    num_read = config.vision_feature_layer % (len(layers) + 1)  # hidden state 0 is what enters the first layer
    length = num_vision_tokens + 1  # the class token
    attention = 4 * length * length * config.vision_config.hidden_size
    return (
        2 * tower.embeddings.patch_embedding.weight.numel() * num_vision_tokens
        + sum(2 * _matrix_elements(layer) * length + attention for layer in layers[:num_read])
        + 2 * _matrix_elements(llava.multi_modal_projector) * num_vision_tokens
    )


def llm_flops(model: VocoModel, num_voco_tokens: int) -> float:
    """Additions and multiplications that one frame's VoCo keys and values need of the decoder.

    Attention is causal, so half of the square counts. Of the last layer only the keys and values at the VoCo
    positions are needed; whatever else it does counts as time but not as work.
    """
    config, backbone = model.backbone.text_config, model.backbone
    around = len(backbone.template.frame_before_ids) + len(backbone.template.frame_after_ids)
    length = around + backbone.num_vision_tokens + num_voco_tokens
    head_dim = backbone.decoder.layers[0].self_attn.head_dim
    queries, keys = (heads * head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    # Queries and output, keys and values, the MLP's three; adapters for answering are no part of compressing.
    matrices = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    layer = 2 * matrices * length + 2 * length * length * queries
    kept = 2 * config.hidden_size * 2 * keys * num_voco_tokens
    return (config.num_hidden_layers - 1) * layer + kept


def _matrix_elements(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
