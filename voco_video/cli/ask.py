"""``voco-video ask``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voco_video.cli import options as opt
from voco_video.cli.compress import checked_compressor, checked_sampling, parse_timestamps
from voco_video.cli.output import print_json, progress_bar
from voco_video.errors import UsageError
from voco_video.files.paths import expanded, read_text_file

if TYPE_CHECKING:
    from voco_video.answer.generate import Answer
    from voco_video.answer.moments import Moment
    from voco_video.api import CompressedVideo, VideoModel

_ENTRY_DIGEST = re.compile(r"[0-9a-f]{6,64}")


def ask(
    path: Annotated[str, typer.Argument(help="A video, or a cache entry as `cache ls` prints it.", metavar="PATH")],
    questions: Annotated[list[str] | None, typer.Argument(help="One or more questions.", metavar="QUESTION...")] = None,
    questions_file: Annotated[
        Path | None, typer.Option("--questions", help="A text file with one question a line.", metavar="FILE")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Keep asking; answers follow on from each other.")] = False,
    model: opt.Model = "voco-tiny",
    fps: opt.Fps = None,
    num_frames: opt.NumFrames = None,
    keyframes: opt.Keyframes = False,
    timestamps: opt.Timestamps = None,
    start: opt.Start = None,
    end: opt.End = None,
    compressor: opt.Compressor = "voco",
    num_voco_tokens: opt.Budget = None,
    max_voco_tokens: opt.MaxVocoTokens = None,
    policy: opt.Policy = opt.PolicyChoice.uniform,
    neighbours: opt.Neighbours = 2,
    clock_every_seconds: opt.ClockEverySeconds = None,
    form: opt.Form = None,
    storage: opt.Storage = opt.StorageChoice.native,
    max_new_tokens: Annotated[int, typer.Option(help="Cut an answer after this many tokens.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; above 0 samples.")] = 0.0,
    seed: Annotated[int, typer.Option(help="For sampling.")] = 0,
    show_frames: Annotated[
        bool, typer.Option("--show-frames", help="Show where the answer looked, here and as a PNG.")
    ] = False,
    strip: Annotated[
        Path | None, typer.Option(help="Where --show-frames writes its PNG. [default: <video>-frames.png]")
    ] = None,
    batch_size: opt.BatchSize = "16",
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    device_map: opt.DeviceMap = None,
    weight_bits: opt.WeightBits = 16,
    attention: opt.Attention = "auto",
    decoder: opt.Decoder = opt.DecoderChoice.pyav,
    cache_dir: opt.CacheDir = None,
    json: opt.Json = False,
) -> None:
    r"""Ask questions about a video; it is compressed first where the cache does not have it.

    The whole video is compressed with all of the model's VoCo tokens; --start, --end and --num-voco-tokens choose
    from that while answering, so changing them costs nothing. Where frames are more than the model has room for, or
    than --max-voco-tokens, --policy chooses among them, and the answer says so.

    \b
    Examples:
      voco-video ask clip.mp4 "What happens?"
      voco-video ask clip.mp4 "Who is there?" "What are they doing?" --num-voco-tokens 1
      voco-video ask lecture.mkv --questions questions.txt --start 600 --end 660 --json
      voco-video ask clip.mp4 "Where does the ball go?" --show-frames --strip looked.png
      voco-video ask clip.mp4 "What happens?" --model ./never-trained-to-compress --compressor pool:16
      voco-video ask meeting.mp4 "When does the door open?" --policy relevant --max-voco-tokens 256
      voco-video ask 3f9a2c41 --chat
    """
    asked = gather_questions(questions, questions_file, chat=chat, json=json)
    sampling = {
        "fps": fps,
        "num_frames": num_frames,
        "keyframes": keyframes,
        "timestamps": parse_timestamps(timestamps),
    }
    checked_sampling(sampling | {"start_seconds": start, "end_seconds": end})
    checked_compressor(compressor, num_voco_tokens)
    from voco_video.answer.frame_budget import ViewOptions

    view = ViewOptions(max_voco_tokens, policy.value, neighbours, clock_every_seconds)
    from voco_video.api import load_model

    loaded = load_model(
        model,
        device=device,
        dtype=dtype,
        attn_implementation=attention,
        device_map=device_map,
        weight_bits=weight_bits,  # type: ignore[arg-type]
        cache_dir=cache_dir,
    )
    answerable = [] if chat else fitting_questions(loaded, asked)
    options = {
        "compressor": compressor,
        "form": form.value if form else None,
        "storage": storage.value,
        "batch_size": opt.parse_batch_size(batch_size),
        "decoder": decoder.value,
    }
    video = open_compressed(loaded, path, sampling=sampling, options=options, quiet=json)
    if show_frames and video.compressor == "none":
        raise UsageError("--show-frames: compressor 'none' shows no frame, so no answer looked at any")
    if start is not None or end is not None:
        video = video[start:end]
    generation: dict[str, Any] = {
        "num_voco_tokens": num_voco_tokens,
        **asdict(view),
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    if chat:
        run_chat(video, asked, generation)
        return
    answers = video.ask(answerable, with_attention=show_frames, **generation)
    if json:
        print_json({"entry": video.parts[0].entry.digest, "answers": [answer_facts(a) for a in answers]})
    else:
        print_answers(answers, show_frames=show_frames)
    if show_frames:
        write_strips(video, answers, strip or Path(f"{source_of(video).stem}-frames.png"), quiet=json)
    if len(answerable) < len(asked):
        print(f"{len(asked) - len(answerable)} of {len(asked)} questions were not asked", file=sys.stderr)
        raise typer.Exit(1)


def fitting_questions(model: VideoModel, questions: list[str]) -> list[str]:
    """Those that the model can be asked; what is wrong with the others is printed.

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
            print(f"error: {error}", file=sys.stderr)
        else:
            fitting.append(question)
    if not fitting:
        raise UsageError(f"none of the {len(questions)} questions can be asked")
    return fitting


def is_entry(path: str) -> bool:
    """Whether this is no file but the beginning of an entry's digest."""
    return bool(_ENTRY_DIGEST.fullmatch(path)) and not Path(path).exists()


def open_compressed(
    model: VideoModel, path: str, *, sampling: dict[str, Any], options: dict[str, Any], quiet: bool
) -> CompressedVideo:
    """A video by its path, compressed if need be, or a cache entry by the beginning of its digest."""
    if is_entry(path):
        return model.open(path)
    with progress_bar(Path(path).name, quiet=quiet) as show:
        video = model.compress(path, **sampling, **options, on_progress=show)
    if not quiet:
        note = "cache hit" if video.from_cache else f"compressed in {video.result.total_seconds:.1f} s"  # type: ignore[union-attr]
        print(f"{video.num_frames} frames, {note}", file=sys.stderr)
    return video


def gather_questions(given: list[str] | None, file: Path | None, *, chat: bool, json: bool) -> list[str]:
    """Questions from the command line and from a file, one a line.

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
    """A conversation: questions typed at a prompt, answers streamed; an empty line or Ctrl-D ends it."""
    from voco_video.answer.generate import Message, answer_note, model_note

    voco = video.model.voco
    note = answer_note(voco, voco.empty_prefix()) if video.compressor == "none" else model_note(voco)
    if note:
        print(f"note: {note}", file=sys.stderr)
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
    """The questions given already, then what is typed; an empty string at the end."""
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


def answer_facts(answer: Answer) -> dict[str, Any]:
    """An answer as plain values."""
    facts = {
        "question": answer.question,
        "answer": answer.text,
        "confidence": answer.confidence,
        "num_frames": answer.num_frames,
        "num_voco_tokens": answer.num_voco_tokens,
        "seconds": answer.seconds,
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


def print_answers(answers: list[Answer], *, show_frames: bool) -> None:
    """Answers for a person; the question is repeated where there are several."""
    for answer in answers:
        if len(answers) > 1:
            print(f"> {answer.question}")
        print(f"{answer.text or '(an empty answer)'}   [confidence {answer.confidence:.0%}]")
        if answer.evidence and not show_frames:
            print(f"rests on {', '.join(format_moment(m) for m in answer.evidence)}")
        if show_frames:
            from voco_video.answer.pictures import attention_bars

            print(attention_bars(answer))
    for note in dict.fromkeys(answer.note for answer in answers if answer.note):
        print(f"note: {note}", file=sys.stderr)


def format_moment(moment: Moment) -> str:
    """A stretch of time with its weight: ``0:04.00-0:06.00 (83%)``."""
    from voco_video.answer.moments import format_seconds

    return f"{format_seconds(moment.start_seconds)}-{format_seconds(moment.end_seconds)} ({moment.weight:.0%})"


def write_strips(video: CompressedVideo, answers: list[Answer], path: Path, *, quiet: bool) -> None:
    """One PNG an answer: the frames with the attention each got."""
    from voco_video.answer.pictures import attention_strip

    for number, answer in enumerate(answers):
        target = path if len(answers) == 1 else path.with_name(f"{path.stem}-{number + 1}{path.suffix}")
        attention_strip(answer, source=source_of(video)).save(target)
        if not quiet:
            print(f"frames and attention in {target}", file=sys.stderr)


def source_of(video: CompressedVideo) -> Path:
    """The file that a compressed video was made from; it may be gone by now."""
    entry = video.parts[0].entry
    return Path(str(entry.facts.get("source") or entry.digest[:12]))
