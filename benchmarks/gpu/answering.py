"""Step c: first token and tokens a second over cached frames, many questions at once, and uncompressed frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.gpu.arithmetic import (
    BYTES_PER_SECOND,
    FLOPS_PER_SECOND,
    answer_bytes,
    token_bytes,
    uncompressed_bytes,
    uncompressed_flops,
)
from benchmarks.gpu.plan import Bench, Figures, Part
from benchmarks.shapes import random_pixels, random_text
from benchmarks.speed.compress import see
from benchmarks.timing import interleaved
from voco_video.answer.generate import generate
from voco_video.model.compressors import compress_frames
from voco_video.model.tokens import VocoTokens
from voco_video.options.answering import AnswerOptions
from voco_video.options.compression import parse_compressor

COMPRESSED_AT_ONCE = 8


def parts(bench: Bench) -> Iterator[Part]:
    """One question by frames and K; then many; then the path without VoCo tokens."""
    plan, shape = bench.plan, bench.shape
    text = plan.question_tokens + plan.answer_tokens
    for count in plan.cached:
        for k in plan.num_voco_tokens:
            expected = {"tokens_per_second_at_peak": BYTES_PER_SECOND / token_bytes(shape, count * k, 1)}
            needed = answer_bytes(shape, count * k, 1, text)
            yield Part(f"{count} frames, K = {k}", lambda f=count, k=k: _ask(bench, f, k, 1), needed, expected=expected)  # type: ignore[misc]
        if count == plan.cached[0]:
            for k in plan.num_voco_tokens:
                needed = answer_bytes(shape, count * k, plan.questions, text)
                rate = plan.questions * BYTES_PER_SECOND / token_bytes(shape, count * k, plan.questions)
                yield Part(
                    f"{plan.questions} questions, {count} frames, K = {k}",
                    lambda f=count, k=k: _ask(bench, f, k, plan.questions),  # type: ignore[misc]
                    needed,
                    expected={"tokens_per_second_at_peak": rate},
                )
            frames = plan.uncompressed
            yield Part(
                f"{frames} frames uncompressed",
                lambda: _uncompressed(bench, plan.uncompressed),
                uncompressed_bytes(shape, frames),
                expected={"first_token_seconds_at_peak": uncompressed_flops(shape, frames) / FLOPS_PER_SECOND},
            )


def _ask(bench: Bench, num_frames: int, num_voco_tokens: int, num_questions: int) -> Figures:
    model = bench.model
    pixels = random_pixels(model, min(num_frames, COMPRESSED_AT_ONCE))
    few = model.compress(see(model, pixels), num_voco_tokens=num_voco_tokens)
    few = replace(few, **{name: tensor.cpu() for name, tensor in few.tensors().items()})  # as a cache gives them
    return _timed(bench, VocoTokens.cat([few] * -(-num_frames // few.num_frames))[0:num_frames], num_questions)


def _uncompressed(bench: Bench, num_frames: int) -> Figures:
    model, full = bench.model, parse_compressor("full")
    kept = []
    for start in range(0, num_frames, COMPRESSED_AT_ONCE):
        pixels = random_pixels(model, min(COMPRESSED_AT_ONCE, num_frames - start), seed=start)
        kept.append(compress_frames(model, see(model, pixels), full, form="embeds"))
    return _timed(bench, VocoTokens.cat(kept), 1)


def _timed(bench: Bench, tokens: VocoTokens, num_questions: int) -> Figures:
    model, plan = bench.model, bench.plan
    prompts = [random_text(model, plan.question_tokens, seed=q).tolist() for q in range(num_questions)]

    def ask(length: int) -> None:
        options = AnswerOptions(max_new_tokens=length, stop_at_end=False)
        generate(model, model.prefix(tokens), prompts, options=options)

    sides = {
        "prefix": lambda: model.prefix(tokens),
        "first_token": lambda: ask(1),
        "answer": lambda: ask(plan.answer_tokens),
    }
    timings = interleaved(sides, repeats=plan.repeats, max_seconds=plan.max_seconds)
    seconds = {name: timing.wall_seconds for name, timing in timings.items()}
    between = max(seconds["answer"] - seconds["first_token"], 1e-9)
    figures: Figures = {f"{name}_seconds": value for name, value in seconds.items()}
    size = sum(t.numel() * t.element_size() for t in tokens.tensors().values())
    return figures | {
        "tokens_per_second": num_questions * (plan.answer_tokens - 1) / between,
        "kept_bytes": size,
        "num_questions": num_questions,
    }
