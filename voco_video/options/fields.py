"""An option is the field of a dataclass, with its help and its limits beside its name, type and default.

The rest follows from the field: the check of a value, the flag of the command line (`voco_video.cli.options`), the key
of a recipe (`voco_video.training.recipes`), the attributes in the class's docstring (`documented`) and the tables of
the documentation (`option_rows`).
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import textwrap
import types
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from voco_video.errors import UsageError


@dataclass(frozen=True)
class Details:
    """The details of an option beside its name, type and default.

    Attributes:
        help: one sentence or two for a user.
        flag: its name on the command line, where that is not ``--field-name``. Two names with a slash between them set
            a switch to True and to False.
        metavar: what stands for its value in the help of the command line.
        unit: of a number, in words: "seconds", "frames".
        panel: the group of options that it is shown in, where that is not its class's.
        unset: in words, what happens where the default is None or empty.
        parse: reads the text of the command line, where no plain type does.
        choices: the values there are, where its type does not list them.
        at_least, above, at_most: limits of a number. Infinity has to be allowed by ``at_most``.
    """

    help: str
    flag: str = ""
    metavar: str | None = None
    unit: str = ""
    panel: str = ""
    unset: str = ""
    parse: Callable[[str], Any] | None = None
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None


def option(default: Any, help: str, **details: Any) -> Any:
    """Declare an option: the right side of a dataclass field.

    Args:
        default: its default; `dataclasses.MISSING` for an option that has to be given.
        help, details: see `Details`.
    """
    return dataclasses.field(default=default, metadata={Details: Details(help, **details)})


def same_option(owner: Any, name: str, **changes: Any) -> Any:
    """Declare an option that another dataclass declares already.

    Args:
        owner, name: where the option is declared, and how it is called there.
        changes: what differs: the ``default``, or `Details` such as ``help``.
    """
    original = option_of(owner, name)
    default = changes.pop("default", original.default)
    changes.setdefault("panel", original.panel)
    return dataclasses.field(default=default, metadata={Details: dataclasses.replace(original.details, **changes)})


@dataclass(frozen=True)
class Option:
    """One option as its field declares it.

    Attributes:
        name: of the field.
        type: of its values.
        default: its default; `dataclasses.MISSING` where it has to be given.
        details: help, limits and spelling.
        panel: the group of options that it is shown in.
        group: the first line of the docstring of the class that declares it.
    """

    name: str
    type: Any
    default: Any
    details: Details
    panel: str = ""
    group: str = ""

    @property
    def value_type(self) -> Any:
        """The type without None."""
        others = [kind for kind in _alternatives(self.type) if kind is not type(None)]
        return others[0] if len(others) == 1 else Union[tuple(others)]  # noqa: UP007

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values there are, where they can be listed."""
        return get_args(self.value_type) if get_origin(self.value_type) is Literal else self.details.choices

    @property
    def flags(self) -> tuple[str, ...]:
        """Its names on the command line; the second, where there is one, sets it to False."""
        name = self.name.replace("_", "-")
        is_on = self.default is True and not self.details.flag
        return (f"--{name}", f"--no-{name}") if is_on else tuple((self.details.flag or f"--{name}").split("/"))

    @property
    def default_text(self) -> str:
        """The default as help and tables show it; "" where there is nothing to say."""
        if self.default is MISSING or self.default in (None, (), ""):
            return self.details.unset
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return ", ".join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)

    @property
    def type_text(self) -> str:
        """The values there are, in words: type, unit and limits.

        >>> from voco_video.options.sampling import Sampling
        >>> option_of(Sampling, "num_frames").type_text, option_of(Sampling, "end_seconds").type_text
        ('a whole number of frames, 1 or more', 'a number of seconds')
        """
        choices = self.details.choices
        kind = _kind(Literal[choices] if choices else self.value_type)
        if self.details.unit:
            kind = kind.replace("number", f"number of {self.details.unit}", 1)
        limits = self._limits_text()
        return f"{kind}, {limits}" if limits else kind

    @property
    def facts_text(self) -> str:
        """Type, unit, limits and default, in words."""
        if self.default is MISSING:
            return f"{self.type_text}; has to be given"
        return f"{self.type_text}; default: {self.default_text}" if self.default_text else self.type_text

    def describe(self) -> dict[str, Any]:
        """Return what there is to know about it as plain values; the default of one that has to be given is None."""
        default = None if self.default is MISSING else self.default
        return {
            "name": self.name,
            "group": self.panel,
            "help": self.details.help,
            "type": self.type_text,
            "unit": self.details.unit,
            "choices": list(self.choices),
            "is_required": self.default is MISSING,
            "default": list(default) if isinstance(default, tuple) else default,
            "default_text": self.default_text,
        }

    def _limits_text(self) -> str:
        """Describe the limits of a number; "" where there are none."""
        low, above, high = self.details.at_least, self.details.above, self.details.at_most
        if high is not None and math.isfinite(high):
            return f"{low:g} to {high:g}" if low is not None else f"above {above:g}, at most {high:,.0f}"
        return f"{low:g} or more" if low is not None else f"above {above:g}" if above is not None else ""

    def check(self, value: Any) -> None:
        """Refuse a value that cannot be right.

        Raises:
            UsageError: it is of another type, or beyond the limits.
        """
        if self.choices and value not in (*self.choices, *([None] if _fits(None, self.type) else [])):
            known = list(map(str, self.choices))
            raise UsageError(f"{self.name}={value!r} is not one of {', '.join(known)}{did_you_mean(value, known)}")
        if not _fits(value, self.type):
            raise UsageError(f"{self.name}={value!r} has to be {_kind(self.type)}")
        if isinstance(value, Real) and not isinstance(value, bool) and (limits := self._broken_limits(float(value))):
            raise UsageError(f"{self.name}={value}: {limits}")

    def _broken_limits(self, value: float) -> str:
        """Describe the limits that a value breaks; "" where it breaks none."""
        low, above, high = self.details.at_least, self.details.above, self.details.at_most
        is_inside = (low is None or value >= low) and (above is None or value > above)  # False for NaN
        if is_inside and (value <= high if high is not None else math.isfinite(value)):
            return ""
        if low is not None and high is not None:
            return f"has to lie between {low:g} and {high:g}"
        at_most = f" and at most {high:g}" if high not in (None, math.inf) else ""
        if low is None and above is None:
            return f"has to be finite{at_most}"
        return f"has to be {low:g} or more" if low is not None else f"has to be above {above:g}{at_most}"


class Options:
    """A base of dataclasses whose fields are options: constructing one checks every value.

    ``class Sampling(Options, panel="Sampling")`` names the group of options that its fields are shown in.
    """

    panel: ClassVar[str] = ""

    def __init_subclass__(cls, *, panel: str = "") -> None:
        super().__init_subclass__()
        cls.panel = panel

    def __post_init__(self) -> None:
        owner: Any = type(self)
        for one in options_of(owner):
            one.check(getattr(self, one.name))


@cache
def options_of(owner: Any) -> tuple[Option, ...]:
    """List the options that a dataclass declares, in order."""
    hints = get_type_hints(owner)
    found = []
    for field in dataclasses.fields(owner):
        if Details in field.metadata:
            details, home = field.metadata[Details], _home_of(owner, field.name)
            group = inspect.cleandoc(home.__doc__ or "").partition("\n")[0]
            panel = details.panel or getattr(home, "panel", "")
            found.append(Option(field.name, hints[field.name], field.default, details, panel, group))
    return tuple(found)


def _home_of(owner: Any, name: str) -> Any:
    """Return the class that declares a field of a dataclass: itself, or one of its bases."""
    return next(kind for kind in reversed(owner.__mro__) if name in vars(kind).get("__dataclass_fields__", ()))


def option_of(owner: Any, name: str) -> Option:
    """Return one option of a dataclass by its name."""
    return next(one for one in options_of(owner) if one.name == name)


def option_rows(owner: Any) -> list[tuple[str, str, str, str]]:
    """List name, type, default and help of a dataclass's options for a table of the documentation.

    >>> from voco_video.options.compression import CompressOptions
    >>> option_rows(CompressOptions)[3]
    ('storage', 'native or int8', 'native', "Keep the model's own type, or int8.")
    """
    return [(one.name, one.type_text, one.default_text, one.details.help) for one in options_of(owner)]


_Owner = TypeVar("_Owner", bound=type[Options])


def documented(owner: _Owner) -> _Owner:
    """Add what each option means to the docstring of its dataclass, which `help` and editors show.

    >>> from voco_video.options.sampling import Sampling
    >>> print((inspect.getdoc(Sampling) or "").partition("Attributes:")[2].partition("keyframes")[0].rstrip())
    <BLANKLINE>
        fps (a number, above 0, at most 1,000,000; default: 1, unless frames are sampled in another
            way): Frames per second to sample.
        num_frames (a whole number of frames, 1 or more): Sample this many frames, spread evenly.
    """
    lines = ["Attributes:"]
    anything: Any = owner
    options = options_of(anything)
    has_groups = len({one.group for one in options}) > 1
    group = ""
    for one in options:
        if has_groups and one.group != group:
            group = one.group
            lines += ["", f"    {one.panel}: {group}", ""]
        text = f"{one.name} ({one.facts_text}): {one.details.help}"
        lines += textwrap.wrap(text, 100, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
    owner.__doc__ = "\n".join([inspect.cleandoc(owner.__doc__ or ""), "", *lines])
    return owner


def did_you_mean(value: object, known: Iterable[str], *, within: Path = Path()) -> str:
    """Return a question after the known value that is spelt most like this one; empty where none is.

    Args:
        within: the folder of known files.

    >>> did_you_mean("embed", ("kv", "embeds")), did_you_mean("pixels", ("kv", "embeds"))
    ('; did you mean embeds?', '')
    """
    near = get_close_matches(str(value), list(known), n=1, cutoff=0.7)
    return f"; did you mean {within / near[0]}?" if near else ""


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    """Tell whether a value is of a type, such as ``int | None``, ``tuple[str, ...]`` or ``Literal["a", "b"]``."""
    if len(_alternatives(kind)) > 1:
        return any(_fits(value, one) for one in _alternatives(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, (tuple, list)) and all(_fits(item, get_args(kind)[0]) for item in value)
    if isinstance(value, bool):
        return kind is bool
    numbers = {int: Integral, float: Real}
    return isinstance(value, numbers.get(kind, get_origin(kind) or kind))


def _kind(kind: Any) -> str:
    """Name a type in words."""
    if get_origin(kind) is Literal:
        *others, last = map(str, get_args(kind))
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(kind) is tuple:
        return f"a list of {_PLURALS[get_args(kind)[0]]}"
    names = [_kind(one) for one in _alternatives(kind)] if len(_alternatives(kind)) > 1 else []
    return " or ".join(dict.fromkeys(names)) if names else _KINDS.get(kind, "a mapping")


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "nothing",
}
_PLURALS = {int: "whole numbers", float: "numbers", str: "names"}
