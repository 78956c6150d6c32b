"""The files in a checkpoint's folder: configuration, image processor, tokenizer, weights in one piece or in shards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from voco_video.errors import ModelError
from voco_video.paths import expanded

VOCO_CONFIG, VOCO_WEIGHTS = "voco_config.json", "voco.safetensors"
ASSETS = Path(__file__).parent / "assets"
_NUM_SAMPLES = 64
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def find_checkpoint(path: str | Path) -> Path:
    """The folder of a checkpoint: a path, an embedded model's name, or a hub id in the local Hugging Face cache.

    Args:
        path: ``name@revision`` pins a hub id to a branch, a tag or a commit.

    Raises:
        ModelError: nothing of that name is here; nothing is downloaded.
    """
    folder = expanded(path)
    for candidate in (folder, ASSETS / str(path)):
        if any((candidate / name).is_file() for name in ("config.json", VOCO_CONFIG)):
            return candidate
    if folder.is_dir():
        raise ModelError(f"{folder} holds no config.json, so it is not a checkpoint folder")
    known = ", ".join(sorted(p.name for p in ASSETS.iterdir() if p.is_dir())) if ASSETS.is_dir() else "none"
    name, _, revision = str(path).partition("@")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except Exception as error:
        fetch = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        raise ModelError(
            f"no checkpoint {str(path)!r}: not a folder, not an embedded model ({known}), and not in the local Hugging "
            f"Face cache. Fetch a hub model first with `{fetch}`"
        ) from error


def read_config(folder: Path) -> Any:
    """The configuration that a folder's config.json declares.

    Raises:
        ModelError: it is missing or damaged, or of a model_type that the library does not know.
    """
    try:
        return AutoConfig.from_pretrained(folder)
    except Exception as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {_first_line(error)}") from error


def read_image_processor(folder: Path) -> Any:
    """The image processor in a folder.

    Raises:
        ModelError: there is none, or one that cannot be read here.
    """
    try:
        return AutoImageProcessor.from_pretrained(folder)
    except Exception as error:
        raise ModelError(f"the image processor in {folder} cannot be read: {_first_line(error)}") from error


def weight_files(folder: Path) -> list[Path]:
    """A checkpoint's files of weights, safetensors before pickles.

    Raises:
        ModelError: there are none.
    """
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            names = json.loads((folder / index).read_text())["weight_map"].values()
            return [folder / name for name in sorted(set(names))]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
    raise ModelError(f"{folder} holds no weights: neither model.safetensors nor pytorch_model.bin, nor shards of them")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of one file. A pickle is read as weights alone: nothing in it is executed.

    Raises:
        ModelError: the file is missing or damaged, or a pickle that holds more than weights.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return weights
    except Exception as error:
        raise ModelError(f"{path} cannot be read as weights: {_first_line(error)}") from error


@dataclass(frozen=True)
class FileState:
    """What tells a file that was changed or replaced from what it was, without reading it."""

    path: str
    size_bytes: int
    mtime_ns: int
    inode: int
    device: int

    @staticmethod
    def of(path: Path) -> FileState:
        """As it is now.

        Raises:
            OSError: it is not there.
        """
        path = path.resolve()  # a hub's snapshot is of links
        stat = path.stat()
        return FileState(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)


@dataclass(frozen=True)
class StoredWeight:
    """One tensor of a file, read when it is indexed and let go with the tensor that this gives.

    The library takes these in place of tensors. A weight that is kept as it is stays a view of the file, which the
    system reads page by page and shares among processes; of one that is converted nothing but the result stays.

    Attributes:
        path: the file.
        name: of the tensor in it.
        mapped: the open file, for a weight that is kept as it is.
    """

    path: Path
    name: str
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
    """The tensors of a checkpoint's files by name, none of them read.

    Args:
        dtype: the type that they are going to have.

    Raises:
        ModelError: a file is missing or damaged, or a pickle that holds more than weights.
    """
    weights: dict[str, StoredWeight] = {}
    for path in files:
        if path.suffix != ".safetensors":
            weights |= {name: StoredWeight(path, name) for name in read_weights(path)}
            continue
        try:
            file = safe_open(path, "pt")
            kinds = {name: file.get_slice(name).get_dtype() for name in list(file.keys())}
        except Exception as error:
            raise ModelError(f"{path} cannot be read as weights: {_first_line(error)}") from error
        kept = str(dtype).removeprefix("torch.")
        for name, kind in kinds.items():
            weights[name] = StoredWeight(path, name, file if _DTYPES.get(kind) == kept else None)
    return weights


def sampled(tensor: Tensor) -> memoryview:
    """The bytes of a few numbers of a tensor from end to end, so that of a mapped one little is read."""
    flat = tensor.detach().flatten()
    step = max(1, (len(flat) - 1) // (_NUM_SAMPLES - 1)) if len(flat) else 1
    data: memoryview = flat[::step].cpu().contiguous().view(torch.uint8).numpy().data
    return data


def weights_dtype(folder: Path) -> str | None:
    """The type of a checkpoint's first weight, from the head of its file.

    None for pickles, which have no head, and where no weights are here: a configuration can be described alone.
    """
    path = min(folder.glob("model*.safetensors"), default=None)
    if path is None:
        return None
    with safe_open(path, "pt") as file:
        name: str = file.get_slice(next(iter(file.keys()))).get_dtype()
    return _DTYPES.get(name, name)


def read_tokenizer(folder: Path, *, config: Any = None) -> Any:
    """The tokenizer in a folder or None, with the chat template of a processor beside it where it has none itself.

    Args:
        config: a configuration to go by in place of the folder's own.

    Raises:
        ModelError: there is a tokenizer that cannot be read here.
    """
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    except Exception as error:
        reason = f"the tokenizer in {folder} cannot be read: {_first_line(error)}"
        if not (folder / "tokenizer.json").is_file():
            reason += " Its tokenizer.model needs two packages: pip install sentencepiece protobuf"
        raise ModelError(reason) from error
    if tokenizer.chat_template is None and (folder / "chat_template.json").is_file():
        tokenizer.chat_template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    return tokenizer


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
