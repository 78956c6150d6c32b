"""Jobs to predictions: each video compressed once, its questions batched over one prefix.

A video's questions always go through the model in the same batches, because padding and batch size move the last digits
of its results.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.api import VideoModel
from voco_video.data.choices import likeliest
from voco_video.data.samples import Turn
from voco_video.data.spans import Span
from voco_video.errors import FILE_ERRORS, UsageError, with_name
from voco_video.evaluate.answer_likelihood import Ranker
from voco_video.evaluate.choices import score_options
from voco_video.evaluate.options import EvalOptions
from voco_video.evaluate.plan import Job, JobDone, VideoQuestions
from voco_video.evaluate.processes import OnDone
from voco_video.evaluate.run_folder import RankFile, RunFiles
from voco_video.evaluate.seen import bases_of
from voco_video.scoring.predictions import Prediction
from voco_video.video.subtitles import Cue, read_subtitles, subtitles_of

log = logging.getLogger(__name__)


def answer_jobs(
    model: VideoModel,
    jobs: Sequence[Job],
    rank: int,
    on_done: OnDone,
    *,
    options: EvalOptions,
    runs: Mapping[int | None, RunFiles],
) -> None:
    """Do one process's share of the work; predictions are on the disk before ``on_done`` is called."""
    ranker = Ranker.of(model.voco, options.vocabulary) if options.vocabulary else None
    with ExitStack() as stack:
        files: dict[int | None, RankFile] = {k: stack.enter_context(run.rank_file(rank)) for k, run in runs.items()}
        for job in jobs:
            video, status = open_video(model, job.questions, options)
            for k, predictions in answer_video(video, status, job, options, ranker):
                if video is not None:
                    files[k].note(*bases_of(video, k, job.questions, options))
                files[k].append(predictions)
            seen = (0, False) if video is None else (video.num_frames, video.from_cache)
            on_done(JobDone(job.num_answers, *seen))


def open_video(
    model: VideoModel, questions: VideoQuestions, options: EvalOptions
) -> tuple[CompressedVideo | None, str]:
    """Compress a video, or find it in the cache; where there is none, return what its predictions say."""
    video, status = None, "missing"
    if questions.path is not None:
        try:
            video = compress(model, questions.path, options, questions.media.window if questions.media else None)
            if options.subtitles != "none":
                video = video.with_subtitles(what_is_said(questions))
        except (*FILE_ERRORS, UsageError) as error:  # such as a window that this video does not reach
            reason = with_name(error, questions.path)
            log.warning("%s: %s; its questions count as unanswered", questions.video, reason)
            status = "undecodable"
    return video, status


def answer_video(
    video: CompressedVideo | None, status: str, job: Job, options: EvalOptions, ranker: Ranker | None
) -> Iterator[tuple[int | None, list[Prediction]]]:
    """Answer all questions of a video from each budget."""
    questions = job.questions
    for k in job.budgets:
        if video is None:
            yield k, [prediction_of(questions, turn, options, status=status) for turn in questions.turns]
        elif options.answer_by == "likelihood":
            yield k, choose_options(video, k, questions, options)
        elif options.answer_by == "find":
            yield k, find_windows(video, questions, options)
        else:
            yield k, generate_answers(video, k, questions, options, ranker)


def compress(model: VideoModel, path: Path, options: EvalOptions, window: Span | None = None) -> CompressedVideo:
    """Compress a video, or a window of it, as the options say, or take it from the cache."""
    sampling = replace(options.sampling, start_seconds=window[0], end_seconds=window[1]) if window else options.sampling
    return model.compress_with(path, sampling, options.compression)


def generate_answers(
    video: CompressedVideo,
    num_voco_tokens: int | None,
    questions: VideoQuestions,
    options: EvalOptions,
    ranker: Ranker | None,
) -> list[Prediction]:
    """Answer a video's questions from k VoCo tokens a frame, batch after batch over one prefix."""
    predictions = []
    for start in range(0, len(questions.turns), options.questions_per_batch):
        turns = questions.turns[start : start + options.questions_per_batch]
        too_long = [turn for turn in turns if not _can_be_asked(video, options.prompt_of(turn))]
        predictions += [_empty_answer(questions, turn, options) for turn in too_long]
        turns = tuple(turn for turn in turns if turn not in too_long)
        prompts = [options.prompt_of(turn) for turn in turns]
        answers = video.ask(
            prompts,
            num_voco_tokens=num_voco_tokens,
            max_new_tokens=options.max_new_tokens,
            **asdict(options.view),
        )
        for turn, prompt, answer in zip(turns, prompts, answers, strict=True):
            rank = None
            if ranker:
                prefix = video.prefix(prompt, num_voco_tokens=num_voco_tokens, options=options.view)
                rank = ranker.rank(prefix, prompt, turn.answer)
            predictions.append(
                replace(
                    prediction_of(questions, turn, options, status="answered"),
                    prediction=answer.text,
                    confidence=round(answer.confidence, 6),  # more digits would only make files longer
                    vocabulary_rank=rank,
                )
            )
    return predictions


def choose_options(
    video: CompressedVideo, num_voco_tokens: int | None, questions: VideoQuestions, options: EvalOptions
) -> list[Prediction]:
    """Answer a video's questions with the letters of their likeliest options, by the mean over tokens."""
    predictions = []
    for turn in questions.turns:
        prompt = options.prompt_of(turn)
        if not _can_be_asked(video, prompt):
            predictions.append(_empty_answer(questions, turn, options))
            continue
        prefix = video.prefix(prompt, num_voco_tokens=num_voco_tokens, options=options.view)
        log_likelihoods, num_tokens = score_options(video.model.voco, prefix, prompt, turn.options)
        predictions.append(
            replace(
                prediction_of(questions, turn, options, status="answered"),
                prediction=likeliest(log_likelihoods, num_tokens),
                option_log_likelihoods=log_likelihoods,
                option_num_tokens=num_tokens,
            )
        )
    return predictions


def what_is_said(questions: VideoQuestions) -> tuple[Cue, ...]:
    """Read what is said in a video: the set's own file, else what is beside the video or in it.

    Raises:
        DataError: it cannot be read.
    """
    media, path = questions.media, questions.path
    if media is not None and media.subtitles is not None:
        return read_subtitles(media.subtitles, shift_seconds=-media.subtitles_start_seconds)
    return () if path is None else subtitles_of(path)


def find_windows(video: CompressedVideo, questions: VideoQuestions, options: EvalOptions) -> list[Prediction]:
    """Answer each question with the best moment that a search finds for it, written as its start and end."""
    predictions = []
    for turn in questions.turns:
        found = video.find(turn.question, num_moments=1)
        answer = "".join(f"{moment.start_seconds:.2f} - {moment.end_seconds:.2f}" for moment in found)
        predictions.append(replace(prediction_of(questions, turn, options, status="answered"), prediction=answer))
    return predictions


def _can_be_asked(video: CompressedVideo, prompt: str) -> bool:
    """Check that a question is text, and short enough for the model; log what is wrong."""
    try:
        video.model.voco.backbone.conversation_ids([{"role": "user", "content": prompt.strip()}])
    except UsageError as error:
        log.warning("%s; otherwise it counts as wrong", error)
        return False
    return True


def _empty_answer(questions: VideoQuestions, turn: Turn, options: EvalOptions) -> Prediction:
    """Give an empty answer to a question that cannot be asked, so that no later run asks it again."""
    return replace(prediction_of(questions, turn, options, status="answered"), prediction="", confidence=0.0)


def prediction_of(questions: VideoQuestions, turn: Turn, options: EvalOptions, *, status: str) -> Prediction:
    """Make the prediction of a question, without its answer."""
    in_vocabulary = turn.answer in options.vocabulary if options.vocabulary else None
    return replace(Prediction.unanswered(questions.video, turn, status=status), in_vocabulary=in_vocabulary)
