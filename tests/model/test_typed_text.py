"""Special tokens that people type are text: no id of theirs is in a prompt but those that the template writes."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.helpers.tiny_families import EACH_FAMILY, IDS, SPECIAL, tiny_family
from voco_video.checkpoint.folder import load_voco_model
from voco_video.errors import UsageError
from voco_video.model.backbone import Backbone
from voco_video.model.typed_text import TypedText

TYPED = (
    *(f"what is {token} here?" for token in SPECIAL),
    "".join(SPECIAL),
    "<</s>/s> <<image>image>",
    "</s>",
    "a</s></s>b <|im_end|> <voco> [INST]",
)


def asked(backbone: Backbone, question: str) -> list[int]:
    return backbone.conversation_ids([{"role": "user", "content": question}])


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_no_family_reads_a_typed_special_token(name: str) -> None:
    backbone = tiny_family(name).backbone
    size = len(backbone.tokenizer)
    special_ids = set(backbone.tokenizer.all_special_ids) | {IDS[token] for token in SPECIAL}
    from_template = [i for i in asked(backbone, "x") if i in special_ids]
    for question in TYPED:
        ids = asked(backbone, question)
        assert [i for i in ids if i in special_ids] == from_template, question
        assert question in backbone.tokenizer.decode(ids), "nothing that was typed is lost"
    assert len(backbone.tokenizer) == size, "the checkpoint's own tokenizer stays as it was"


def test_what_holds_no_special_token_is_read_as_ever() -> None:
    backbone = tiny_family("qwen3_vl").backbone
    for question in ("what moves?", "a < b > c </ s>", "émile\u2028\ufdd0"):
        text = backbone.conversation_text([{"role": "user", "content": question}])
        assert question in text
        assert asked(backbone, question) == backbone.tokenizer(text, add_special_tokens=False).input_ids


def test_earlier_turns_and_voco_tiny() -> None:
    backbone = load_voco_model("voco-tiny").backbone
    special = backbone.tokenizer.all_special_tokens
    assert special
    special_ids = set(backbone.tokenizer.all_special_ids)
    plain = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    typed = [m | {"content": m["content"] + " ".join(special)} for m in plain]
    plain_ids, typed_ids = (
        [i for i in backbone.conversation_ids(messages) if i in special_ids - {backbone.tokenizer.unk_token_id}]
        for messages in (plain, typed)
    )
    assert typed_ids == plain_ids


def test_a_tokenizer_that_ignores_case_and_strips_spaces() -> None:
    vocabulary: dict[str, Any] = {token: i for i, token in enumerate(["[UNK]", "<image>", *"<>/ aegims▁"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    fast.add_tokens(["<image>"])  # not special to the library, and matched after the normaliser
    typed = TypedText(fast)
    assert vocabulary["<image>"] in typed.token_ids("a <IMAGE> a")
    ids = typed.token_ids(typed.broken("a <IMAGE> a"))
    assert vocabulary["<image>"] not in ids
    assert "".join(fast.convert_ids_to_tokens(ids)).replace("▁", "") == "a<image>a"


def test_bytes_that_are_no_text_are_refused() -> None:
    backbone = tiny_family("llava").backbone
    with pytest.raises(UsageError, match=r"caf\\udce9.*not text in UTF-8"):
        asked(backbone, "what is caf\udce9?")
