"""``voco-video transcribe``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_video
from voco_video.cli.options import with_options
from voco_video.cli.output import print_json
from voco_video.cli.tables import print_wrapped
from voco_video.errors import UsageError
from voco_video.files.paths import expanded
from voco_video.files.urls import is_url
from voco_video.options.loading import MODEL
from voco_video.options.sampling import Sampling


@with_options
def transcribe(
    path: Annotated[str, typer.Argument(help="A video file with sound.", metavar="PATH")],
    *,
    whisper_model: Annotated[
        str,
        typer.Option(
            help="A size (tiny to large-v3), a name on the hub, or a folder.", metavar="NAME", rich_help_panel=MODEL
        ),
    ] = "small",
    language: Annotated[
        str | None,
        typer.Option(
            help="What is spoken, as a code such as en. [default: detected]", metavar="CODE", rich_help_panel=MODEL
        ),
    ] = None,
    out: Annotated[
        Path | None,
        opt.out("Where the text goes. [default: beside the video, where --subtitles auto finds it]", metavar="FILE"),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Write down what is said in a video, with faster-whisper (extra `transcribe`), as a file of subtitles.

    Only this command transcribes; `ask`, `find` and `eval` read what is there (--subtitles). A model that is not on
    this machine is fetched from the hub.

    \b
    Examples:
      voco-video transcribe talk.mp4
      voco-video transcribe talk.mp4 --whisper-model large-v3 --language de --out talk.de.vtt
      voco-video ask talk.mp4 "What is the first step?" --subtitles auto
    """
    if is_url(path):
        raise UsageError(f"{path} is a URL; transcribe a file")
    check_video(path, Sampling())
    video = expanded(path)
    target = out or video.with_suffix(".vtt")
    if target.suffix.lower() != ".vtt":
        raise UsageError(f"--out {target}: give a file that ends with .vtt")
    if out is None and target.exists():
        raise UsageError(f"{target} is there already; name another file with --out, or remove it")
    from voco_video.video import transcribing

    cues = transcribing.transcribe(video, whisper_model=whisper_model, language=language)
    transcribing.write_vtt(target, cues)
    if json:
        print_json({"path": path, "out": str(target), "lines": [asdict(cue) for cue in cues]})
        return
    for cue in cues:
        print_wrapped(f"{cue.start_seconds:.2f}-{cue.end_seconds:.2f} {cue.text}")
    print(f"{len(cues)} lines in {target}", file=sys.stderr)
