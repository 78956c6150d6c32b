"""Which weights a run trains, adapters in place of whole matrices, and the trained model on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from voco_video.checkpoint.folder import save_voco_adapter, save_voco_model
from voco_video.model.adapters import (
    adapted_layers,
    adapter_settings,
    adapter_weights,
    add_adapters,
    remove_adapters,
)
from voco_video.model.voco import VocoModel
from voco_video.training.config import TrainConfig

logger = logging.getLogger(__name__)


def choose_trainable(model: VocoModel, config: TrainConfig) -> int:
    """Freeze all weights that the configuration does not train, and add adapters if it asks for them.

    On cached frames the compressing weights must not change: the language model gets adapters to answer with.

    Returns:
        The number of trainable parameters.
    """
    model.requires_grad_(False)
    backbone = model.backbone
    if config.train_vision_tower:
        _part(model, model.backbone.family.vision_tower).requires_grad_(True)
    if config.train_projector:
        _part(model, model.backbone.family.projector).requires_grad_(True)
    if config.mode == "joint" and adapted_layers(backbone.decoder):
        _leave_out_adapters(model, config)
    if config.train_llm and (config.lora_rank or config.mode == "cached"):
        _train_adapters(model, config)
        model.answering_form = config.form if config.mode == "cached" else None
    elif config.train_llm:
        backbone.decoder.requires_grad_(True)
        backbone.hf_model.get_output_embeddings().requires_grad_(True)
    model.voco_embeds.requires_grad_(config.train_voco_embeds)
    if config.form != "both":
        model.default_form = config.form
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()  # updates are too small for 16 bits
    return sum(parameter.numel() for parameter in trained)


def _train_adapters(model: VocoModel, config: TrainConfig) -> None:
    """Add new adapters, or train those that the checkpoint has already."""
    decoder = model.backbone.decoder
    if adapted_layers(decoder):
        fits_form = config.form == "both" or model.answering_form == config.form
        if adapter_settings(decoder)["rank"] == config.lora_rank and fits_form:
            for parameter in adapter_weights(decoder).values():
                parameter.requires_grad_(True)
            return
        _leave_out_adapters(model, config)
    add_adapters(
        decoder,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        targets=config.lora_targets,
    )


def _leave_out_adapters(model: VocoModel, config: TrainConfig) -> None:
    settings = adapter_settings(model.backbone.decoder)
    remove_adapters(model.backbone.decoder)
    logger.warning(
        "%s has answering weights (lora_rank %d, form %s), which are left out: this run starts from the compressing "
        "weights",
        config.model,
        settings["rank"],
        model.answering_form,
    )
    model.answering_form = None


def _part(model: VocoModel, name: str) -> nn.Module:
    return model.backbone.hf_model.base_model.get_submodule(name)


def trainable_state(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the weights that a run needs to resume: those that it trains, by name.

    Args:
        state: gathered weights if the model is sharded; default the model's own.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if state is None:
        parameters = dict(model.named_parameters())
        return {name: parameters[name].detach().cpu().contiguous() for name in names}
    return {name: state[name].detach().cpu().contiguous() for name in names}


def export_model(
    model: VocoModel, folder: Path, config: TrainConfig, state: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a trained model as `load_voco_model` reads it.

    Adapters that were trained together with the compressor are merged into the weights. Adapters that were trained on
    cached frames are for answering only and stay separate, so the compressing weights do not change and caches made
    with them remain valid.

    Args:
        state: gathered weights of the `VocoModel` by name, if the model is sharded over processes.
    """
    state = model.state_dict() if state is None else state
    # Gathered weights are no longer tied: a tied head would be written twice.
    own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    state = {name: tensor for name, tensor in state.items() if name in own}
    if config.export == "adapter":
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        return save_voco_adapter(model, folder, base=config.model, trained=trained, state_dict=state)
    if config.mode == "joint" and adapted_layers(model) and adapter_settings(model.backbone.decoder)["rank"]:
        state = merged_state(model, state)
    return save_voco_model(model, folder, state_dict=state)


def merged_state(model: VocoModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add every adapter's product to its matrix; the weights get the names of a model without adapters."""
    merged = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        path = name.replace(".base_layer.", ".")
        if path != name and name.endswith("weight"):
            layer = model.get_submodule(name.removesuffix(".base_layer.weight"))
            scale = layer.scaling["default"]  # type: ignore[index]
            prefix = name.removesuffix("base_layer.weight")
            down, up = (state[f"{prefix}lora_{which}.default.weight"] for which in "AB")
            tensor = tensor + scale * (up.float() @ down.float()).to(tensor.dtype)
        merged[path] = tensor
    return merged
