"""``voco-video train``."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.output import print_facts, print_json


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run; configs/ has examples.", metavar="CONFIG.yaml")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in output_dir.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value for one option of the file.", metavar="KEY=VALUE"),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Train a model to compress frames and to answer from what is left of them.

    The run writes checkpoints, last/ and best/ (models for --model), log.json, curves.png and TensorBoard logs to its
    output_dir. Give the same command with --resume after an interruption: the result is the same as without one.

    \b
    Examples:
      voco-video train configs/voco-tiny/image.yaml
      voco-video train configs/voco-tiny/video.yaml --set max_steps=200 --set output_dir=runs/short
      torchrun --nproc-per-node 8 --no-python voco-video train configs/llava-7b-image.yaml --resume
    """
    from voco_video.training import load_config
    from voco_video.training import train as run

    logging.getLogger("voco_video.training").setLevel(logging.INFO)
    with redirect_stdout(sys.stderr):  # the library prints its log lines; only the result belongs on standard output
        result = run(load_config(config, set_ or ()), resume=resume)
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


def _leave_other_processes() -> None:
    """End what connects the processes of torchrun: its threads, left alone, now and then abort one at its exit."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
