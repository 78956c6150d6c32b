"""``voco-video ask``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.answers import answer_facts, print_answers, show_answers, source_of, withhold_answers
from voco_video.cli.ask_library import ask_library
from voco_video.cli.compress import print_choices
from voco_video.cli.early import (
    check_asked,
    check_drawing,
    check_model,
    check_no_subtitles,
    check_subtitles,
    joined_words,
)
from voco_video.cli.entries import is_there
from voco_video.cli.help import OUTPUT, QUESTIONS
from voco_video.cli.options import with_options, without
from voco_video.cli.pictures import check_picture
from voco_video.cli.progress import ProgressBar, loading
from voco_video.cli.run_line import print_line, run_facts
from voco_video.cli.tables import print_error, print_wrapped
from voco_video.errors import UsageError
from voco_video.files.paths import expanded, read_text_file
from voco_video.files.urls import short_name, shown_name
from voco_video.library.manifest import is_manifest
from voco_video.options.answering import WHAT_IS_SEEN, AnswerOptions, ViewOptions
from voco_video.options.compression import AUTO, CompressOptions, parse_compressor
from voco_video.options.engine import EngineOptions
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.answer.compressed_video import CompressedVideo
    from voco_video.api import VideoModel

Video = Annotated[
    str,
    typer.Argument(help="A video, a URL, an entry of the cache by name or digest, or a manifest.", metavar="PATH"),
]
QuestionsFile = Annotated[
    Path | None,
    typer.Option(
        "--questions", help="A text file with one question a line.", metavar="FILE", rich_help_panel=QUESTIONS
    ),
]
Chat = Annotated[
    bool,
    typer.Option(
        "--chat", help="Keep asking; each answer takes the earlier ones into account.", rich_help_panel=QUESTIONS
    ),
]
Anyway = Annotated[
    bool,
    typer.Option(
        "--anyway",
        help="Answer even where the video is nothing that the model was trained on.",
        rich_help_panel=QUESTIONS,
    ),
]
NumVocoTokens = Annotated[
    int | None,
    typer.Option(
        help="VoCo tokens per frame to answer from, at most what was kept. [default: all]",
        metavar="N",
        rich_help_panel=WHAT_IS_SEEN,
    ),
]
ShowFrames = Annotated[
    bool,
    typer.Option("--show-frames", help="Show where the answer looked, here and as a PNG.", rich_help_panel=OUTPUT),
]
Picture = Annotated[
    Path | None, opt.out("Where --show-frames writes its PNG. [default: VIDEO-frames.png]", metavar="FILE")
]


@with_options
def ask(
    path: Video,
    questions: Annotated[list[str] | None, typer.Argument(help="One or more questions.", metavar="QUESTION...")] = None,
    *,
    questions_file: QuestionsFile = None,
    chat: Chat = False,
    model: opt.Model = "voco-tiny",
    sampling: Sampling,
    num_voco_tokens: NumVocoTokens = None,
    compression: Annotated[CompressOptions, without("num_voco_tokens", "force")],
    view: ViewOptions,
    subtitles: opt.Subtitles = "none",
    answering: Annotated[AnswerOptions, without("stop_at_end")],
    anyway: Anyway = False,
    load: LoadOptions,
    engine: EngineOptions,
    cache_dir: opt.CacheDir = None,
    show_frames: ShowFrames = False,
    out: Picture = None,
    json: opt.Json = False,
) -> None:
    """Ask questions about a video; it is compressed first where the cache does not have it.

    The whole video is compressed with all of the model's VoCo tokens; --start, --end and --num-voco-tokens choose
    from that while answering, so changing them costs nothing. Where frames are more than the model has room for, or
    than --max-voco-tokens, --policy chooses among them, and the answer says so.

    A checkpoint that knows what it was trained on, as voco-tiny does, says so where a video is something else, in place
    of an answer, and the exit code is 1.

    \b
    Examples:
      voco-video ask clip.mp4 "Who is there?" "What are they doing?" --num-voco-tokens 1
      voco-video ask lecture.mkv --questions questions.txt --start 600 --end 660 --json
      voco-video ask clip.mp4 "Where does the ball go?" --show-frames --out looked.png
      voco-video ask meeting.mp4 "When does the door open?" --policy relevant --max-voco-tokens 256
      voco-video ask talk.mp4 "Tell a story about it." --temperature 0.7 --seed 1 --subtitles auto
      voco-video ask https://example.org/clip.mp4 "What happens?"
      voco-video ask clip.mp4 "What happens?" --engine-url http://localhost:8000
      voco-video ask door --chat
      voco-video ask talks.parquet "Who speaks?" --json
    """
    asked = gather_questions(questions, questions_file, chat=chat, json=json)
    check_drawing(show_frames, out, chat=chat)
    check_picture(out, option="--out")
    check_subtitles(subtitles)
    generation = {"num_voco_tokens": num_voco_tokens, **asdict(view), **asdict(answering)}
    del generation["stop_at_end"]
    if is_manifest(path) and is_there(path):
        check_asks_many(path, subtitles, chat=chat, show_frames=show_frames)
        num_failed = ask_library(
            path, joined_words(asked) if not questions_file else asked, model=model, sampling=sampling,
            compression=compression, load=load, engine=engine, cache_dir=cache_dir, generation=generation,
            anyway=anyway, json=json, fitting=fitting_questions, facts_of=answer_facts,
            show=partial(print_answers, show_frames=False),
        )  # fmt: skip
        raise typer.Exit(1 if num_failed else 0)
    entry = check_asked(path, asked, sampling, cache_dir)
    check_model(model, revision=load.revision, offline=load.offline, num_voco_tokens=filter(None, [num_voco_tokens]))
    asked = asked if questions_file else joined_words(asked)
    compression = compression if num_voco_tokens is None else with_voco_tokens(compression, num_voco_tokens)
    with loading(model, quiet=json):
        from voco_video.api import load_model

        loaded = load_model(model, **asdict(load), **asdict(engine), cache_dir=cache_dir)
    answerable = [] if chat else fitting_questions(loaded, asked)
    with ProgressBar(quiet=json) as bar:
        video, facts = open_compressed(loaded, path, sampling, compression, bar, entry=entry)
    video = with_subtitles(video, subtitles, facts)
    print_before_answers(facts, asked, num_given=len(questions or ()), quiet=json)
    check_shows_frames(video, show_frames)
    if video.foreign_note and not anyway:
        withhold_answers(video, facts, asked, json=json)
    if chat:
        run_chat(video, asked, generation)
        return
    answers = video.ask(answerable, with_attention=show_frames, **generation)
    show_answers(video, answers, facts, answering, show_frames=show_frames, out=out, json=json)
    end_with(len(asked) - len(answerable), "questions were not asked", of=len(asked))


def print_before_answers(facts: dict[str, Any], asked: list[str], *, num_given: int, quiet: bool) -> None:
    """Print what was chosen, the run's line, and whether words were taken as one question."""
    if not quiet:
        print_choices([facts])
    print_line([facts], quiet=quiet)
    if len(asked) == 1 and num_given > 1 and not quiet:
        note = f"note: taken as one question, {asked[0]!r}; end each with a question mark to ask several"
        print_wrapped(note, file=sys.stderr)


def check_asks_many(manifest: str, subtitles: str, *, chat: bool, show_frames: bool) -> None:
    """Refuse what takes one video where a manifest lists many.

    Raises:
        UsageError: that is asked for.
    """
    if chat or show_frames:
        raise UsageError(f"{manifest} lists many videos; --chat and --show-frames take one")
    check_no_subtitles(subtitles, manifest)


def check_shows_frames(video: CompressedVideo, show_frames: bool) -> None:
    """Refuse to show the frames of a compressor that keeps none.

    Raises:
        UsageError: that is asked for.
    """
    if show_frames and video.compressor == "none":
        raise UsageError("--show-frames: compressor 'none' shows no frame, so no answer looked at any")


def end_with(num_failed: int, what: str, *, of: int) -> None:
    """Say how many failed, and end with exit code 1; go on where none did."""
    if num_failed:
        print(f"{num_failed} of {of} {what}", file=sys.stderr)
        raise typer.Exit(1)


def fitting_questions(model: VideoModel, questions: list[str]) -> list[str]:
    """Return the questions that fit the model; print why the others do not.

    Raises:
        UsageError: none can be asked.
    """
    fitting = []
    for question in questions:
        try:
            model.voco.backbone.conversation_ids([{"role": "user", "content": question.strip()}])
        except UsageError as error:
            if len(questions) == 1:
                raise
            print_error(str(error))
        else:
            fitting.append(question)
    if not fitting:
        raise UsageError(f"none of the {len(questions)} questions can be asked")
    return fitting


def with_voco_tokens(compression: CompressOptions, num_voco_tokens: int) -> CompressOptions:
    """Choose the compressor that makes VoCo tokens, as many of which are wanted; refuse another one."""
    if compression.compressor == AUTO:
        return replace(compression, compressor="voco")
    parse_compressor(compression.compressor).check_budget(num_voco_tokens)
    return compression


def open_compressed(
    model: VideoModel,
    path: str,
    sampling: Sampling,
    compression: CompressOptions,
    bar: ProgressBar,
    *,
    entry: str | None,
) -> tuple[CompressedVideo, dict[str, Any]]:
    """Open an entry of the cache, or a video by its path or URL, compressed if need be.

    The whole video is compressed; the window of the sampling is cut out of it afterwards.

    Args:
        entry: what `voco_video.cli.entries.entry_of` says of the path.

    Returns:
        The frames in the window, and the `run_facts` of the whole video.
    """
    start, end = sampling.start_seconds, sampling.end_seconds
    if entry is not None:
        video = model.open(entry)
    else:
        whole = replace(sampling, start_seconds=None, end_seconds=None)
        bar.begin(short_name(path))
        video = model.compress(path, **asdict(whole), **asdict(compression), on_progress=bar.show_frames)
        bar.finish(is_free=video.from_cache)
    source = source_of(video)
    is_of_path = entry != path or os.path.abspath(expanded(path)) == source
    facts = run_facts(video, shown_name(path) if is_of_path else source)
    return (video if start is None and end is None else video[start:end]), facts


def with_subtitles(video: CompressedVideo, subtitles: str, facts: dict[str, Any]) -> CompressedVideo:
    """Return a video with what is said in it, and put the number of lines into its facts; say so where there are none.

    Args:
        subtitles: see `voco_video.video.subtitles.subtitles_of`.
        facts: the video's `run_facts`.
    """
    if subtitles == "none":
        return video
    told = video.with_subtitles(subtitles if subtitles == "auto" else expanded(subtitles))
    facts["num_spoken_lines"] = sum(len(part.cues) for part in told.parts)
    if not told.has_speech:
        note = f"note: {short_name(facts['path'])} has no subtitles, beside it or in it"
        print_wrapped(f"{note}; `voco-video transcribe` writes some", file=sys.stderr)
    return told


def gather_questions(given: list[str] | None, file: Path | None, *, chat: bool, json: bool) -> list[str]:
    """Collect the questions of the command line and of a file with one question a line.

    Raises:
        UsageError: there are none, the file cannot be read, or options contradict each other.
    """
    questions = list(given or [])
    if file is not None:
        questions += [line.strip() for line in read_text_file(expanded(file)).splitlines() if line.strip()]
    if chat and json:
        raise UsageError("--chat talks to a person and --json to a machine; give one of them")
    if not questions and not chat:
        raise UsageError("nothing to answer; give a question, --questions FILE, or --chat")
    if any(not question.strip() for question in questions):
        raise UsageError("one of the questions is empty; ask something")
    return questions


def run_chat(video: CompressedVideo, first: list[str], generation: dict[str, Any]) -> None:
    """Hold a conversation: questions are typed, answers streamed; an empty line or Ctrl-D ends it."""
    from voco_video.answer.generate import Message, answer_note, model_note

    voco = video.model.voco
    note = answer_note(voco, voco.empty_prefix()) if video.compressor == "none" else model_note(voco)
    note = ". ".join(part for part in (video.foreign_note, note) if part)
    if note:
        print_wrapped(f"note: {note}", file=sys.stderr)
    history: list[Message] = []
    read = _reader(first)
    while question := read():
        answer = ""
        for piece in video.stream(question, history=history, **generation):
            print(piece, end="", flush=True)
            answer += piece
        print()
        history += [Message("user", question), Message("assistant", answer.strip())]


def _reader(first: list[str]) -> Callable[[], str]:
    """Return a function that gives the first questions, then typed ones, and an empty string at the end."""
    waiting = list(first)

    def read() -> str:
        if waiting:
            print(f"> {waiting[0]}")
            return waiting.pop(0)
        try:
            return input("> ").strip()
        except EOFError:
            return ""

    return read
