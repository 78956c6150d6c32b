"""How a conversation becomes text and token ids: the chat template's words, and the frames' place among them.

As trained, frames stand where the chat template puts a video (or pictures) into the first question:

    opening   [words] frame 0   [words] frame 1   ...   [words] frame F-1   [words] closing

``opening`` is what stands before the video: system prompt and the user's header. ``closing`` is the rest: question,
later turns, and where the answer begins. The words between are those that the model's processor writes, such as times.
With frames first there is no opening, and the closing is the whole conversation.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from voco_video.errors import ModelError, UsageError
from voco_video.files.settings import first_line
from voco_video.model.families.family import Family
from voco_video.model.families.layout import AsTrained, FrameTimes, FrameWords, PromptTemplate, Variant
from voco_video.model.inference import lock_across_forks
from voco_video.model.typed_text import TypedText

Messages = Sequence[Mapping[str, str]]
"""``{"role": "user" | "assistant" | "system", "content": text}`` in order; a system message stands first."""

_TOKENIZING = lock_across_forks()
_NO_TEMPLATE = "this checkpoint's tokenizer has no chat template; add chat_template.jinja beside it"
# The roles whose contents a chat template is given in parts: of all, of questions alone (GLM-4.1V), or of none.
_WITH_PARTS = (("user", "assistant", "system"), ("user",))
_PLAIN: tuple[str, ...] = ()
_BARE_PART = re.compile(r"""["']type["']\s*:\s*["']text["']""")
_NAMES = {"user": "question", "assistant": "answer", "system": "system message"}


@dataclass(frozen=True)
class AroundFrames:
    """The text of a conversation without its frames.

    Attributes:
        opening: before the first frame.
        between: between two frames, where the chat template takes them one by one.
        closing: behind the last frame.
    """

    opening: str
    between: str
    closing: str


@dataclass(frozen=True)
class ConversationWriter:
    """Writes conversations for one checkpoint.

    Attributes:
        family: of the model.
        config: its configuration.
        tokenizer: its tokenizer, or None; then only token ids go in and out.
        own_template: Jinja chat template to use instead of the tokenizer's.
    """

    family: Family
    config: Any
    tokenizer: Any
    own_template: str | None = None

    # ------------------------------------------------------------------ text

    @property
    def has_template(self) -> bool:
        """Whether there is a chat template at all."""
        return self.tokenizer is not None and bool(self.own_template or getattr(self.tokenizer, "chat_template", None))

    def text(self, messages: Messages, *, add_generation_prompt: bool = True) -> str:
        """Write a conversation without frames. Special tokens in contents are `TypedText.broken`.

        Args:
            messages: see `Messages`.
            add_generation_prompt: end it where the next answer begins.

        Raises:
            ModelError: there is no tokenizer or no chat template, or it refuses the conversation or loses text of it.
        """
        return self._rendered(messages, num_media=0, add_generation_prompt=add_generation_prompt)

    def around_frames(
        self, messages: Messages, variant: Variant, *, add_generation_prompt: bool = True
    ) -> AroundFrames:
        """Write a conversation about a video, cut at the video; otherwise as `text`.

        Raises:
            ModelError: as for `text`; or there is no place for a video in the chat template.
        """
        placeholder = self.family.placeholder(self.config, self.tokenizer)
        num_media = 3 if self.family.takes_pictures else 1
        text = self._rendered(messages, num_media=num_media, add_generation_prompt=add_generation_prompt)
        opening, *between, closing = text.split(placeholder)
        if len(set(between)) > 1:
            raise ModelError("this checkpoint's chat template writes pictures in a row differently; set another one")
        opening, closing = self.family.cut(opening, closing, variant)
        return AroundFrames(opening, between[0] if between else "", closing)

    def _rendered(self, messages: Messages, *, num_media: int, add_generation_prompt: bool) -> str:
        if self.tokenizer is None:
            raise ModelError("this checkpoint has no tokenizer; ask with token ids (voco_video.answer.generate)")
        if not self.has_template:
            raise ModelError(_NO_TEMPLATE)
        typed = [{**m, "content": self.typed_text.broken(m["content"])} for m in messages]
        placeholder = self.family.placeholder(self.config, self.tokenizer) if num_media else ""
        failure, losses = None, list[set[str]]()  # of each try
        parts_first = num_media > 0 or self._takes_parts  # a template with a place for videos has it among the parts
        for in_parts in (*_WITH_PARTS, _PLAIN) if parts_first else (_PLAIN, *_WITH_PARTS):
            try:
                messages = _with_media(typed, self.family, placeholder, num_media, in_parts=bool(in_parts))
                text = self._by_template(messages, in_parts, add_generation_prompt, is_video=num_media > 0)
            except Exception as error:  # a template is a program, and raises anything
                failure = error
                continue
            written = _without_blanks(text)
            lost = {m["role"] for m in typed if _without_blanks(m["content"]) not in written}
            if _num_bare_parts(text) > sum(_num_bare_parts(m["content"]) for m in typed):
                lost |= {m["role"] for m in typed if m["role"] in in_parts}  # "[{'type': 'text', ..." in the prompt
            if not lost and (not num_media or text.count(placeholder) == num_media):
                return text
            losses.append(lost)
        lost = min(losses, key=len, default=set())
        if failure is not None and not lost:
            raise ModelError(
                f"this checkpoint's chat template refuses the conversation: {first_line(failure)}; set another "
                "chat_template.jinja"
            ) from failure
        if not lost:
            raise ModelError(
                f"this checkpoint's chat template has no place for a video ({placeholder} is missing from what it "
                "writes); set another chat_template.jinja"
            )
        what = " and the ".join(_NAMES.get(role, role) for role in ("user", "assistant", "system") if role in lost)
        raise ModelError(f"this checkpoint's chat template leaves out the {what}; set another chat_template.jinja")

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the chat template passes over a content that is not in parts, as those for pictures do in silence."""
        mark = "1question1"
        try:
            told = self._by_template([{"role": "user", "content": mark}], _PLAIN, True)
        except Exception:  # a template is a program, and raises anything
            return True
        return mark not in told

    def _by_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        in_parts: Collection[str],
        add_generation_prompt: bool,
        *,
        is_video: bool = False,
    ) -> str:
        messages = [
            {**m, "content": [{"type": "text", "text": m["content"]}]}
            if m["role"] in in_parts and not isinstance(m["content"], list)
            else m
            for m in messages
        ]
        template = self.own_template or (self.family.video_chat_template() if is_video else None)
        text: str = self.tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=add_generation_prompt, tokenize=False
        )
        return text

    # ------------------------------------------------------------------ token ids

    @cached_property
    def typed_text(self) -> TypedText:
        """How the tokenizer reads what people type."""
        return TypedText(self.tokenizer)

    def token_ids(self, text: str) -> list[int]:
        """Turn text, its typed parts `TypedText.broken`, into token ids; nothing is added."""
        with _TOKENIZING:  # tokenizers change their own settings meanwhile, and fail when two threads do
            return self.typed_text.token_ids(text)

    def encoded(self, text: str) -> tuple[list[int], list[int]]:
        """Return the same token ids, and for each the place in the text behind its last character."""
        with _TOKENIZING:
            return self.typed_text.encoded(text)

    def first_ids(self, text: str) -> list[int]:
        """Return what the tokenizer puts before a text, as the library's processors have it: ``<s>`` or nothing."""
        bos = getattr(self.tokenizer, "bos_token", None)
        if bos and text.startswith(bos):
            return []
        with _TOKENIZING:
            with_ids, without = (list(self.tokenizer("a", add_special_tokens=add).input_ids) for add in (True, False))
        num_added = next((i for i in range(len(with_ids)) if with_ids[i : i + len(without)] == without), 0)
        return with_ids[:num_added]

    @cached_property
    def frame_text(self) -> str:
        """One frame as text, its vision tokens written as one."""
        vision_token = self.tokenizer.convert_ids_to_tokens(self.family.vision_token_id(self.config))
        return f"{self.family.frame_before}{vision_token}{self.family.frame_after}"

    @cached_property
    def frame_ids(self) -> list[int]:
        """The token ids of `frame_text`."""
        return self.token_ids(self.frame_text)

    def template(self, variant: Variant = "released") -> PromptTemplate:
        """Make the layout as trained.

        Raises:
            ModelError: the chat template has no place for a video, or the tokenizer and the configuration disagree
                about the token that stands for pictures.
        """
        vision_id = self.family.vision_token_id(self.config)
        if self.tokenizer.convert_ids_to_tokens(vision_id) is None or self.frame_ids.count(vision_id) != 1:
            raise ModelError(
                f"the tokenizer does not know token id {vision_id} of config.json, which stands for frames"
            )
        place = self.frame_ids.index(vision_id)
        opening = self.around_frames([{"role": "user", "content": "?"}], variant).opening
        context = self.ids_before_frames([opening])[0]
        return PromptTemplate(
            (*context, *self.frame_ids[:place]),
            tuple(self.frame_ids[place + 1 :]),
            as_trained=AsTrained(len(context), self.family.pictures_per_frame(self.config), variant),
        )

    def ids_before_frames(self, texts: Sequence[str], *, joined: bool = True) -> list[list[int]]:
        """Return the token ids of the texts that stand before each of some frames, ``[F]``; a frame's own are left out.

        Args:
            joined: all are read as one text: what a tokenizer makes of a text can depend on what stands before it.

        Raises:
            ModelError: the tokenizer joins words and frames to other tokens.
        """
        if not joined:
            return [[*(() if f else self.first_ids(text)), *self.token_ids(text)] for f, text in enumerate(texts)]
        whole = "".join(text + self.frame_text for text in texts)
        ids = [*self.first_ids(whole), *self.token_ids(whole)]
        vision_id = self.family.vision_token_id(self.config)
        place = self.frame_ids.index(vision_id)
        before, after = self.frame_ids[:place], self.frame_ids[place + 1 :]
        pieces, start = [], 0
        for place in [i for i, token_id in enumerate(ids) if token_id == vision_id]:
            first, last = place - len(before), place + 1 + len(after)
            if first < start or ids[first:place] != before or ids[place + 1 : last] != after:
                break
            pieces.append(ids[start:first])
            start = last
        if len(pieces) != len(texts) or start != len(ids):
            raise ModelError("this checkpoint's tokenizer joins frames with the words around them to other tokens")
        return pieces

    def ids_after_frames(self, text: str) -> list[int]:
        """Return the token ids of the text behind the last frame."""
        return self.token_ids(self.frame_text + text)[len(self.frame_ids) :]

    def encoded_after_frames(self, text: str) -> tuple[list[int], list[int]]:
        """Return the same token ids, and for each the place in the text behind its last character."""
        ids, ends = self.encoded(self.frame_text + text)
        first, shift = len(self.frame_ids), len(self.frame_text)
        return ids[first:], [end - shift for end in ends[first:]]


def lead_texts(around: AroundFrames, words: FrameWords, speech: Mapping[int, str] | None = None) -> list[str]:
    """Join what stands before each frame, ``[F]``: the opening or the text between, speech, the processor's words."""
    said = speech or {}
    return [(around.between if f else around.opening) + said.get(f, "") + text for f, text in enumerate(words.before)]


def _without_blanks(text: str) -> str:
    """Leave out what a chat template may change: some write a question on one line."""
    return "".join(text.split())


def _num_bare_parts(text: str) -> int:
    """Count parts that stand in a text as a template prints them that takes plain contents alone."""
    return len(_BARE_PART.findall(text))


def _with_media(
    messages: Sequence[Mapping[str, str]], family: Family, placeholder: str, num_media: int, in_parts: bool
) -> list[dict[str, Any]]:
    """Put a video, or pictures, into the first question: as parts of its content, or written out in its text."""
    changed: list[dict[str, Any]] = [dict(m) for m in messages]
    if not num_media:
        return changed
    first = next((m for m in changed if m["role"] == "user"), None)
    if first is None:
        raise UsageError("a conversation about a video needs a question")
    if in_parts:
        kind = "image" if family.takes_pictures else "video"
        first["content"] = [{"type": kind}] * num_media + [{"type": "text", "text": first["content"]}]
    else:
        first["content"] = f"{placeholder}\n" * num_media + first["content"]
    return changed


__all__ = ["AroundFrames", "ConversationWriter", "FrameTimes", "Messages", "lead_texts"]
