"""Options that several commands share: one name, one type, one sentence each."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voco_video.errors import UsageError

if TYPE_CHECKING:
    from voco_video.model.memory import BatchSize as FramesPerPass


class FormChoice(str, Enum):
    """What is kept of a VoCo token."""

    kv = "kv"
    embeds = "embeds"


class StorageChoice(str, Enum):
    """How numbers are kept on disk."""

    native = "native"
    int8 = "int8"


class PolicyChoice(str, Enum):
    """Which frames a question sees where not all fit."""

    uniform = "uniform"
    recent = "recent"
    relevant = "relevant"
    elastic = "elastic"


class DecoderChoice(str, Enum):
    """What decodes videos."""

    pyav = "pyav"
    decord = "decord"
    torchcodec = "torchcodec"


class SplitChoice(str, Enum):
    """A part of a data set."""

    train = "train"
    val = "val"
    test = "test"


_SAMPLING, _MODEL, _OUTPUT = "Sampling", "Model", "Output"

Model = Annotated[str, typer.Option(help="Checkpoint folder, cached hub id, or embedded model.", metavar="PATH")]
Fps = Annotated[
    float | None, typer.Option(help="Frames per second to sample. [default: 1, unless another policy is given]")
]
NumFrames = Annotated[int | None, typer.Option(help="Sample this many frames, spread evenly.")]
Keyframes = Annotated[bool, typer.Option("--keyframes", help="Take the file's own keyframes: nearly free.")]
Timestamps = Annotated[
    str | None, typer.Option(help="Take the frames shown at these seconds: 1.5,20,61.", metavar="S,S,...")
]
Start = Annotated[float | None, typer.Option("--start", help="Start of the window, seconds.")]
End = Annotated[float | None, typer.Option("--end", help="End of the window, seconds.")]
Compressor = Annotated[
    str,
    typer.Option(
        help="voco (learned), full (all vision tokens), pool:K (averaged to K, needs no training), none (text alone).",
        metavar="NAME",
    ),
]
NumVocoTokens = Annotated[
    int | None, typer.Option(help="VoCo tokens kept per frame. [default: as many as the model has]")
]
Budget = Annotated[
    int | None, typer.Option(help="VoCo tokens per frame to answer from, at most what was kept. [default: all]")
]
MaxVocoTokens = Annotated[
    int | None,
    typer.Option(help="Tokens of all frames that a question sees. [default: what the model's context has room for]"),
]
Policy = Annotated[
    PolicyChoice,
    typer.Option(
        help="Where not all fit: spread evenly, the last ones, those that have to do with the question, or many at one "
        "token and those at all."
    ),
]
Neighbours = Annotated[int, typer.Option(help="Frames on each side that a relevant one brings with it.")]
ClockEverySeconds = Annotated[
    float | None, typer.Option(help="Tell the model the time as text, this often. [default: never]", metavar="SECONDS")
]
Form = Annotated[
    FormChoice | None,
    typer.Option(help="Keep keys and values of every layer, or one embedding per token. Default: as it was trained."),
]
Storage = Annotated[StorageChoice, typer.Option(help="Keep the model's own type, or int8.")]
BatchSize = Annotated[str, typer.Option(help="Frames per forward pass, or auto: as many as fit.", metavar="N|auto")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="Spread layers over all GPUs: auto, balanced, balanced_low_0 or sequential.", metavar="HOW"),
]
WeightBits = Annotated[int, typer.Option(help="8 or 4: the decoder's weights in that many bits, on a GPU.")]
Attention = Annotated[str, typer.Option("--attention", help="auto, sdpa, flash_attention_2, eager or blocked.")]
Decoder = Annotated[DecoderChoice, typer.Option(help="What decodes the video.")]
CacheDir = Annotated[
    Path | None, typer.Option(help="Frame cache. [default: $VOCO_VIDEO_CACHE_DIR or ~/.cache/voco-video]")
]
Split = Annotated[
    SplitChoice | None,
    typer.Option(
        help="Which part of the set. [default: test; val of egoschema, whose test answers are not public, and of mlvu]"
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Compress again even where the cache has the video.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def parse_batch_size(text: str) -> FramesPerPass:
    """``"16"`` or ``"auto"``.

    Raises:
        UsageError: neither a number of frames nor auto.
    """
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UsageError(f"--batch-size {text!r}: give a number of frames from 1 on, or auto for as many as fit")
    return int(text)
