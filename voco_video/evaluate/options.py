"""The options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from voco_video.data.choices import LETTER_PROMPT, filled_prompt
from voco_video.data.samples import Dataset, Turn
from voco_video.errors import UsageError
from voco_video.options.answering import MAX_QUESTIONS_PER_BATCH, WHAT_IS_SEEN, AnswerOptions, Policy, ViewOptions
from voco_video.options.compression import BatchSize, CompressOptions, Decoder, Form, Storage
from voco_video.options.fields import Options, documented, option, same_option
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    from voco_video.model.voco import VocoModel

AnswerBy = Literal["letter", "likelihood", "find"]
Subtitles = Literal["none", "auto"]
OPEN_PROMPT = "{question}"


def parse_budgets(text: str) -> tuple[int, ...]:
    """Read numbers of VoCo tokens with commas between them.

    Raises:
        UsageError: something in it is no number above 0.

    >>> parse_budgets("1,2,4")
    (1, 2, 4)
    """
    parts = text.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"num_voco_tokens={text!r}: give numbers with commas between them, as in 1,2,4")
    return tuple(int(part) for part in parts)


@documented
@dataclass(frozen=True)
class EvalOptions(Options, panel="Questions"):
    """The questions that are asked, and how they are answered.

    Each of ``num_voco_tokens`` is a budget k with predictions of its own over the same cache. ``limit`` draws from all
    of the split, with ``skip_missing`` from the questions whose video is there. Without a ``prompt`` the model is asked
    what the set's authors ask (`with_prompt_of`), else the question alone, or with ``answer_by="letter"`` also options
    (`LETTER_PROMPT`). With ``letter`` the model generates, and the
    letter is read from its answer (`read_letter`); with ``likelihood`` it generates nothing, and the option is taken
    whose text is the likeliest answer (`voco_video.evaluate.answer_likelihood`). Of questions of when something happens
    ``find`` answers with the best moment of a search, and nothing is generated. ``vocabulary`` has answers to rank by
    likelihood for every question, see `answer_vocabulary`; empty: none. That costs about a pass over all of the
    vocabulary's tokens per question.
    """

    limit: int | None = option(
        None, "Ask this many questions, drawn from the split by --seed.", unit="questions", at_least=1, unset="all"
    )
    seed: int = option(0, "Another seed draws other questions for --limit; answers do not depend on it.")
    skip_missing: bool = option(False, "Score without questions on missing or undecodable videos; else they are wrong.")
    fps: float | None = same_option(Sampling, "fps")
    num_frames: int | None = same_option(Sampling, "num_frames")
    compressor: str = same_option(CompressOptions, "compressor")
    num_voco_tokens: tuple[int, ...] = option(
        (),
        "VoCo tokens per frame to answer from; several give a sweep.",
        metavar="K,K,...",
        parse=parse_budgets,
        panel=WHAT_IS_SEEN,
        unset="all",
    )
    max_voco_tokens: int | None = same_option(ViewOptions, "max_voco_tokens")
    policy: Policy = same_option(ViewOptions, "policy")
    neighbours: int = same_option(ViewOptions, "neighbours")
    clock_every_seconds: float | None = same_option(ViewOptions, "clock_every_seconds")
    subtitles: Subtitles = option(
        "none",
        "Tell what is said: auto takes the set's own subtitles, else a .srt or .vtt beside the video, else its stream.",
        panel=WHAT_IS_SEEN,
    )
    form: Form | None = same_option(CompressOptions, "form")
    storage: Storage = same_option(CompressOptions, "storage")
    max_new_tokens: int = same_option(AnswerOptions, "max_new_tokens", default=16)
    prompt: str | None = option(
        None,
        "What the model is asked, {question} being the question, {options} its options under letters.",
        unset="what the set's authors ask; else the question, for letters also the options",
    )
    answer_by: AnswerBy = option(
        "letter",
        "Multiple choice: generate a letter, or take the option that is the likeliest answer. When something happens: "
        "generate times, or find the moment.",
    )
    questions_per_batch: int = option(
        MAX_QUESTIONS_PER_BATCH,
        "Questions on one video per forward pass.",
        unit="questions",
        at_least=1,
        at_most=MAX_QUESTIONS_PER_BATCH,
    )
    batch_size: BatchSize = same_option(CompressOptions, "batch_size")
    merge_pictures: bool = same_option(CompressOptions, "merge_pictures")
    decoder: Decoder = same_option(CompressOptions, "decoder")
    vocabulary: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.sampling, self.compression, self.view  # constructing these validates the options
        if self.prompt is not None and "{question}" not in self.prompt:
            raise UsageError(f"prompt={self.prompt!r} has no {{question}} in it, so nothing would be asked")
        if len(set(self.num_voco_tokens)) < len(self.num_voco_tokens):
            raise UsageError(f"num_voco_tokens={','.join(map(str, self.num_voco_tokens))} names a budget twice")

    @property
    def sampling(self) -> Sampling:
        """The frames that are seen."""
        return Sampling(fps=self.fps, num_frames=self.num_frames)

    @property
    def view(self) -> ViewOptions:
        """The frames that a question sees, of those."""
        return ViewOptions(self.max_voco_tokens, self.policy, self.neighbours, self.clock_every_seconds)

    @property
    def compression(self) -> CompressOptions:
        """How frames are compressed: always to all K VoCo tokens, which serve every budget."""
        return CompressOptions(
            compressor=self.compressor,
            form=self.form,
            storage=self.storage,
            batch_size=self.batch_size,
            merge_pictures=self.merge_pictures,
            decoder=self.decoder,
        )

    def with_prompt_of(self, dataset: Dataset) -> EvalOptions:
        """Return options that ask what the set's authors ask, unless a prompt was given or nothing is generated."""
        is_asked = self.prompt is None and dataset.prompt and self.answer_by == "letter"
        prompt = dataset.prompt_with_subtitles if self.subtitles != "none" else ""
        return replace(self, prompt=prompt or dataset.prompt) if is_asked else self

    def prompt_for(self, *, is_multiple_choice: bool) -> str:
        """Return the prompt of such questions, with its placeholders."""
        by_letter = is_multiple_choice and self.answer_by == "letter"
        return self.prompt if self.prompt is not None else LETTER_PROMPT if by_letter else OPEN_PROMPT

    def prompt_of(self, turn: Turn) -> str:
        """Fill the prompt with one question."""
        return filled_prompt(self.prompt_for(is_multiple_choice=bool(turn.options)), turn.question, turn.options)

    def budgets(self, model: VocoModel) -> tuple[int | None, ...]:
        """List every k to answer from; (None,) for compressors without VoCo tokens, and where each video has its own.

        Raises:
            UsageError, ModelError: the model or the compressor has no k tokens.
        """
        from voco_video.auto_compressor import settled
        from voco_video.model.compressors import check_compressor

        compressor = settled(model, self.compressor, num_voco_tokens=min(self.num_voco_tokens, default=None))
        if compressor is None:  # each video gets as many tokens a frame as fit
            if self.form is not None:
                model.check_form(self.form)
            return (None,)
        form = model.form_of(compressor, self.compression.form)
        for k in self.num_voco_tokens or (None,):
            check_compressor(model, compressor, num_voco_tokens=k, form=form)
        return (self.num_voco_tokens or (model.num_voco_tokens,)) if compressor.name == "voco" else (None,)
