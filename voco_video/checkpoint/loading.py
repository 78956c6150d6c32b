"""Weights from the files of a checkpoint to the devices and the type that they are wanted in, one after the other.

Memory holds the model and little more at any time: nothing is initialised first, and of a weight that is converted or
moved only the result stays.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from voco_video.checkpoint.files import StoredWeight
from voco_video.checkpoint.generation import check_generation, check_processors, read_generation
from voco_video.checkpoint.needed import CONFIG
from voco_video.errors import ModelError, UsageError
from voco_video.files.settings import FETCH_AGAIN, first_line
from voco_video.files.weights import is_finite
from voco_video.model.backbone import Backbone
from voco_video.model.cpu_attention import BLOCKED, is_faster_than_sdpa
from voco_video.model.families import family_of
from voco_video.model.inference import lock_across_forks
from voco_video.model.memory import is_out_of_memory
from voco_video.options.loading import LoadOptions

logger = logging.getLogger(__name__)

_LAYER = re.compile(r"(.*\.(?:layers|layer|blocks))\.\d+\.")
_LOADING = lock_across_forks()


def resolve_attention(options: LoadOptions) -> str:
    """Replace ``attn_implementation="auto"`` by what suits the device and the type."""
    if options.attn_implementation != "auto":
        return options.attn_implementation
    if options.torch_device.type == "cpu":
        return BLOCKED if options.torch_dtype == torch.bfloat16 and is_faster_than_sdpa() else "sdpa"
    has_flash = options.torch_device.type == "cuda" and find_spec("flash_attn") is not None
    return "flash_attention_2" if has_flash and options.torch_dtype != torch.float32 else "sdpa"


def load_image_text_model(
    config: Any, weights: Mapping[str, StoredWeight], options: LoadOptions, *, folder: Path
) -> Any:
    """Load a Hugging Face image-text model in eval mode, its weights read straight to their device.

    One model is loaded at a time: meanwhile the library changes the default type and initialisation for all threads.

    Args:
        config: its configuration.
        weights: by the names in its files; the library's own renamings of older names apply.
        folder: the checkpoint, for its generation settings and for messages.

    Raises:
        UsageError: an option that needs what is not installed.
        ModelError: weights are missing, do not fit or hold NaN, or the model does not fit the devices.
    """
    has_generation = check_generation(folder, config.get_text_config(decoder=True).vocab_size) is not None
    empty = empty_model(config, weights, folder=folder)
    left_out = empty.weights_left_out
    if left_out:
        logger.warning(
            "%s: %d of its weights are no part of a %s model and are left out, such as %s",
            folder,
            len(left_out),
            config.model_type,
            left_out[0],
        )
    single = {"": options.torch_device}
    try:
        with _by_the_library():
            model, loading_info = _model_class(config).from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=options.torch_dtype,
                attn_implementation=resolve_attention(options),
                device_map=single if options.device_map is None else options.device_map,
                quantization_config=_quantization(config, options),
                output_loading_info=True,
            )
    except ImportError as error:
        raise UsageError(f"{error}. Install the extra: pip install 'voco-video[flash-attn]', or use sdpa") from error
    except ModelError:
        raise
    except Exception as error:  # the library raises anything
        if is_out_of_memory(error):
            raise ModelError(
                f"{folder} does not fit into the memory of {options.device_map or options.torch_device} as "
                f"{options.torch_dtype}: use --dtype bfloat16, --weight-bits 8 or 4, or --device-map auto"
            ) from error
        raise ModelError(f"cannot load {folder}: {first_line(error)}") from error
    _check_complete(model, loading_info, folder)
    _check_finite(model, weights, folder)
    if has_generation:
        ends = getattr(config.get_text_config(decoder=True), "eos_token_id", None)  # not every decoder's names one
        model.generation_config = read_generation(folder, eos_token_id=ends)
        check_processors(model, folder)
    return model.eval()


@dataclass(frozen=True)
class EmptyModel:
    """A model that has shapes and no memory, for which a checkpoint's weights are the right ones.

    Attributes:
        num_parameters: of tower, projector and decoder.
        weights_left_out: names of the checkpoint's weights that are no part of it.
    """

    num_parameters: int
    weights_left_out: tuple[str, ...]


def empty_model(config: Any, weights: Mapping[str, StoredWeight] | None, *, folder: Path) -> EmptyModel:
    """Compare the shapes of a checkpoint's weights with its configuration, before any memory is taken.

    The library loads shapes without numbers, under its own renamings of older names.

    Args:
        weights: as `load_image_text_model`; None where there are none, and the configuration is all there is.

    Raises:
        ModelError: no model can be made of the configuration, or weights are missing or of other shapes.
    """
    path = folder / CONFIG
    if weights is not None:
        _check_depth(config, len(weights), path)
    try:
        with _by_the_library():
            if weights is None:
                with torch.device("meta"):
                    model, loading_info = _model_class(config)._from_config(config), {}
            else:
                shapes = {name: _Shape(weight.shape) for name, weight in weights.items()}
                model, loading_info = _model_class(config).from_pretrained(
                    None,
                    config=config,
                    state_dict=shapes,
                    dtype=torch.float32,
                    device_map={"": "meta"},
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
    except Exception as error:  # the library raises anything
        raise ModelError(f"{path}: no model can be made of these settings: {first_line(error)}") from error
    for name, stored, expected in sorted(loading_info.get("mismatched_keys", ())):
        raise ModelError(
            f"{path} and the weights do not belong together: {name} is {tuple(stored)} in the files, and "
            f"{tuple(expected)} by the configuration; {FETCH_AGAIN}"
        )
    _check_missing(loading_info, folder)
    names = tuple(sorted(loading_info.get("unexpected_keys", ())))
    _check_layers(names, model.state_dict(), folder)
    return EmptyModel(sum(parameter.numel() for parameter in model.parameters()), names)


def _model_class(config: Any) -> Any:
    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]


class _Shape:
    """One weight's shape in place of the weight, as the library takes it from `StoredWeight`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def __getitem__(self, index: Any) -> Tensor:
        return torch.empty(self._shape, device="meta")[index]


def _check_depth(config: Any, num_weights: int, path: Path) -> None:
    """Check that there are weights for all layers: even without memory, a billion layers take for ever."""
    for part in (config.get_text_config(decoder=True), config.vision_config):
        for key in ("num_hidden_layers", "depth"):
            depth = getattr(part, key, 0)
            if depth > num_weights:
                raise ModelError(f"{path}: {key} is {depth}, and the files hold {num_weights} weights in all")


def _check_layers(left_out: Iterable[str], kept: Iterable[str], folder: Path) -> None:
    """Raise ModelError for weights of layers behind the last one: the configuration has lost these layers."""
    stacks = {match[1] for name in kept if (match := _LAYER.match(name))}
    for name in left_out:
        if (match := _LAYER.match(name)) and match[1] in stacks:
            raise ModelError(
                f"{folder}: {CONFIG} has no layer for {name}, which is in the files; the two do not belong together: "
                f"{FETCH_AGAIN}"
            )


@contextmanager
def _by_the_library() -> Iterator[None]:
    """Let one thread at a time load by the library, which changes settings of the whole process on the way.

    Its table of missing weights stays out of the log: it is raised in one line instead.
    """
    library = logging.getLogger("transformers.modeling_utils")
    with _LOADING:
        library.addFilter(_is_no_report)
        try:
            yield
        finally:
            library.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def _check_missing(loading_info: Mapping[str, Any], folder: Path) -> None:
    """Raise ModelError for missing weights, to which the library gives random numbers and a warning."""
    if missing := sorted(loading_info.get("missing_keys", ())):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(f"{folder}: missing weights {missing[:3]}{more}: its files are not complete; {FETCH_AGAIN}")


def _check_complete(model: Any, loading_info: Mapping[str, Any], folder: Path) -> None:
    _check_missing(loading_info, folder)
    places = {name: str(device) for name, device in (getattr(model, "hf_device_map", None) or {}).items()}
    left = (
        {"disk"} if set(places.values()) <= {"cpu", "disk"} else {"cpu", "disk"}
    )  # with GPUs, the CPU's memory holds weights too
    if left_out := [name for name, device in places.items() if device in left]:
        raise ModelError(
            f"{folder} does not fit into all devices together: there is no room for {', '.join(left_out[:3])}; use "
            "--dtype bfloat16, --weight-bits 4 or another machine"
        )


def _check_finite(model: Any, weights: Mapping[str, StoredWeight], folder: Path) -> None:
    """Refuse NaN and infinite weights. They are looked for where they are used, so a GPU looks through its own."""
    bad = [name for name, p in model.named_parameters() if p.is_floating_point() and not is_finite(p)]
    if not bad:
        return
    for name, weight in weights.items():
        tensor = weight[...]
        if tensor.is_floating_point() and not is_finite(tensor):
            raise ModelError(f"{weight.path}: {name} holds NaN or infinite numbers; {FETCH_AGAIN}")
    raise ModelError(f"{folder}: {bad[0]} does not fit into {model.dtype}: use --dtype bfloat16 or float32")


@torch.inference_mode()
def check_runs(backbone: Backbone, folder: Path) -> None:
    """Put one empty frame through the vision tower and one token through the decoder.

    Some settings fit the shapes of all weights, and still nothing can be computed by them.

    Raises:
        ModelError: the model cannot be run, or what comes out of it is no number.
    """
    try:
        count = backbone.num_vision_tokens
        hidden = backbone.decoder(inputs_embeds=backbone.embed([0])[None], use_cache=False).last_hidden_state
        is_sound = is_finite(backbone.logits(hidden))
    except Exception as error:  # the library raises anything
        if is_out_of_memory(error):
            raise ModelError(
                f"{folder} leaves no memory to compute with: use --dtype bfloat16 or --device-map auto"
            ) from error
        raise ModelError(f"the model in {folder} cannot be run; correct its {CONFIG}: {first_line(error)}") from error
    expected = backbone.family.num_vision_tokens(backbone.hf_model.config, backbone.images.fit)
    if count != expected:
        raise ModelError(f"{folder / CONFIG}: a frame has {count} vision tokens, not {expected} as its settings say")
    if not is_sound:
        raise ModelError(f"the model in {folder} gives NaN or infinite numbers; correct its {CONFIG}, or {FETCH_AGAIN}")


def _quantization(config: Any, options: LoadOptions) -> Any:
    if options.weight_bits == 16:
        return None
    from transformers import BitsAndBytesConfig

    family = family_of(config)
    in_full_precision: Any = [
        family.vision_tower,
        family.projector,
        "lm_head",
    ]  # few of the bytes, and most of the quantization error
    if options.weight_bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=in_full_precision)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=options.torch_dtype,
        llm_int8_skip_modules=in_full_precision,
    )
