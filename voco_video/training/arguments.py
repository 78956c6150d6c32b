"""A run's configuration as the arguments of Hugging Face's `Trainer`."""

from __future__ import annotations

import math

import torch
from transformers import TrainingArguments

from voco_video.training.checks import accumulation_steps, num_devices
from voco_video.training.config import TrainConfig
from voco_video.training.recipes import find_deepspeed
from voco_video.training.samples import SampleSource


def steps_of(config: TrainConfig, dataset: SampleSource) -> int:
    """Count the optimizer steps of the whole run."""
    if config.max_steps > 0:
        return config.max_steps
    assert dataset.num_samples is not None, "`check_run` refuses an endless dataset without max_steps"
    return max(1, math.ceil(dataset.num_samples * config.num_epochs / config.global_batch_size))


def training_arguments(config: TrainConfig, *, num_steps: int) -> TrainingArguments:
    """Translate a configuration into the arguments of the library's `Trainer`.

    Raises:
        UsageError: batch sizes that do not divide.
    """
    schedules = {"constant": "constant_with_warmup"}
    return TrainingArguments(
        output_dir=config.output_dir,
        max_steps=num_steps,
        per_device_train_batch_size=config.per_device_batch_size,
        gradient_accumulation_steps=accumulation_steps(config, num_devices=num_devices()),
        learning_rate=config.learning_rate,
        lr_scheduler_type=schedules.get(config.schedule, config.schedule),
        warmup_steps=math.ceil(config.warmup_fraction * num_steps),
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        deepspeed=str(find_deepspeed(config.deepspeed)) if config.deepspeed else None,
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
        dataloader_pin_memory=torch.cuda.is_available(),  # `TrainingBatch.pin_memory`; without a GPU it only warns
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        label_names=["labels"],
    )
