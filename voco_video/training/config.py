"""The options of a training run: one frozen dataclass, read from one YAML file.

Every option is a field here, a key of the file and a ``--set key=value`` of the command line, under one name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from voco_video.errors import UsageError
from voco_video.files.paths import expanded
from voco_video.model.tokens import Form, Forms

Stage = Literal["image", "video"]
Mode = Literal["joint", "cached"]
Precision = Literal["float32", "bfloat16"]
Export = Literal["model", "adapter"]
Schedule = Literal["cosine", "linear", "constant"]
OptimizerName = Literal["adamw", "muon"]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes, and where it writes.

    >>> TrainConfig(output_dir="run", stage="image").global_batch_size
    128
    """

    output_dir: str
    """Folder of the run: checkpoints to resume from, `last/` and `best/` models, logs and curves."""
    model: str = "voco-tiny"
    """Checkpoint to start from: a folder, a cached hub id, or an embedded model."""
    num_voco_tokens: int | None = None
    """K, for a checkpoint that has no VoCo tokens yet; otherwise the checkpoint decides."""
    stage: Stage = "image"
    """`image`: one frame per sample. `video`: a time series of frames per sample."""
    mode: Mode = "joint"
    """`joint`: gradients flow through the compressor. `cached`: frames come from the frame cache, only text runs."""
    form: Forms = "kv"
    """What text sees of a VoCo token: `kv` (keys and values of all layers), `embeds` (last state, fed back), or `both`
    in turn."""

    dataset: str = "moving-shapes"
    """`moving-shapes` (drawn in memory), `msvd`, `msrvtt`, `activitynet`, `llava-mix665k`, or a conversations .json."""
    annotations: str = ""
    """The dataset's annotations, where they are not in `media_dir`."""
    media_dir: str = ""
    """The dataset's folder; empty for the current one, or that of the .json of conversations."""
    cache_dir: str = ""
    """Frame cache of mode `cached`; empty for the default one."""
    num_frames: int = 8
    """F: frames of a video, in the video stage."""
    image_fraction: float = 0.0
    """Share of single images among the samples of a video stage (moving-shapes)."""
    num_turns: int = 6
    """Questions per sample, packed as turns of one conversation (moving-shapes and the question sets)."""
    dense_fraction: float = 0.25
    """Share of turns that list everything (moving-shapes)."""
    question_families: tuple[str, ...] = ()
    """Families of short questions, in turn; one named twice is asked twice as often; empty for all (moving-shapes)."""
    by_name_fraction: float = 0.0
    """Share of lists that go by the objects' names, not by their places (moving-shapes, with question_families)."""
    temporal_fraction: float = 0.7
    """Share of short questions that are about time, in the video stage (moving-shapes)."""
    data_seed: int = 0
    """Seed of the generated world (moving-shapes)."""
    num_scenes: int = 8192
    """Different scenes in mode `cached` (moving-shapes): compressed once and kept in memory, asked anew each time."""
    max_length: int = 2048
    """Text tokens per sample; turns beyond are left out, and a sample whose first turn has more is bad."""
    max_bad_samples: int = 100
    """Samples that are skipped, counted and named before the run gives up: their media are missing or broken, they have
    more tokens than `max_length`, or the chat template refuses them."""

    train_vision_tower: bool = False
    """Train the vision tower."""
    train_projector: bool = True
    """Train the projector between vision tower and language model."""
    train_llm: bool = True
    """Train the language model: all of it, or through LoRA where `lora_rank` is above 0. In mode `cached` a second set
    of weights is trained to answer with; the first goes on compressing."""
    train_voco_embeds: bool = True
    """Train the VoCo embeddings."""
    lora_rank: int = 0
    """Rank of LoRA adapters in the language model; 0 trains its own weights."""
    lora_alpha: float = 16.0
    """LoRA scale: adapters count `lora_alpha / lora_rank` times."""
    lora_dropout: float = 0.0
    """Dropout on the input of LoRA adapters."""
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers of the language model that get adapters."""

    num_voco_token_choices: tuple[int, ...] = ()
    """Elastic K: each step draws k from these; empty takes all K every time."""
    full_visibility_fraction: float = 0.0
    """Share of steps in which text sees all vision tokens, so that the uncompressed path stays alive. In mode `cached`
    they come from cache entries of compressor `full`."""
    distillation_weight: float = 0.0
    """Weight of the divergence from the model's own full-visibility answers (doubles the cost of a step)."""

    max_steps: int = 0
    """Optimizer steps; 0 leaves it to `num_epochs`."""
    num_epochs: float = 1.0
    """Passes over the dataset, where `max_steps` is 0."""
    global_batch_size: int = 128
    """Samples per optimizer step over all devices; accumulation follows from it."""
    per_device_batch_size: int = 16
    """Samples per forward pass on one device: the knob for memory."""
    optimizer: OptimizerName = "adamw"
    """`adamw`, or `muon`: orthogonalised momentum for matrices, to train small models from nothing (not sharded)."""
    learning_rate: float = 2e-5
    """Peak learning rate."""
    schedule: Schedule = "cosine"
    """How the learning rate falls after warm-up."""
    warmup_fraction: float = 0.03
    """Share of steps over which the learning rate rises."""
    weight_decay: float = 0.0
    """AdamW weight decay."""
    adam_beta2: float = 0.999
    """AdamW's second momentum."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    precision: Precision = "float32"
    """Arithmetic: `float32`, or `bfloat16` autocast over float32 weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, far less memory."""
    deepspeed: str = ""
    """DeepSpeed configuration file, such as configs/deepspeed/zero3.json."""
    fsdp: bool = False
    """Shard weights, gradients and optimizer over devices with PyTorch's FSDP."""
    num_workers: int = 0
    """Processes that prepare samples."""
    seed: int = 0
    """Seed of everything random in a run."""

    log_steps: int = 10
    """Steps between lines in the log."""
    eval_steps: int = 0
    """Steps between validations; 0 for none."""
    eval_samples: int = 64
    """Validation samples."""
    save_steps: int = 500
    """Steps between checkpoints."""
    save_total_limit: int = 2
    """Checkpoints kept to resume from."""
    export: Export = "model"
    """What `last` and `best` are: the whole `model`, or the `adapter`: what was trained, beside the unchanged base."""
    report_to: tuple[str, ...] = ("tensorboard",)
    """Log writers: `tensorboard`, `wandb`."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}")
        counts = ("num_frames", "num_scenes", "global_batch_size", "per_device_batch_size", "max_length", "num_turns")
        for name in (*counts, "log_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: has to be 1 or more")
        shares = ("full_visibility_fraction", "image_fraction", "dense_fraction", "temporal_fraction")
        for name in (*shares, "by_name_fraction", "warmup_fraction", "lora_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}={getattr(self, name)}: has to lie between 0 and 1")
        if not (self.train_vision_tower or self.train_projector or self.train_llm or self.train_voco_embeds):
            parts = "train_vision_tower, train_projector, train_llm, train_voco_embeds"
            raise UsageError(f"nothing to train: set one of {parts}")
        if self.max_steps < 1 and self.num_epochs <= 0:
            raise UsageError(f"max_steps={self.max_steps} and num_epochs={self.num_epochs}: one has to be above 0")
        if self.optimizer == "muon" and (self.deepspeed or self.fsdp):
            raise UsageError("optimizer 'muon' needs whole matrices; use 'adamw' with deepspeed or fsdp")
        if self.deepspeed and self.fsdp:
            raise UsageError("deepspeed and fsdp both shard the model; choose one")
        if self.export == "adapter" and self.mode == "joint" and self.train_llm and not self.lora_rank:
            raise UsageError("export 'adapter' needs lora_rank above 0: trained whole, a language model is no adapter")
        self._check_mode()

    def _check_mode(self) -> None:
        if self.mode != "cached":
            return
        compressing = [n for n in ("train_vision_tower", "train_projector", "train_voco_embeds") if getattr(self, n)]
        if compressing:
            raise UsageError(f"mode 'cached' cannot train the compressor; set {', '.join(compressing)} to false")
        if self.stage == "image":
            raise UsageError("mode 'cached' reads videos from the frame cache; set stage to video")
        if self.distillation_weight:
            raise UsageError("in mode 'cached' there is no forward pass to distil from; set distillation_weight to 0")

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms that steps draw from."""
        return get_args(Form) if self.form == "both" else (self.form,)

    def describe(self) -> dict[str, Any]:
        """The options as plain values, as they are written beside a run's results."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


_CHOICES: dict[str, tuple[str, ...]] = {
    "stage": get_args(Stage),
    "mode": get_args(Mode),
    "form": get_args(Forms),
    "precision": get_args(Precision),
    "export": get_args(Export),
    "schedule": get_args(Schedule),
    "optimizer": get_args(OptimizerName),
}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a run's YAML file.

    Args:
        path: the file.
        overrides: ``key=value`` that go before what the file says; values are YAML.

    Raises:
        UsageError: no such file, a key that is no option, or a value of another type.
    """
    import yaml

    path = expanded(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such configuration file")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: has to hold 'key: value' lines, not a {type(values).__name__}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UsageError(f"--set {override!r}: give key=value")
        values[key.strip()] = yaml.safe_load(value)
    return config_from(values, source=str(path))


def config_from(values: Mapping[str, Any], *, source: str = "the configuration") -> TrainConfig:
    """Plain values to a `TrainConfig`.

    Raises:
        UsageError: a key that is no option (the nearest one is named), a missing one, or a value of another type.
    """
    known = {field.name for field in fields(TrainConfig)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise UsageError(f"{source}: {key!r} is no option; did you mean {near[0]!r}?")
    if "output_dir" not in values:
        raise UsageError(f"{source}: output_dir is missing; name the folder that the run writes to")
    hints = get_type_hints(TrainConfig)
    return TrainConfig(**{key: _typed(key, value, hints[key], source) for key, value in values.items()})


def with_options(config: TrainConfig, **changes: Any) -> TrainConfig:
    """A copy with some options changed; values are checked as if they came from a file."""
    return replace(config, **changes)


def _typed(key: str, value: Any, wanted: Any, source: str) -> Any:
    """A YAML value as the field's type: numbers may come as text (``2e-5`` is text in YAML), lists become tuples."""
    text = str(wanted)
    if "tuple[" in text:
        items = value if isinstance(value, (list, tuple)) else [value]
        inner = int if "int" in text else str
        if all(isinstance(item, inner) and not isinstance(item, bool) for item in items):
            return tuple(items)
    elif wanted is bool:
        if isinstance(value, bool):
            return value
    elif wanted is float:
        try:
            if not isinstance(value, bool):
                return float(value)
        except (TypeError, ValueError):
            pass
    elif wanted is int or wanted == (int | None):
        if (isinstance(value, int) and not isinstance(value, bool)) or (value is None and wanted is not int):
            return value
    elif isinstance(value, str):
        return value
    names = {bool: "true or false", float: "a number", int: "a whole number"}
    kind = names.get(wanted, "a list" if "tuple[" in text else "a whole number" if "int" in text else "text")
    raise UsageError(f"{source}: {key}: {value!r} has to be {kind}")
