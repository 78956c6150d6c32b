"""The files in a checkpoint's folder: configuration, image processor, tokenizer, weights in one piece or in shards.

Folders come from anywhere: copied halfway, fetched without Git LFS, edited by hand. Whatever is wrong with a file is a
`ModelError` that names it and says what to do; nothing that a folder brings is ever executed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from voco_video.checkpoint.needed import CONFIG, VOCABULARIES, weight_names
from voco_video.errors import ModelError
from voco_video.files.processor_files import CHAT_TEMPLATE_JSON, CHAT_TEMPLATE_TEXT, PROCESSOR_SETTINGS
from voco_video.files.settings import (
    FETCH_AGAIN,
    check_content,
    first_line,
    has_file,
    read_settings,
    read_text,
    shown,
)
from voco_video.files.weights import read_weights

GENERATION_CONFIG = "generation_config.json"
RETRIEVAL_WEIGHTS = "retrieval.safetensors"
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_TABLES = (".position_ids", ".inv_freq", ".num_batches_tracked")  # no weights; every model makes them for itself
_TOKENIZER_FILES = (*VOCABULARIES, "tokenizer_config.json")
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", CHAT_TEMPLATE_JSON)

# Layouts that need code of their own, which is never run; what holds the same model in the library's own layout.
_INSTEAD = {
    "internvl_chat": "the conversion of the same model whose name ends in -hf, such as OpenGVLab/InternVL3-1B-hf",
    "llava_mistral": "a LLaVA-1.5 or LLaVA-OneVision checkpoint of llava-hf, such as llava-hf/llava-1.5-7b-hf",
    "llava_mpt": "a LLaVA-1.5 or LLaVA-OneVision checkpoint of llava-hf, such as llava-hf/llava-1.5-7b-hf",
    "vila": "another family, such as Qwen/Qwen2.5-VL-7B-Instruct",
    "nvila": "another family, such as Qwen/Qwen2.5-VL-7B-Instruct",
}
_INSTEAD_OF_VILA = _INSTEAD["vila"]
_INSTEAD_OF_OTHERS = "a conversion to the library's own layout, often under the same name with -hf at its end"


# ---------------------------------------------------------------------- what the library reads


def read_config(folder: Path) -> Any:
    """Read the configuration that a folder's config.json declares.

    Raises:
        ModelError: it is missing or damaged, or of a model_type that the library does not know or that needs code from
            the folder.
    """
    path = folder / CONFIG
    settings = read_settings(path)
    model_type = settings.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(f"{path}: model_type has to be a name such as 'llava', not {shown(model_type)}; {FETCH_AGAIN}")
    if (instead := instead_of(settings)) is not None:
        raise ModelError(
            f"{path}: model_type {model_type!r} is a layout that needs its own code, which is never run; use {instead}"
        )
    if settings.get("quantization_config") is not None:
        raise ModelError(
            f"{path}: quantization_config: quantized weights are not supported; use the checkpoint in 16 bits, with "
            "--weight-bits 8 or 4 to save memory"
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the library raises anything
        if "auto_map" in settings:
            raise ModelError(
                f"{path}: model_type {model_type!r} needs its own code, which is never run; use {_INSTEAD_OF_OTHERS}"
            ) from error
        raise ModelError(f"{path} cannot be read: {first_line(error)}") from error


def instead_of(settings: dict[str, Any]) -> str | None:
    """Say what to use in place of a layout that needs its own code; None for other layouts.

    Args:
        settings: the content of its config.json.
    """
    if "llm_cfg" in settings and "vision_tower_cfg" in settings:  # VILA and NVILA, under several model_types
        return _INSTEAD_OF_VILA
    return _INSTEAD.get(str(settings.get("model_type")))


def read_image_processor(folder: Path) -> Any:
    """Read the image processor in a folder.

    Raises:
        ModelError: there is none, or one that cannot be read here.
    """
    found = {name: read_settings(folder / name) for name in PROCESSOR_SETTINGS if has_file(folder, name)}
    declared = found.get("preprocessor_config.json") or found.get("processor_config.json", {}).get("image_processor")
    for key in ("image_mean", "image_std"):
        if found and key not in (declared if isinstance(declared, dict) else {}):
            raise ModelError(f"the image processor in {folder} cannot be read: {key} is missing in {next(iter(found))}")
    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the library raises anything
        raise ModelError(
            f"the image processor in {folder} cannot be read: {first_line(error)}. Its preprocessor_config.json has to "
            f"be that of a supported family; {FETCH_AGAIN}"
        ) from error


def read_tokenizer(folder: Path, *, config: Any = None) -> Any:
    """Read the tokenizer in a folder, if any, with the chat template of a processor beside it where it has none itself.

    Args:
        config: a configuration to go by in place of the folder's own.

    Raises:
        ModelError: there is a tokenizer that cannot be read here.
    """
    if not any(has_file(folder, name) for name in _TOKENIZER_FILES):
        return None
    settings = {name: read_settings(folder / name) for name in _TOKENIZER_SETTINGS if has_file(folder, name)}
    if has_file(folder, CHAT_TEMPLATE_TEXT):
        read_text(folder / CHAT_TEMPLATE_TEXT)
    found = [folder / name for name in VOCABULARIES if has_file(folder, name)]
    if not found and not has_file(folder, "vocab.json"):
        raise ModelError(f"{folder} holds tokenizer_config.json without tokenizer.json: {FETCH_AGAIN}")
    for path in found:
        check_content(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    except Exception as error:  # the library raises anything
        if (folder / "tokenizer.json").is_file():
            read_settings(folder / "tokenizer.json")  # raises an error that says where it is damaged
        files = ", ".join([*(path.name for path in found), *settings])
        reason = f"the tokenizer in {folder} ({files}) cannot be read: {first_line(error)}"
        if not (folder / "tokenizer.json").is_file():
            reason += " Its tokenizer.model needs two packages: pip install sentencepiece protobuf"
        raise ModelError(reason) from error
    beside = settings.get(CHAT_TEMPLATE_JSON, {})
    if tokenizer.chat_template is None and beside:
        if not isinstance(beside.get("chat_template"), str):
            raise ModelError(f"{folder / CHAT_TEMPLATE_JSON}: chat_template has to be text; {FETCH_AGAIN}")
        tokenizer.chat_template = beside["chat_template"]
    return tokenizer


# ---------------------------------------------------------------------- weights


def weight_files(folder: Path) -> list[Path]:
    """List a checkpoint's files of weights, safetensors before pickles, one file before shards, as the library has it.

    Raises:
        ModelError: there are none, or the list of shards is damaged.
    """
    if names := weight_names(folder, lambda name: has_file(folder, name)):
        return [folder / name for name in names]
    raise ModelError(f"{folder} holds no weights: neither model.safetensors nor pytorch_model.bin, nor shards of them")


@dataclass(frozen=True)
class StoredWeight:
    """One tensor of a file, read when it is indexed and let go with the tensor that this gives.

    The library takes these in place of tensors. A weight that is kept as it is stays a view of the file, which the
    system reads page by page and shares among processes; of one that is converted nothing but the result stays.

    Attributes:
        path: the file.
        name: of the tensor in it.
        shape: of that tensor.
        mapped: the open file, for a weight that is kept as it is.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    mapped: Any = None

    def __getitem__(self, index: Any) -> Tensor:
        if self.path.suffix != ".safetensors":
            return read_weights(self.path)[self.name][index]
        if self.mapped is not None:
            return self.mapped.get_tensor(self.name)[index]
        with safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(self.name)
        return tensor[index]


def stored_weights(files: Iterable[Path], *, dtype: torch.dtype) -> dict[str, StoredWeight]:
    """List the tensors of a checkpoint's files by name without reading them.

    Args:
        dtype: the type that they are going to have.

    Raises:
        ModelError: a file is missing or damaged, or a pickle that holds more than weights.
    """
    weights: dict[str, StoredWeight] = {}
    for path in files:
        if path.suffix == ".safetensors":
            weights |= _stored_in(path, dtype)
        else:
            weights |= {n: StoredWeight(path, n, tuple(t.shape)) for n, t in read_weights(path).items()}
    return weights


def _stored_in(path: Path, dtype: torch.dtype) -> dict[str, StoredWeight]:
    check_content(path)
    try:
        file = safe_open(path, "pt")
        heads = {name: file.get_slice(name) for name in list(file.keys())}
        kinds = {name: (head.get_dtype(), tuple(head.get_shape())) for name, head in heads.items()}
    except Exception as error:  # the library raises anything
        raise ModelError(f"{path} cannot be read as weights: {first_line(error)}; {FETCH_AGAIN}") from error
    kept = str(dtype).removeprefix("torch.")
    for name, (kind, _) in kinds.items():
        if kind not in _DTYPES and not name.endswith(_TABLES):
            raise ModelError(
                f"{path}: {name} is of type {kind}; weights have to be floating-point numbers of 16 bits or more; use "
                "the checkpoint as it was before it was quantized"
            )
    return {
        name: StoredWeight(path, name, shape, file if _DTYPES.get(kind) == kept else None)
        for name, (kind, shape) in kinds.items()
    }


def weights_dtype(folder: Path) -> str | None:
    """Read the type of a checkpoint's first weight from the head of its file.

    None for pickles, which have no head, and where no weights are here: a configuration can be described alone.

    Raises:
        ModelError: the file is damaged.
    """
    path = min(folder.glob("model*.safetensors"), default=None)
    if path is None:
        return None
    check_content(path)
    try:
        with safe_open(path, "pt") as file:
            name: str = file.get_slice(next(iter(file.keys()))).get_dtype()
    except Exception as error:  # the library raises anything
        raise ModelError(f"{path} cannot be read as weights: {first_line(error)}; {FETCH_AGAIN}") from error
    return _DTYPES.get(name, name)
