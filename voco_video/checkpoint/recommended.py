"""Checkpoints to begin with, and the short names that stand for them wherever a model is named."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

BYTES_PER_PARAMETER = 2  # of weights in 16 bits


@dataclass(frozen=True)
class Recommended:
    """A published checkpoint.

    Attributes:
        short: its short name.
        hub_id: its name on the Hugging Face hub.
        num_parameters: counted from its configuration.
        licence: as its card states it.
        tokens_per_frame: vision tokens of a frame; None where these depend on the shape of the picture.
    """

    short: str
    hub_id: str
    num_parameters: int
    licence: str
    tokens_per_frame: int | None

    @property
    def weight_bytes(self) -> int:
        """Memory that its weights take in 16 bits, computed; a question takes some more."""
        return BYTES_PER_PARAMETER * self.num_parameters

    @property
    def command(self) -> str:
        """A question to it."""
        return f'voco-video ask clip.mp4 "What happens?" --model {self.short}'


_APACHE, _QWEN = "Apache-2.0", "Qwen"
_SMOL, _QWENS, _INTERN, _LLAVA = "HuggingFaceTB", "Qwen", "OpenGVLab", "llava-hf"
DEFAULT = Recommended("smolvlm2-500m", f"{_SMOL}/SmolVLM2-500M-Video-Instruct", 507_482_304, _APACHE, 64)
RECOMMENDED = (
    DEFAULT,
    Recommended("smolvlm2-256m", f"{_SMOL}/SmolVLM2-256M-Video-Instruct", 256_484_928, _APACHE, 64),
    Recommended("smolvlm2-2.2b", f"{_SMOL}/SmolVLM2-2.2B-Instruct", 2_246_784_880, _APACHE, 81),
    Recommended(
        "qwen2.5-vl-3b",
        f"{_QWENS}/Qwen2.5-VL-3B-Instruct",
        3_754_622_976,
        "Qwen, not commercial",
        None,
    ),
    Recommended("qwen2.5-vl-7b", f"{_QWENS}/Qwen2.5-VL-7B-Instruct", 8_292_166_656, _APACHE, None),
    Recommended("qwen3-vl-2b", f"{_QWENS}/Qwen3-VL-2B-Instruct", 2_127_532_032, _APACHE, None),
    Recommended("qwen3-vl-4b", f"{_QWENS}/Qwen3-VL-4B-Instruct", 4_437_815_808, _APACHE, None),
    Recommended("qwen3-vl-8b", f"{_QWENS}/Qwen3-VL-8B-Instruct", 8_767_123_696, _APACHE, None),
    Recommended("internvl3-1b", f"{_INTERN}/InternVL3-1B-hf", 938_194_816, _QWEN, 256),
    Recommended("internvl3-2b", f"{_INTERN}/InternVL3-2B-hf", 2_088_957_440, "see its card", 256),
    Recommended(
        "llava-onevision-0.5b",
        f"{_LLAVA}/llava-onevision-qwen2-0.5b-ov-hf",
        893_659_936,
        _APACHE,
        196,
    ),
    Recommended("llava-1.5-7b", f"{_LLAVA}/llava-1.5-7b-hf", 7_063_427_072, "Llama 2", 576),
)
_HUB_IDS = {one.short: one.hub_id for one in RECOMMENDED}


def full_name(name: str) -> str:
    """Replace a short name by the hub id that it stands for; other names stay as they are.

    >>> full_name("smolvlm2-500m@main"), full_name("my/model")
    ('HuggingFaceTB/SmolVLM2-500M-Video-Instruct@main', 'my/model')
    """
    short, at, revision = name.partition("@")
    return _HUB_IDS.get(short.lower(), short) + at + revision


def similar_names(name: str) -> list[str]:
    """List the short names and hub ids that a misspelt name may have meant, the nearest first; none for a right one.

    >>> similar_names("smolvlm-500m")[0]
    'smolvlm2-500m'
    """
    wanted = name.partition("@")[0].lower()
    known = {one.lower(): one for pair in _HUB_IDS.items() for one in pair}
    return [] if wanted in known else [known[one] for one in get_close_matches(wanted, known, n=3, cutoff=0.7)]
