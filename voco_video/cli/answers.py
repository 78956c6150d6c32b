"""Answers as a person reads them, as a program does, and as pictures of where they looked."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from voco_video.cli.options import as_said_here
from voco_video.cli.output import print_json
from voco_video.cli.pictures import save_picture
from voco_video.cli.run_line import run_line
from voco_video.cli.tables import print_wrapped
from voco_video.files.paths import expanded
from voco_video.files.urls import is_url, short_name
from voco_video.options.answering import AnswerOptions

if TYPE_CHECKING:
    from voco_video.answer.compressed_video import CompressedVideo
    from voco_video.answer.generate import Answer
    from voco_video.answer.moments import Moment


def show_answers(
    video: CompressedVideo,
    answers: list[Answer],
    facts: dict[str, Any],
    answering: AnswerOptions,
    *,
    show_frames: bool,
    out: Path | None,
    json: bool,
) -> None:
    """Print the answers to questions about one video, and draw where they looked, as was asked for."""
    if json:
        from voco_video.answer.choosing import generation_facts

        settings = generation_facts(video.model.voco, answering)
        print_json({**facts, "generation": settings, "answers": [answer_facts(a) for a in answers]})
    else:
        print_answers(answers, show_frames=show_frames)
    if show_frames and (out is not None or not json):  # a program that asks for facts alone gets no file
        target = out or Path(f"{Path(short_name(facts['path'])).stem}-frames.png")
        head = f"{short_name(facts['path'])} · {run_line([facts])}"
        write_strips(video, answers, target, head=head, quiet=json)


def answer_facts(answer: Answer) -> dict[str, Any]:
    """Return an answer as plain values."""
    facts = {
        "question": answer.question,
        "answer": answer.text,
        "confidence": None if answer.is_foreign else answer.confidence,
        "num_frames": answer.num_frames,
        "num_voco_tokens": answer.num_voco_tokens,
        "seconds": answer.seconds,
        "is_cut": answer.is_cut,
        "is_foreign": answer.is_foreign,
        "note": answer.note,
        "evidence": [asdict(moment) for moment in answer.evidence],
    }
    if answer.frame_attention is not None:
        facts["video_attention"] = answer.video_attention
        facts["frames"] = [
            {"pts_seconds": float(t), "attention": float(a)}
            for t, a in zip(answer.frame_pts_seconds, answer.frame_attention)
        ]
    return facts


def withhold_answers(video: CompressedVideo, facts: dict[str, Any], questions: list[str], *, json: bool) -> None:
    """Say, in place of answers, that the video is nothing that the model was trained on; end with exit code 1."""
    from voco_video.checkpoint.recommended import DEFAULT

    if json:
        nothing = {"answer": None, "confidence": None, "is_foreign": True, "note": video.foreign_note}
        print_json({**facts, "answers": [{"question": question, **nothing} for question in questions]})
    else:
        print_wrapped(f"no answer: {video.foreign_note}:")
        print(f"  voco-video ask {shlex.join([facts['path'], *(questions or ['--chat'])])} --model {DEFAULT.short}")
    raise typer.Exit(1)


def print_answers(answers: list[Answer], *, show_frames: bool) -> None:
    """Print answers for a person; each with its question where there are several."""
    for note in dict.fromkeys(answer.note for answer in answers if answer.is_foreign):
        print_wrapped(f"this means nothing: {note}")
    for answer in answers:
        if len(answers) > 1:
            print_wrapped(f"> {answer.question}", indent=2)
        confidence = "" if answer.is_foreign else f"   [confidence {answer.confidence:.0%}]"  # it would mean nothing
        print_wrapped(f"{answer.text or '(an empty answer)'}{'…' if answer.is_cut else ''}{confidence}")
        if answer.evidence and not show_frames:
            print_wrapped(f"rests on {', '.join(format_moment(m) for m in answer.evidence)}")
        if show_frames:
            from voco_video.answer.pictures import attention_bars

            print_wrapped(attention_bars(answer))
    if cut := sum(answer.is_cut for answer in answers):
        which = "the answer" if len(answers) == 1 else f"{cut} of {len(answers)} answers"
        print_wrapped(f'note: {which} ended at the limit of --max-new-tokens, which "…" stands for', file=sys.stderr)
    for note in dict.fromkeys(answer.note for answer in answers if answer.note and not answer.is_foreign):
        print_wrapped(f"note: {as_said_here(note)}", file=sys.stderr)


def format_moment(moment: Moment) -> str:
    """Format a stretch of time: ``0:04.00-0:06.00``, with its share of the answer's attention where that is known."""
    from voco_video.answer.moments import format_seconds

    share = "" if moment.share is None else f" ({moment.share:.0%})"
    return f"{format_seconds(moment.start_seconds)}-{format_seconds(moment.end_seconds)}{share}"


def write_strips(video: CompressedVideo, answers: list[Answer], path: Path, *, head: str, quiet: bool) -> None:
    """Write one PNG per answer: the frames with the attention that each got; ``head`` says what answered."""
    from voco_video.answer.pictures import attention_strip

    for number, answer in enumerate(answers):
        target = path if len(answers) == 1 else path.with_name(f"{path.stem}-{number + 1}{path.suffix}")
        save_picture(attention_strip(answer, source=file_of(video), head=head), target)
        if not quiet:
            print_wrapped(f"frames and attention in {target}", file=sys.stderr)


def source_of(video: CompressedVideo) -> str:
    """Return what a video was given as, or what its entry was made from."""
    entry = video.parts[0].entry
    return (video.result.source if video.result else "") or str(entry.facts.get("source") or entry.digest[:12])


def file_of(video: CompressedVideo) -> Path | None:
    """Return the file that a video was made from, or a download of the same content; None where all are gone."""
    from voco_video.video.downloads import Downloads

    entry = video.parts[0].entry
    given, recorded = video.result.source if video.result else "", str(entry.facts.get("source"))
    for name in (given, recorded if os.path.isabs(recorded) else ""):  # one that is not whole is no file's
        if name and not is_url(name) and os.path.isfile(expanded(name)):
            return expanded(name)
    return Downloads.beside(entry.directory.parents[1]).find(entry.key.video_digest)
