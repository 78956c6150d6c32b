"""The answering decoder written to a folder that `AutoModelForCausalLM` and vLLM open."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from voco_video.checkpoint.finding import find_checkpoint
from voco_video.checkpoint.folder import load_voco_model
from voco_video.checkpoint.needed import CONFIG
from voco_video.engine.prompts import export_template
from voco_video.engine.text_model import text_model_of
from voco_video.errors import ModelError, UsageError
from voco_video.files.paths import checked_out
from voco_video.files.settings import read_settings
from voco_video.model.voco import VocoModel

EXPORT_FILE = "voco_export.json"
NUM_MARK_DIGITS = 12  # of the fingerprint, which end the name that an engine serves the model under
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        folder: the text model.
        served_name: what an engine has to call it; it ends with the beginning of the fingerprint.
        fingerprint: `voco_video.engine.text_model.answering_fingerprint`.
        architecture: the library's class.
        dtype: type of the weights.
        hidden_size: D.
        size_bytes: of all files.
    """

    folder: Path
    served_name: str
    fingerprint: str
    architecture: str
    dtype: str
    hidden_size: int
    size_bytes: int


def export_checkpoint(
    path: str | Path, out: str | Path, *, dtype: str = "auto", revision: str | None = None, offline: bool = False
) -> ExportResult:
    """Write a checkpoint's answering decoder as a plain text model.

    Args:
        path: as for `load_voco_model`.
        out: a folder that is empty or does not exist.
        dtype: of the weights; "auto" for the type that the checkpoint says it is stored in.

    Raises:
        ModelError: the checkpoint cannot be loaded, or its decoder is no plain text model.
        UsageError: the folder is not empty.

    >>> export_checkpoint("voco-tiny", "voco-tiny-llm").served_name                       # doctest: +SKIP
    'voco-tiny-2d0a51c88f70'
    """
    folder = checked_out(out)
    found = find_checkpoint(path, revision=revision, offline=offline)
    model = load_voco_model(
        path, device="cpu", dtype=_stored_dtype(found) if dtype == "auto" else dtype, revision=revision, offline=offline
    )
    return export_model(model, folder, name=Path(str(path).partition("@")[0]).name)


def export_model(model: VocoModel, out: str | Path, *, name: str) -> ExportResult:
    """Write a loaded model's answering decoder as a plain text model; `export_checkpoint` from Python.

    The folder appears when all of it is written.

    Args:
        out: a folder that is empty or does not exist.
        name: what the model is called; the served name begins with it.

    Raises:
        ModelError: the decoder is no plain text model, or there is no tokenizer.
        UsageError: the folder is not empty, or cannot be written.
    """
    folder, backbone = checked_out(out), model.backbone
    if backbone.tokenizer is None:
        raise ModelError("this checkpoint has no tokenizer, and an engine needs one; add it to the checkpoint")
    text = text_model_of(model)
    tokenizer = copy.deepcopy(backbone.tokenizer)
    tokenizer.chat_template = export_template(model)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            partial = Path(temporary) / "model"
            text.model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            result = ExportResult(
                folder=folder,
                served_name=f"{_plain_name(name)}-{text.fingerprint[:NUM_MARK_DIGITS]}",
                fingerprint=text.fingerprint,
                architecture=type(text.model).__name__,
                dtype=str(backbone.dtype).removeprefix("torch."),
                hidden_size=backbone.hidden_size,
                size_bytes=sum(file.stat().st_size for file in partial.rglob("*") if file.is_file()),
            )
            facts = {key: value for key, value in asdict(result).items() if key not in ("folder", "size_bytes")}
            (partial / EXPORT_FILE).write_text(json.dumps(facts, indent=2) + "\n")
            if folder.exists():
                folder.rmdir()
            shutil.move(partial, folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}; name another folder") from error
    return result


def mark_of(served_name: str) -> str:
    """Return the part of a served name that tells whose weights it is; "" where it has none.

    >>> mark_of("voco-tiny-2d0a51c88f70"), mark_of("/models/voco-tiny-llm")
    ('2d0a51c88f70', '')
    """
    found = re.fullmatch(rf"(?:.*-)?([0-9a-f]{{{NUM_MARK_DIGITS}}})/?", served_name, re.DOTALL)
    return found.group(1) if found else ""


def _plain_name(name: str) -> str:
    """Keep what needs no quoting on a command line or in a URL.

    >>> _plain_name("my model (2)"), _plain_name("...")
    ('my-model-2', 'model')
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._") or "model"


def _stored_dtype(folder: Path) -> str:
    """Return the type that a checkpoint's settings say its weights are stored in; float32 where they do not say."""
    settings = read_settings(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    text = settings.get("text_config")
    for where in (settings, text if isinstance(text, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            if where.get(key) in _DTYPES:
                return str(where[key])
    return "float32"
