"""The prompts that original LLaVA and VoCo-LLaMA were trained and evaluated with, token for token.

`original_ids` is what the published code does: `Conversation.get_prompt` with `conv_vicuna_v1` (LLaVA) and
`voco_conv_vicuna_v1` (VoCo-LLaMA's `train_compress.py` and `model_vqa_loader.py`), then `tokenizer_image_token`.
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.helpers.published_layout import VOCO_ID, write_published
from voco_video.checkpoint.convert import convert_checkpoint
from voco_video.checkpoint.folder import load_voco_model
from voco_video.model.families import FrameTimes

IMAGE = -200
ANSWERS = "The assistant gives helpful, detailed, and polite answers to the user's questions."
SYSTEM = f"A chat between a curious user and an artificial intelligence assistant. {ANSWERS}"
VOCO_SYSTEM = f"A chat between a curious user and an artificial intelligence assistant of the image. {ANSWERS}"

ONE = [("USER", "What is this?")]
THREE = [("USER", "What is this?"), ("ASSISTANT", "A dog."), ("USER", "And where?")]
LINES = [("USER", "What is this?\nA. dog\nB. cat\nAnswer with a letter.")]


def llama_tokenizer(prepends: str, *, voco: bool) -> PreTrainedTokenizerFast:
    """Llama's way with blanks and bytes: a blank before a text ("first"), or before every piece of one ("always").

    The published tokenizers do the first with ``legacy`` false, as Vicuna 1.5 has it, and the second without.
    """
    pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", *string.printable.replace("\n", "").replace(" ", "")]
    assert len(pieces) < VOCO_ID
    pieces += [f"[fill{i}]" for i in range(VOCO_ID - len(pieces))]
    pieces += ["<voco>"] if voco else []
    tokenizer = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=prepends, split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁"), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<voco>"] if voco else [],
    )


def get_prompt(system: str, messages: list[tuple[str, str]]) -> str:
    """The published `Conversation.get_prompt`, separator style TWO; the answer that is asked for comes last."""
    text = system + " "
    for i, (role, message) in enumerate([*messages, ("ASSISTANT", "")]):
        text += f"{role}: {message}{[' ', '</s>'][i % 2]}" if message else f"{role}:"
    return text


def original_ids(tokenizer, prompt: str) -> list[int]:
    """The published `tokenizer_image_token`."""
    chunks = [tokenizer(chunk).input_ids for chunk in prompt.split("<image>")]
    ids = [1]
    for number, chunk in enumerate(chunks):
        ids += ([IMAGE] if number else []) + chunk[1:]
    return ids


@pytest.fixture(scope="module", params=["first", "always"])
def prepends(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=["published", "converted"])
def kind(request) -> str:
    return request.param


def load(folder: Path, tmp: Path, kind: str, tokenizer):
    tokenizer.save_pretrained(folder)
    if kind == "converted":
        convert_checkpoint(folder, tmp / "converted")
        folder = tmp / "converted"
    return load_voco_model(folder, dtype="float32")


@pytest.fixture(scope="module")
def llava(prepends, kind, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("llava")
    write_published(tmp / "published", voco=False)
    return load(tmp / "published", tmp, kind, llama_tokenizer(prepends, voco=False))


@pytest.fixture(scope="module")
def voco_llama(prepends, kind, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("voco")
    write_published(tmp / "published", voco=True)
    return load(tmp / "published", tmp, kind, llama_tokenizer(prepends, voco=True))


def as_messages(turns):
    return [{"role": {"USER": "user", "ASSISTANT": "assistant"}[role], "content": text} for role, text in turns]


@pytest.mark.parametrize("turns", [ONE, THREE, LINES], ids=["one turn", "three turns", "lines"])
@pytest.mark.parametrize("num_frames", [1, 3])
def test_llava_is_asked_as_the_original_code_asks_it(llava, prepends, turns, num_frames):
    (role, question), *rest = turns
    prompt = get_prompt(SYSTEM, [(role, "<image>\n" * num_frames + question), *rest])
    backbone = llava.backbone
    template = backbone.template
    frame = [*template.frame_before_ids[len(template.context_ids) :], IMAGE, *template.frame_after_ids]
    ids = [i for lead in backbone.lead_ids(FrameTimes.of(np.arange(num_frames))) for i in [*lead, *frame]]
    ids += backbone.conversation_ids(as_messages(turns))
    assert ids == original_ids(llama_tokenizer(prepends, voco=False), prompt)


@pytest.mark.parametrize("turns", [ONE, THREE, LINES], ids=["one turn", "three turns", "lines"])
def test_voco_llama_is_asked_as_the_published_code_asks_it(voco_llama, prepends, turns):
    prompt = get_prompt(VOCO_SYSTEM, [(turns[0][0], "<image>\n" + turns[0][1]), *turns[1:]])
    prompt = "<image>\n<voco><voco>\n" + prompt.replace("\n", "").replace("<image>", "")
    template = voco_llama.backbone.template
    frame = [*template.frame_before_ids, IMAGE, *template.frame_after_ids, VOCO_ID, VOCO_ID]
    ids = [*frame, *voco_llama.backbone.conversation_ids(as_messages(turns))]
    assert ids == original_ids(llama_tokenizer(prepends, voco=True), prompt)


def test_what_people_type_is_text(llava, voco_llama):
    """A picture or a VoCo token in a question is no picture and no VoCo token."""
    for model in (llava, voco_llama):
        ids = model.backbone.conversation_ids([{"role": "user", "content": "Is <image> or <voco> or </s> here?"}])
        special = {model.backbone.tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<voco>", "</s>")}
        assert not special & set(ids) - {model.backbone.tokenizer.unk_token_id}


def test_a_system_message_stands_in_place_of_the_usual_one(llava, voco_llama):
    for model in (llava, voco_llama):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
        text = model.backbone.writer.text(messages)
        assert text.lstrip("\n") == "Be brief. USER: What? ASSISTANT:"
