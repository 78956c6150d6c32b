"""A conversation in OpenAI's form, read: its videos and pictures, the turns before, and the question.

The model sees all videos before the first word, so they have to stand in the first message of the user; a later message
may repeat them. A system message is put in front of the first question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from voco_video.answer.generate import Message
from voco_video.serve.openai_errors import ApiError

MAX_MESSAGES = 500
MAX_MEDIA = 16


@dataclass(frozen=True)
class Conversation:
    """What a request asks about.

    Attributes:
        media: ("video" or "image", URL) of each, in order.
        history: the turns before the question.
        question: the last message of the user.
    """

    media: tuple[tuple[str, str], ...]
    history: tuple[Message, ...]
    question: str


def read_messages(messages: Any) -> Conversation:
    """Read the messages of a request.

    Raises:
        ApiError: there is something in them that cannot be honoured; the error names its place.
    """
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages: give a list of at least one message", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise ApiError(400, f"messages: {len(messages)} are too many; at most {MAX_MESSAGES}", param="messages")
    system: list[str] = []
    turns: list[Message] = []
    media: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role, text, found = _read_message(message, where)
        if role == "system":
            if turns:
                raise ApiError(400, f"{where}: a system message has to stand before all others", param=where)
            system.append(text)
            continue
        is_first = not any(turn.role == "user" for turn in turns)
        if found and role != "user":
            raise ApiError(400, f"{where}: only messages of the user have videos and pictures", param=where)
        if found and not is_first and not set(found) <= set(media):
            raise ApiError(
                400,
                f"{where}: the model sees videos before the first word, so a new one cannot come in a later message; "
                "put all videos into the first message, or begin a new conversation",
                param=where,
                code="video_in_later_message",
            )
        media += [one for one in found if is_first]
        turns.append(Message(role, text))
    _check_turns(turns)
    if len(media) > MAX_MEDIA:
        raise ApiError(400, f"messages: {len(media)} videos and pictures; at most {MAX_MEDIA}", param="messages")
    if system:
        first = turns[0]
        turns[0] = Message(first.role, "\n\n".join([*system, first.content]))
    return Conversation(tuple(media), tuple(turns[:-1]), turns[-1].content)


def _check_turns(turns: list[Message]) -> None:
    if not turns or turns[-1].role != "user":
        raise ApiError(400, "messages: the last one has to be the user's question", param="messages")
    for number, turn in enumerate(turns):
        wanted = "assistant" if number % 2 else "user"
        if turn.role != wanted:
            raise ApiError(
                400,
                f"messages: user and assistant have to take turns, beginning with the user, but turn {number} is of "
                f"the {turn.role}",
                param="messages",
            )
        if not turn.content.strip():
            raise ApiError(400, f"messages: turn {number} has no text; ask something", param="messages")


def _read_message(message: Any, where: str) -> tuple[str, str, list[tuple[str, str]]]:
    if not isinstance(message, dict):
        raise ApiError(400, f"{where}: has to be an object with role and content", param=where)
    role = message.get("role")
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant"):
        raise ApiError(400, f"{where}: role {role!r:.40} is none of system, user, assistant", param=where)
    unknown = {k for k, v in message.items() if v is not None and v != []} - {"role", "content", "name", *_OF_ANSWERS}
    if unknown:
        raise ApiError(400, f"{where}: {', '.join(sorted(unknown))[:80]} cannot be honoured here", param=where)
    content = message.get("content")
    if isinstance(content, str):
        return role, content, []
    if not isinstance(content, list):
        raise ApiError(400, f"{where}: content has to be text or a list of parts", param=where)
    texts, media = [], []
    for place, part in enumerate(content):
        found = _read_part(part, f"{where}.content[{place}]")
        if found[0] == "text":
            texts.append(found[1])
        else:
            media.append(found)
    return role, "\n".join(texts), media


_OF_ANSWERS = ("voco_video", "annotations", "reasoning_content")  # that clients send back with an answer of ours


def _read_part(part: Any, where: str) -> tuple[str, str]:
    """Return "text", "video" or "image", and the text or the URL."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return "text", part["text"]
    if kind in ("video_url", "image_url"):
        value = part.get(kind)
        url = value.get("url") if isinstance(value, dict) else value
        extra = set(value) - {"url", "detail"} if isinstance(value, dict) else set()
        if isinstance(url, str) and url and not extra:
            return kind.removesuffix("_url"), url
        raise ApiError(400, f'{where}: write {{"type": "{kind}", "{kind}": {{"url": "..."}}}}', param=where)
    raise ApiError(
        400, f"{where}: type {kind!r:.40} is none of text, video_url, image_url", param=where, code="bad_part"
    )
