"""From a prefix and questions to answers: batched over the shared prefix, streamed, with evidence in the video."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TextStreamer

from voco_video.answer.answering_model import Engine
from voco_video.answer.choosing import TokenChooser, end_token_ids
from voco_video.answer.moments import Moment, shared_moments
from voco_video.errors import ModelError, UsageError
from voco_video.model.backbone import CACHE_ARGUMENT
from voco_video.model.inference import undisturbed
from voco_video.model.memory import unless_out_of_memory
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel
from voco_video.options.answering import MAX_QUESTIONS_PER_BATCH, AnswerOptions

log = logging.getLogger(__name__)

NUM_MOMENTS = 5  # that an answer's evidence has, at most
_LESS = "ask about fewer of them, from fewer VoCo tokens each, or load with dtype='bfloat16' or weight_bits=4"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: ``role`` is ``"user"`` or ``"assistant"``."""

    role: str
    content: str


@dataclass(frozen=True)
class Answer:
    """An answer, with its evidence in the video.

    Attributes:
        question: as asked.
        text: the answer.
        token_ids: its tokens.
        confidence: geometric mean of the probabilities of its tokens, 0 to 1.
        num_frames, num_voco_tokens: number of frames that it was given from, and of VoCo tokens of each.
        seconds: time from the assembled prefix to the answer; for questions asked together, the time of all.
        note: what a reader has to know, such as that the model is untrained, that not all frames were seen, or that
            positions went beyond those of training; empty if there is nothing to say.
        evidence: the moments that it is based on, the most important first: those that were found for the question
            (policies ``relevant`` and ``elastic``), or those that the answer attended to, with ``with_attention``. Else
            empty.
        is_cut: whether it was cut after ``max_new_tokens``, before the model had ended it.
        is_foreign: whether the video is of something that the model was never trained on, so that text and confidence
            mean nothing; ``note`` then begins with that.
        frame_pts_seconds: time of each frame, ``[F]``.
        frame_attention: each frame's share of the answer's attention to the video, ``[F]`` summing to 1; None without
            ``with_attention``.
        video_attention: share of the answer's attention that went to the video and not to text, 0 to 1; None without
            ``with_attention``.
    """

    question: str
    text: str
    token_ids: tuple[int, ...]
    confidence: float
    num_frames: int
    num_voco_tokens: int
    seconds: float
    note: str = ""
    frame_pts_seconds: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    frame_attention: np.ndarray | None = field(default=None, repr=False)
    video_attention: float | None = None
    evidence: tuple[Moment, ...] = ()
    is_foreign: bool = False
    is_cut: bool = False

    def __str__(self) -> str:
        return self.text


def answer_questions(
    model: VocoModel,
    prefix: Prefix,
    questions: Sequence[str],
    *,
    history: Sequence[Message] = (),
    options: AnswerOptions = AnswerOptions(),
    frame_pts_seconds: np.ndarray,
    with_attention: bool = False,
    engine: Engine | None = None,
) -> list[Answer]:
    """Answer questions over one shared prefix.

    Args:
        history: earlier turns that every question follows.
        frame_pts_seconds: ``[F]``, copied into the answers.
        with_attention: measure which frames each answer attended to (one more pass over question and answer).
        engine: generates in place of the model; the prefix then has ``inputs`` alone.

    Raises:
        UsageError: an empty question; ``with_attention`` where the prefix does not keep all keys, or with an engine; or
            what an engine cannot be asked.
        ModelError: there is not enough memory for even one question at a time.
        EngineError: no engine answers.
    """
    if with_attention and engine is not None:
        raise UsageError("with_attention (--show-frames): an engine does not tell where its answers look; leave it out")
    if with_attention and prefix.state is not None and len(prefix.frame_slots):
        raise UsageError(
            f"with_attention (--show-frames): some layers of this {model.backbone.family.title} keep a running state, "
            "or the last few tokens only, so where an answer looked cannot be measured; leave it out"
        )
    started = time.perf_counter()
    prompts = [prompt_ids(model, prefix, question, history) for question in questions]
    generated = [] if engine is None else engine.generate(model, prefix, prompts, options=options)
    most = MAX_QUESTIONS_PER_BATCH
    while len(generated) < len(prompts):
        batch = prompts[len(generated) :][:most]
        found = unless_out_of_memory(lambda batch=batch: generate(model, prefix, batch, options=options))  # type: ignore[misc]
        if found is not None:
            generated += found[0]
        elif len(batch) == 1:
            raise ModelError(f"out of memory with one question over {len(prefix.frame_slots)} frames: {_LESS}")
        else:
            most = len(batch) // 2
    seconds = time.perf_counter() - started
    answers = []
    for question, prompt, (token_ids, confidence) in zip(questions, prompts, generated):
        attention = frame_attention(model, prefix, prompt, token_ids) if with_attention else (None, None)
        answers.append(
            Answer(
                question=question,
                text=model.backbone.text(token_ids),
                token_ids=tuple(token_ids),
                confidence=confidence,
                num_frames=len(prefix.frame_slots),
                num_voco_tokens=prefix.frame_slots.shape[-1],
                seconds=seconds,
                note=answer_note(model, prefix, num_text_tokens=len(prompt) + len(token_ids)),
                frame_pts_seconds=frame_pts_seconds,
                frame_attention=attention[0],
                video_attention=attention[1],
                evidence=looked_at(attention[0], frame_pts_seconds),
                is_cut=options.stop_at_end and len(token_ids) == options.max_new_tokens,
            )
        )
    return answers


def answer_note(model: VocoModel, prefix: Prefix, *, num_text_tokens: int = 0) -> str:
    """Write the note on an answer: that no frame was shown, that the model is untrained, and the model's own note.

    Args:
        num_text_tokens: number of tokens of question and answer.
    """
    blind = "" if len(prefix.frame_slots) else "answered from the question alone: no frame was shown. "
    return f"{beyond_context(model, prefix, num_text_tokens)}{blind}{model_note(model)}".strip()


def model_note(model: VocoModel) -> str:
    """Write the note on a model that comes with all its answers; empty if there is nothing to say."""
    warning = "" if model.trained else "the model is untrained, so its answers mean nothing. "
    return f"{warning}{model.about}".strip()


def beyond_context(model: VocoModel, prefix: Prefix, num_text_tokens: int) -> str:
    """Say that positions go beyond those that the model was trained on; "" if they do not."""
    trained, used = model.backbone.context_length, prefix.text_start + num_text_tokens
    if trained is None or used <= trained:
        return ""
    return (
        f"frames and text take {used} positions, but the model was trained on {trained}, so this answer may mean "
        "nothing; give a smaller max_voco_tokens. "
    )


def looked_at(shares: np.ndarray | None, pts_seconds: np.ndarray) -> tuple[Moment, ...]:
    """Return the moments that an answer attended to."""
    if shares is None or not len(shares):
        return ()
    return tuple(shared_moments(shares, pts_seconds, num_moments=NUM_MOMENTS))


def stream_answer(
    model: VocoModel,
    prefix: Prefix,
    question: str,
    *,
    history: Sequence[Message] = (),
    options: AnswerOptions = AnswerOptions(),
    engine: Engine | None = None,
) -> Iterator[str]:
    """Yield an answer's text piece by piece; a token is generated only when the next piece is asked for.

    With an engine, tokens are yielded as they come.
    """
    prompt = prompt_ids(model, prefix, question, history)
    if problem := beyond_context(model, prefix, len(prompt)):
        log.warning(problem.strip())
    text, num_tokens = _GrowingText(model.backbone.tokenizer, skip_special_tokens=True), 0
    ends = end_token_ids(model) if options.stop_at_end else set()
    if engine is None:
        token_ids = _token_ids(model, prefix, prompt, options)
    else:
        token_ids = (token_id for token_id, _ in engine.stream(model, prefix, prompt, options=options))
    for token_id in token_ids:
        if token_id in ends:
            break
        num_tokens += 1
        text.put(torch.tensor([token_id], device="cpu"))  # whatever device a caller has made the default
        yield from text.taken()
    text.end()
    yield from text.taken()
    if options.stop_at_end and num_tokens == options.max_new_tokens:
        log.warning("the answer was cut after max_new_tokens=%d", options.max_new_tokens)


def _token_ids(model: VocoModel, prefix: Prefix, prompt: Sequence[int], options: AnswerOptions) -> Iterator[int]:
    for token_ids, _ in generate_steps(model, prefix, [prompt], options=options):
        yield int(token_ids[0])


class _GrowingText(TextStreamer):
    """The text of the tokens so far, without the part that later tokens may still change."""

    def __init__(self, tokenizer: Any, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        self._pieces: list[str] = []
        self._has_begun = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._pieces.append(text)

    def taken(self) -> list[str]:
        """Return the pieces since the last call; an answer does not begin with blanks."""
        pieces, self._pieces = self._pieces, []
        taken = []
        for piece in pieces:
            if piece := piece if self._has_begun else piece.lstrip():
                self._has_begun = True
                taken.append(piece)
        return taken


def generate(
    model: VocoModel,
    prefix: Prefix,
    prompts: Sequence[Sequence[int]],
    *,
    options: AnswerOptions = AnswerOptions(),
) -> list[tuple[list[int], float]]:
    """Generate after a prefix for a batch of token-id prompts.

    Args:
        prompts: token ids of each prompt, any lengths.

    Returns:
        For each prompt the new token ids, the end token left out, and the geometric mean of their probabilities.
    """
    answers: dict[int, tuple[list[int], float]] = {}
    for rows in _without_padding(model, prompts):
        together = _generate_together(model, prefix, [prompts[row] for row in rows], options)
        answers |= dict(zip(rows, together, strict=True))
    return [answers[row] for row in range(len(prompts))]


def _without_padding(model: VocoModel, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Split a batch into the rows that can be padded to one length: all, or those of one length each.

    Padding stands between the prefix and the text. A running state would take it in, and a window of tokens would
    reach less far back.
    """
    if model.backbone.keeps_all_keys:
        return [list(range(len(prompts)))]
    by_length: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(row)
    return list(by_length.values())


def _generate_together(
    model: VocoModel, prefix: Prefix, prompts: Sequence[Sequence[int]], options: AnswerOptions
) -> list[tuple[list[int], float]]:
    ends = end_token_ids(model) if options.stop_at_end else set()
    steps = list(generate_steps(model, prefix, prompts, options=options))
    new_ids, log_probs = (torch.stack(tensors, dim=1).cpu() for tensors in zip(*steps, strict=True))  # [B, A] each
    return [_until_end(ids, row, ends) for ids, row in zip(new_ids.tolist(), log_probs, strict=True)]


def generate_steps(
    model: VocoModel, prefix: Prefix, prompts: Sequence[Sequence[int]], *, options: AnswerOptions = AnswerOptions()
) -> Iterator[tuple[Tensor, Tensor]]:
    """Generate for a batch of prompts, one token of each at a time, until all have ended.

    Prompts are padded on the left, between the prefix and the text, and the padding is masked; models that do not keep
    all keys take prompts of one length. All state is local: the model and torch's own generator of random numbers are
    not changed.

    Yields:
        Ids of the chosen tokens, int64 ``[B]``, and the logarithms of their probabilities, float32 ``[B]``. They have
        no meaning for a prompt that has ended.
    """
    backbone, batch_size = model.backbone, len(prompts)
    assert len(_without_padding(model, prompts)) == 1, "prompts of several lengths"
    ends = end_token_ids(model) if options.stop_at_end else set()
    with undisturbed():
        new_ids, mask = _left_padded(prompts, backbone.device)  # [B, T] each
        attention_mask = torch.cat([mask.new_ones(batch_size, prefix.length), mask], dim=1)  # [B, S + T]
        positions = prefix.text_start + (mask.cumsum(1) - 1).clamp_min(0)  # [B, T]
        chooser = TokenChooser(model, prompts, options, before=prefix.prompt_ids)
        cache, is_padded = prefix.to_cache(batch_size), len(set(map(len, prompts))) > 1
        has_ended = torch.zeros(batch_size, dtype=torch.bool)
    for _ in range(options.max_new_tokens):
        with undisturbed(), model.answering(prefix.form):
            hidden = backbone.decoder(
                inputs_embeds=backbone.embed(new_ids),
                attention_mask=attention_mask if is_padded else None,
                position_ids=positions,
                use_cache=True,
                **{CACHE_ARGUMENT: cache},
            ).last_hidden_state
            logits = backbone.logits(hidden[:, -1:])[:, 0].float()  # [B, vocabulary]
            token_ids = chooser.choose(logits)  # [B]
            log_probs = logits.log_softmax(-1).gather(-1, token_ids[:, None])[:, 0]  # [B]
            new_ids = token_ids[:, None]
            attention_mask = torch.cat([attention_mask, mask.new_ones(batch_size, 1)], dim=1)
            positions = positions[:, -1:] + 1
            if ends:  # else nobody needs to wait for the token
                has_ended |= torch.tensor([token in ends for token in token_ids.tolist()])
            is_over = bool(has_ended.all())
        yield token_ids, log_probs
        if is_over:
            return


@undisturbed()
def frame_attention(
    model: VocoModel, prefix: Prefix, prompt: Sequence[int], answer_ids: Sequence[int]
) -> tuple[np.ndarray, float]:
    """Measure which frames an answer attended to, from the positions that predict its tokens.

    The mean is over layers, heads and answer tokens; each is computed by the library's eager attention in one pass
    over question and answer.

    Returns:
        The share of each frame ``[F]`` (sums to 1, or is empty without frames), and the part of all attention that
        went to frames.
    """
    if not len(prefix.frame_slots):
        return np.empty(0), 0.0
    tokens = torch.tensor([[*prompt, *answer_ids]], device=model.backbone.device)
    rows = slice(len(prompt) - 1, len(prompt) - 1 + max(1, len(answer_ids)))
    positions = torch.arange(prefix.text_start, prefix.text_start + tokens.shape[1], device=tokens.device)
    with model.answering(prefix.form):
        layers = model.backbone.decoder_by("eager")(  # no other attention returns its weights
            inputs_embeds=model.backbone.embed(tokens),
            position_ids=positions[None],
            output_attentions=True,
            **{CACHE_ARGUMENT: prefix.to_cache()},
        ).attentions
    mean = torch.stack([layer[0, :, rows].float().mean((0, 1)).cpu() for layer in layers]).mean(0)  # [S + T]
    slots = prefix.frame_slots.cpu()
    per_frame = (mean[slots.clamp_min(0)] * (slots >= 0)).sum(-1).numpy().astype(np.float64)  # [F]
    total = float(per_frame.sum())
    return per_frame / max(total, 1e-30), total


def prompt_ids(model: VocoModel, prefix: Prefix, question: str, history: Sequence[Message]) -> list[int]:
    """Make the token ids of a question and of the turns before it, which follow a prefix.

    Raises:
        UsageError: the question is empty, or too long for the model.
    """
    if not question.strip():
        raise UsageError("the question is empty; ask something")
    turns = [*history, Message("user", question.strip())]
    messages = [{"role": t.role, "content": t.content} for t in turns]
    return model.backbone.conversation_ids(messages, has_frames=len(prefix.frame_slots) > 0)


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return input_ids.to(device), mask.to(device)


def _until_end(ids: list[int], log_probs: Tensor, ends: set[int]) -> tuple[list[int], float]:
    """Cut at the first end token; its probability counts too, since the model chose to end there."""
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    counted = log_probs[: length + 1] if length < len(ids) else log_probs
    return ids[:length], float(counted.mean().exp())
