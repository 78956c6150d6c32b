"""``voco-video train``."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from contextlib import redirect_stdout
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_trained
from voco_video.cli.help import Section, written
from voco_video.cli.output import print_facts, print_json
from voco_video.cli.progress import training
from voco_video.cli.tables import print_wrapped
from voco_video.errors import UsageError
from voco_video.options.fields import options_of

if TYPE_CHECKING:
    from voco_video.training.config import TrainConfig


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe's name, or a YAML file; without one the recipes are listed.", metavar="RECIPE"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run from the last checkpoint in output_dir.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value for one option of the recipe.", metavar="KEY=VALUE"),
    ] = None,
    options: Annotated[
        bool,
        typer.Option("--options", help="Print every option of a recipe: what it means, its type, unit and default."),
    ] = False,
    out: Annotated[Path | None, opt.out("The run's folder. [default: the recipe's output_dir]", metavar="DIR")] = None,
    json: opt.Json = False,
) -> None:
    """Train a model to compress frames and to answer from what is left of them.

    The run writes checkpoints, last/ and best/ (models for --model), log.json, curves.png and TensorBoard logs to its
    output_dir. Give the same command with --resume after an interruption: the result is the same as without one.

    \b
    Examples:
      voco-video train
      voco-video train --options
      voco-video train own-clips --set dataset=clips/questions.json --set media_dir=clips
      voco-video train voco-tiny/video --set model=voco-tiny --set max_steps=200 --out runs/short
      torchrun --nproc-per-node 8 --no-python voco-video train llava-7b-image --resume
      voco-video train my-recipe.yaml
    """
    overrides = [*(set_ or ()), *([] if out is None else [f"output_dir={dumps(str(out))}"])]
    if recipe is None:
        if resume or overrides:
            raise UsageError("--resume, --set and --out are for a run: name a recipe, or a YAML file")
        if options:
            print_options(None, json=json)
        else:
            print_recipes(json=json)
        return
    from voco_video.training.recipes import load_config

    config = load_config(recipe, overrides)
    if options:
        print_options(config, json=json)
        return
    check_trained(config)
    from voco_video.training import train as run

    logging.getLogger("voco_video.training").setLevel(logging.INFO)
    is_quiet = json or int(os.environ.get("RANK", "0")) > 0
    # What libraries print goes above the line of progress; only the result belongs on standard output.
    with training(config.model, quiet=is_quiet) as show, redirect_stdout(sys.stderr):
        result = run(config, resume=resume, on_progress=show)
    _leave_other_processes()
    facts = {
        "last": str(result.last),
        "best": str(result.best) if result.best else None,
        "num_steps": result.num_steps,
        "loss": result.loss,
        "accuracy": result.accuracy,
    }
    if json:
        print_json(facts)
    else:
        facts["loss"] = f"{result.loss:.4g}"
        print_facts({name: value for name, value in facts.items() if value not in (None, {})})


def print_recipes(*, json: bool) -> None:
    """Print the shipped recipes with one sentence each."""
    from voco_video.training.recipes import RECIPES, recipe_sentence, recipes

    sentences = {name: recipe_sentence(path) for name, path in recipes().items()}
    if json:
        print_json({name: {"about": text, "path": str(recipes()[name])} for name, text in sentences.items()})
        return
    width = max(map(len, sentences))
    for name, text in sentences.items():
        print_wrapped(f"{name:<{width}}  {text}", indent=width + 2)
    print_wrapped(f"\nrun one: voco-video train NAME --set KEY=VALUE; their files are in {RECIPES}")


def print_options(config: TrainConfig | None, *, json: bool) -> None:
    """Print every option of a recipe, in groups: its name, meaning, type, unit, limits and default.

    Args:
        config: a recipe's values, which are then shown too where they are not the defaults.
    """
    from voco_video.training.config import TrainConfig

    known = options_of(TrainConfig)
    values = config.describe() if config is not None else {}
    if json:
        print_json([one.describe() | ({"value": values[one.name]} if values else {}) for one in known])
        return
    shown = []
    for group in dict.fromkeys((one.panel, one.group) for one in known):
        rows = []
        for one in known:
            value = values.get(one.name)
            is_other = one.name in values and value != one.describe()["default"]
            here = f"; here: {dumps(value)}" if is_other else ""
            if (one.panel, one.group) == group:
                rows.append((one.name, f"{one.details.help} [{one.facts_text}{here}]"))
        shown.append(Section(f"{group[0]}. {group[1].removesuffix('.')}", rows))
    typer.echo(written(shown, width=min(shutil.get_terminal_size().columns, 110) - 2))


def _leave_other_processes() -> None:
    """Disconnect torchrun's processes: threads of the connection now and then abort one at its exit."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
