"""A run's configuration as the arguments of Hugging Face's `Trainer`."""

from __future__ import annotations

import math
import os

import torch
from transformers import TrainingArguments

from voco_video.errors import UsageError
from voco_video.training.config import TrainConfig
from voco_video.training.samples import SampleSource


def steps_of(config: TrainConfig, dataset: SampleSource) -> int:
    """Count the optimizer steps of the whole run.

    Raises:
        UsageError: an endless dataset without ``max_steps``.
    """
    if config.max_steps > 0:
        return config.max_steps
    if dataset.num_samples is None:
        raise UsageError(f"dataset {config.dataset!r} has no end; set max_steps")
    return max(1, math.ceil(dataset.num_samples * config.num_epochs / config.global_batch_size))


def accumulation_steps(config: TrainConfig, *, num_devices: int) -> int:
    """Count the forward passes per optimizer step on each device.

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


def training_arguments(config: TrainConfig, *, num_steps: int) -> TrainingArguments:
    """Translate a configuration into the arguments of the library's `Trainer`.

    Raises:
        UsageError: fsdp without GPUs, or batch sizes that do not divide.
    """
    num_devices = int(os.environ.get("WORLD_SIZE", "1"))
    if config.fsdp and not torch.cuda.is_available():
        raise UsageError("fsdp needs GPUs (on CPUs Accelerate quietly falls back to whole copies); set fsdp to false")
    schedules = {"constant": "constant_with_warmup"}
    return TrainingArguments(
        output_dir=config.output_dir,
        max_steps=num_steps,
        per_device_train_batch_size=config.per_device_batch_size,
        gradient_accumulation_steps=accumulation_steps(config, num_devices=num_devices),
        learning_rate=config.learning_rate,
        lr_scheduler_type=schedules.get(config.schedule, config.schedule),
        warmup_steps=math.ceil(config.warmup_fraction * num_steps),
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        deepspeed=config.deepspeed or None,
        fsdp=True if config.fsdp else None,  # type: ignore[arg-type]
        ddp_find_unused_parameters=config.train_vision_tower,
        seed=config.seed,
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if config.eval_steps else "no",
        eval_steps=config.eval_steps or None,
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        report_to=list(config.report_to),
        dataloader_num_workers=config.num_workers,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        label_names=["labels"],
    )
