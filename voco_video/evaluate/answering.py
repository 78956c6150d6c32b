"""Jobs to predictions: each video compressed once, its questions batched over one prefix.

A video's questions always go through the model in the same batches, for padding and the size of a batch move the last
digits of what it computes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from voco_video.api import CompressedVideo, VideoModel
from voco_video.data.choices import likeliest
from voco_video.data.samples import Turn
from voco_video.errors import FILE_ERRORS, UsageError, with_name
from voco_video.evaluate.answer_likelihood import Ranker
from voco_video.evaluate.choices import score_options
from voco_video.evaluate.options import EvalOptions
from voco_video.evaluate.plan import Asked, Job
from voco_video.evaluate.processes import OnDone
from voco_video.evaluate.run_folder import Part, RunFiles
from voco_video.scoring.predictions import Prediction

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
    """One process's share of the work; predictions are on the disk when ``on_done`` hears of them."""
    ranker = Ranker.of(model.voco, options.vocabulary) if options.vocabulary else None
    with ExitStack() as stack:
        parts: dict[int | None, Part] = {k: stack.enter_context(run.part(rank)) for k, run in runs.items()}
        for job in jobs:
            for k, predictions in answer_video(model, job, options, ranker):
                parts[k].append(predictions)
            on_done(job.num_answers)


def answer_video(
    model: VideoModel, job: Job, options: EvalOptions, ranker: Ranker | None
) -> Iterator[tuple[int | None, list[Prediction]]]:
    """Compress a video, or find it, and answer all its questions from each budget."""
    video, status = None, "missing"
    if job.asked.path is not None:
        try:
            video = compressed(model, job.asked.path, options)
        except (*FILE_ERRORS, UsageError) as error:  # such as a window that this video does not reach
            reason = with_name(error, job.asked.path)
            log.warning("%s: %s; its questions count as unanswered", job.asked.video, reason)
            status = "undecodable"
    for k in job.budgets:
        if video is None:
            yield k, [prediction_of(job.asked, turn, options, status=status) for turn in job.asked.turns]
        else:
            yield k, answered(video, k, job.asked, options, ranker)


def compressed(model: VideoModel, path: Path, options: EvalOptions) -> CompressedVideo:
    """A video as the options say, from the cache if it is there."""
    return model.compress(
        path,
        fps=options.fps,
        num_frames=options.num_frames,
        compressor=options.compressor,
        form=options.form,
        storage=options.storage,
        batch_size=options.batch_size,
        decoder=options.decoder,
    )


def answered(
    video: CompressedVideo, num_voco_tokens: int | None, asked: Asked, options: EvalOptions, ranker: Ranker | None
) -> list[Prediction]:
    """A video's questions answered from k VoCo tokens a frame, batch after batch over one prefix."""
    if options.answer_by == "likelihood":
        return chosen(video, num_voco_tokens, asked, options)
    predictions = []
    for start in range(0, len(asked.turns), options.questions_per_batch):
        turns = asked.turns[start : start + options.questions_per_batch]
        too_long = [turn for turn in turns if not _can_be_asked(video, options.prompt_of(turn))]
        predictions += [_unanswered(asked, turn, options) for turn in too_long]
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
            one = prediction_of(asked, turn, options, status="answered")
            # Six digits tell more than anyone reads; the others would make files longer.
            confidence = round(answer.confidence, 6)
            predictions.append(replace(one, prediction=answer.text, confidence=confidence, vocabulary_rank=rank))
    return predictions


def chosen(video: CompressedVideo, num_voco_tokens: int | None, asked: Asked, options: EvalOptions) -> list[Prediction]:
    """A video's questions answered with the letters of their likeliest options, by the mean over tokens."""
    predictions = []
    for turn in asked.turns:
        prompt = options.prompt_of(turn)
        if not _can_be_asked(video, prompt):
            predictions.append(_unanswered(asked, turn, options))
            continue
        prefix = video.prefix(prompt, num_voco_tokens=num_voco_tokens, options=options.view)
        log_likelihoods, num_tokens = score_options(video.model.voco, prefix, prompt, turn.options)
        predictions.append(
            replace(
                prediction_of(asked, turn, options, status="answered"),
                prediction=likeliest(log_likelihoods, num_tokens),
                option_log_likelihoods=log_likelihoods,
                option_num_tokens=num_tokens,
            )
        )
    return predictions


def _can_be_asked(video: CompressedVideo, prompt: str) -> bool:
    """Whether a question is text, and short enough for the model; what is wrong with it is logged."""
    try:
        video.model.voco.backbone.conversation_ids([{"role": "user", "content": prompt.strip()}])
    except UsageError as error:
        log.warning("%s; until then it counts as wrong", error)
        return False
    return True


def _unanswered(asked: Asked, turn: Turn, options: EvalOptions) -> Prediction:
    """A question that cannot be asked, as answered by nothing; asking again would change nothing."""
    return replace(prediction_of(asked, turn, options, status="answered"), prediction="", confidence=0.0)


def prediction_of(asked: Asked, turn: Turn, options: EvalOptions, *, status: str) -> Prediction:
    """A question without its answer."""
    return Prediction(
        video=asked.video,
        question=turn.question,
        answer=turn.answer,
        question_id=turn.question_id,
        question_type=turn.question_type,
        row=turn.row,
        prediction=None,
        status=status,
        in_vocabulary=turn.answer in options.vocabulary if options.vocabulary else None,
        options=turn.options,
        duration_class=turn.duration_class,
    )
