"""``voco-video convert``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_model
from voco_video.cli.options import only, with_options
from voco_video.cli.output import format_bytes, print_json
from voco_video.options.loading import LoadOptions


@with_options
def convert(
    source: Annotated[
        str, typer.Argument(help="Checkpoint in a published layout: a folder or a hub id.", metavar="CHECKPOINT")
    ],
    folder: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    *,
    num_voco_tokens: Annotated[
        int | None,
        typer.Option(help="VoCo tokens per frame of a VoCo-LLaMA checkpoint. [default: 2, as trained]", metavar="N"),
    ] = None,
    about: Annotated[
        str, typer.Option(help="One sentence on what the weights know, shown with answers.", metavar="TEXT")
    ] = "",
    load: Annotated[LoadOptions, only("revision", "offline")],
    out: Annotated[Path | None, opt.out("Folder to write; empty or not there yet. [required]", metavar="DIR")] = None,
    json: opt.Json = False,
) -> None:
    """Write an original LLaVA-1.5 or VoCo-LLaMA checkpoint as an ordinary Hugging Face folder.

    Weights keep their type and pass through memory one file at a time. Files of pickled tensors (.bin) are read as
    weights alone, so nothing in them is executed.

    \b
    Examples:
      voco-video convert VoCo-LLaMA-7B --out voco-llama-7b-hf
      voco-video convert liuhaotian/llava-v1.5-7b --out llava-7b-hf
    """
    out = opt.out_or_former(out, folder, what="the folder to write")
    check_model(source, revision=load.revision)
    from voco_video.checkpoint.convert import convert_checkpoint

    result = convert_checkpoint(
        source, out, num_voco_tokens=num_voco_tokens, about=about, revision=load.revision, offline=load.offline
    )
    if json:
        print_json(asdict(result))
        return
    has = f"{result.num_voco_tokens} VoCo tokens per frame" if result.num_voco_tokens else "no VoCo tokens"
    print(f"{result.folder}: {format_bytes(result.size_bytes)} in {result.num_files} file(s) of weights, {has}")
    print(f'ask with it: voco-video ask clip.mp4 "What happens?" --model {result.folder}')
