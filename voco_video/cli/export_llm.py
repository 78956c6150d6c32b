"""``voco-video export-llm``."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_model
from voco_video.cli.options import only, with_options
from voco_video.cli.output import format_bytes, print_json
from voco_video.cli.progress import loading
from voco_video.files.paths import checked_out
from voco_video.options.loading import LoadOptions


@with_options
def export_llm(
    source: Annotated[str, typer.Argument(help="Checkpoint: as for --model of `ask`.", metavar="CHECKPOINT")],
    target: Annotated[
        Path | None, typer.Argument(help="Folder to write; empty or not there yet.", metavar="OUT")
    ] = None,
    *,
    load: Annotated[LoadOptions, only("dtype", "revision", "offline")],
    out: Annotated[Path | None, opt.out("The same as OUT.", metavar="DIR")] = None,
    json: opt.Json = False,
) -> None:
    """Write the model's answering decoder as a plain text model, for vLLM.

    It holds the decoder with its answering adapters merged, the tokenizer and the chat template, and no vision tower:
    videos are compressed by voco-video, which sends what a question sees (ask and eval with --engine-url). Weights keep
    the type that the checkpoint is stored in, unless --dtype says another.

    \b
    Examples:
      voco-video export-llm voco-tiny voco-tiny-llm
      voco-video export-llm runs/mine/last mine-llm --dtype bfloat16
    """
    chosen = opt.chosen_out(out, target, what="the folder to write")
    checked_out(chosen)
    check_model(source, revision=load.revision, offline=load.offline)
    with loading(source, quiet=json):
        from voco_video.engine.export import export_checkpoint

        result = export_checkpoint(source, chosen, dtype=load.dtype, revision=load.revision, offline=load.offline)
    if json:
        print_json(asdict(result))
        return
    print(f"{result.folder}: {result.architecture}, {result.dtype}, {format_bytes(result.size_bytes)}")
    where = shlex.quote(str(result.folder))
    print("start an engine with it (vLLM 0.24.0 or later):")
    print(f"  vllm serve {where} --enable-prompt-embeds --served-model-name {result.served_name}")
    print("ask with it:")
    print(f'  voco-video ask clip.mp4 "What happens?" --model {shlex.quote(source)} --engine-url http://localhost:8000')
