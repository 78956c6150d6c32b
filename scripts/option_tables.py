"""Tables of all options, made from the fields that declare them: name, type, default and help.

python scripts/option_tables.py [FILE]        default: docs/reference/options.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

from voco_video.evaluate import EvalOptions
from voco_video.options.answering import AnswerOptions, ViewOptions
from voco_video.options.cluster import ClusterOptions
from voco_video.options.compression import CompressOptions, StreamOptions
from voco_video.options.engine import EngineOptions
from voco_video.options.fields import option_rows
from voco_video.options.judging import Judging
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling
from voco_video.training.config import GROUPS

SECTIONS = {
    "Compressing and asking": (LoadOptions, Sampling, CompressOptions, StreamOptions, ViewOptions, AnswerOptions),
    "Many videos": (ClusterOptions,),
    "An engine": (EngineOptions,),
    "Evaluation": (EvalOptions, Judging),
    "Training": GROUPS,
}


def option_table(owner: type) -> str:
    """The options of one dataclass as a Markdown table."""
    lines = ["| option | type | default | |", "|---|---|---|---|"]
    for name, kind, default, text in option_rows(owner):
        cells = (f"`{name}`", kind, default or "–", text)
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines)


def option_tables() -> str:
    """The page: every section with its dataclasses, each with the first sentence of its docstring and its table."""
    parts = ["# Options"]
    for title, owners in SECTIONS.items():
        parts.append(f"## {title}")
        for owner in owners:
            sentence = (owner.__doc__ or "").strip().splitlines()[0]
            parts += [f"### {owner.__name__}", sentence, option_table(owner)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path("docs/reference/options.md"))
    path = parser.parse_args().file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(option_tables(), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
