"""The options of a training run, in groups of frozen dataclasses that one `TrainConfig` joins.

Every option is a field here, a key of a recipe's YAML file and a ``--set key=value`` of the command line.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass
from typing import Any, Literal, get_args

from voco_video.data.registry import check_dataset_name
from voco_video.errors import UsageError
from voco_video.options.compression import Form, Forms
from voco_video.options.fields import Options, documented, option

Stage = Literal["image", "video"]
Mode = Literal["joint", "cached"]
Precision = Literal["float32", "bfloat16"]
Export = Literal["model", "adapter"]
Schedule = Literal["cosine", "linear", "constant"]
OptimizerName = Literal["adamw", "muon"]
MOVING_SHAPES = "moving-shapes"


@documented
@dataclass(frozen=True, kw_only=True)
class RunOptions(Options, panel="Run"):
    """Where a run begins and writes, and what it trains for."""

    output_dir: str = option(
        MISSING, "Folder of the run: checkpoints to resume from, `last/` and `best/` models, logs and curves."
    )
    model: str = option("voco-tiny", "Checkpoint to start from: a folder, a hub id, or an embedded model.")
    num_voco_tokens: int | None = option(
        None,
        "K, for a checkpoint that has no VoCo tokens yet; otherwise the checkpoint decides.",
        unit="tokens",
        at_least=1,
    )
    stage: Stage = option("image", "`image`: one frame per sample. `video`: a time series of frames per sample.")
    mode: Mode = option(
        "joint",
        "`joint`: gradients flow through the compressor. `cached`: frames come from the frame cache, only text runs.",
    )
    form: Forms = option(
        "kv",
        "What text sees of a VoCo token: `kv` (keys and values of all layers), `embeds` (last state, fed "
        "back), or `both` in turn.",
    )
    max_steps: int = option(0, "Optimizer steps; 0 leaves it to `num_epochs`.", unit="steps", at_least=0)
    num_epochs: float = option(1.0, "Passes over the dataset, where `max_steps` is 0.", unit="epochs", at_least=0)
    seed: int = option(0, "Seed of everything random in a run.")


@documented
@dataclass(frozen=True, kw_only=True)
class DataOptions(Options, panel="Data"):
    """The samples that a run trains on."""

    dataset: str = option(
        "moving-shapes",
        "`moving-shapes` (made in memory), `msvd`, `msrvtt`, `activitynet`, `llava-mix665k`, or a conversations .json.",
    )
    annotations: str = option("", "The dataset's annotations, where they are not in `media_dir`.")
    media_dir: str = option(
        "", "The dataset's folder; empty for the current one, or that of the .json of conversations."
    )
    cache_dir: str = option("", "Frame cache of mode `cached`; empty for the default one.")
    num_frames: int = option(8, "F: frames of a video, in the video stage.", unit="frames", at_least=1)
    num_turns: int = option(
        6,
        "Questions per sample, packed as turns of one conversation (moving-shapes and the question sets).",
        unit="turns",
        at_least=1,
    )
    max_length: int = option(
        2048,
        "Text tokens per sample; turns beyond are left out, and a sample whose first turn has more is bad.",
        unit="tokens",
        at_least=1,
    )
    max_bad_samples: int = option(
        100,
        "Samples that are skipped, counted and named before the run gives up: their media are missing or "
        "broken, they have more tokens than `max_length`, or the chat template refuses them.",
        unit="samples",
        at_least=0,
    )


@documented
@dataclass(frozen=True, kw_only=True)
class MovingShapesOptions(Options, panel="MovingShapes"):
    """The samples of dataset ``moving-shapes``."""

    image_fraction: float = option(
        0.0, "Share of single images among the samples of a video stage.", at_least=0, at_most=1
    )
    dense_fraction: float = option(0.25, "Share of turns that list everything.", at_least=0, at_most=1)
    question_families: tuple[str, ...] = option(
        (),
        "Families of short questions, in turn; one named twice is asked twice as often; empty for all.",
    )
    by_name_fraction: float = option(
        0.0,
        "Share of lists that go by the objects' names, not by their places (with `question_families`).",
        at_least=0,
        at_most=1,
    )
    temporal_fraction: float = option(
        0.7, "Share of short questions that are about time, in the video stage.", at_least=0, at_most=1
    )
    data_seed: int = option(0, "Seed of the generated world.")
    num_scenes: int = option(
        8192,
        "Different scenes in mode `cached`: compressed once and kept in memory, asked anew each time.",
        unit="scenes",
        at_least=1,
    )


@documented
@dataclass(frozen=True, kw_only=True)
class TrainedParts(Options, panel="Trained parts"):
    """The weights that train, and what text sees meanwhile."""

    train_vision_tower: bool = option(False, "Train the vision tower.")
    train_projector: bool = option(True, "Train the projector between vision tower and language model.")
    train_llm: bool = option(
        True,
        "Train the language model: all of it, or through LoRA where `lora_rank` is above 0. In mode `cached` "
        "a second set of weights is trained to answer with; the first goes on compressing.",
    )
    train_voco_embeds: bool = option(True, "Train the VoCo embeddings.")
    lora_rank: int = option(0, "Rank of LoRA adapters in the language model; 0 trains its own weights.", at_least=0)
    lora_alpha: float = option(16.0, "LoRA scale: adapters count `lora_alpha / lora_rank` times.", at_least=0)
    lora_dropout: float = option(0.0, "Dropout on the input of LoRA adapters.", at_least=0, at_most=1)
    lora_targets: tuple[str, ...] = option(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        "Linear layers of the language model that get adapters.",
    )
    num_voco_token_choices: tuple[int, ...] = option(
        (), "Elastic K: each step draws k from these; empty takes all K every time."
    )
    full_visibility_fraction: float = option(
        0.0,
        "Share of steps in which text sees all vision tokens, so that the uncompressed path stays alive. In "
        "mode `cached` they come from cache entries of compressor `full`.",
        at_least=0,
        at_most=1,
    )
    distillation_weight: float = option(
        0.0,
        "Weight of the divergence from the model's own full-visibility answers (doubles the cost of a step).",
        at_least=0,
    )


@documented
@dataclass(frozen=True, kw_only=True)
class OptimizationOptions(Options, panel="Optimization"):
    """How weights are updated."""

    global_batch_size: int = option(
        128, "Samples per optimizer step over all devices; accumulation follows from it.", unit="samples", at_least=1
    )
    per_device_batch_size: int = option(
        16, "Samples per forward pass on one device: the knob for memory.", unit="samples", at_least=1
    )
    optimizer: OptimizerName = option(
        "adamw",
        "`adamw`, or `muon`: orthogonalised momentum for matrices, to train small models from nothing (not sharded).",
    )
    learning_rate: float = option(2e-5, "Peak learning rate.", at_least=0)
    schedule: Schedule = option("cosine", "How the learning rate falls after warm-up.")
    warmup_fraction: float = option(0.03, "Share of steps over which the learning rate rises.", at_least=0, at_most=1)
    weight_decay: float = option(0.0, "AdamW weight decay.", at_least=0)
    adam_beta2: float = option(0.999, "AdamW's second momentum.", at_least=0, at_most=1)
    max_grad_norm: float = option(1.0, "Gradients are scaled down to this norm.", at_least=0)


@documented
@dataclass(frozen=True, kw_only=True)
class EngineOptions(Options, panel="Engine"):
    """How a run computes, logs and saves; most of it changes no result."""

    precision: Precision = option("float32", "Arithmetic: `float32`, or `bfloat16` autocast over float32 weights.")
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: about a third slower, far less memory."
    )
    deepspeed: str = option(
        "", "DeepSpeed configuration: a file, or one that comes with the recipes, such as deepspeed/zero3.json."
    )
    fsdp: bool = option(False, "Shard weights, gradients and optimizer over devices with PyTorch's FSDP.")
    num_workers: int = option(0, "Processes that prepare samples while the model trains.", unit="processes", at_least=0)
    log_steps: int = option(10, "Steps between lines in the log.", unit="steps", at_least=1)
    eval_steps: int = option(0, "Steps between validations; 0 for none.", unit="steps", at_least=0)
    eval_samples: int = option(64, "Validation samples.", unit="samples", at_least=1)
    save_steps: int = option(500, "Steps between checkpoints.", unit="steps", at_least=1)
    save_total_limit: int = option(2, "Checkpoints kept to resume from.", unit="checkpoints", at_least=1)
    export: Export = option(
        "model",
        "What `last` and `best` are: the whole `model`, or the `adapter`: what was trained, beside the unchanged base.",
    )
    report_to: tuple[str, ...] = option(("tensorboard",), "Log writers: `tensorboard`, `wandb`.")


@documented
@dataclass(frozen=True, kw_only=True)
class TrainConfig(EngineOptions, OptimizationOptions, TrainedParts, MovingShapesOptions, DataOptions, RunOptions):
    """Everything that decides what a run computes, and where it writes.

    Raises:
        UsageError: a value that cannot be right, or options that cannot go together.

    >>> TrainConfig(output_dir="run", stage="image").global_batch_size
    128
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.train_vision_tower or self.train_projector or self.train_llm or self.train_voco_embeds):
            parts = "train_vision_tower, train_projector, train_llm, train_voco_embeds"
            raise UsageError(f"nothing to train: set one of {parts}")
        if self.max_steps < 1 and self.num_epochs <= 0:
            raise UsageError(f"max_steps={self.max_steps} and num_epochs={self.num_epochs}: one has to be above 0")
        if self.optimizer == "muon" and (self.deepspeed or self.fsdp):
            other = f"deepspeed={self.deepspeed!r}" if self.deepspeed else "fsdp=True"
            raise UsageError(f"optimizer='muon' needs whole matrices, and {other} shards them; use 'adamw' with it")
        if self.deepspeed and self.fsdp:
            raise UsageError(f"deepspeed={self.deepspeed!r} and fsdp=True both shard the model; choose one")
        if self.export == "adapter" and self.mode == "joint" and self.train_llm and not self.lora_rank:
            raise UsageError("export='adapter' needs lora_rank above 0: trained whole, a language model is no adapter")
        check_dataset_name(self.dataset, made=(MOVING_SHAPES,))
        if self.eval_steps and self.dataset != MOVING_SHAPES:
            raise UsageError(
                f"eval_steps={self.eval_steps} and dataset={self.dataset!r}: only {MOVING_SHAPES} has validation "
                "samples; set eval_steps to 0, and measure with `voco-video eval`"
            )
        self._check_mode()
        if self.num_voco_tokens is not None:
            self.check_choices(self.num_voco_tokens)

    def _check_mode(self) -> None:
        if self.mode != "cached":
            return
        compressing = [n for n in ("train_vision_tower", "train_projector", "train_voco_embeds") if getattr(self, n)]
        if compressing:
            raise UsageError(f"mode='cached' cannot train the compressor; set {', '.join(compressing)} to false")
        if self.stage == "image":
            raise UsageError("mode='cached' and stage='image': the frame cache holds videos; set stage to video")
        if self.distillation_weight:
            raise UsageError(
                f"mode='cached' and distillation_weight={self.distillation_weight}: there is no forward pass to distil "
                "from; set distillation_weight to 0"
            )

    def check_choices(self, num_voco_tokens: int) -> None:
        """Refuse choices of k that a model with so many VoCo tokens does not have.

        Raises:
            UsageError: one of ``num_voco_token_choices`` is more, or below 1.
        """
        wrong = [k for k in self.num_voco_token_choices if not 1 <= k <= num_voco_tokens]
        if wrong:
            raise UsageError(
                f"num_voco_token_choices={list(self.num_voco_token_choices)} and num_voco_tokens={num_voco_tokens}: "
                f"{wrong[0]} is not between 1 and {num_voco_tokens}"
            )

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms that steps draw from."""
        return get_args(Form) if self.form == "both" else (self.form,)

    def describe(self) -> dict[str, Any]:
        """The options as plain values, as they are written beside a run's results."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


GROUPS = (RunOptions, DataOptions, MovingShapesOptions, TrainedParts, OptimizationOptions, EngineOptions)
"""The groups of options, in the order in which the documentation shows them."""
