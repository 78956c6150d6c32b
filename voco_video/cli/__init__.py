"""The command line: every command parses, calls one public function and prints.

Nothing heavy is imported before a command runs, so ``--help`` is immediate.
"""

from __future__ import annotations

import logging
import os
import sys

import typer

from voco_video.cli import (
    ask,
    cache,
    card,
    compare,
    compress,
    convert,
    data,
    demo,
    evaluate,
    find,
    inspect,
    models,
    push,
    score,
    train,
)
from voco_video.cli.options import as_said_here
from voco_video.cli.output import print_whatever_the_encoding
from voco_video.errors import VocoVideoError
from voco_video.model.freed_memory import keep_freed_memory
from voco_video.version import __version__

app = typer.Typer(
    name="voco-video",
    help="Compress every frame of a video once, keep the frames as a few tokens each, ask as often as you like.",
    no_args_is_help=True,
    add_completion=False,
    epilog="Exit codes: 0 done; 1 the work failed, or that of some of many; 2 used wrongly: an option or a value that "
    "cannot be right, or the name of something that is not there or is no such thing; 130 interrupted.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("compress")(compress.compress)
app.command("ask")(ask.ask)
app.command("find")(find.find)
app.command("inspect")(inspect.inspect)
app.command("eval")(evaluate.evaluate)
app.command("score")(score.score)
app.command("compare")(compare.compare)
app.command("train")(train.train)
app.command("demo")(demo.demo)
app.command("models")(models.models)
app.command("convert")(convert.convert)
app.command("card")(card.card)
app.command("push")(push.push)
app.add_typer(cache.app, name="cache")
app.add_typer(data.app, name="data")


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        print(f"voco-video {__version__}")
        raise typer.Exit


class _AsSaidHere(logging.Formatter):
    """Messages of the library with its options written as flags of the running command."""

    def format(self, record: logging.LogRecord) -> str:
        return as_said_here(super().format(record))


def main() -> None:
    """Run the command line; its help says what the exit codes mean."""
    if not sys.stderr.isatty():  # transformers draws a bar while it loads weights, and only asks this variable
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    keep_freed_memory()
    print_whatever_the_encoding()
    logging.addLevelName(logging.INFO, "note")
    logging.addLevelName(logging.WARNING, "warning")
    shown = logging.StreamHandler()
    shown.setFormatter(_AsSaidHere("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[shown])
    logging.getLogger("voco_video.hub").setLevel(logging.INFO)  # what is fetched may be gigabytes
    try:
        app()
    except VocoVideoError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        sys.exit(0)
