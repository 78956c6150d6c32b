"""A video as the library itself would be asked about it: its processor's prompt, written by hand, and its own forward.

The processors themselves want torchvision, which not every machine has. What they do was read from their code. That the
product agrees with what they wrote themselves is held by ``golden/as_trained`` and ``tests/golden/processors``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.helpers.tiny_families import IDS
from voco_video.compress import compress_batch
from voco_video.data.samples import Turn
from voco_video.model.families import FrameTimes
from voco_video.model.mixed_prefix import assemble
from voco_video.model.stage_clock import StageSeconds
from voco_video.model.tokens import Prefix, VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.options.compression import CompressOptions, Form, parse_compressor
from voco_video.training.batches import TrainingSample, Visibility, make_batch
from voco_video.training.loss import TrainableVoco
from voco_video.video.frames import FrameBatch, FrameGroups

Turns = Sequence[tuple[str, str]]
QUESTION: Turns = [("user", "What moves?")]
SEVERAL_TURNS: Turns = [("user", "What moves?"), ("assistant", "A dog."), ("user", "And then?")]
WITH_SYSTEM: Turns = [("system", "Be brief."), ("user", "Where to?")]


@dataclass(frozen=True)
class Shown:
    """What a video shows.

    Attributes:
        pixels: uint8 ``[F, H, W, 3]``, of the size that the model takes.
        seconds: when, float64 ``[F]``.
        duration_seconds: of the video.
    """

    pixels: np.ndarray
    seconds: np.ndarray
    duration_seconds: float

    @staticmethod
    def random(num_pictures: int, size: tuple[int, int], *, fps: float = 1.0, seed: int = 0) -> Shown:
        """Random cells of 4 x 4 pixels, so that pictures differ in more than noise."""
        rng = np.random.default_rng(seed)
        cells = rng.integers(0, 256, (num_pictures, size[0] // 4, size[1] // 4, 3)).astype(np.uint8)
        return Shown(cells.repeat(4, 1).repeat(4, 2), np.arange(num_pictures) / fps, num_pictures / fps)


# ---------------------------------------------------------------------- the product's way


@dataclass(frozen=True)
class Compressed:
    """A video as a model keeps it, before any question."""

    model: VocoModel
    tokens: VocoTokens
    times: FrameTimes

    def leads(self, system: str = "") -> list[list[int]]:
        """The token ids before each frame, under a system message or the template's own."""
        return self.model.backbone.lead_ids(self.times, system=system)

    def prefix(self, system: str = "") -> Prefix:
        """Assemble what a question about the video attends to."""
        counts = torch.full((len(self.times),), self.tokens.num_voco_tokens)
        leads = dict(enumerate(self.leads(system)))
        return assemble(self.model, self.tokens, counts=counts, texts=leads, times=self.times)

    def whole_ids(self, turns: Turns) -> list[int]:
        """All token ids of a conversation about it, each vision token as the placeholder's."""
        backbone, template = self.model.backbone, self.model.backbone.template
        vision = backbone.family.vision_token_id(backbone.hf_model.config)
        before, after = template.frame_before_ids[len(template.context_ids) :], template.frame_after_ids
        num_vision_tokens = self.tokens.num_voco_tokens - len(before) - len(after)
        frame = [*before, *[vision] * num_vision_tokens, *after]
        learned = backbone.family.after_embeds(backbone.hf_model)
        leads, last = self.leads(system_of(turns)), list[int]()
        if len(leads) > self.tokens.num_frames:
            *leads, last = leads
        frames = [i for lead in leads for i in [*lead, *frame]]
        return [*frames, *last, *[vision] * (0 if learned is None else len(learned)), *text_ids(self.model, turns)]


def compressed(model: VocoModel, shown: Shown, compressor: str = "full", form: Form = "embeds") -> Compressed:
    """Compress pictures as `compress_video` does, all in one batch."""
    batch: Any = FrameBatch(shown.pixels, shown.seconds)
    size = model.backbone.template.pictures_per_frame
    pictures = shown.seconds[:, None]
    if size > 1:
        batch = FrameGroups.of(batch, size)
        pictures = batch.seconds
    options = CompressOptions(compressor=compressor, form=form)
    with torch.inference_mode():
        tokens = compress_batch(model, batch, parse_compressor(compressor), options, StageSeconds())
    return Compressed(model, tokens, FrameTimes.of(pictures, shown.duration_seconds))


def system_of(turns: Turns) -> str:
    """The system message of a conversation, or ""."""
    return turns[0][1] if turns[0][0] == "system" else ""


def text_ids(model: VocoModel, turns: Turns) -> list[int]:
    """The token ids behind the last frame."""
    return model.backbone.conversation_ids([{"role": role, "content": text} for role, text in turns])


@torch.inference_mode()
def last_logits(model: VocoModel, prefix: Prefix, turns: Turns) -> Tensor:
    """Logits behind a conversation, ``[vocabulary]``."""
    logits: Tensor = model(torch.tensor([text_ids(model, turns)]), prefix=prefix)[0][0, -1]
    return logits


# ---------------------------------------------------------------------- the library's way

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}system: You help.\n{% endif %}"
    "{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}VIDEO{% endif %}{% endfor %}{% endif %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content[0].text }} {% else %}{{ m.role | upper }}: "
    "{% for part in m.content if part.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in m.content if part.type == 'text' %}{{ part.text + ' ' }}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
GEMMA = (  # that of Gemma 3, without its complaints
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
    "{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}"
    "{%- else -%}{%- set first_user_prefix = '' -%}{%- set loop_messages = messages -%}{%- endif -%}"
    "{%- for message in loop_messages -%}{%- set role = 'model' if message['role'] == 'assistant' else 'user' -%}"
    "{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}"
    "{%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- else -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight"]


def _chatml(turns: Turns, video: str) -> str:
    has_system, is_first, text = turns[0][0] == "system", True, ""
    text = "" if has_system else "system: You help.\n"
    for role, content in turns:
        text += f"{role}: {video if role == 'user' and is_first else ''}{content}\n"
        is_first = is_first and role != "user"
    return text + "assistant:"


def _vicuna(turns: Turns, video: str) -> str:
    text, is_first = "", True
    for role, content in turns:
        if role == "system":
            text += f"{content} "
            continue
        text += f"{role.upper()}: {video if role == 'user' and is_first else ''}{content} "
        is_first = is_first and role != "user"
    return "<s>" + text + "ASSISTANT:"


def _gemma(turns: Turns, video: str) -> str:
    text, before = "<s>", ""
    for role, content in turns:
        if role == "system":
            before = f"{content}\n\n"
            continue
        name = {"user": "user", "assistant": "model"}[role]
        text += f"<start_of_turn>{name}\n{before + video if role == 'user' else ''}{content}<end_of_turn>\n"
        before, video = ("", "") if role == "user" else (before, video)
    return text + "<start_of_turn>model\n"


def _smolvlm(turns: Turns, video: str) -> str:
    text, is_first = "<|im_start|>", True
    for role, content in turns:
        text += f"{role.capitalize()}: {video if role == 'user' and is_first else ''}{content}<end_of_utterance>\n"
        is_first = is_first and role != "user"
    return text + "Assistant:"


def _smolvlm_video(shown: Shown, num_tokens: int) -> str:
    count, duration = NUMBERS[len(shown.pixels)], timedelta(seconds=int(shown.duration_seconds))
    text = f"You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n"
    for seconds in shown.seconds:
        picture = "<image>" * num_tokens
        text += (
            f"\nFrame from {int(seconds // 60):02d}:{int(seconds % 60):02d}:"
            f"<fake_token_around_image><global-img>{picture}<fake_token_around_image>"
        )
    return text + "\n\n"


def _internvl_video(shown: Shown, num_tokens: int) -> str:
    return "\n".join(f"Frame{i + 1}: <img>{'<image>' * num_tokens}</img>" for i in range(len(shown.pixels))) + "\n"


def _pairs(shown: Shown) -> list[tuple[float, float]]:
    seconds = [*shown.seconds.tolist(), shown.seconds[-1]]
    return [(seconds[i], seconds[i + 1]) for i in range(0, len(shown.seconds), 2)]


def _qwen_video(shown: Shown, num_tokens: int) -> str:
    return f"<|vision_start|>{'<video>' * num_tokens * len(_pairs(shown))}<|vision_end|>"


def _qwen3_frames(shown: Shown, num_tokens: int) -> str:
    frame = f"<|vision_start|>{'<video>' * num_tokens}<|vision_end|>"
    return "".join(f"<{(first + last) / 2:.1f} seconds>{frame}" for first, last in _pairs(shown))


def _pictures(model: VocoModel, shown: Shown) -> Tensor:
    images = model.backbone.images
    scaled = torch.from_numpy(shown.pixels).float() / 255
    return ((scaled - torch.tensor(images.mean)) / torch.tensor(images.std)).permute(0, 3, 1, 2)  # [F, 3, H, W]


def _qwen_inputs(model: VocoModel, shown: Shown, ids: Tensor, depth: int = 2) -> dict[str, Any]:
    """Patches as Qwen2-VL's image processor cuts them: two pictures deep, four in a row become one vision token."""
    pictures = _pictures(model, shown)
    pictures = torch.cat([pictures, pictures[-1:].expand(-len(pictures) % depth, -1, -1, -1)])
    patch, merge = model.backbone.hf_model.config.vision_config.patch_size, 2
    rows, columns = pictures.shape[2] // patch, pictures.shape[3] // patch
    patches = pictures.reshape(-1, depth, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    patches = patches.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * depth * patch * patch)
    grid = torch.tensor([[len(pictures) // depth, rows, columns]])
    inputs = {"pixel_values_videos": patches, "video_grid_thw": grid}
    return inputs | ({"mm_token_type_ids": (ids == IDS["<video>"]).int() * 2} if depth == 2 else {})


def _qwen2_5_inputs(model: VocoModel, shown: Shown, ids: Tensor) -> dict[str, Any]:
    between = shown.seconds[1] - shown.seconds[0] if len(shown.seconds) > 1 else shown.duration_seconds
    return _qwen_inputs(model, shown, ids) | {"second_per_grid_ts": [2 * between]}


@dataclass(frozen=True)
class Reference:
    """How a family's processor writes a conversation about a video, and what it gives the model beside it."""

    chat_template: str
    text: Callable[[Turns, str], str]
    video: Callable[[Shown, int], str]
    inputs: Callable[[VocoModel, Shown, Tensor], dict[str, Any]]
    sizes: tuple[tuple[int, int], ...]
    outer: tuple[str, str] = ("", "")
    outer_is_librarys: bool = False


def _pixel_values(model: VocoModel, shown: Shown, ids: Tensor) -> dict[str, Any]:
    return {"pixel_values": _pictures(model, shown)}


def _gemma_inputs(model: VocoModel, shown: Shown, ids: Tensor) -> dict[str, Any]:
    return {"pixel_values": _pictures(model, shown), "token_type_ids": (ids == IDS["<image>"]).int()}


def _chatml_with(video: str) -> str:
    return CHATML.replace("VIDEO", video)


SHAPES = ((32, 56), (56, 32), (32, 32), (8, 8))
_VISION = "<|vision_start|><video><|vision_end|>"
REFERENCES = {
    "llava": Reference(
        VICUNA, _vicuna, lambda shown, n: f"{'<image>' * n}\n" * len(shown.pixels), _pixel_values, ((32, 32),)
    ),
    "llava-interleave": Reference(
        _chatml_with("<image>"), _chatml, lambda shown, n: "<image>" * n * len(shown.pixels), _pixel_values, ((32, 32),)
    ),
    "llava_onevision": Reference(
        _chatml_with("<video>\n"),
        _chatml,
        lambda shown, n: "<video>" * (n * len(shown.pixels) + 1) + "\n",
        lambda model, shown, ids: {"pixel_values_videos": _pictures(model, shown)[None]},
        ((40, 40),),
    ),
    "smolvlm": Reference(
        _chatml_with("<video>"),
        _smolvlm,
        _smolvlm_video,
        lambda model, shown, ids: {"pixel_values": _pictures(model, shown)[None]},
        ((32, 32),),
    ),
    "llava_next_video": Reference(
        _chatml_with("<video>\n"),
        lambda turns, video: "<s>" + _chatml(turns, video),
        lambda shown, n: "<video>" * n * len(shown.pixels) + "\n",
        lambda model, shown, ids: {"pixel_values_videos": _pictures(model, shown)[None]},
        ((32, 32),),
    ),
    "video_llama_3": Reference(
        _chatml_with("<video>\n"),
        _chatml,
        lambda shown, n: ",".join(f"Time {t:.1f}s:{'<video>' * n}" for t in shown.seconds) + "\n",
        lambda model, shown, ids: _qwen_inputs(model, shown, ids, 1) | {"video_merge_sizes": torch.tensor([2])},
        SHAPES,
    ),
    "gemma3": Reference(
        GEMMA,
        _gemma,
        lambda shown, n: f"\n\n<start_of_image>{'<image>' * n}<end_of_image>\n\n" * len(shown.pixels),
        _gemma_inputs,
        ((32, 32),),
    ),
    "internvl": Reference(_chatml_with("<video>\n"), _chatml, _internvl_video, _pixel_values, ((32, 32),)),
    "qwen2_vl": Reference(_chatml_with(_VISION), _chatml, _qwen_video, _qwen_inputs, SHAPES),
    "qwen2_5_vl": Reference(_chatml_with(_VISION), _chatml, _qwen_video, _qwen2_5_inputs, SHAPES),
    "qwen3_vl": Reference(
        _chatml_with(_VISION),
        _chatml,
        _qwen3_frames,
        _qwen_inputs,
        SHAPES,
        outer_is_librarys=True,
        outer=("<|vision_start|>", "<|vision_end|>"),
    ),
}


@torch.no_grad()
def training_losses(hf_model: Any, model: VocoModel, name: str, shown: Shown) -> tuple[float, float]:
    """The loss of the product's training pass on a conversation about a video, and that from the library's logits."""
    turns = (Turn("What moves?", "A dog."), Turn("And then?", "It lies down."))
    sample = TrainingSample(turns, shown.pixels, pts_seconds=shown.seconds, duration_seconds=shown.duration_seconds)
    batch = make_batch(model.backbone, [sample], Visibility(None))
    attention = model.backbone.text_config._attn_implementation
    answers = TrainableVoco(model).answer_logits(batch, model.vision_tokens(batch.pixels))
    model.backbone.decoder.set_attn_implementation(attention)

    video = compressed(model, shown)
    before = video.whole_ids(QUESTION)[: -len(text_ids(model, QUESTION))]
    num_learned = int((batch.input_ids == -1).sum())
    after = batch.input_ids[0, sum(map(len, video.leads())) + num_learned :]
    ids = torch.cat([torch.tensor(before), after])[None]
    labels = torch.cat([torch.full((len(before),), -100), batch.labels[0, -len(after) :]])
    logits = hf_model(input_ids=ids, **REFERENCES[name].inputs(model, shown, ids)).logits[0]
    is_answer = labels[1:] >= 0
    expected = nn.functional.cross_entropy(logits[:-1][is_answer], labels[1:][is_answer])
    ours = nn.functional.cross_entropy(answers.logits, labels[1:][is_answer])
    return float(ours), float(expected)


def _glm_video(told: Callable[[float], str]) -> Callable[[Shown, int], str]:
    def text(shown: Shown, num_tokens: int) -> str:
        picture = f"<|begin_of_image|>{'<image>' * num_tokens}<|end_of_image|>"
        return "".join(picture + told(first) for first, _ in _pairs(shown))

    return text


def _glm_inputs(model: VocoModel, shown: Shown, ids: Tensor) -> dict[str, Any]:
    """One token stands for pictures and frames; between the tokens for a video it is a frame's."""
    return _qwen_inputs(model, shown, ids) | {"mm_token_type_ids": (ids == IDS["<image>"]).int() * 2}


def _whole_seconds(seconds: float) -> str:
    return str(int(seconds))


_TOLD = {"glm4v": _whole_seconds, "glm4v_moe": _whole_seconds, "glm46v": "{:.1f} seconds".format}
for _name, _told in _TOLD.items():
    REFERENCES[_name] = Reference(
        _chatml_with("<|begin_of_video|><video><|end_of_video|>"),
        _chatml,
        _glm_video(_told),
        _glm_inputs,
        SHAPES,
        outer=("<|begin_of_video|>", "<|end_of_video|>"),
    )
for _name in ("qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"):
    REFERENCES[_name] = REFERENCES["qwen3_vl"]


def library_ids(model: VocoModel, name: str, shown: Shown, turns: Turns, *, variant: str = "library") -> Tensor:
    """The prompt of the library's processor, int64 ``[1, T]``."""
    reference = REFERENCES[name]
    grid = model.backbone.grid_of(*shown.pixels.shape[1:3])
    video = reference.video(shown, grid[0] * grid[1])
    if variant == "library" or not reference.outer_is_librarys:
        video = video.join(reference.outer)
    text = reference.text(turns, video)
    return torch.tensor([model.backbone.tokenizer(text, add_special_tokens=False).input_ids])


@torch.inference_mode()
def library_answer(
    hf_model: Any, model: VocoModel, name: str, shown: Shown, turns: Turns, *, num_tokens: int = 8
) -> tuple[Tensor, Tensor, list[int]]:
    """What the library's own model makes of it: the prompt, its last logits ``[vocabulary]``, and greedy tokens.

    Args:
        hf_model: a copy of the model's own; some keep positions from call to call.
    """
    ids = library_ids(model, name, shown, turns)
    inputs = REFERENCES[name].inputs(model, shown, ids)
    generated = hf_model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **inputs,
        max_new_tokens=num_tokens,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=hf_model.config.get_text_config().vocab_size,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return ids, generated.logits[0][0], generated.sequences[0, ids.shape[1] :].tolist()


def spread_by_rounding(hf_model: Any, model: VocoModel, name: str, shown: Shown, turns: Turns) -> float:
    """How far the library's last logits move when its weights change by about as much as rounding does.

    Where two experts of a mixture are nearly as good, a last digit decides which one a token is sent to, and the
    logits jump. No other computation of the same model can be nearer than this.
    """
    expected = library_answer(hf_model, model, name, shown, turns, num_tokens=1)[1]
    largest = 0.0
    for seed in range(32):
        other, random = copy.deepcopy(hf_model), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in other.parameters():
                weight.mul_(1 + 1e-7 * torch.randn(weight.shape, generator=random))
        moved = library_answer(other, model, name, shown, turns, num_tokens=1)[1]
        largest = max(largest, float((moved - expected).abs().max()))
    return largest
