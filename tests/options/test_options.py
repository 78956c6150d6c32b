"""An option is stated once: the command line, the Python front door and the tables take it from its field."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import voco_video
from voco_video import cli
from voco_video.api import VideoModel, load_model
from voco_video.checkpoint.folder import load_voco_model
from voco_video.cli import ask, compress, evaluate, find, score
from voco_video.cli.options import as_flags, only, with_options
from voco_video.errors import UsageError
from voco_video.evaluate.options import EvalOptions
from voco_video.options.answering import AnswerOptions, ViewOptions
from voco_video.options.compression import CompressOptions, StreamOptions
from voco_video.options.engine import EngineOptions
from voco_video.options.fields import Options, option, option_of, option_rows, options_of
from voco_video.options.judging import Judging
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling
from voco_video.training.config import TrainConfig

BUNDLES = {
    "compress": (Sampling, CompressOptions, LoadOptions, StreamOptions),
    "ask": (Sampling, CompressOptions, ViewOptions, AnswerOptions, LoadOptions, EngineOptions),
    "find": (Sampling, CompressOptions, LoadOptions),
    "inspect": (Sampling,),
    "eval": (EvalOptions, LoadOptions, EngineOptions),
    "score": (Judging,),
}
ALL = (
    Sampling,
    CompressOptions,
    StreamOptions,
    ViewOptions,
    AnswerOptions,
    LoadOptions,
    EngineOptions,
    Judging,
    EvalOptions,
    TrainConfig,
)


@pytest.mark.parametrize("name", BUNDLES)
def test_flags_take_type_default_and_help_from_the_field(name):
    shown = {param.name: param for param in typer.main.get_command(cli.app).commands[name].params}
    own = {"ask": {"num_voco_tokens"}, "compress": {"name"}}.get(name, set())
    seen = 0
    for owner in BUNDLES[name]:
        for one in options_of(owner):
            param = shown.get(one.name)
            is_elsewhere = owner is StreamOptions and one.name in ("fps", "force")
            if param is None or one.name in own or is_elsewhere:
                continue
            seen += 1
            assert one.flags[0] in param.opts
            assert set(one.flags[1:]) <= set(param.secondary_opts)
            text = one.details.help
            assert text[1:] in param.help, "the help is that of the field"
            assert param.rich_help_panel == one.panel
            if owner is StreamOptions:
                assert param.default is None or param.default is False
            elif one.default in (None, ()):
                assert param.default is None
                assert not one.details.unset or f"[default: {one.details.unset}]" in param.help
            else:
                assert str(param.default) == str(one.default)
            if one.choices and not one.details.choices and isinstance(one.choices[0], str) and not one.details.metavar:
                assert param.metavar == "|".join(one.choices)
    assert seen >= 6


def test_no_command_states_an_option_of_a_dataclass_again():
    """Texts of options stand in one file each."""
    texts = {one.details.help for owner in ALL for one in options_of(owner)} - {"For sampling.", "For --limit."}
    homes: dict[str, set[str]] = {}
    for path in Path(voco_video.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in texts:
                homes.setdefault(node.value, set()).add(path.name)
    assert set(homes) == texts
    assert {text: files for text, files in homes.items() if len(files) > 1} == {}


@pytest.mark.parametrize(
    ("function", "owners"),
    [
        (load_model, [LoadOptions]),
        (load_voco_model, [LoadOptions]),
        (VideoModel.compress, [Sampling, CompressOptions]),
        (VideoModel.open_stream, [StreamOptions, CompressOptions]),
    ],
)
def test_python_has_the_same_names_and_defaults(function, owners):
    parameters = inspect.signature(function).parameters
    for owner in owners:
        for one in options_of(owner):
            if one.name in parameters:
                assert parameters[one.name].default == one.default, one.name
            else:
                assert (function, one.name) == (VideoModel.open_stream, "decoder")


def test_commands_are_short():
    for command in (ask.ask, compress.compress, evaluate.evaluate, find.find, score.score):
        tree = ast.parse(Path(inspect.getfile(inspect.getmodule(command))).read_text())
        (node,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == command.__name__)
        assert node.end_lineno - node.lineno < 80, command.__name__


@pytest.mark.parametrize("owner", ALL)
def test_every_option_has_a_row_for_the_documentation(owner):
    rows = option_rows(owner)
    fields = {field.name for field in dataclasses.fields(owner)}
    assert {name for name, *_ in rows} == fields - {"vocabulary"}
    assert all(help and kind for _, kind, _, help in rows)


@dataclasses.dataclass(frozen=True)
class Sizes(Options):
    """Options of a test."""

    width: int = option(4, "Pixels across.", at_least=1, at_most=9)
    scale: float | None = option(None, "Times as large.", above=0, flag="--zoom")
    names: tuple[str, ...] = option((), "What is drawn.")
    is_round: bool = option(False, "Round corners.", flag="--round/--square")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width=0: has to lie between 1 and 9"),
        ({"width": 2.5}, "width=2.5 has to be a whole number"),
        ({"width": True}, "width=True has to be a whole number"),
        ({"scale": 0.0}, "scale=0.0: has to be above 0"),
        ({"scale": float("inf")}, "scale=inf: has to be above 0"),
        ({"scale": "x"}, "scale='x' has to be a number"),
        ({"names": (1,)}, r"names=\(1,\) has to be a list of names"),
        ({"is_round": 1}, "is_round=1 has to be true or false"),
    ],
)
def test_a_field_checks_its_value(values, message):
    with pytest.raises(UsageError, match=message):
        Sizes(**values)


def test_errors_name_the_option_as_it_was_written():
    flags = {one.name: one.flags for one in options_of(Sizes)}
    assert as_flags("width=0 and scale=2.0: no", flags) == "--width 0 and --zoom 2.0: no"
    assert as_flags("is_round=False, linewidth=3", flags) == "--square, linewidth=3"

    @with_options
    def draw(*, sizes: Sizes) -> None:
        raise UsageError(f"scale={sizes.scale} is too much")

    with pytest.raises(UsageError, match=r"--zoom 3\.0 is too much"):
        draw(width=None, scale=3.0, names=None, is_round=False)
    with pytest.raises(UsageError, match="--width 77: has to lie"):
        draw(width=77, scale=None, names=None, is_round=False)


def test_a_selection_names_options_that_there_are():
    with pytest.raises(AssertionError, match="Sizes has no option colour"):
        only("colour").options_of(Sizes)


def test_the_tables_of_the_documentation_are_written(tmp_path):
    page = tmp_path / "reference" / "options.md"
    script = Path(__file__).parents[2] / "scripts" / "option_tables.py"
    subprocess.run([sys.executable, str(script), str(page)], check=True, capture_output=True)
    text = page.read_text(encoding="utf-8")
    assert "| `storage` | native or int8 | native | Keep the model's own type, or int8. |" in text
    assert text.count("\n| `") == sum(map(len, map(option_rows, ALL)))


@pytest.mark.parametrize("owner", ALL)
def test_the_docstring_says_what_each_option_is(owner):
    """Also in Python's own help, and from the one definition, so that it cannot be another."""
    shown = " ".join(inspect.getdoc(owner).partition("Attributes:\n")[2].split())
    for one in options_of(owner):
        assert f"{one.name} ({one.facts_text}): {' '.join(one.details.help.split())}" in shown
    assert options_of(owner)[-1].name in pydoc.render_doc(owner, renderer=pydoc.plaintext)


def test_every_number_says_its_unit_or_has_none():
    """A share, a seed, a rank and the like count nothing."""
    bare = {
        *("fps", "temperature", "top_p", "repetition_penalty", "learning_rate", "adam_beta2", "max_grad_norm"),
        *("lora_rank", "lora_alpha", "lora_dropout", "weight_decay", "distillation_weight", "weight_bits"),
        *("judge_price_per_million_in", "judge_price_per_million_out"),
    }
    for owner in ALL:
        for one in options_of(owner):
            is_number = re.search(r"\b(int|float)\b", str(one.type)) and not re.search("tuple|Mapping", str(one.type))
            if is_number and not one.name.endswith(("seed", "_fraction")):
                assert bool(one.details.unit) != (one.name in bare), f"{owner.__name__}.{one.name}"


def test_a_switch_that_is_on_can_be_turned_off():
    (command,) = (typer.main.get_command(cli.app).commands[name] for name in ("compress",))
    for words, value in ([], True), (["--no-merge-pictures"], False), (["--merge-pictures"], True):
        assert command.make_context("compress", ["clip.mp4", *words]).params["merge_pictures"] is value
    assert as_flags("merge_pictures=False", {"merge_pictures": option_of(CompressOptions, "merge_pictures").flags}) == (
        "--no-merge-pictures"
    )
