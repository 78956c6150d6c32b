"""A request for a completion: its fields, what of them is honoured, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from voco_video.errors import UsageError
from voco_video.options.answering import AnswerOptions, Policy, ViewOptions
from voco_video.options.compression import CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.serve.openai_errors import ApiError
from voco_video.serve.openai_messages import Conversation, read_messages
from voco_video.serve.settings import ServeOptions

DEFAULT_MAX_TOKENS = 256
MAX_FPS = 120.0
MAX_STOP_CHARACTERS = 200
# Fields of the protocol that ask for nothing here, or for what is done anyway.
_PASSED_OVER = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier"})
# Fields that would change the answer, with the values that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "logprobs": (False,), "top_logprobs": (0,), "tools": ([],),
    "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False), "logit_bias": ({},),
    "presence_penalty": (0,), "frequency_penalty": (0,), "response_format": ({"type": "text"},),
    "modalities": (["text"],), "audio": (), "prediction": (), "reasoning_effort": (), "web_search_options": (),
    "verbosity": ("medium",), "echo": (False,), "min_p": (0,), "ignore_eos": (False,),
}  # fmt: skip


class VideoFields(BaseModel):
    """Which frames of the videos are compressed, and which of those the question sees."""

    model_config = ConfigDict(extra="forbid")
    fps: float | None = Field(default=None, gt=0, le=MAX_FPS, description="Frames a second to compress; 1 by default.")
    num_frames: int | None = Field(default=None, ge=1, description="Compress so many frames, spread evenly.")
    start_seconds: float | None = Field(default=None, description="See frames from here on.")
    end_seconds: float | None = Field(default=None, description="See frames before this.")
    num_voco_tokens: int | None = Field(default=None, ge=1, description="Tokens of each frame; all by default.")
    max_voco_tokens: int | None = Field(default=None, ge=1, description="Tokens of all frames that the question sees.")
    policy: Policy | None = Field(default=None, description="Which frames are seen where not all fit.")
    neighbours: int | None = Field(
        default=None, ge=0, description="Frames on each side that a relevant one brings with it."
    )
    clock_every_seconds: float | None = Field(default=None, gt=0, description="Tell the model the time this often.")
    compressor: str | None = Field(default=None, description="voco, full, pool:K, none or auto.", max_length=40)


class OwnFields(VideoFields):
    """Fields of this server: those of `mm_processor_kwargs` and a few on the answer."""

    with_attention: bool = Field(default=False, description="Measure where the answer looked.")
    anyway: bool = Field(
        default=False, description="Answer even where the video is nothing that the model was trained on."
    )


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool | None = None
    continuous_usage_stats: Literal[False] | None = None


class ChatRequest(BaseModel):
    """A request in OpenAI's form, with fields of this server."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "model": "voco-tiny",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "video_url", "video_url": {"url": "voco://demo"}},
                            {"type": "text", "text": "What moves to the left?"},
                        ],
                    }
                ],
                "max_tokens": 64,
                "voco_video": {"policy": "relevant", "with_attention": True},
            }
        },
    )
    model: str = Field(max_length=400)
    messages: list[dict[str, Any]]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: str | list[str] | None = None
    media_io_kwargs: dict[str, dict[str, Any]] | None = Field(
        default=None, description='vLLM\'s: {"video": {"fps": 2}}'
    )
    mm_processor_kwargs: VideoFields | None = Field(default=None, description="vLLM's, with the fields of this server.")
    voco_video: OwnFields | None = Field(default=None, description="Fields of this server.")


@dataclass(frozen=True)
class Wanted:
    """A request whose every field is understood.

    Attributes:
        window: start and end in seconds of the frames that are seen; None for all.
    """

    conversation: Conversation
    sampling: Sampling
    compress: CompressOptions
    window: tuple[float | None, float | None]
    view: ViewOptions
    num_voco_tokens: int | None
    options: AnswerOptions
    stop: tuple[str, ...]
    with_attention: bool
    anyway: bool
    stream: bool
    include_usage: bool


def read_request(request: ChatRequest, settings: ServeOptions) -> Wanted:
    """Turn a request into options, and refuse what cannot be honoured.

    Raises:
        ApiError: a field that would be passed over in silence otherwise, or two that contradict each other.
        UsageError: options that do not fit together.
    """
    _check_fields(request)
    fields = _video_fields(request)
    own = request.voco_video or OwnFields()
    compressor = {} if fields.get("compressor") is None else {"compressor": fields["compressor"]}
    view = {k: fields[k] for k in ("max_voco_tokens", "policy", "neighbours", "clock_every_seconds")}
    return Wanted(
        conversation=read_messages(request.messages),
        sampling=sampling_of(fields["fps"], fields["num_frames"], settings),
        compress=CompressOptions(**compressor),
        window=(fields["start_seconds"], fields["end_seconds"]),
        view=ViewOptions(**{k: v for k, v in view.items() if v is not None}),
        num_voco_tokens=fields["num_voco_tokens"],
        options=_answer_options(request, settings),
        stop=_stop_words(request.stop),
        with_attention=own.with_attention,
        anyway=own.anyway or settings.anyway,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
    )


def sampling_of(fps: float | None, num_frames: int | None, settings: ServeOptions) -> Sampling:
    """Return which frames are compressed.

    Raises:
        ApiError: more than the server takes.
    """
    if num_frames is not None and num_frames > settings.max_video_frames:
        raise ApiError(400, f"num_frames={num_frames}: at most {settings.max_video_frames} here", param="num_frames")
    return Sampling(fps=fps, num_frames=num_frames)


def _check_fields(request: ChatRequest) -> None:
    for name, value in (request.model_extra or {}).items():
        if value is None or name in _PASSED_OVER:
            continue
        if name not in _REFUSED:
            raise ApiError(400, f"{name[:60]}: no field of this server", param=name[:60], code="unknown_field")
        if not any(value == nothing and type(value) in (type(nothing), float, int) for nothing in _REFUSED[name]):
            raise ApiError(
                400, f"{name}={value!r:.60} cannot be honoured here; leave it out", param=name, code="unsupported_field"
            )
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options go with stream=true", param="stream_options")


def _video_fields(request: ChatRequest) -> dict[str, Any]:
    """Join the fields on frames of all the places where they may stand."""
    io = dict(request.media_io_kwargs or {})
    video = dict(io.pop("video", {}))
    unknown = [*io, *(set(video) - {"fps", "num_frames"})]
    if unknown:
        raise ApiError(400, f"media_io_kwargs: {unknown[0]!r:.60} cannot be honoured here", param="media_io_kwargs")
    video = {k: v for k, v in video.items() if v is not None and v != -1}  # vLLM writes -1 for all
    try:
        of_io = VideoFields(**video)
    except ValueError as error:
        raise ApiError(400, f"media_io_kwargs.video: {error!s:.200}", param="media_io_kwargs") from error
    places = [of_io, request.mm_processor_kwargs or VideoFields(), request.voco_video or OwnFields()]
    joined: dict[str, Any] = {}
    for name in VideoFields.model_fields:
        given = {value for place in places if (value := getattr(place, name)) is not None}
        if len(given) > 1:
            raise ApiError(400, f"{name} is given as {' and as '.join(map(str, given))}", param=name)
        joined[name] = next(iter(given), None)
    return joined


def _answer_options(request: ChatRequest, settings: ServeOptions) -> AnswerOptions:
    limits = {value for value in (request.max_tokens, request.max_completion_tokens) if value is not None}
    if len(limits) > 1:
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give one", param="max_tokens")
    most = next(iter(limits), min(DEFAULT_MAX_TOKENS, settings.max_answer_tokens))
    if most > settings.max_answer_tokens:
        raise ApiError(
            400, f"max_tokens={most}: at most {settings.max_answer_tokens} here", param="max_tokens", code="too_long"
        )
    temperature = request.temperature or 0.0
    is_all = not temperature  # what asks for nothing may stand beside temperature 0
    top_p = None if is_all and request.top_p == 1 else request.top_p
    top_k = None if request.top_k in ((-1, 0) if is_all else (None,)) else request.top_k
    try:
        return AnswerOptions(
            max_new_tokens=most,
            temperature=temperature,
            top_p=top_p,
            top_k=0 if top_k == -1 else top_k,
            repetition_penalty=request.repetition_penalty,
            seed=request.seed or 0,
        )
    except UsageError as error:
        raise ApiError(400, str(error), code="invalid_value") from error


def _stop_words(stop: str | list[str] | None) -> tuple[str, ...]:
    words = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(words) > 4 or not all(0 < len(word) <= MAX_STOP_CHARACTERS for word in words):
        raise ApiError(
            400, f"stop: give at most 4 texts of 1 to {MAX_STOP_CHARACTERS} characters", param="stop", code="bad_stop"
        )
    return words


EXAMPLE_ANSWER = {
    "id": "chatcmpl-1f",
    "object": "chat.completion",
    "created": 1790000000,
    "model": "voco-tiny",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "The red circle."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 140, "completion_tokens": 4, "total_tokens": 144},
    "voco_video": {"note": "", "confidence": 0.97, "evidence": []},
}
