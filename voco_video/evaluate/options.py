"""What an evaluation can be told: one field, one command-line option."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from voco_video.answer.frame_budget import Policy, ViewOptions
from voco_video.answer.generate import MAX_QUESTIONS_PER_BATCH, AnswerOptions
from voco_video.compress import CompressOptions, Form, Storage
from voco_video.data.choices import LETTER_PROMPT, filled_prompt
from voco_video.data.samples import Turn
from voco_video.errors import UsageError
from voco_video.model.compressors import check_compressor, parse_compressor
from voco_video.model.memory import BatchSize
from voco_video.model.voco import VocoModel
from voco_video.video.sampling import Sampling

AnswerBy = Literal["letter", "likelihood"]
OPEN_PROMPT = "{question}"


@dataclass(frozen=True)
class EvalOptions:
    """What is asked, and how it is answered.

    Attributes:
        fps, num_frames: see `Sampling`; 1 fps when neither is given.
        compressor: see `CompressOptions`.
        num_voco_tokens: for ``voco``, budgets k to answer from, each with predictions of its own over the same cache;
            empty: all K.
        max_voco_tokens, policy, neighbours, clock_every_seconds: see `ViewOptions`.
        form, storage, batch_size, decoder: see `CompressOptions`.
        max_new_tokens: an answer is cut after this many tokens.
        prompt: what the model is asked, with ``{question}`` where the question goes, and for multiple choice
            ``{options}`` where lines "A. ..." go. None: the question alone, or with ``letter`` `LETTER_PROMPT`.
        answer_by: how multiple choice is answered; nothing to other questions. ``letter``: the model generates, and the
            letter is read from what it says (`read_letter`). ``likelihood``: it generates nothing, and the option is
            taken whose text is the likeliest answer, see `voco_video.evaluate.choices`.
        questions_per_batch: of one video at a time, 1 to 32.
        limit: ask only this many questions, drawn by ``seed`` from all of the split (with ``skip_missing``: from those
            whose video is there); None: all.
        seed: of that draw.
        skip_missing: leave questions out of the scores whose video is missing or cannot be decoded. They count as
            unanswered, so as wrong, otherwise.
        vocabulary: answers to rank by likelihood for every question, see `answer_vocabulary`; empty: none. That costs
            about a pass over all of the vocabulary's tokens per question.
    """

    fps: float | None = None
    num_frames: int | None = None
    compressor: str = "voco"
    num_voco_tokens: tuple[int, ...] = ()
    max_voco_tokens: int | None = None
    policy: Policy = "uniform"
    neighbours: int = 2
    clock_every_seconds: float | None = None
    form: Form | None = None
    storage: Storage = "native"
    batch_size: BatchSize = 16
    decoder: str = "pyav"
    max_new_tokens: int = 16
    prompt: str | None = None
    answer_by: AnswerBy = "letter"
    questions_per_batch: int = MAX_QUESTIONS_PER_BATCH
    limit: int | None = None
    seed: int = 0
    skip_missing: bool = False
    vocabulary: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        _ = self.sampling, self.compression, self.view  # which refuse what cannot be
        AnswerOptions(self.max_new_tokens)
        if self.answer_by not in get_args(AnswerBy):
            raise UsageError(f"answer_by {self.answer_by!r} is not one of {', '.join(get_args(AnswerBy))}")
        if self.prompt is not None and "{question}" not in self.prompt:
            raise UsageError(f"prompt {self.prompt!r} has no {{question}} in it, so nothing would be asked")
        if not 1 <= self.questions_per_batch <= MAX_QUESTIONS_PER_BATCH:
            wanted = f"choose 1 to {MAX_QUESTIONS_PER_BATCH}"
            raise UsageError(f"questions_per_batch={self.questions_per_batch}: {wanted}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit={self.limit}: ask at least 1 question")
        if len(set(self.num_voco_tokens)) < len(self.num_voco_tokens):
            raise UsageError(f"num_voco_tokens {','.join(map(str, self.num_voco_tokens))} names a budget twice")

    @property
    def sampling(self) -> Sampling:
        """Which frames are seen."""
        return Sampling(fps=self.fps, num_frames=self.num_frames)

    @property
    def view(self) -> ViewOptions:
        """What a question sees of them."""
        return ViewOptions(self.max_voco_tokens, self.policy, self.neighbours, self.clock_every_seconds)

    @property
    def compression(self) -> CompressOptions:
        """How frames are compressed: always to all K VoCo tokens, which serve every budget."""
        return CompressOptions(
            compressor=self.compressor,
            form=self.form,
            storage=self.storage,
            batch_size=self.batch_size,
            decoder=self.decoder,
        )

    def prompt_for(self, *, is_multiple_choice: bool) -> str:
        """What such questions are asked with, placeholders and all."""
        by_letter = is_multiple_choice and self.answer_by == "letter"
        return self.prompt if self.prompt is not None else LETTER_PROMPT if by_letter else OPEN_PROMPT

    def prompt_of(self, turn: Turn) -> str:
        """What the model is asked for one question."""
        return filled_prompt(self.prompt_for(is_multiple_choice=bool(turn.options)), turn.question, turn.options)

    def budgets(self, model: VocoModel) -> tuple[int | None, ...]:
        """Every k to answer from; (None,) for compressors without VoCo tokens.

        Raises:
            UsageError, ModelError: the model or the compressor has no k tokens.
        """
        compressor = parse_compressor(self.compressor)
        for k in self.num_voco_tokens or (None,):
            check_compressor(model, compressor, num_voco_tokens=k, form=self.compression.form_for(model))
        return (self.num_voco_tokens or (model.num_voco_tokens,)) if compressor.name == "voco" else (None,)
