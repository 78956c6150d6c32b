"""``voco-video train``."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_trained
from voco_video.cli.output import print_facts, print_json
from voco_video.errors import UsageError


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe's name, or a YAML file; without one the recipes are listed.", metavar="RECIPE"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in output_dir.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value for one option of the recipe.", metavar="KEY=VALUE"),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Train a model to compress frames and to answer from what is left of them.

    The run writes checkpoints, last/ and best/ (models for --model), log.json, curves.png and TensorBoard logs to its
    output_dir. Give the same command with --resume after an interruption: the result is the same as without one.

    \b
    Examples:
      voco-video train
      voco-video train own-clips --set dataset=clips/questions.json --set media_dir=clips
      voco-video train voco-tiny/video --set model=voco-tiny --set max_steps=200 --set output_dir=runs/short
      torchrun --nproc-per-node 8 --no-python voco-video train llava-7b-image --resume
      voco-video train my-recipe.yaml
    """
    if recipe is None:
        if resume or set_:
            raise UsageError("--resume and --set are for a run: name a recipe, or a YAML file")
        print_recipes(json=json)
        return
    from voco_video.training import load_config

    config = load_config(recipe, set_ or ())
    check_trained(config)
    from voco_video.training import train as run

    logging.getLogger("voco_video.training").setLevel(logging.INFO)
    with redirect_stdout(sys.stderr):  # the library prints its log lines; only the result belongs on standard output
        result = run(config, resume=resume)
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
        print(f"{name:<{width}}  {text}")
    print(f"\nrun one: voco-video train NAME --set KEY=VALUE; their files are in {RECIPES}")


def _leave_other_processes() -> None:
    """Disconnect torchrun's processes: threads of the connection now and then abort one at its exit."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
