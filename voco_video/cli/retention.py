"""``voco-video retention``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_model
from voco_video.cli.evaluate import check_for_matplotlib
from voco_video.cli.help import DATA
from voco_video.cli.options import with_options, without
from voco_video.cli.output import print_json
from voco_video.cli.progress import ProgressBar, loading
from voco_video.cli.tables import Column, print_table, print_wrapped
from voco_video.data.registry import check_split, default_split, load_video_set
from voco_video.errors import UsageError
from voco_video.evaluate.options import EvalOptions
from voco_video.options.loading import LoadOptions

if TYPE_CHECKING:
    from voco_video.data.samples import Dataset


@with_options
def retention(
    model: Annotated[
        str, typer.Argument(help="A folder, a hub's name, or a recommended checkpoint.", metavar="MODEL")
    ] = "voco-tiny",
    *,
    tasks: Annotated[
        str,
        typer.Option(
            help="Sets and their folders, with commas: videomme=data/Video-MME,nextqa:val=data/NExT-QA.",
            metavar="SET[:SPLIT]=DIR,...",
            rich_help_panel=DATA,
        ),
    ],
    options: Annotated[EvalOptions, without("compressor")],
    load: LoadOptions,
    cache_dir: opt.CacheDir = None,
    out: Annotated[
        Path | None, opt.out("Where everything goes. [default: runs/retention/MODEL]", metavar="DIR")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Measure what compressed frames keep of a model's ability: (score - none) / (full - none), with intervals.

    Each task is answered without a frame (none), from pooled and from VoCo tokens at several k, and from all vision
    tokens (full), over the same questions. --num-voco-tokens says which k; without it 1, 2, 4, ... to all that the
    model has. The same command goes on where an interrupted one stopped. Videos only; for images use lmms-eval.

    \b
    Examples:
      voco-video retention ./my-checkpoint --tasks nextqa=data/NExT-QA --num-frames 8 --num-voco-tokens 1,4
      voco-video retention ./my-checkpoint --tasks videomme=data/Video-MME,mlvu=data/MLVU --answer-by likelihood
    """
    check_for_matplotlib()
    check_model(model, revision=load.revision, offline=load.offline, num_voco_tokens=options.num_voco_tokens)
    data = [load_task(task) for task in tasks.split(",")]
    with loading(model, quiet=json):
        from voco_video.api import load_model
        from voco_video.evaluate.retention import measure_retention
        from voco_video.scoring.report.retention import retention_notes, retention_table, with_mean, write_retention

        loaded = load_model(model, **asdict(load), cache_dir=cache_dir)
    folder = out or Path("runs/retention") / Path(model).name
    facts: dict[str, Any] = {"command": shlex.join(["voco-video", *sys.argv[1:]]), "model": model}
    with ProgressBar("answering", unit="question", quiet=json) as bar:
        measured = measure_retention(
            loaded,
            data,
            options=options,
            out=folder,
            facts=facts,
            on_progress=lambda task, row, progress: bar.show(progress.num_answers, progress.total_answers),
        )
    results = with_mean(measured)
    paths = write_retention(results, folder / "retention", facts={**facts, "fingerprint": loaded.fingerprint})
    if json:
        print_json({"tasks": [task.as_dict() for task in results], "notes": retention_notes(results), **facts})
        return
    columns, rows = retention_table(results)
    print_table([*columns[:2], *(Column(name, right=True) for name in columns[2:])], rows)
    for note in retention_notes(results):
        print_wrapped(note)
    print_wrapped(f"report: {paths[1]}")


def load_task(text: str) -> Dataset:
    """Load the split that ``SET=DIR`` or ``SET:SPLIT=DIR`` names.

    Raises:
        UsageError: it names none.
        DataError: the annotations cannot be read.
    """
    what, equals, folder = text.strip().partition("=")
    if not equals or not folder:
        raise UsageError(f"--tasks {text!r}: give a set and its folder, as in msvd=data/MSVD")
    name, _, split = what.partition(":")
    check_split(name, split or default_split(name))
    return load_video_set(name, folder, split=split or None)
