"""``--help``: options in groups, in one order everywhere; examples first; nothing cut at 80 columns."""

from __future__ import annotations

import json
import re
import shlex
from itertools import combinations
from pathlib import Path

import pytest
import typer.main

from scripts.docs_pages import commands
from tests.helpers.pages import Block, run_blocks
from voco_video import cli
from voco_video.cli import help as pages
from voco_video.cli.help import FORMER, PANELS, page, panel_of, split_help, wrapped_command
from voco_video.options.fields import options_of as options_of_class
from voco_video.options.sampling import Sampling
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import demo_scene
from voco_video.training.config import TrainConfig

NAMES = list(commands())
ROOT = typer.main.get_command(cli.app)
GROUPS = {"": ROOT, "cache": ROOT.commands["cache"], "data": ROOT.commands["data"]}
ALL = {**GROUPS, **commands()}


def text_of(name: str, width: int = 78) -> str:
    """The help page of a command, without what makes headings bold."""
    command = ALL[name]
    context = command.context_class(command, info_name=f"voco-video {name}".strip())
    return re.sub(r"\x1b\[\d+m", "", page(command, context, width=width))


def headings_of(name: str) -> list[str]:
    return re.findall(r"\n\n(\S.*):\n  ", text_of(name))


def options_of(name: str) -> list:
    return [param for param in ALL[name].params if param.param_type_name == "option" and not param.hidden]


@pytest.mark.parametrize("width", [78, 58, 108])
@pytest.mark.parametrize("name", ALL)
def test_no_line_is_too_long_and_no_word_is_cut(name, width):
    shown = text_of(name, width)
    # One word that is longer than a line cannot be helped; there is none at 80 columns.
    too_long = [line for line in shown.splitlines() if len(line) > width and len(line.split()) > 1]
    assert not too_long
    assert width < 78 or all(len(line) <= width for line in shown.splitlines())
    together = " ".join(shown.split())
    for param in ALL[name].params:
        if param.help and not param.hidden:
            assert " ".join(param.help.split()) in together, param.name
    about, examples = split_help(ALL[name].help)
    for paragraph in about.split("\n\n"):
        assert " ".join(paragraph.split()) in together
    assert examples


@pytest.mark.parametrize("name", ALL)
def test_examples_come_before_everything_but_the_first_sentences(name):
    shown = text_of(name)
    headings = headings_of(name)
    assert headings[0] == "Examples"
    assert shown.startswith("Usage: voco-video")
    assert shown.index("\nExamples:\n") < 400


def test_groups_come_in_one_order_and_so_do_options_in_them():
    before: dict[frozenset[str], tuple[str, str]] = {}
    for name in NAMES:
        headings = headings_of(name)
        panels = [heading for heading in headings if heading in PANELS]
        assert set(headings) - {*panels} <= {"Examples", "Arguments"}, name
        assert panels == sorted(panels, key=PANELS.index), name
        for panel in panels:
            inside = [param.opts[0] for param in options_of(name) if panel_of(param) == panel]
            for pair in combinations(inside, 2):
                assert before.setdefault(frozenset(pair), pair) == pair, f"{name}: {pair} the other way round elsewhere"
    assert {panel_of(param) for name in NAMES for param in options_of(name)} <= {*PANELS}


def test_an_option_is_in_the_same_group_everywhere():
    homes: dict[str, set[str]] = {}
    for name in NAMES:
        for param in options_of(name):
            homes.setdefault(param.opts[0], set()).add(panel_of(param))
    several = {option: panels for option, panels in homes.items() if len(panels) > 1}
    # --seed draws questions in `eval`, samples tokens in `ask` and makes scenes in `data synth`. `convert` changes K,
    # `demo` and `ask` choose from it, and `compress` keeps so many. `inspect` lists the entries of a --compressor.
    # `cache ls --model` lists those of a model.
    # `compress --force` computes anew, and `cache push --force` replaces what is there.
    assert {*several} <= {"--force", "--seed", "--num-voco-tokens", "--compressor", "--resume", "--model"}, several


@pytest.mark.parametrize("width", [78, 50, 30])
@pytest.mark.parametrize("name", ALL)
def test_a_broken_example_is_the_same_command_to_a_shell(name, width):
    for example in split_help(ALL[name].help)[1]:
        lines = wrapped_command(example, width)
        assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(example)
        assert all(len(line) <= width or len(shlex.split(line.rstrip("\\"))) <= 2 for line in lines)


# Examples that need what a test has not: other people's files, other models, the network, hours.
_NEEDS = re.compile(
    r"https?:|s3:|rtsp:|--model|--start|torchrun|ffmpeg|hub|push|convert|--follow|msvd|msrvtt|activitynet|videomme|"
    r"mix665k|runs/|data/|[0-9a-f]{6}|--chat|smolvlm2|synth|--set|my-|pred_|gpt|cache verify \S|webm|"
    r"\.parquet|\.csv|--engine|export-llm|transcribe|serve|mcp|retention|judge-agreement|charades|"
    r"cache (?:push|pull|sync|info clip)| door\b| flower"
)


@pytest.mark.exhaustive
def test_examples_run(tmp_path):
    """Every example that can run here, over files of the names in it; the others are parsed by tests/test_docs.py."""
    examples = [line for name in ALL for line in split_help(ALL[name].help)[1] if not _NEEDS.search(line)]
    examples = [line.partition(" > ")[0] for line in dict.fromkeys(examples)]
    assert len(examples) >= 20, examples
    clip = write_clip(demo_scene(), tmp_path / "clip.mp4", size=64)
    for example in examples:
        for name in re.findall(r"[\w/*-]+\.(?:mp4|mkv)|(?:recordings|videos)/", example):
            copy = tmp_path / (f"{name}one.mp4" if name.endswith("/") else name.replace("*", "1"))
            copy.parent.mkdir(exist_ok=True)
            if not copy.exists():
                copy.write_bytes(clip.read_bytes())
    (tmp_path / "questions.txt").write_text("who moves?\n", encoding="utf-8")
    run_blocks([Block(Path(), "run", "bash", line, "") for line in examples], tmp_path, in_one_process=True)


@pytest.mark.parametrize(("command", "old"), [(name, old) for name, olds in FORMER.items() for old in olds])
def test_former_spellings_work_and_are_not_shown(command, old, capsys):
    new = FORMER[command][old]
    assert old not in text_of(command)
    required = {"ask": ["clip.mp4", "what?"], "find": ["clip.mp4", "star"], "inspect": ["clip.mp4"], "demo": []}
    for words in ([old, "x"], [f"{old}=x"], [new, "x"]):
        context = ALL[command].make_context(command, [*required[command], *words])
        assert str(context.params["out"]) == "x"
        said = capsys.readouterr().err
        assert said == ("" if words[0] == new else f"note: {old} is called {new} now; the old name still works\n")


def test_what_follows_two_dashes_is_no_option():
    assert pages._respelt(["a", "--", "--strip"], FORMER["ask"]) == ["a", "--", "--strip"]


def test_every_command_calls_its_output_out():
    """A path to write to has one name: --out, or -o."""
    writing = {
        "ask",
        "find",
        "inspect",
        "demo",
        "eval",
        "score",
        "compare",
        "convert",
        "export-llm",
        "data synth",
        "train",
        "transcribe",
        "retention",
    }
    assert {name for name in NAMES if any(param.opts == ["--out", "-o"] for param in options_of(name))} == writing
    for name in NAMES:
        for param in ALL[name].params:
            assert param.name not in ("output", "strip", "folder", "dest") or param.hidden, name


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("convert voco-tiny made", "the folder to write"),
        ("data synth made --format msvd --num-videos 0", "the folder of the set"),
    ],
)
def test_an_output_may_still_be_an_argument(run, line, what):
    code, _, err = run(*line.split())
    assert code != 0  # nothing else is right about these
    assert err.startswith(f"note: {what} is given with --out now; made as an argument still works\n")
    code, _, err = run(*line.split(), "--out", "other")
    assert (code, err) == (2, f"error: --out other and made: give {what} once, with --out\n")
    code, _, err = run(*line.replace(" made", "").split())
    assert (code, err) == (2, f"error: --out is missing: {what}\n")


def test_policy_means_one_thing():
    """It chooses the frames that a question sees; frames are sampled in a way."""
    assert "policy" not in Sampling.__doc__
    for name in NAMES:
        for param in options_of(name):
            assert "policy" not in (param.help or ""), f"{name} {param.opts[0]}"


def test_headings_are_bold_in_a_terminal_unless_colours_are_off(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert pages._heading("Model") == "\x1b[1mModel:\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert pages._heading("Model") == "Model:"


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_in_a_pipe_is_plain(run, argument, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    code, out, err = run("cache", "ls", argument)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert out.startswith("Usage: voco-video cache ls [OPTIONS]\n\nList compressed videos")


def test_train_explains_every_option_of_a_recipe(run, monkeypatch):
    known = options_of_class(TrainConfig)
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("train", "--options")
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines())
    together = " ".join(out.split())
    for one in known:
        assert f" {one.name} {' '.join(one.details.help.split())} [{one.facts_text}]" in f" {together}", one.name
    headings = re.findall(r"^(\w[\w ]*)\. .*:$", out, re.MULTILINE)
    assert headings == ["Run", "Data", "MovingShapes", "Trained parts", "Optimization", "Engine"]
    rows = json.loads(run("train", "--options", "--json")[1])
    assert [(row["name"], row["help"], row["type"]) for row in rows] == [
        (one.name, one.details.help, one.type_text) for one in known
    ]
    assert {row["unit"] for row in rows} >= {"steps", "samples", "frames", "tokens"}
    assert [row["name"] for row in rows if row["is_required"]] == ["output_dir"]


def test_train_shows_what_a_recipe_sets(run):
    code, out, err = run("train", "own-clips", "--options", "--set", "learning_rate=0.5", "--out", "there")
    assert (code, err) == (0, "")
    together = " ".join(out.split())
    assert "default: 2e-05; here: 0.5]" in together
    assert 'has to be given; here: "there"]' in together
    rows = {row["name"]: row for row in json.loads(run("train", "own-clips", "--options", "--json")[1])}
    assert rows["output_dir"]["value"] == "runs/own-clips"
    assert rows["optimizer"]["value"] == rows["optimizer"]["default"] == "adamw"
    code, _, err = run("train", "own-clips", "--options", "--set", "learning_rate=fast")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("folder", ["runs/a b", "runs: x", "[1]", "yes"])
def test_the_folder_of_a_run_is_taken_as_it_is(run, folder):
    """It goes through YAML, in which some texts are something else."""
    rows = json.loads(run("train", "own-clips", "--options", "--json", "-o", folder)[1])
    assert next(row["value"] for row in rows if row["name"] == "output_dir") == folder
