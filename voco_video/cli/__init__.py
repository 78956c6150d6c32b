"""The command line: every command parses, calls one public function and prints.

Nothing heavy is imported before a command runs, so ``--help`` is immediate.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

import typer

from voco_video.cli import (
    ask,
    cache_copies,
    card,
    compare,
    compress,
    convert,
    data,
    demo,
    evaluate,
    export_llm,
    find,
    index,
    inspect,
    judge_agreement,
    mcp,
    models,
    push,
    retention,
    score,
    serve,
    train,
    transcribe,
)
from voco_video.cli.encoding import print_whatever_the_encoding, shown
from voco_video.cli.help import Command, Group
from voco_video.cli.options import as_said_here
from voco_video.cli.progress import fetching_files, shows_progress
from voco_video.cli.tables import print_error, print_wrapped
from voco_video.errors import VocoVideoError
from voco_video.hub.watching import watched_by
from voco_video.model.freed_memory import keep_freed_memory
from voco_video.version import __version__

app = typer.Typer(
    name="voco-video",
    cls=Group,
    help="""Compress every frame of a video once, keep the frames as a few tokens each, ask as often as you like.

    \b
    Examples:
      voco-video demo
      voco-video ask clip.mp4 "What happens?"
      voco-video ask holiday.mp4 "Who is swimming?" --model smolvlm2-500m
      voco-video find recordings/ "a red car"

    `voco-video COMMAND --help` has examples and all options of a command.
    """,
    no_args_is_help=True,
    add_completion=False,
    epilog="Exit codes: 0 done; 1 the work failed, or that of some of many; 2 used wrongly: an option or a value that "
    "cannot be right, or the name of something that is not there or is no such thing; 130 interrupted.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Videos": {
        "demo": demo.demo,
        "ask": ask.ask,
        "find": find.find,
        "compress": compress.compress,
        "inspect": inspect.inspect,
        "serve": serve.serve,
        "mcp": mcp.mcp,
        "transcribe": transcribe.transcribe,
    },
    "Models": {
        "models": models.models,
        "convert": convert.convert,
        "export-llm": export_llm.export_llm,
        "card": card.card,
        "push": push.push,
    },
    "Training and evaluation": {
        "train": train.train,
        "eval": evaluate.evaluate,
        "score": score.score,
        "compare": compare.compare,
        "judge-agreement": judge_agreement.judge_agreement,
        "retention": retention.retention,
    },
}
for _panel, _named in _COMMANDS.items():
    for _name, _function in _named.items():
        app.command(_name, cls=Command, rich_help_panel=_panel)(_function)
app.add_typer(data.app, name="data", cls=Group, rich_help_panel="Training and evaluation")
app.add_typer(cache_copies.app, name="cache", cls=Group, rich_help_panel="Storage")
app.add_typer(index.app, name="index", cls=Group, rich_help_panel="Storage")


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        print(f"voco-video {__version__}")
        raise typer.Exit


class _AsSaidHere(logging.Formatter):
    """Messages of the library with its options written as flags of the running command."""

    def format(self, record: logging.LogRecord) -> str:
        return as_said_here(super().format(record))


class _OnStandardError(logging.Handler):
    """Messages above the line of progress, where there is one: it stands in for standard error meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        lines = self.format(record).split("\n")
        print_wrapped("\n".join(shown(line, sys.stderr) for line in lines), file=sys.stderr)


def main() -> None:
    """Run the command line; its help says what the exit codes mean."""
    # Progress is shown by this program. Each of these is read when a library is imported: the first is the only thing
    # that transformers asks before it draws a bar while it loads weights; Trainer's bar would go into pipes, too.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what concerns a user is said in words of this program
    if not shows_progress(sys.stderr):
        os.environ.setdefault("TQDM_DISABLE", "1")
    keep_freed_memory()
    print_whatever_the_encoding()
    logging.addLevelName(logging.INFO, "note")
    logging.addLevelName(logging.WARNING, "warning")
    shown = _OnStandardError()
    shown.setFormatter(_AsSaidHere("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[shown])
    logging.getLogger("voco_video.hub").setLevel(logging.INFO)  # what is fetched may be gigabytes
    try:
        with watched_by(fetching_files):
            app(prog_name="voco-video")
    except VocoVideoError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        sys.exit(0)
