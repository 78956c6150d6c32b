"""Which of a repository's files make a checkpoint: no second copy of the weights, nothing of other frameworks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from voco_video.errors import ModelError
from voco_video.files.processor_files import CHAT_TEMPLATE_JSON, CHAT_TEMPLATE_TEXT, PROCESSOR_SETTINGS
from voco_video.files.settings import FETCH_AGAIN, read_settings, shown

PUBLISHED_TYPES = "llava_llama", "llava_qwen"  # model_type of the layouts that `checkpoint.published` reads
CONFIG, VOCO_CONFIG, VOCO_WEIGHTS = "config.json", "voco_config.json", "voco.safetensors"
VOCABULARIES = ("tokenizer.json", "tokenizer.model")

_SMALL_FILES = (
    *(CONFIG, "generation_config.json", VOCO_CONFIG, *PROCESSOR_SETTINGS, "image_processor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt"),
    *VOCABULARIES,
    *("merges.txt", CHAT_TEMPLATE_JSON, CHAT_TEMPLATE_TEXT, "additional_chat_templates/*.jinja"),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *(VOCO_WEIGHTS, "retrieval.safetensors", "world.safetensors", "changed.safetensors"),
    *("adapter_config.json", "adapter_model.safetensors", "answer_adapter/*"),
)


def small_files(names: Iterable[str]) -> list[str]:
    """Select settings, tokenizer, processors and the small weights of VoCo tokens and adapters.

    >>> small_files(["config.json", "onnx/config.json", "model.safetensors", "tf_model.h5"])
    ['config.json']
    """
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in _SMALL_FILES)]


def weight_names(folder: Path, has: Callable[[str], bool]) -> list[str]:
    """List the names of the image-text model's weights: safetensors before pickles, one file before shards.

    Args:
        folder: lists of shards are read in it.
        has: tells whether the checkpoint has a file of this name.

    Returns:
        The names; none where there are no weights.

    Raises:
        ModelError: the list of shards is damaged.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if has(name):
            return [name]
        if has(f"{name}.index.json"):
            return _shards(folder / f"{name}.index.json")
    return []


def _shards(index: Path) -> list[str]:
    names = read_settings(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{index}: weight_map has to name the file of every weight, not {shown(names)}; {FETCH_AGAIN}")
    for weight, name in names.items():
        if not isinstance(name, str) or name != Path(name).name or name in ("", ".", "..") or len(name) > 255:
            raise ModelError(f"{index}: weight_map[{shown(weight)}] has to name a file beside it, not {shown(name)}")
    return sorted(set(names.values()))
