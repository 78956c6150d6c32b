"""``voco-video push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voco_video.cli.early import check_files, check_folder
from voco_video.cli.progress import sending
from voco_video.options.loading import MODEL


def push(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder.", metavar="CHECKPOINT")],
    repo: Annotated[
        str, typer.Argument(help="Its name at the hub: user/name. Made where it is not there yet.", metavar="REPO")
    ],
    reports: Annotated[
        list[Path] | None, typer.Argument(help="predictions*.scores.json for its card.", metavar="REPORT...")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Only you can read a repository that is made.")] = False,
    revision: Annotated[
        str | None,
        typer.Option(
            help="Branch, made where it is not there yet. [default: main]", metavar="NAME", rich_help_panel=MODEL
        ),
    ] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.", metavar="TEXT")] = None,
) -> None:
    """Publish a checkpoint at the Hugging Face Hub, with a model card where it has no README.md.

    Only what the model needs goes there. Log in with `hf auth login`, or set HF_TOKEN.

    \b
    Examples:
      voco-video push runs/mine/last me/mine --private
      voco-video push runs/mine/last me/mine runs/mine/msvd/predictions-k*.scores.json
    """
    check_folder(Path(checkpoint), why="what is published is a checkpoint's folder")
    check_files(reports or [])
    from voco_video.publish.push import push_checkpoint

    with sending(f"uploading {repo}"):
        address = push_checkpoint(
            checkpoint, repo, reports=reports or [], private=private or None, revision=revision, message=message
        )
    print(address)
