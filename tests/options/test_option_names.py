"""One name for one thing: on the command line, in Python, in docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import voco_video
from scripts.docs_pages import commands
from tests.helpers.pages import ROOT
from voco_video.answer.several_videos import Compressed
from voco_video.checkpoint.convert import convert_checkpoint
from voco_video.checkpoint.describe import describe_checkpoint
from voco_video.data.check import check_dataset
from voco_video.data.registry import load_video_set
from voco_video.engine.export import export_checkpoint
from voco_video.evaluate import EvalOptions, evaluate
from voco_video.evaluate.retention import measure_retention
from voco_video.options.judging import Judging
from voco_video.publish.model_card import write_model_card
from voco_video.scoring.comparison import compare
from voco_video.scoring.judge.agreement import drawn, judge_agreement
from voco_video.scoring.predictions import read_predictions
from voco_video.scoring.report import score_file
from voco_video.serve.settings import ServeOptions
from voco_video.shapes.write_dataset import write_dataset
from voco_video.video.transcribing import transcribe

MODEL, VIDEO, CACHE = voco_video.VideoModel, voco_video.CompressedVideo, voco_video.FrameCache

# What Python calls for each command.
PYTHON: dict[str, tuple[Callable[..., Any], ...]] = {
    "demo": (voco_video.load_model, MODEL.compress, VIDEO.ask),
    "ask": (voco_video.load_model, MODEL.compress, VIDEO.ask, VIDEO.with_subtitles),
    "find": (voco_video.load_model, MODEL.compress, VIDEO.with_subtitles, voco_video.find),
    "compress": (voco_video.load_model, MODEL.compress_many, MODEL.open_stream),
    "inspect": (voco_video.probe, voco_video.Sampling, voco_video.CompressOptions, CACHE),
    "mcp": (voco_video.load_model, ServeOptions),
    "transcribe": (transcribe,),
    "models": (describe_checkpoint,),
    "convert": (convert_checkpoint,),
    "export-llm": (export_checkpoint,),
    "card": (write_model_card,),
    "push": (MODEL.push_to_hub,),
    "train": (voco_video.TrainConfig, voco_video.train),
    "eval": (voco_video.load_model, EvalOptions, evaluate, load_video_set),
    "score": (score_file, Judging, load_video_set),
    "retention": (voco_video.load_model, EvalOptions, measure_retention),
    "compare": (compare, load_video_set, read_predictions),
    "judge-agreement": (drawn, judge_agreement, Judging),
    "data synth": (write_dataset,),
    "data check": (check_dataset,),
    **{f"cache {name}": (CACHE,) for name in ("ls", "info", "name", "verify", "rm", "prune")},
}


def table() -> dict[str, str]:
    """The page's table of names that differ: what Python has, by the flag."""
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`-[^|]*) \| ([^|]*) \|$", page, re.MULTILINE)
    return {flag: python for flags, python in rows for flag in re.findall(r"`(--[\w-]+)", flags)}


@pytest.mark.parametrize("name", commands())
def test_an_option_has_its_name_in_python_or_stands_in_the_table(name):
    known = {parameter for function in PYTHON[name] for parameter in inspect.signature(function).parameters}
    for param in commands()[name].params:
        if param.param_type_name != "option" or param.hidden:
            continue
        flag = next(option for option in param.opts if option.startswith("--"))
        python = flag.removeprefix("--").replace("-", "_")
        assert python in known or flag in table(), f"{name} {flag}: not in Python, and no row in docs/options.md"


def test_the_table_names_what_there_is():
    flags = {
        option for command in commands().values() for p in command.params for option in (*p.opts, *p.secondary_opts)
    }
    assert set(table()) <= flags | {"--help", "--version"}
    for flag, python in table().items():
        for word in re.findall(r"`voco_video\.([\w.]+)", python):
            owner: Any = voco_video
            for part in word.split("."):
                assert hasattr(owner, part) or part in getattr(owner, "__dataclass_fields__", {}), f"{flag}: {word}"
                owner = getattr(owner, part, None)


def documented_things() -> Iterator[tuple[str, str]]:
    """The docstrings of everything public, with the name of each."""
    for name in voco_video.__all__:
        thing = getattr(voco_video, name)
        if not (inspect.isclass(thing) or callable(thing)):
            continue
        yield name, inspect.getdoc(thing) or ""
        for inner, member in vars(thing).items() if inspect.isclass(thing) else ():
            if not inner.startswith("_"):
                yield f"{name}.{inner}", inspect.getdoc(member) or ""


def test_classes_that_docstrings_refer_to_are_public():
    classes = set()
    for path in Path(voco_video.__file__).parent.rglob("*.py"):
        classes |= set(re.findall(r"^class ([A-Z]\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    seen = 0
    for where, text in documented_things():
        for name in re.findall(r"`([A-Z]\w+)(?:\.\w+)?`", text):
            if name in classes:
                seen += 1
                assert name in voco_video.__all__, f"{where} refers to {name}, which cannot be imported"
        for path, name in re.findall(r"`(voco_video[\w.]*)\.(\w+)`", text):
            assert _is_there(f"{path}.{name}"), f"{where} refers to {path}.{name}"
    assert seen >= 15


def _is_there(path: str) -> bool:
    """Tell whether a dotted path leads to a module, or to something in one."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


def test_everything_public_can_be_imported_and_is_listed_once():
    assert len(set(voco_video.__all__)) == len(voco_video.__all__)
    for name in voco_video.__all__:
        assert getattr(voco_video, name) is not None
    assert voco_video.Compressed is Compressed
    with pytest.raises(AttributeError, match="Nothing"):
        _ = voco_video.Nothing
