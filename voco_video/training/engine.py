"""A training run: HF `Trainer` with the VoCo loss, so that one GPU, DDP, FSDP and DeepSpeed are configuration."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, set_seed

from voco_video.checkpoint.folder import load_voco_model
from voco_video.data.turns import check_rendering
from voco_video.errors import UsageError, VocoVideoError
from voco_video.model.memory import is_out_of_memory
from voco_video.model.voco import VocoModel
from voco_video.training.arguments import steps_of, training_arguments
from voco_video.training.batches import make_batch
from voco_video.training.checkpoints import (
    RUN_CONFIG,
    UNFINISHED,
    WEIGHTS,
    TrainingError,
    checkpoint_to_resume,
    open_aside,
    publish,
    remove_oldest,
    write_json,
    writing,
)
from voco_video.training.checks import check_run
from voco_video.training.config import MOVING_SHAPES, TrainConfig
from voco_video.training.curves import draw_curves
from voco_video.training.file_samples import read_rows
from voco_video.training.loss import TrainableVoco
from voco_video.training.muon import muon_for
from voco_video.training.progress import OnProgress, report_progress
from voco_video.training.samples import Placed, RunOrder, SampleSource, open_dataset, open_validation, visibility_at
from voco_video.training.trainable import choose_trainable, export_model, trainable_state
from voco_video.training.validation import validate

RUN_LOG, RUN_CURVES = "log.json", "curves.png"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        last, best: folders of the trained models, for `load_model`; best is None without validation.
        num_steps: optimizer steps of the whole run.
        loss: mean loss of this call's steps.
        accuracy: the last validation's share of right answers, by visibility; empty without validation.
    """

    last: Path
    best: Path | None
    num_steps: int
    loss: float
    accuracy: dict[str, float]


def train(config: TrainConfig, *, resume: bool = False, on_progress: OnProgress | None = None) -> TrainResult:
    """Train as a configuration says.

    Args:
        resume: continue from the last checkpoint in ``output_dir``, with the same results as without interruption; from
            the start if there is none.
        on_progress: called at each optimizer step, and during validation, in the place of the library's own bar; then
            the lines of ``log_steps`` go to the log ``voco_video.training``.

    What cannot work is refused before the model is loaded, as far as that can be told.

    Raises:
        UsageError: options that cannot go together, or an ``output_dir`` that holds another run.
        DataError: the data set is not there, or broken.
        TrainingError: the loss became infinite or NaN, or memory is used up.

    >>> config = TrainConfig(output_dir="run", stage="image", max_steps=100)
    >>> train(config).last                                              # doctest: +SKIP
    PosixPath('run/last')
    """
    check_run(config)
    checkpoint = checkpoint_to_resume(config, resume=resume)
    rows = None if config.dataset == MOVING_SHAPES else read_rows(config)
    # On cached frames only adapters are trained; all other weights keep the type that the cache was made with.
    dtype = "auto" if config.mode == "cached" else "float32"
    model = load_voco_model(
        config.model, device=_loading_device(config), dtype=dtype, num_voco_tokens=config.num_voco_tokens
    )
    if not model.num_voco_tokens:
        raise UsageError(f"{config.model} has no VoCo tokens yet; set num_voco_tokens to how many to train, such as 2")
    config.check_choices(model.num_voco_tokens)
    _check_shapes(config, model)
    dataset = open_dataset(config, model, rows=rows)  # before adapters are added: caches are found by the weights
    first = next(sample for index in count() if (sample := dataset.sample(index)).turns)
    check_rendering(model.backbone, first.turns, max_length=config.max_length, system=first.system)
    set_seed(config.seed)  # adapters are initialised with random numbers
    num_trained = choose_trainable(model, config)
    num_steps = steps_of(config, dataset)
    arguments = training_arguments(config, num_steps=num_steps)
    trainable = TrainableVoco(model, distillation_weight=config.distillation_weight)
    if config.gradient_checkpointing:
        decoder = model.backbone.decoder  # before transformers 5.23 the method has its older name alone
        enable = getattr(decoder, "activation_checkpointing_enable", None) or decoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    logger.info("training %.2f M parameters for %d steps", num_trained / 1e6, num_steps)
    trainer = VocoTrainer(trainable, arguments, config, dataset=dataset, num_steps=num_steps)
    if on_progress is not None:
        trainer.tell_validated = report_progress(trainer, on_progress)
    if trainer.is_world_process_zero():
        write_json(Path(config.output_dir) / RUN_CONFIG, config.describe())
    try:
        output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except VocoVideoError as error:
        raise _as_raised(error) from error
    trainer.save_last()
    best = Path(config.output_dir) / "best"
    return TrainResult(
        last=Path(config.output_dir) / "last",
        best=best if best.is_dir() else None,
        num_steps=num_steps,
        loss=output.training_loss,
        accuracy=trainer.accuracy,
    )


def _as_raised(error: VocoVideoError) -> VocoVideoError:
    """Restore an error that a worker process raised: torch puts the worker's whole traceback into its message."""
    _, mark, message = str(error).rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")
    return type(error)(message.strip()) if mark and "Original Traceback" in str(error) else error


def _check_shapes(config: TrainConfig, model: VocoModel) -> None:
    """Refuse batches whose frames may differ in size where all devices have to make the same number of passes.

    Raises:
        UsageError: `per_device_batch_size` is above 1 there.
    """
    is_sharded, has_shapes = bool(config.fsdp or config.deepspeed), model.backbone.images.any_shape is not None
    if is_sharded and has_shapes and config.dataset != MOVING_SHAPES and config.per_device_batch_size > 1:
        raise UsageError(
            f"per_device_batch_size={config.per_device_batch_size}: frames of this model keep the shape of their "
            "video, and a batch takes one pass for each shape, which sharded training cannot; set it to 1"
        )


def _loading_device(config: TrainConfig) -> str:
    """Choose where this process loads the model: its own GPU, or main memory if the engine shards it from there."""
    if config.deepspeed or config.fsdp or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


class VocoTrainer(Trainer):
    """`Trainer` over a `RunOrder`: the loss of `TrainableVoco`, and models that `load_model` reads.

    Args:
        trainable: the model with its loss.
        config: the run's options.
        dataset: training samples.
        num_steps: optimizer steps of the whole run.
    """

    def __init__(
        self,
        trainable: TrainableVoco,
        arguments: TrainingArguments,
        config: TrainConfig,
        *,
        dataset: SampleSource,
        num_steps: int,
    ) -> None:
        self.config = config
        self.trainable = trainable
        self.voco: VocoModel = trainable.voco
        self.accuracy: dict[str, float] = {}
        self.tell_validated: Callable[[int, int], None] = lambda done, total: None
        self._sums: dict[str, list[Tensor]] = defaultdict(list)
        self._validation = open_validation(config, self.voco)
        order = RunOrder(dataset, num_steps=num_steps, global_batch_size=config.global_batch_size, seed=config.seed)
        super().__init__(
            trainable,
            arguments,
            data_collator=self._collate,
            train_dataset=order,
            eval_dataset=[] if self._validation else None,
        )
        self.model_accepts_loss_kwargs = True  # the loss is divided by the labelled tokens of the whole step

    def _collate(self, placed: Sequence[Placed]) -> dict[str, Any]:
        visibility = visibility_at(placed[0].step, self.config, num_voco_tokens=self.voco.num_voco_tokens)
        samples = [item.sample for item in placed]
        batch = make_batch(self.voco.backbone, samples, visibility, max_length=self.config.max_length)
        return {"batch": batch, "labels": batch.labels}

    # ------------------------------------------------------------------ steps

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Loss of one batch, divided so that the sum over a step's batches and devices is its mean over tokens."""
        output = model(inputs["batch"], num_items_in_batch=num_items_in_batch)
        name = inputs["batch"].visibility.name
        for key in ("cross_entropy", "num_labels", "num_correct"):
            self._sums[f"{name} {key}"].append(output[key])
        loss = output["loss"]
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # reducers average over devices
        return (loss, output) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward pass; failures name the option to change."""
        try:
            loss = super().training_step(*args, **kwargs)
        except Exception as error:
            if is_out_of_memory(error):
                raise TrainingError(_out_of_memory(self.config)) from error
            raise
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {float(loss)} at step {self.state.global_step + 1}; the last checkpoint is from before. "
                f"Lower learning_rate (now {self.config.learning_rate:g}) or raise warmup_fraction, and start anew"
            )
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add loss and accuracy per visibility to the library's log line."""
        if "loss" in logs:
            sums = self._summed()
            for name in sorted({key.rpartition(" ")[0] for key in sums}):
                num_labels = max(1.0, sums[f"{name} num_labels"])
                logs[f"loss_{name}"] = round(sums[f"{name} cross_entropy"] / num_labels, 4)
                logs[f"token_accuracy_{name}"] = round(sums[f"{name} num_correct"] / num_labels, 4)
        super().log(logs, *args, **kwargs)

    def _summed(self) -> dict[str, float]:
        """Sum up over all processes what was counted since the last call.

        All processes have the same keys, since a step has the same visibility on each.
        """
        keys = sorted(self._sums)
        if not keys:
            return {}
        own = torch.stack([torch.stack(self._sums[key]).sum().float() for key in keys])
        self._sums.clear()
        total: Tensor = self.accelerator.reduce(own, reduction="sum")
        return dict(zip(keys, total.tolist(), strict=True))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The library's AdamW, or Muon."""
        if self.config.optimizer == "muon" and self.optimizer is None:
            self.optimizer = muon_for(
                self.trainable,
                self.voco.backbone.hf_model.get_output_embeddings(),
                lr=self.config.learning_rate,
                weight_decay=self.config.weight_decay,
                beta2=self.config.adam_beta2,
            )
        return super().create_optimizer(*args, **kwargs)

    # ------------------------------------------------------------------ validation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Share of validation answers that are right token for token, per visibility; keeps the best model."""
        assert self._validation is not None
        # During a run `model_wrapped` is the sharded model; every process takes part and gets the same result.
        model = self.model_wrapped or self.trainable
        backbone, num_voco_tokens = self.voco.backbone, self.voco.num_voco_tokens
        results = validate(
            model,
            backbone,
            self._validation,
            self.config,
            num_voco_tokens=num_voco_tokens,
            on_progress=self.tell_validated,
        )
        self.accuracy = {name: result.accuracy for name, result in results.items()}
        metrics = {f"eval_accuracy_{name}": round(value, 4) for name, value in self.accuracy.items()}
        metrics["eval_accuracy"] = sum(self.accuracy.values()) / len(self.accuracy)
        if self.is_world_process_zero():
            for name, result in results.items():
                logger.info("%s: %s", name, result.text())
        self.log(metrics)
        best = max((line["eval_accuracy"] for line in self.state.log_history if "eval_accuracy" in line), default=0.0)
        if metrics["eval_accuracy"] >= best:
            self._export("best")
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ------------------------------------------------------------------ checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        """Return where the library writes a checkpoint; `_save_checkpoint` renames it when it is complete."""
        return str(Path(super()._get_output_dir(trial)) / UNFINISHED)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run, name = Path(self.config.output_dir), f"checkpoint-{self.state.global_step}"
        with writing(run / name):
            if self.args.should_save:
                open_aside(run, name)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # every process has written its part
            if self.args.should_save:
                publish(run, name)
                remove_oldest(run, kept=self.config.save_total_limit)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the trained weights, which a resumed run needs, and the model so far in ``last/``."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.config.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trainable_state(self.trainable, state_dict), folder / WEIGHTS)
        self._write_model("last", state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        weights = Path(resume_from_checkpoint) / WEIGHTS
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        missing, unexpected = self.trainable.load_state_dict(load_file(weights), strict=False)
        trained = {n for n, p in self.trainable.named_parameters() if p.requires_grad}
        if unexpected or trained & set(missing):
            raise TrainingError(f"{weights} is of a run that trained other weights; start anew in another output_dir")

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Do nothing: checkpoints hold only trained weights, so frozen ones are always missing."""

    def save_last(self) -> None:
        """Write the current model to ``last/``, with log and curves."""
        self._export("last")

    def _export(self, name: str) -> None:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        state = self.accelerator.get_state_dict(self.model_wrapped) if sharded else None  # every process takes part
        if self.args.should_save:
            self._write_model(name, state)

    def _write_model(self, name: str, state_dict: dict[str, Tensor] | None) -> None:
        folder = Path(self.config.output_dir)
        self.voco.trained = True
        self.voco.about = ""  # a sentence on what its base knows is not true of it any more
        state = None
        if state_dict is not None:
            state = {n.removeprefix("voco."): t for n, t in state_dict.items() if n.startswith("voco.")}
        with writing(folder / name):
            export_model(self.voco, open_aside(folder, name), self.config, state)
            publish(folder, name)
            write_json(folder / RUN_LOG, self.state.log_history)
            if self.state.log_history:
                draw_curves(self.state.log_history, folder / RUN_CURVES)


def _out_of_memory(config: TrainConfig) -> str:
    knobs = [f"halve per_device_batch_size (now {config.per_device_batch_size}; the result stays the same)"]
    if not config.gradient_checkpointing:
        knobs.append("set gradient_checkpointing: true")
    if config.precision == "float32":
        knobs.append("set precision: bfloat16")
    if config.stage == "video":
        knobs.append(f"lower num_frames (now {config.num_frames})")
    if config.train_llm and not config.lora_rank:
        knobs.append("train adapters with lora_rank: 16")
    return f"out of memory: {'; or '.join(knobs)}"
