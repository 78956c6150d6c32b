"""Checks before a model is loaded: options that the machine, the checkpoint or the data set rules out."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.needed import CONFIG
from voco_video.checkpoint.voco_settings import read_voco_settings
from voco_video.errors import UsageError
from voco_video.files.settings import read_settings
from voco_video.model.families import FAMILIES as MODEL_FAMILIES
from voco_video.shapes.scene_view import FAMILIES
from voco_video.training.config import MOVING_SHAPES, TrainConfig
from voco_video.training.recipes import find_deepspeed


def check_run(config: TrainConfig) -> None:
    """Refuse a run that could not begin.

    Raises:
        UsageError: options that cannot go together here; the message names them.
        ModelError: there is no such checkpoint.
    """
    if config.dataset == MOVING_SHAPES and config.max_steps < 1:
        raise UsageError(f"dataset={config.dataset!r} and max_steps={config.max_steps}: it has no end; set max_steps")
    if unknown := set(config.question_families) - set(FAMILIES):
        raise UsageError(
            f"question_families={list(config.question_families)}: {min(unknown)!r} is not one of {', '.join(FAMILIES)}"
        )
    accumulation_steps(config, num_devices=num_devices())
    _check_engine(config)
    folder = find_checkpoint(config.model)
    settings = read_voco_settings(folder)
    base = settings.base if settings else None
    _check_forms(config, read_settings((find_checkpoint(base.name) if base else folder) / CONFIG).get("model_type"))
    num_voco_tokens = (settings.num_voco_tokens if settings else 0) or config.num_voco_tokens
    if num_voco_tokens:
        config.check_choices(num_voco_tokens)


def _check_forms(config: TrainConfig, model_type: object) -> None:
    """Refuse keys and values of a model whose layers keep none that could be moved."""
    family = MODEL_FAMILIES.get(str(model_type))
    if family is not None and family.needs_embeds and "kv" in config.forms:
        raise UsageError(
            f"form={config.form!r} and model={config.model!r}: {family.title} cannot be trained in form 'kv', as "
            f"{family.needs_embeds}; set form to embeds"
        )


def _check_engine(config: TrainConfig) -> None:
    """Refuse what the machine or the installation lacks."""
    if config.fsdp and not torch.cuda.is_available():
        raise UsageError(
            "fsdp=True needs GPUs (on CPUs Accelerate quietly falls back to whole copies); set fsdp to false"
        )
    if config.deepspeed:
        find_deepspeed(config.deepspeed)
        if find_spec("deepspeed") is None:
            raise UsageError(f"deepspeed={config.deepspeed!r} needs DeepSpeed: pip install 'voco-video[deepspeed]'")
    if config.train_llm and (config.lora_rank or config.mode == "cached") and find_spec("peft") is None:
        raise UsageError(f"lora_rank={config.lora_rank} needs peft: pip install 'voco-video[train]'")
    for name in config.report_to:
        if name in ("tensorboard", "wandb") and find_spec(name) is None:
            package = "'voco-video[train]'" if name == "tensorboard" else name
            raise UsageError(f"report_to={list(config.report_to)}: {name} is not installed: pip install {package}")


def num_devices() -> int:
    """Count the devices of the run: the processes that torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def accumulation_steps(config: TrainConfig, *, num_devices: int) -> int:
    """Compute the forward passes per optimizer step on each device.

    Raises:
        UsageError: the batch sizes do not divide.
    """
    per_pass = config.per_device_batch_size * num_devices
    if config.global_batch_size % per_pass:
        raise UsageError(
            f"global_batch_size={config.global_batch_size} is not a multiple of per_device_batch_size="
            f"{config.per_device_batch_size} times {num_devices} devices; lower per_device_batch_size"
        )
    return config.global_batch_size // per_pass
