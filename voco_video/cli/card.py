"""``voco-video card``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_files, check_folder
from voco_video.cli.output import print_json


def card(
    checkpoint: Annotated[
        Path, typer.Argument(help="Checkpoint folder; its README.md is written.", metavar="CHECKPOINT")
    ],
    reports: Annotated[
        list[Path] | None, typer.Argument(help="predictions*.scores.json of evaluations of it.", metavar="REPORT...")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Write a checkpoint's model card: what it is, what was measured with it, how to ask it.

    Only evaluations of these very weights go in.

    \b
    Examples:
      voco-video eval msvd --root data/MSVD --model runs/mine/last --num-voco-tokens 1,4 --out runs/mine/msvd
      voco-video card runs/mine/last runs/mine/msvd/predictions-k*.scores.json
    """
    check_folder(checkpoint)
    check_files(reports or [])
    from voco_video.publish.model_card import write_model_card

    written = write_model_card(checkpoint, reports or [])
    if json:
        print_json({"checkpoint": str(checkpoint), "card": str(written), "reports": list(map(str, reports or []))})
    else:
        print(written)
