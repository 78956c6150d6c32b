"""``voco-video demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from voco_video.cli import options as opt
from voco_video.cli.answers import answer_facts
from voco_video.cli.compress import print_summary, summary
from voco_video.cli.output import print_json
from voco_video.cli.pictures import save_picture
from voco_video.cli.progress import ProgressBar
from voco_video.cli.run_line import run_line
from voco_video.cli.tables import Column, print_table, print_wrapped
from voco_video.options.answering import WHAT_IS_SEEN


def demo(
    num_voco_tokens: Annotated[
        int, typer.Option(help="VoCo tokens per frame to answer from.", metavar="N", rich_help_panel=WHAT_IS_SEEN)
    ] = 1,
    out: Annotated[Path, opt.out("Where the clip and the picture go.", metavar="DIR")] = Path("voco-video-demo"),
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    """Make a clip, compress it, ask about it: everything once, in a few seconds, with the embedded model.

    Run it twice: the second time the frames come from the cache, and nothing is decoded or compressed.

    \b
    Examples:
      voco-video demo
      voco-video demo --num-voco-tokens 4
    """
    from voco_video.answer.pictures import attention_strip
    from voco_video.api import load_model
    from voco_video.shapes.questions import demo_questions
    from voco_video.shapes.rendering import write_clip
    from voco_video.shapes.world import demo_scene

    clip = out / "clip.mp4"
    if not clip.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_clip(demo_scene(), clip)
    with ProgressBar(clip.name, quiet=json) as bar:
        video = load_model("voco-tiny", cache_dir=cache_dir).compress(clip, fps=1, on_progress=bar.show_frames)
    truths = demo_questions()
    answers = video.ask(
        [t.question for t in truths], num_voco_tokens=num_voco_tokens, max_new_tokens=8, with_attention=True
    )
    picture = out / "where-it-looked.png"
    about = summary(clip, video)
    save_picture(attention_strip(answers[0], source=clip, head=f"{clip.name} · {run_line([about])}"), picture)
    num_right = sum(a.text == t.answer for a, t in zip(answers, truths))
    if json:
        facts = [answer_facts(a) | {"truth": t.answer} for a, t in zip(answers, truths)]
        print_json({"clip": str(clip), "compressed": about, "answers": facts, "num_right": num_right})
        return
    print_wrapped(f"clip: {clip} (8 s: one shape moves, one leaves while another comes)")
    print_summary([about], json=False)
    print_table(
        [Column("question", cut="end"), "answer", Column("confidence", spare=1), "truth"],
        [[a.question, a.text or "(empty)", f"{a.confidence:.0%}", t.answer] for a, t in zip(answers, truths)],
    )
    print_wrapped(f"{num_right} of {len(truths)} right; where the first answer looked: {picture}")
    if answers[0].note:
        print_wrapped(f"note: {answers[0].note}", file=sys.stderr)
