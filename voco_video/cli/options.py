"""Options of the command line: those that stand for fields of dataclasses, and those that several commands share.

A command takes dataclasses of options as parameters; `with_options` gives it the flags that their fields declare:

    @with_options
    def compress(paths: Paths, sampling: Sampling, compression: Annotated[CompressOptions, without("force")]) -> None:
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.models import OptionInfo

from voco_video.cli.help import DATA, OUTPUT
from voco_video.errors import UsageError, VocoVideoError
from voco_video.options.answering import WHAT_IS_SEEN
from voco_video.options.compression import STORAGE
from voco_video.options.fields import Option, Options, options_of
from voco_video.options.loading import MODEL


@dataclass(frozen=True)
class Running:
    """The options of the running command.

    Attributes:
        flags: how each is written, by its name; the last one sets it to False.
        given: the names of those that stand on the command line.
    """

    flags: Mapping[str, tuple[str, ...]]
    given: frozenset[str] = frozenset()


_running: ContextVar[Running] = ContextVar("running")


def _model_names(begun: str) -> list[tuple[str, str]]:
    """Complete the name of a model on the command line."""
    from voco_video.checkpoint.recommended import RECOMMENDED

    known = [("voco-tiny", "embedded; coloured shapes alone"), *((one.short, one.hub_id) for one in RECOMMENDED)]
    return [(name, about) for name, about in known if name.startswith(begun.lower())]


Model = Annotated[
    str,
    typer.Option(
        help="Checkpoint folder, hub id, short name as `models` lists them, or embedded model.",
        metavar="NAME",
        autocompletion=_model_names,
        rich_help_panel=MODEL,
    ),
]
CacheDir = Annotated[
    str | None,
    typer.Option(
        help="Frame cache: a folder, or the URL of a store. [default: $VOCO_VIDEO_CACHE_DIR or ~/.cache/voco-video]",
        metavar="DIR",
        rich_help_panel=STORAGE,
    ),
]
Subtitles = Annotated[
    str,
    typer.Option(
        help="Tell what is said: auto (a .srt or .vtt beside the video, else its subtitle stream), none, or a file.",
        metavar="auto|FILE|none",
        rich_help_panel=WHAT_IS_SEEN,
    ),
]
Annotations = Annotated[
    Path | None,
    typer.Option(
        help="Annotations that are elsewhere: a file, or a folder to look in. [default: --root]",
        metavar="PATH",
        rich_help_panel=DATA,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Which part of the set: train, val or test. [default: test; val of egoschema, whose test answers are not "
        "public, and of mlvu]",
        metavar="NAME",
        rich_help_panel=DATA,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.", rich_help_panel=OUTPUT)]


def out(help: str, *, metavar: str) -> Any:
    """Declare the option that says where a command writes its files; every command calls it so."""
    return typer.Option("--out", "-o", help=help, metavar=metavar, rich_help_panel=OUTPUT)


def out_or_former(given: Path | None, positional: Path | None, *, what: str) -> Path:
    """Return the path of --out, which in version 0.1.0 was the last argument of some commands, and still may be.

    Raises:
        UsageError: it is not given, or given in both ways.
    """
    chosen = chosen_out(given, positional, what=what)
    if positional is not None:
        print(f"note: {what} is given with --out now; {positional} as an argument still works", file=sys.stderr)
    return chosen


def chosen_out(given: Path | None, positional: Path | None, *, what: str) -> Path:
    """Return the path of --out, or that of the last argument.

    Raises:
        UsageError: it is not given, or given in both ways.
    """
    if given is not None and positional is not None:
        raise UsageError(f"--out {given} and {positional}: give {what} once, with --out")
    chosen = given or positional
    if chosen is None:
        raise UsageError(f"--out is missing: {what}")
    return chosen


@dataclass(frozen=True)
class Selection:
    """The options of a dataclass that a command takes; an annotation of its parameter.

    Attributes:
        names: their names; None for all but ``left_out``.
        left_out: the names of the others.
        given_only: the command gets a dictionary of the values that the user gave, not the dataclass.
    """

    names: frozenset[str] | None = None
    left_out: frozenset[str] = frozenset()
    given_only: type | None = None

    def options_of(self, owner: Any) -> tuple[Option, ...]:
        """List the selected options of a dataclass."""
        chosen = options_of(owner)
        for name in (self.names or frozenset()) | self.left_out:
            assert any(one.name == name for one in chosen), f"{owner.__name__} has no option {name}"
        return tuple(o for o in chosen if (self.names is None or o.name in self.names) and o.name not in self.left_out)


def only(*names: str) -> Selection:
    """Select the named options of a dataclass."""
    return Selection(names=frozenset(names))


def without(*names: str) -> Selection:
    """Select all options of a dataclass but the named ones."""
    return Selection(left_out=frozenset(names))


def given(owner: type, *left_out: str) -> Selection:
    """Select all options but the named ones, and hand over those that the user gave, by name."""
    return Selection(left_out=frozenset(left_out), given_only=owner)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses of options.

    Every field of such a parameter becomes an option of the command line, in its place, with the field's type, default
    and help. The command is called with finished dataclasses, so a value that cannot be right is refused by the check
    of its field. An error that names an option as ``name=value`` shows it as the user wrote it: ``--name value``.
    """
    parameters: list[inspect.Parameter] = []
    bundles: dict[str, tuple[Any, Selection]] = {}
    flags: dict[str, tuple[str, ...]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        owner, selection = _bundle(parameter.annotation)
        if owner is None:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            flags |= _plain_flags(parameter)
            continue
        bundles[parameter.name] = owner, selection
        for one in selection.options_of(owner):
            assert one.name not in flags, f"two parameters of {command.__name__} have an option {one.name}"
            flags[one.name] = one.flags
            parameters.append(_parameter(one, selection))

    @functools.wraps(command)
    def run(*, running_context: typer.Context | None = None, **values: Any) -> None:
        _running.set(Running(flags, _on_command_line(running_context, values)))
        with errors_as_flags(flags):
            arguments: dict[str, Any] = {}
            for name, (owner, selection) in bundles.items():
                read = {o.name: _read(o, values.pop(o.name)) for o in selection.options_of(owner)}
                chosen = {n: value for n, value in read.items() if value is not None}
                arguments[name] = chosen if selection.given_only else owner(**chosen)
            command(**arguments, **values)

    del run.__dict__["__wrapped__"]
    context = inspect.Parameter("running_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters.append(context)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _on_command_line(context: typer.Context | None, names: Iterable[str]) -> frozenset[str]:
    """Return the names of the parameters that were given, and not left to their default."""
    if context is None:  # called from Python
        return frozenset()
    sources = {name: context.get_parameter_source(name) for name in names}
    return frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")


def _plain_flags(parameter: inspect.Parameter) -> dict[str, tuple[str, ...]]:
    """Return the flag of a parameter that is an option of the command line already."""
    for note in get_args(parameter.annotation):
        if isinstance(note, OptionInfo):
            declared = [flag for flag in note.param_decls or () if flag.startswith("--")]
            return {parameter.name: (declared[0] if declared else f"--{parameter.name.replace('_', '-')}",)}
    return {}


def _bundle(annotation: Any) -> tuple[Any, Selection]:
    """Return the dataclass of options that a parameter is annotated with, or None, and the selection of its options."""
    kind, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    selection = next((note for note in notes if isinstance(note, Selection)), Selection())
    owner = selection.given_only or kind
    return (owner if isinstance(owner, type) and issubclass(owner, Options) else None), selection


def _parameter(one: Option, selection: Selection) -> inspect.Parameter:
    """Make the parameter that typer turns into an option of the command line."""
    kind, default = _plain_type(one), one.default
    shown = f" [default: {one.default_text}]" if one.default_text not in ("", "false") else ""
    if default in (None, ()) or selection.given_only:
        default = False if kind is bool and one.default is False else None
    elif one.details.parse is not None:
        default = str(default)
    note = typer.Option(
        "/".join(one.flags), help=f"{one.details.help}{shown}", metavar=_metavar(one), rich_help_panel=one.panel
    )
    return inspect.Parameter(
        one.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind if default is not None else kind | None, note],
    )


def _metavar(one: Option) -> str:
    """Return what stands for the value of an option in help."""
    if one.details.metavar is not None:
        return one.details.metavar
    if one.choices:
        return "|".join(map(str, one.choices))
    if one.details.unit == "seconds":
        return "SECONDS"
    return {int: "N", float: "X", Path: "PATH"}.get(_plain_type(one), "TEXT")


def _plain_type(one: Option) -> type:
    """Return the type that typer reads from the command line; `_read` and the dataclass do the rest."""
    if one.details.parse is not None:
        return str
    alternatives = {bool, int, float, Path, str} & {one.value_type, *get_args(one.value_type), *map(type, one.choices)}
    return next(kind for kind in (bool, int, float, Path, str) if kind in alternatives)


def _read(one: Option, value: Any) -> Any:
    """Convert a value to what the dataclass takes; None where the user gave none."""
    if value is None or (value is False and one.default is False):
        return None
    return one.details.parse(value) if one.details.parse is not None else value


def given_flags(*owners: Any, but: Collection[str] = ()) -> list[str]:
    """List the flags of options of these dataclasses that stand on the command line, all but the named ones."""
    running = _running.get(Running({}))
    names = [one.name for owner in owners for one in options_of(owner) if one.name not in but]
    return [running.flags[name][0] for name in names if name in running.given]


def as_said_here(message: str) -> str:
    """Write the options that a message names as flags of the running command."""
    return as_flags(message, _running.get(Running({})).flags)


@contextmanager
def errors_as_flags(flags: Mapping[str, tuple[str, ...]]) -> Iterator[None]:
    """Show options in the messages of errors as flags of the command line."""
    try:
        yield
    except VocoVideoError as error:
        error.args = (as_flags(str(error), flags),)
        raise


def as_flags(message: str, flags: Mapping[str, tuple[str, ...]]) -> str:
    """Write ``name=value`` as ``--name value`` for every option that a message names.

    Args:
        flags: the flags of each option by its name; the last one sets it to False.

    >>> flags = {"start_seconds": ("--start",), "form": ("--form",), "force": ("--force",)}
    >>> as_flags("start_seconds=5.0, form='zip' and force=True", flags)
    '--start 5.0, --form zip and --force'
    >>> as_flags("this form has no end; give start_seconds", flags)
    'this form has no end; give --start'
    """
    for name, (first, *others) in flags.items():
        message = re.sub(rf"\b{name}=True\b", first, message)
        message = re.sub(rf"\b{name}=False\b", others[-1] if others else f"no {first}", message)
        message = re.sub(rf"\b{name}='([\w.:/,-]+)'", rf"{first} \1", message)
        message = re.sub(rf"\b{name}=(?=\S)", f"{first} ", message)
        if "_" in name:  # what is no word of its own
            message = re.sub(rf"(?<![\w./-]){name}\b(?![\w/=-]|\.\w)", first, message)
    return message
