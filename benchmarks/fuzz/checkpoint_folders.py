"""Sound checkpoint folders of several kinds, and mutations of one file in one of them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
VALUES: tuple[Any, ...] = (None, -1, 0, 10**6, 10**12, "text", "", [], {}, True, 1e300, float("nan"), -0.5, [[1]], "10")


def make_folders(folder: Path) -> dict[str, Path]:
    """One sound checkpoint of every kind below a folder, by kind."""
    from tests.helpers.published_layout import write_published
    from tests.helpers.tiny_families import tiny_family
    from voco_video.checkpoint.finding import find_checkpoint
    from voco_video.checkpoint.folder import load_voco_model, save_voco_model
    from voco_video.training import TrainConfig
    from voco_video.training.trainable import choose_trainable, export_model

    folders = {
        k: folder / k for k in ("voco-tiny", "llava", "sharded", "qwen2_5_vl", "adapter", "published", "pickled")
    }
    shutil.copytree(find_checkpoint("voco-tiny"), folders["voco-tiny"])
    save_voco_model(tiny_family("llava"), folders["llava"])
    save_voco_model(tiny_family("smolvlm"), folders["sharded"], max_shard_size="150KB")
    save_voco_model(tiny_family("qwen2_5_vl"), folders["qwen2_5_vl"])
    for kind in ("llava", "qwen2_5_vl"):  # as the library has them, without our files
        for name in ("voco_config.json", "voco.safetensors"):
            (folders[kind] / name).unlink()
    base = save_voco_model(tiny_family("llava"), folder / "base")
    config = TrainConfig(
        model=str(base), lora_rank=2, lora_targets=("q_proj", "v_proj"), output_dir="x", export="adapter"
    )
    trained = load_voco_model(base)
    choose_trainable(trained, config)
    export_model(trained, folders["adapter"], config)
    write_published(folders["published"], voco=True)
    write_published(folders["pickled"], voco=False, suffix=".bin")
    return folders


def mutate(folder: Path, rng: random.Random) -> tuple[str, bool]:
    """Damage one file below a folder.

    Returns:
        What was done, and whether the file is no such file any more: then nothing may come out as if it were sound and
        another result came.
    """
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    name = str(path.relative_to(folder))
    if rng.random() < 0.35:
        kind = rng.choice(sorted(_STRUCTURAL))
        _STRUCTURAL[kind](path, rng)
        return f"{name}: {kind}", (path.suffix, kind) != (".jinja", "truncated")  # that can be a template, too
    if path.suffix == ".json":
        return f"{name}: {_change_json(path, rng)}", False
    if path.suffix == ".safetensors" and rng.random() < 0.7:
        return f"{name}: {_change_tensors(path, rng)}", False
    return f"{name}: {_flip(path, rng)}", False


def _truncate(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(1, max(2, len(data)))])


def _become_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link_to_nowhere(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("not-there")


_STRUCTURAL: dict[str, Callable[[Path, random.Random], Any]] = {
    "missing": lambda path, rng: path.unlink(),
    "empty": lambda path, rng: path.write_bytes(b""),
    "truncated": _truncate,
    "a folder": _become_folder,
    "a link to nowhere": _link_to_nowhere,
    "a Git LFS pointer": lambda path, rng: path.write_bytes(LFS_POINTER),
    "zeros": lambda path, rng: path.write_bytes(bytes(path.stat().st_size)),
    "random bytes": lambda path, rng: path.write_bytes(rng.randbytes(min(4096, path.stat().st_size))),
    "a web page": lambda path, rng: path.write_text("<!DOCTYPE html><html><body>Access denied</body></html>"),
    "a JSON list": lambda path, rng: path.write_text("[1, 2, 3]"),
    "null": lambda path, rng: path.write_text("null"),
    "a number": lambda path, rng: path.write_text("17"),
    "an empty object": lambda path, rng: path.write_text("{}"),
    "UTF-16": lambda path, rng: path.write_bytes(path.read_bytes().decode("latin-1").encode("utf-16")),
    "with a byte-order mark": lambda path, rng: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
    "deep": lambda path, rng: path.write_text('{"a":' * 100_000),
}


def _change_json(path: Path, rng: random.Random) -> str:
    settings = json.loads(path.read_text())
    places = list(_places(settings))
    place = rng.choice(places[:400] if rng.random() < 0.9 else places)
    parent: Any = settings
    for key in place[:-1]:
        parent = parent[key]
    where = ".".join(map(str, place))
    if rng.random() < 0.2:
        del parent[place[-1]]
        what = f"{where} deleted"
    else:
        old = parent[place[-1]]
        if isinstance(old, (int, float)) and not isinstance(old, bool) and rng.random() < 0.4:
            value: Any = rng.choice([old * 2, old + 1, -old, old / 2 if isinstance(old, float) else old // 2])
        elif isinstance(old, str) and rng.random() < 0.4:
            value = rng.choice([old[:-1], old + "x", old.upper(), old * 1000])
        else:
            value = rng.choice(VALUES)
        parent[place[-1]] = value
        what = f"{where} = {value!r}"[:120]
    path.write_text(json.dumps(settings))
    return what


def _places(value: Any, above: tuple[Any, ...] = ()) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*above, key)
        yield from _places(item, (*above, key))


def _change_tensors(path: Path, rng: random.Random) -> str:
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    kind = rng.choice(
        ["NaN", "infinite", "dropped", "renamed", "added", "cut", "turned", "whole numbers", "wider", "none"]
    )
    if kind in ("NaN", "infinite") and tensor.numel() and tensor.is_floating_point():
        tensor.view(-1)[rng.randrange(tensor.numel())] = float("nan" if kind == "NaN" else "inf")
    elif kind == "dropped":
        del tensors[name]
    elif kind == "renamed":
        tensors[f"{name}x"] = tensors.pop(name)
    elif kind == "added":
        tensors["model.something.weight"] = torch.ones(2, 2)
    elif kind == "cut":
        tensors[name] = tensor[:1].clone() if tensor.ndim else torch.ones(3)
    elif kind == "turned":
        tensors[name] = tensor.T.contiguous() if tensor.ndim == 2 else tensor[None].clone()
    elif kind == "whole numbers":
        tensors[name] = tensor.to(torch.int32)
    elif kind == "wider":
        tensors[name] = tensor.double()
    elif kind == "none":
        tensors.clear()
    save_file(tensors, path, metadata={"format": "pt"})
    return f"{name} {kind}"


def _flip(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    end = min(len(data), 2000) if rng.random() < 0.6 else len(data)  # heads and indices are at the front
    places = [rng.randrange(end) for _ in range(rng.choice([1, 1, 4]))]
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))
    return f"bits flipped at {places}"


def make_clip(path: Path) -> Path:
    """A clip of eight small pictures, no two alike."""
    import av

    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(8):
            picture = rng.integers(0, 255, (64, 64, 3), np.uint8) // 4 + number * 20
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return path
