"""Checkpoints on disk: an ordinary Hugging Face folder plus two small files; the published layouts are read too.

config.json, *.safetensors, tokenizer files, preprocessor_config.json      the image-text model, untouched
voco_config.json        num_voco_tokens, token ids of the templates, trained, about
voco.safetensors        voco_embeds [K, D]

`save_voco_adapter` writes what was trained alone, beside a base that stays where it is (`adapter_folder`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from voco_video.checkpoint.adapter_folder import apply_changes, base_of, describe_base, write_changes
from voco_video.checkpoint.beside import Beside, read_beside, with_voco_settings
from voco_video.checkpoint.configurations import checked_config, write_images
from voco_video.checkpoint.files import stored_weights, weight_files
from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.loading import check_runs, load_image_text_model
from voco_video.checkpoint.needed import CONFIG, VOCO_CONFIG, VOCO_WEIGHTS
from voco_video.checkpoint.published import (
    PUBLISHED_NUM_VOCO_TOKENS,
    PublishedCheckpoint,
    is_published,
    open_published,
)
from voco_video.checkpoint.voco_settings import FORMAT, Base, read_voco_embeds, read_voco_settings
from voco_video.errors import UsageError
from voco_video.files.processor_files import ProcessorFiles
from voco_video.files.settings import read_settings
from voco_video.files.weights import FileState
from voco_video.model.adapters import (
    ADAPTER_FILES,
    adapted_layers,
    adapter_settings,
    adapter_weights,
    load_adapters,
    remove_adapters,
    save_adapters,
)
from voco_video.model.backbone import Backbone
from voco_video.model.families import ImageSettings, PromptTemplate
from voco_video.model.inference import undisturbed
from voco_video.model.voco import VocoModel
from voco_video.options.compression import Form
from voco_video.options.loading import Layout, LoadOptions, WeightBits


@undisturbed(inference=False)
def load_voco_model(
    path: str | Path = "voco-tiny",
    *,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str = "auto",
    device_map: str | Mapping[str, str | int] | None = None,
    weight_bits: WeightBits = 16,
    layout: Layout | None = None,
    num_voco_tokens: int | None = None,
    revision: str | None = None,
    offline: bool = False,
) -> VocoModel:
    """Load a checkpoint for inference.

    Args:
        path: a folder, the name of an embedded model (``voco-tiny``), or a hub id (``user/name``, or
            ``user/name@revision``), which is fetched where it is not in the local Hugging Face cache.
        device, dtype, attn_implementation, device_map, weight_bits, layout, revision, offline: see `LoadOptions`.
        num_voco_tokens: for a published checkpoint, how many VoCo tokens a frame gets (2, as it was trained); for one
            without VoCo tokens, how many untrained ones to give it (none). Otherwise the checkpoint decides.

    Raises:
        ModelError: the folder is not a checkpoint that this version reads.
        UsageError: an option that cannot be right.

    >>> load_voco_model("voco-tiny").num_voco_tokens
    8
    """
    options = LoadOptions(device, dtype, attn_implementation, device_map, weight_bits, layout, revision, offline)
    return _load(find_checkpoint(path, revision=revision, offline=offline), options, num_voco_tokens)


def _load(folder: Path, options: LoadOptions, num_voco_tokens: int | None) -> VocoModel:
    base = base_of(folder, offline=options.offline)
    if base is not None:
        model = _load(find_checkpoint(base.name, offline=options.offline), options, None)
        sources, processor_files = model.sources + _states(folder), model.processor_files
        model = _with_adapter(model.backbone, folder, num_voco_tokens)
        model.sources, model.processor_files = sources, processor_files
        return model
    settings = read_settings(folder / CONFIG)
    if is_published(settings):
        checkpoint = open_published(folder, settings, offline=options.offline)
        sources = _states(checkpoint.folder) + _states(checkpoint.tower)  # before they are read
        model = _load_published(checkpoint, options, num_voco_tokens)
    else:
        sources = _states(folder)
        model = _load_hugging_face(folder, options, num_voco_tokens)
        model.processor_files = ProcessorFiles.read(folder, getattr(model.backbone.tokenizer, "chat_template", None))
    model.sources = sources
    return model


def _states(folder: Path) -> tuple[FileState, ...]:
    """List the files below a checkpoint's folder that weights may come from, and its settings."""
    kinds = ("*.safetensors", "*.bin", "*.json")
    found = sorted(p for kind in kinds for p in folder.rglob(kind) if p.is_file())
    return tuple(FileState.of(path) for path in found)


def save_voco_model(
    model: VocoModel, folder: str | Path, *, state_dict: dict[str, Tensor] | None = None, max_shard_size: str = "5GB"
) -> Path:
    """Write a model as an ordinary Hugging Face folder plus its VoCo files; `load_voco_model` reads it back.

    Answering adapters stay apart, in a folder below: the weights that compress are written as they are without them.

    Args:
        max_shard_size: of each file of weights.
        state_dict: weights by their names in ``model`` to write instead of its own: where they are sharded over
            processes, or adapters are merged into them.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    backbone = model.backbone
    if adapted_layers(backbone.decoder):
        state_dict = _without_adapters(model, folder, state_dict)
    voco_embeds, weights = model.voco_embeds, None
    if state_dict is not None:
        prefix = "language_and_vision."
        voco_embeds = state_dict["voco_embeds"]  # type: ignore[assignment]
        weights = {n.removeprefix(prefix): t for n, t in state_dict.items() if n.startswith(prefix)}
    backbone.hf_model.save_pretrained(folder, state_dict=weights, max_shard_size=max_shard_size)
    model.processor_files.write(folder, backbone.tokenizer)
    _write_own_voco_files(model, folder, voco_embeds)
    return folder


def save_voco_adapter(
    model: VocoModel,
    folder: str | Path,
    *,
    base: str | Path,
    trained: Collection[str],
    state_dict: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write what training added to a checkpoint, without a copy of it; `load_voco_model` reads both together.

    Args:
        base: what it was trained from, as `load_voco_model` takes it; a hub id is pinned to the commit it is now.
        trained: names, in ``model``, of the weights that are not the base's any more.
        state_dict: weights by their names in ``model`` to write instead of its own, where they are sharded.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    backbone, about_base = model.backbone, describe_base(base)
    state: Mapping[str, Tensor] = dict(model.named_parameters()) if state_dict is None else state_dict
    layers = adapted_layers(backbone.decoder)
    if layers and model.answering_form is not None:  # they answer alone
        state = _without_adapters(model, folder, dict(state))
    prefix = "language_and_vision."
    mine = {n.removeprefix(prefix): state[n] for n in trained if n.startswith(prefix) and n in state}
    lora = {name: tensor for name, tensor in mine.items() if ".lora_" in name}
    settings = adapter_settings(backbone.decoder) if lora else {}
    changed = {name.replace(".base_layer.", "."): t for name, t in mine.items() if name not in lora}
    files = write_changes(folder, changed=changed, lora=lora, lora_settings=settings | {"base": about_base.name})
    _write_own_voco_files(model, folder, state["voco_embeds"], base=about_base, files=files)
    return folder


def _write_own_voco_files(
    model: VocoModel, folder: Path, voco_embeds: Tensor, *, base: Base | None = None, files: Iterable[str] = ()
) -> None:
    backbone = model.backbone
    write_voco_files(
        folder,
        config=backbone.hf_model.config,
        voco_embeds=voco_embeds,
        images=backbone.images,
        template=backbone.template,
        chat_template=backbone.chat_template,
        trained=model.trained,
        about=model.about,
        default_form=model.default_form,
        base=base,
        files=[*files, *(name for name in ADAPTER_FILES if (folder / name).is_file())],
    )


def _without_adapters(model: VocoModel, folder: Path, state_dict: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Write the adapters, unless they are merged already; the other weights under their plain names."""
    if state_dict is None:
        own = {name for name, _ in model.named_parameters()}  # each tied weight once
        state_dict = {name: tensor for name, tensor in model.state_dict().items() if name in own}
    decoder = model.backbone.decoder
    prefix = next(name for name, module in model.named_modules() if module is decoder) + "."
    names = {prefix + name for name in adapter_weights(decoder)}
    adapters = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name in names}
    if adapters:
        save_adapters(decoder, adapters, folder, form=model.answering_form)
    return {name.replace(".base_layer.", "."): t for name, t in state_dict.items() if name not in names}


def write_voco_files(
    folder: Path,
    *,
    config: Any,
    voco_embeds: Tensor,
    images: ImageSettings,
    template: PromptTemplate,
    chat_template: str | None,
    trained: bool = True,
    about: str = "",
    default_form: Form | None = None,
    base: Base | None = None,
    files: Iterable[str] = (),
) -> None:
    """Write what a checkpoint has beside an image-text model: its VoCo files and its image processor's settings.

    Args:
        config: the image-text model's configuration.
        voco_embeds: ``[K, D]``; K = 0 for a model without VoCo tokens.
        base: the checkpoint that holds the image-text model, where the folder does not.
        files: others that belong to it, so that one that gets lost is missed.
    """
    save_file({"voco_embeds": voco_embeds.detach().cpu().contiguous()}, folder / VOCO_WEIGHTS)
    settings = {
        "format": FORMAT,
        "num_voco_tokens": len(voco_embeds),
        "trained": trained,
        "about": about,
        "default_form": default_form,
        **template.describe(),
        "images": images.describe(),
        "chat_template": chat_template,
        "files": list(files),
    }
    if base is not None:
        settings["base"] = asdict(base)
    (folder / VOCO_CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
    write_images(folder, images, config)


def _load_hugging_face(folder: Path, options: LoadOptions, num_voco_tokens: int | None) -> VocoModel:
    config = checked_config(folder)
    beside = read_beside(folder, config, options.layout)
    weights = stored_weights(weight_files(folder), dtype=options.torch_dtype)
    model = load_image_text_model(config, weights, options, folder=folder)
    return _with_voco_tokens(model, folder, beside, num_voco_tokens)


def _with_adapter(base: Backbone, folder: Path, num_voco_tokens: int | None) -> VocoModel:
    settings = read_voco_settings(folder)
    assert settings is not None  # it names the base
    beside = with_voco_settings(folder, settings, base.hf_model.config, base.tokenizer)
    remove_adapters(base.decoder)
    apply_changes(base, folder)
    return _with_voco_tokens(base.hf_model, folder, beside, num_voco_tokens)


def _with_voco_tokens(model: Any, folder: Path, beside: Beside, num_voco_tokens: int | None) -> VocoModel:
    """Add the VoCo tokens and the answering adapters in a folder, if any, to an image-text model."""
    backbone = Backbone(model, beside.tokenizer, beside.images, beside.template, beside.chat_template)
    settings = beside.settings
    answering_form: Any = load_adapters(backbone.decoder, folder)
    if settings is None or settings.num_voco_tokens == 0:
        return _running(without_voco_tokens(backbone, num_voco_tokens), folder)
    if num_voco_tokens not in (None, settings.num_voco_tokens):
        raise UsageError(f"num_voco_tokens={num_voco_tokens}: {folder.name} was made with {settings.num_voco_tokens}")
    voco = VocoModel(
        backbone,
        read_voco_embeds(folder, settings, hidden_size=backbone.hidden_size),
        trained=settings.trained,
        about=settings.about,
        answering_form=answering_form,
        default_form=settings.default_form,
    )
    return _running(voco.eval(), folder)


def _running(model: VocoModel, folder: Path) -> VocoModel:
    check_runs(model.backbone, folder)
    return model


def without_voco_tokens(backbone: Backbone, num_voco_tokens: int | None = None) -> VocoModel:
    """Wrap a model that was never trained to compress; it gets VoCo embeddings only where the caller asked for them."""
    if not num_voco_tokens:
        return VocoModel(backbone, torch.empty(0, backbone.hidden_size)).eval()
    table = backbone.hf_model.get_input_embeddings()
    scale = getattr(table, "scalar_embed_scale", 1.0)  # some multiply what stands in the table
    spread = backbone.embed([0]).new_tensor(table.weight.float().std().item() * scale)
    generator = torch.Generator().manual_seed(0)
    shape = num_voco_tokens, backbone.hidden_size
    embeds = torch.randn(shape, generator=generator, dtype=torch.float32).to(spread) * spread
    return VocoModel(backbone, embeds, trained=False, about="Its VoCo tokens are untrained.").eval()


# ---------------------------------------------------------------------- the published layouts


def _load_published(checkpoint: PublishedCheckpoint, options: LoadOptions, num_voco_tokens: int | None) -> VocoModel:
    """Load LLaVA's files under the library's names; ``<voco>``'s row becomes the VoCo embeddings."""
    weights = checkpoint.stored_weights(options.torch_dtype)
    model = load_image_text_model(checkpoint.config, weights, options, folder=checkpoint.folder)
    model.generation_config.eos_token_id = checkpoint.settings.get("eos_token_id")
    model.generation_config.pad_token_id = checkpoint.settings.get("pad_token_id")
    backbone = Backbone(model, checkpoint.tokenizer, checkpoint.images, checkpoint.template, checkpoint.chat_template)
    if checkpoint.voco_token_id is None:
        return _running(without_voco_tokens(backbone, num_voco_tokens), checkpoint.folder)
    ids = [checkpoint.voco_token_id] * (num_voco_tokens or PUBLISHED_NUM_VOCO_TOKENS)
    return _running(VocoModel(backbone, backbone.embed(ids).detach().clone()).eval(), checkpoint.folder)
