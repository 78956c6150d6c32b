"""``voco-video data``: write MovingShapes data sets, and see what is there of the public ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.help import DATA, OUTPUT, Command
from voco_video.cli.output import print_json
from voco_video.cli.progress import ProgressBar
from voco_video.cli.tables import print_table, print_wrapped
from voco_video.data.registry import MIX665K, VIDEO_SETS
from voco_video.errors import UsageError
from voco_video.options.loading import MODEL

if TYPE_CHECKING:
    from voco_video.data.check import CheckReport, MediaStatus

app = typer.Typer(
    help="""Write MovingShapes data sets, and see what is there of the public ones.

    \b
    Examples:
      voco-video data synth --out shapes --format msvd --num-videos 100
      voco-video data check msvd --root data/MSVD
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)
_NUM_SHOWN = 10


@app.command("synth", cls=Command)
def synth(
    num_videos: Annotated[
        int, typer.Option(help="Clips of all splits together: 60 % train, 15 % val, 25 % test.", metavar="N")
    ],
    folder: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Whose files to write: msvd, msrvtt, activitynet or llava. [required]",
            metavar="NAME",
        ),
    ] = None,
    layout: Annotated[str | None, typer.Option("--layout", hidden=True)] = None,
    seed: Annotated[int, typer.Option(help="Another seed makes other scenes and questions.", metavar="N")] = 0,
    questions_per_video: Annotated[
        int, typer.Option(help="Questions (with llava: turns) about each clip.", metavar="N")
    ] = 10,
    size: Annotated[int, typer.Option(help="Side of the clips, an even number of pixels.", metavar="PIXELS")] = 240,
    media: Annotated[
        str, typer.Option(help="Clips (video), or with llava also pictures (image).", metavar="NAME")
    ] = "video",
    out: Annotated[Path | None, opt.out("Where the set goes: a new folder. [required]", metavar="DIR")] = None,
    json: opt.Json = False,
) -> None:
    """Write a MovingShapes data set: clips of moving shapes with questions and true answers.

    The same options give the same bytes. An interrupted run continues where it stopped when the same command is
    given again.

    \b
    Examples:
      voco-video data synth --out shapes --format msvd --num-videos 100
      voco-video data synth --out shapes --format llava --num-videos 1000 --media image --seed 1
    """
    out = opt.out_or_former(out, folder, what="the folder of the set")
    layout = format_or_former(format_, layout)
    from voco_video.shapes.write_dataset import write_dataset

    with ProgressBar("writing", unit="clip", quiet=json) as bar:
        written = write_dataset(
            out,
            layout=layout,
            num_videos=num_videos,
            seed=seed,
            questions_per_video=questions_per_video,
            size=size,
            media=media,
            progress=bar.show,
        )
    if json:
        print_json({"path": str(written), "format": layout, "num_videos": num_videos, "seed": seed})
    else:
        print(f"{num_videos} {media}s in {written}, format {layout}, seed {seed}")


def format_or_former(given: str | None, former: str | None) -> str:
    """Return what --format says, or --layout, as it was called before prompts had a --layout.

    Raises:
        UsageError: neither is given, both are, or there is no such format.
    """
    from voco_video.shapes.write_dataset import LAYOUTS

    if given is not None and former is not None:
        raise UsageError(f"--format {given} and --layout {former}: give the format once, with --format")
    chosen = given or former
    if chosen not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise UsageError(f"--format {chosen!r}: there is {known}" if chosen else f"--format is missing: one of {known}")
    if former is not None:
        print(f"note: --layout is called --format here now; --layout {former} still works", file=sys.stderr)
    return chosen


@app.command("check", cls=Command)
def check(
    dataset: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join((*VIDEO_SETS, MIX665K))}, or a .json or .jsonl of conversations.",
            metavar="DATASET",
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            help="The folder with the media. [default: this one, or the conversation file's]",
            metavar="DIR",
            rich_help_panel=DATA,
        ),
    ] = None,
    split: opt.Split = None,
    annotations: opt.Annotations = None,
    open_media: Annotated[
        bool, typer.Option("--open", help="Also read frames of every file, as training and evaluation do.")
    ] = False,
    list_media: Annotated[
        bool,
        typer.Option("--list", help="List every video or image, not only those at fault.", rich_help_panel=OUTPUT),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="The checkpoint to be trained: find rows that its tokenizer or chat template does not take.",
            metavar="NAME",
            rich_help_panel=MODEL,
        ),
    ] = None,
    max_length: Annotated[
        int,
        typer.Option(help="Text tokens that a training sample may have.", metavar="N", rich_help_panel=MODEL),
    ] = 2048,
    json: opt.Json = False,
) -> None:
    """List what is there of a data set, what is missing, and where each file comes from.

    Exit code 1 where something is missing or broken, where training would skip a row, or where the annotations are not
    of the published size.

    \b
    Examples:
      voco-video data check msvd --root data/MSVD
      voco-video data check activitynet --root data/activitynet --split val --list
      voco-video data check llava-mix665k --root playground/data
      voco-video data check my-conversations.json --open --model ./my-checkpoint
    """
    from voco_video.data.check import check_dataset

    with ProgressBar("looking", unit="file", quiet=json) as bar:
        report = check_dataset(
            dataset,
            root,
            split=split,
            annotations=annotations,
            open_media=open_media,
            model=model,
            max_length=max_length,
            progress=bar.show,
        )
    if json:
        print_json(report.as_dict())
    else:
        print_report(report, list_media=list_media)
    if not report.is_complete:
        raise typer.Exit(1)


def print_report(report: CheckReport, *, list_media: bool) -> None:
    """Print the report for a person: totals, then what is missing or broken (with `list_media` everything)."""
    wanted = report.published
    sizes = [
        ("videos" if report.split else "conversations", report.num_samples, wanted.num_samples if wanted else None),
        ("questions", report.num_questions, wanted.num_questions if wanted else None),
    ]
    name = f"{report.dataset} {report.split}".strip()
    print(f"{name} in {report.root}: {'complete' if report.is_complete else 'not complete'}")
    origin = f" (published at {report.annotations_origin})" if report.annotations_origin else ""
    print_wrapped(f"annotations: {', '.join(map(str, report.annotations)) or 'none'}{origin}")
    print(", ".join(f"{found} {what}{f' of {size}' if size else ''}" for what, found, size in sizes))
    if report.groups:
        rows = []
        for group in report.groups:
            counts = (group.num_there, group.num_missing, group.num_broken)
            rows.append([group.name, str(sum(counts)), *map(str, counts)])
        print_table(["media", "named", "there", "missing", "broken"], rows)
    for group in report.groups:
        if group.origin:
            print_wrapped(f"{group.name}: from {group.origin}")
    for problem in report.problems:
        print_wrapped(f"problem: {problem}")
    at_fault = [one for one in report.media if one.status != "there"]
    shown = report.media if list_media else at_fault[:_NUM_SHOWN]
    for one in shown:
        print_wrapped(_line(one))
    for row in report.bad_rows if list_media else report.bad_rows[:_NUM_SHOWN]:
        print_wrapped(f"row {row.row} ({row.name}) cannot be trained on: {row.reason}")
    num_hidden = len(report.bad_rows) - _NUM_SHOWN
    if num_hidden > 0 and not list_media:
        print(f"and {num_hidden} more rows; --list shows them all")
    if len(at_fault) > _NUM_SHOWN and not list_media:
        print(f"and {len(at_fault) - _NUM_SHOWN} more; --list shows them all")


def _line(one: MediaStatus) -> str:
    where = str(one.path) if one.path is not None else one.origin
    what = f"{one.status} {one.name} ({one.num_questions} questions)"
    return ": ".join(part for part in (what, where, one.reason) if part)
