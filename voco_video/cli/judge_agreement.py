"""``voco-video judge-agreement``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.early import check_files
from voco_video.cli.help import QUESTIONS
from voco_video.cli.options import with_options
from voco_video.cli.output import print_json
from voco_video.cli.progress import ProgressBar
from voco_video.cli.score import default_judge_cache_dir
from voco_video.cli.tables import Column, print_table, print_wrapped
from voco_video.options.judging import Judging


@with_options
def judge_agreement(
    pairs: Annotated[
        list[Path],
        typer.Argument(
            help="Answers that people judged: rows with question, answer, prediction and human, or files of EVOUNA.",
            metavar="PAIRS...",
        ),
    ],
    *,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Take this many pairs, drawn by --seed. [default: all]", metavar="N", rich_help_panel=QUESTIONS
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other pairs.", rich_help_panel=QUESTIONS)] = 0,
    judging: Judging,
    json: opt.Json = False,
) -> None:
    """Measure how well a judge agrees with people, beside rules that cost nothing.

    Without a judge only the rules are measured. With --judge-base-url alone the judge is the default one, which the
    endpoint has to serve under its name and revision.

    \b
    Examples:
      voco-video judge-agreement EVOUNA/NQ.json EVOUNA/TQ.json
      voco-video judge-agreement EVOUNA/NQ.json --limit 1000 --judge-base-url http://localhost:8000/v1
      voco-video judge-agreement pairs.jsonl --judge-model gpt-4o-mini-2024-07-18
    """
    check_files(pairs)
    from voco_video.scoring.judge.agreement import agreement_rows, agreement_values, drawn, read_pairs, rule_agreements
    from voco_video.scoring.judge.agreement import judge_agreement as measure
    from voco_video.scoring.report.scores import judge_notes

    chosen = drawn([pair for path in pairs for pair in read_pairs(path)], limit, seed=seed)
    agreements, judgement = list(rule_agreements(chosen)), None
    if judging.judge_model is not None:
        judging = replace(judging, judge_cache_dir=judging.judge_cache_dir or default_judge_cache_dir())
        with ProgressBar("judging", unit="pair", quiet=json) as bar:
            found, judgement = measure(chosen, judging, cache_dir=judging.judge_cache_dir, progress=bar.show)
        agreements.append(found)
    if json:
        judged = None if judgement is None else judgement.as_dict()
        print_json({"agreements": [agreement_values(one) for one in agreements], "judgement": judged})
        return
    columns, rows = agreement_rows(agreements)
    print_table([columns[0], *(Column(name, right=True) for name in columns[1:])], rows)
    for note in () if judgement is None else judge_notes(judgement):
        print_wrapped(note)
