"""How frames are compressed and how the result is kept, of a file and of a source that is still being made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from voco_video.errors import UsageError
from voco_video.options.fields import Options, did_you_mean, documented, option, same_option
from voco_video.options.sampling import Sampling

Form = Literal["kv", "embeds"]
"""What is kept of a VoCo token: the keys and values of every layer, or the last hidden state."""

Forms = Literal["kv", "embeds", "both"]
"""What weights were trained to read."""

Storage = Literal["native", "int8"]
BatchSize = int | Literal["auto"]
Decoder = Literal["pyav", "decord", "torchcodec"]
WhenBehind = Literal["wait", "thin"]
CompressorName = Literal["voco", "full", "pool", "none"]
COMPRESSORS = "auto, voco, full, pool:k (as in pool:4), none"
FOLLOWING = "Following a source (--follow)"
"""The group of options on a source that is still being made."""
STORAGE = "Storage"
"""The group of options on what is kept, and where."""
AUTO = "auto"
"""Stands for the compressor that `voco_video.auto_compressor` chooses."""


@dataclass(frozen=True)
class Compressor:
    """One member of the family of compressors, see `voco_video.model.compressors`.

    Attributes:
        name: ``"voco"``, ``"full"``, ``"pool"`` or ``"none"``.
        num_tokens: k of ``pool:k``; None for the others.

    >>> str(Compressor("pool", 4)), str(Compressor("full"))
    ('pool:4', 'full')
    """

    name: CompressorName
    num_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(CompressorName):
            meant = did_you_mean(self.name, (AUTO, *get_args(CompressorName)))
            raise UsageError(f"compressor={str(self)!r} is not one of {COMPRESSORS}{meant}")
        if self.name == "pool" and (self.num_tokens is None or self.num_tokens < 1):
            raise UsageError(f"compressor={str(self)!r}: say how many tokens a frame keeps, 1 or more, as in pool:4")
        if self.name != "pool" and self.num_tokens is not None:
            raise UsageError(f"compressor={str(self)!r}: only pool takes a number; for voco set num_voco_tokens")

    def __str__(self) -> str:
        return self.name if self.num_tokens is None else f"{self.name}:{self.num_tokens}"

    @property
    def sees_frames(self) -> bool:
        """Whether anything of a frame is kept; where not, nothing has to be decoded."""
        return self.name != "none"

    def check_budget(self, num_voco_tokens: int | None) -> None:
        """Refuse a number of VoCo tokens for a compressor that makes none.

        Raises:
            UsageError: one is given, and this is not ``voco``.
        """
        if num_voco_tokens is not None and self.name != "voco":
            raise UsageError(
                f"num_voco_tokens={num_voco_tokens} is for compressor 'voco'; {str(self)!r} makes no VoCo tokens, so "
                "leave it out, or choose how many tokens to keep with 'pool:k'"
            )


def parse_compressor(text: str) -> Compressor:
    """Read ``"voco"``, ``"full"``, ``"pool:4"`` or ``"none"``.

    Raises:
        UsageError: it is none of these.

    >>> parse_compressor("pool:4")
    Compressor(name='pool', num_tokens=4)
    """
    name, colon, number = text.partition(":")
    if colon and not (number.isascii() and number.isdigit()):
        raise UsageError(f"compressor={text!r}: {number!r} is not a number of tokens; choose from {COMPRESSORS}")
    return Compressor(name, int(number) if colon else None)  # type: ignore[arg-type]


def check_batch_size(batch_size: BatchSize) -> None:
    """Refuse a batch size that is no number of frames.

    Raises:
        UsageError: below 1, or a word other than ``auto``.
    """
    if batch_size != "auto" and (isinstance(batch_size, str) or batch_size < 1):
        raise UsageError(f"batch_size={batch_size!r}: give a number of frames from 1 on, or auto for as many as fit")


def parse_batch_size(text: str) -> BatchSize:
    """Read ``"16"`` or ``"auto"``.

    Raises:
        UsageError: neither a number of frames nor auto.
    """
    size = int(text) if text.isascii() and text.isdigit() else text
    check_batch_size(size)  # type: ignore[arg-type]
    return size  # type: ignore[return-value]


@documented
@dataclass(frozen=True)
class CompressOptions(Options, panel="Compression"):
    """How frames are compressed and how the result is kept.

    ``num_voco_tokens`` goes with compressor ``voco``; any smaller budget can be chosen later. ``storage="int8"`` takes
    about half of the bytes of a model in 16 bit, a quarter in 32. With ``batch_size="auto"`` the batch is halved
    whenever memory runs out.
    """

    compressor: str = option(
        AUTO,
        "voco (learned), full (all vision tokens), pool:K (averaged to K, needs no training), none (text alone), or "
        "auto: voco where it is trained, else full or the largest pool:K with which all frames fit the context.",
        metavar="NAME",
    )
    num_voco_tokens: int | None = option(
        None, "VoCo tokens kept per frame.", unit="tokens", at_least=1, unset="as many as the model has"
    )
    form: Form | None = option(
        None, "Keep keys and values of every layer, or one embedding per token.", unset="as it was trained"
    )
    storage: Storage = option("native", "Keep the model's own type, or int8.", panel=STORAGE)
    batch_size: BatchSize = option(
        16, "Frames per forward pass, or auto: as many as fit.", metavar="N|auto", parse=parse_batch_size
    )
    merge_pictures: bool = option(
        True, "Merge pictures of a video as the model was trained (Qwen: pairs); else each is a frame of its own."
    )
    decoder: Decoder = option("pyav", "What decodes the video.")
    force: bool = option(False, "Compress again even where the cache has the video.", panel=STORAGE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compressor != AUTO:
            parse_compressor(self.compressor).check_budget(self.num_voco_tokens)
        check_batch_size(self.batch_size)


@documented
@dataclass(frozen=True)
class StreamOptions(Options, panel=FOLLOWING):
    """How a source that is still being made is followed.

    With a ``name`` the same name, model and settings continue the same entry, whatever the source; without one every
    run makes a new entry. A pipe ends when it is closed, whatever ``idle_seconds`` says. With ``when_behind="wait"``
    the source waits for the model, with ``"thin"`` waiting frames are dropped, evenly, and counted. A source that
    ``starts_over`` gives the same frames when it is opened again, and those that are there already are passed over;
    what another source gives is new, and is placed on the entry's clock by the time that went by.
    """

    fps: float = same_option(Sampling, "fps", default=1.0, unset="")
    name: str | None = option(
        None, "Name the entry; the same name continues it.", metavar="NAME", unset="a new entry each time"
    )
    resume: bool = option(False, "Continue this source's latest entry.")
    publish_seconds: float = option(
        1.0, "Let others read new frames this often.", unit="seconds", above=0, at_most=math.inf
    )
    idle_seconds: float = option(
        30.0, "A file or URL that gives nothing new for so long has ended.", unit="seconds", above=0, at_most=math.inf
    )
    end_marker: str | Path | None = option(None, "A file has also ended when this path exists.", metavar="PATH")
    when_behind: WhenBehind | None = option(
        None,
        "Where the model is slower than the source: let it wait, or drop frames.",
        unset="thin for URLs, else wait",
    )
    starts_over: bool | None = option(
        None,
        "Whether the source, opened again, starts over or goes on with what is new.",
        flag="--starts-over/--goes-on",
        unset="files start over",
    )
    force: bool = option(False, "Drop the entry of this name and begin anew.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None and not self.name.strip():
            raise UsageError(f"name={self.name!r} is an empty name; leave it out or give one")
        if self.resume and (self.name is not None or self.force):
            other = "force=True" if self.force else f"name={self.name!r}, which continues by itself"
            raise UsageError(f"resume=True continues the latest entry of this source; leave out either it or {other}")
