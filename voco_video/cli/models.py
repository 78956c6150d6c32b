"""``voco-video models``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_model
from voco_video.cli.options import only, with_options
from voco_video.cli.output import format_bytes, print_facts, print_json
from voco_video.cli.tables import Column, print_table, print_wrapped
from voco_video.options.loading import MODEL, LoadOptions

if TYPE_CHECKING:
    from voco_video.checkpoint.describe import CheckpointFacts
    from voco_video.checkpoint.recommended import Recommended


@with_options
def models(
    path: Annotated[
        str | None, typer.Argument(help="Checkpoint folder, hub id, short name, or embedded model.", metavar="NAME")
    ] = None,
    *,
    load: Annotated[LoadOptions, only("revision", "offline")],
    update: Annotated[
        bool,
        typer.Option("--update", help="Ask the hub what this name stands for now.", rich_help_panel=MODEL),
    ] = False,
    json: opt.Json = False,
) -> None:
    """List checkpoints to begin with and the families that voco-video runs on, or say what a checkpoint is.

    A short name stands for its hub id wherever a model is named. Weights are not loaded here.

    Of a hub id only small files are fetched. A name that was fetched before stands for the same commit until --update.

    \b
    Examples:
      voco-video models
      voco-video models voco-tiny
      voco-video models smolvlm2-500m --json
    """
    if path is not None:
        check_model(path, revision=load.revision, offline=load.offline)
    from voco_video.checkpoint.describe import describe_checkpoint, supported_models
    from voco_video.checkpoint.recommended import DEFAULT, RECOMMENDED

    if path is not None:
        facts = describe_checkpoint(path, revision=load.revision, offline=load.offline, update=update)
        if json:
            print_json(asdict(facts))
        else:
            print_facts(_readable(facts))
        return
    supported = supported_models()
    if json:
        recommended = [{**asdict(one), "weight_bytes": one.weight_bytes, "command": one.command} for one in RECOMMENDED]
        print_json({"recommended": recommended, "families": [asdict(kind) for kind in supported]})
        return
    columns: list[str | Column] = [
        Column("name", cut=None),
        Column("parameters", spare=2),
        Column("memory"),
        Column("tokens a frame", right=True, spare=3),
        Column("licence", spare=1),
        Column("hub id", cut=None, spare=4),
    ]
    print_table(columns, [_row(one) for one in RECOMMENDED])
    print_wrapped(
        "Parameters are in billions. Memory is that of the weights in 16 bits, computed from their number; a question "
        "takes some more."
    )
    print_wrapped(
        "Tokens a frame are vision tokens, before any compression. Licences are as the models' cards state them."
    )
    print(f"Ask one: {DEFAULT.command}", end="\n\n")
    columns = [
        Column("family", cut="end"),
        Column("model_type", cut=None),
        Column("layout", spare=3),
        Column("tower", cut=None, spare=4),
        Column("decoder", cut="end", spare=1),
        Column("positions", spare=2),
    ]
    print_table(columns, [list(asdict(kind).values()) for kind in supported])


def _row(one: Recommended) -> list[str]:
    tokens = "by shape" if one.tokens_per_frame is None else str(one.tokens_per_frame)
    size = f"{one.num_parameters / 1e9:.2f} B"
    return [one.short, size, format_bytes(one.weight_bytes), tokens, one.licence, one.hub_id]


def _readable(facts: CheckpointFacts) -> dict[str, Any]:
    voco = f"{facts.num_voco_tokens} per frame, {'trained' if facts.trained else 'untrained'}"
    sizes = {form: f"{format_bytes(size)} ({facts.dtype})" for form, size in facts.bytes_per_frame.items()}
    lines = {
        "path": facts.path,
        "adapter for": facts.base,
        "family": facts.title,
        "model_type": f"{facts.model_type} ({facts.layout} layout)",
        "tower": facts.tower,
        "decoder": facts.decoder,
        "positions": facts.positions,
        "parameters": f"{facts.num_parameters:,}",
        "dtype": facts.dtype,
        "frames": facts.frame_size,
        "vision tokens": f"{facts.num_vision_tokens} per frame",
        "VoCo tokens": voco if facts.num_voco_tokens else "none: frames are kept as full or pool:K, or train it",
        "bytes per frame at K = 1": sizes,
        "generation": facts.generation,
        "about": facts.about,
    }
    return {name: value for name, value in lines.items() if value}
