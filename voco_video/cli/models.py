"""``voco-video models``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.output import format_bytes, print_facts, print_json, print_table

if TYPE_CHECKING:
    from voco_video.checkpoint.describe import CheckpointFacts


def models(
    path: Annotated[str | None, typer.Argument(help="Checkpoint folder, cached hub id, or embedded model.")] = None,
    json: opt.Json = False,
) -> None:
    """List the models that voco-video runs on, or say what a checkpoint is without loading its weights.

    \b
    Examples:
      voco-video models
      voco-video models voco-tiny
      voco-video models llava-hf/llava-1.5-7b-hf --json
    """
    from voco_video.checkpoint.describe import describe_checkpoint, supported_models

    if path is not None:
        facts = describe_checkpoint(path)
        if json:
            print_json(asdict(facts))
        else:
            print_facts(_readable(facts))
        return
    supported = supported_models()
    if json:
        print_json([asdict(kind) for kind in supported])
        return
    columns = ["family", "model_type", "layout", "tower", "decoder", "positions"]
    print_table(columns, [list(asdict(kind).values()) for kind in supported])


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
        "VoCo tokens": voco if facts.num_voco_tokens else "none: compress with pool:K or full, or train it",
        "bytes per frame at K = 1": sizes,
        "generation": facts.generation,
        "about": facts.about,
    }
    return {name: value for name, value in lines.items() if value}
