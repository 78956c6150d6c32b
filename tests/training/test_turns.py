"""Conversations as they are trained on: the prompts that are asked, answers to their end token, nothing lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.tiny_families import EACH_FAMILY, tiny_family
from voco_video.checkpoint.folder import load_voco_model
from voco_video.data import turns as turns_module
from voco_video.data.samples import Turn
from voco_video.data.turns import check_rendering, check_turns, encode_turns
from voco_video.errors import DataError, ModelError, UsageError
from voco_video.model.backbone import Backbone
from voco_video.model.families import FrameTimes

TURNS = [Turn("what is it?", "a cat"), Turn(" where does it lie?\n", " on the mat ")]
AS_TRAINED = (
    *("llava-1.5-7b-hf", "llava-onevision-qwen2-0.5b-ov-hf", "SmolVLM2-500M-Video-Instruct"),
    *("InternVL3-1B-hf", "Qwen2.5-VL-3B-Instruct", "Qwen3-VL-2B-Instruct"),
)


def labelled(backbone: Backbone, turns: list[Turn], **options) -> list[str]:
    """What the labelled tokens of each turn say, special tokens included."""
    ids, owners = encode_turns(backbone, turns, max_length=999, **options)
    per_turn = [[i for i, owner in zip(ids, owners, strict=True) if owner == number] for number in range(len(turns))]
    return [backbone.tokenizer.decode(ids, skip_special_tokens=False) for ids in per_turn]


def assert_learns_the_answers(backbone: Backbone) -> None:
    """Labels are the answers and their end tokens; the first prompt is the asked one, with a system message or not."""
    ends = backbone.hf_model.generation_config.eos_token_id
    end = backbone.tokenizer.convert_ids_to_tokens(ends[0] if isinstance(ends, list) else ends)
    for system in ("", "Be brief."):
        told = labelled(backbone, TURNS, system=system)
        assert [text.lstrip(" ") for text in told] == [f"a cat{end}", f"on the mat{end}"]
        ids, owners = encode_turns(backbone, TURNS, max_length=999, system=system)
        messages = [{"role": "system", "content": system}] if system else []
        asked = backbone.conversation_ids([*messages, {"role": "user", "content": "what is it?"}])
        assert ids[: len(asked)] == asked
        assert owners[: len(asked)] == [-1] * len(asked)
        assert owners[len(asked)] == 0, "the first token after the prompt is what generation has to give"
        text = backbone.tokenizer.decode(ids, skip_special_tokens=False)
        if backbone.template.as_trained:  # what opens the conversation stands before the frames
            opening = backbone.lead_ids(FrameTimes.of(np.zeros(1)), system=system)[0]
            text = backbone.tokenizer.decode(opening, skip_special_tokens=False) + text
        assert system in text
        assert "where does it lie?" in text
        check_rendering(backbone, TURNS, max_length=999, system=system)


@pytest.mark.parametrize("name", AS_TRAINED)
def test_real_templates_teach_the_answers(shared: Path, name: str) -> None:
    backbone = load_voco_model(shared / "golden" / "as_trained" / name, num_voco_tokens=2).backbone
    assert_learns_the_answers(backbone)
    assert turns_module._joined(backbone, TURNS) == turns_module._rendered(backbone, TURNS), "the fast way is the slow"


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_every_family_teaches_the_answers(name: str) -> None:
    """Contents as text and in parts; without an end token in the template, one is put behind each answer."""
    backbone = tiny_family(name).backbone
    backbone.tokenizer.chat_template = backbone.tokenizer.chat_template.replace(
        "assistant:", "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    assert_learns_the_answers(backbone)


@pytest.fixture(scope="module")
def voco_tiny() -> Backbone:
    return load_voco_model("voco-tiny").backbone


def with_template(backbone: Backbone, template: str) -> Backbone:
    return replace(backbone, chat_template=template)


ALTERNATING = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.role }}: {% endfor %}", "leaves out the question"),
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %} {% endfor %}",
            "leaves out the answer",
        ),
        ("{{ raise_exception('no such thing') }}", "refuses the conversation: no such thing"),
        ("{{ messages[0].content.missing.value }}", "refuses the conversation"),
        ("{{ messages | length }}" + ALTERNATING, "changes earlier turns"),
        (
            "{% for m in messages | reverse %}{{ m.role }}: {{ m.content }} {% endfor %}",
            "changes earlier turns|elsewhere",
        ),
    ],
)
def test_a_template_that_loses_or_refuses_text_is_an_error(voco_tiny: Backbone, template: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        encode_turns(with_template(voco_tiny, template), TURNS, max_length=999)


@pytest.mark.parametrize("printed", ["m.content", "m.content | tojson", "m.content[0]"])
def test_a_template_that_would_print_parts_gets_them_for_questions_alone(voco_tiny: Backbone, printed: str) -> None:
    """As GLM-4.1V's: `[{'type': 'text', ...` stood in the prompt in place of every answer and system message."""
    question = "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    answer = f"{{% if m.content is string %}}{{{{ m.content }}}}{{% else %}}{{{{ {printed} }}}}{{% endif %}}"
    content = f"{{% if m.role == 'user' %}}{question}{{% else %}}{answer}{{% endif %}}"
    mixed = f"{{% for m in messages %}}{{{{ m.role }}}}: {content} {{% endfor %}}"
    backbone = with_template(voco_tiny, mixed)
    typed = [Turn("is {'type': 'text'} text?", 'yes: {"type": "text"}'), *TURNS]
    ids, _ = encode_turns(backbone, typed, max_length=999, system="Be brief.")
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    assert ids == encode_turns(with_template(voco_tiny, plain), typed, max_length=999, system="Be brief.")[0]


def test_a_template_without_system_messages_refuses_those_rows_alone(voco_tiny: Backbone) -> None:
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    backbone = with_template(voco_tiny, no_system + ALTERNATING)
    assert labelled(backbone, TURNS)
    with pytest.raises(ModelError, match="System role not supported"):
        encode_turns(backbone, TURNS, max_length=999, system="Be brief.")
    silent = "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }} {% endfor %}"
    with pytest.raises(ModelError, match="leaves out the system message"):
        encode_turns(with_template(voco_tiny, silent), TURNS, max_length=999, system="Be brief.")


def test_rows_that_teach_nothing_are_refused(voco_tiny: Backbone) -> None:
    with pytest.raises(DataError, match="no answer"):
        encode_turns(voco_tiny, [Turn("what is it?", " ")], max_length=99)
    knows_ascii = tiny_family("internvl").backbone
    with pytest.raises(DataError, match="no token that says something"):
        encode_turns(knows_ascii, [Turn("what is it?", "éü")], max_length=99)
    ids, owners = encode_turns(voco_tiny, [], max_length=99)
    assert set(owners) == {-1}, "a scene about which nothing is asked"
    assert len(ids) == len(owners)


def test_special_tokens_in_a_conversation_are_text(voco_tiny: Backbone) -> None:
    """An end token in an answer ends nothing, and one in a question is asked as it is trained."""
    typed = [Turn("what does </s> mean?", "the end </s> of it"), Turn("and <image>?", "a picture")]
    ids, owners = encode_turns(voco_tiny, typed, max_length=999)
    end = voco_tiny.tokenizer.eos_token_id
    assert [owner for i, owner in zip(ids, owners, strict=True) if i == end] == [0, 1]
    assert labelled(voco_tiny, typed) == [" the end </s> of it</s>", " a picture</s>"]
    asked = voco_tiny.conversation_ids([{"role": "user", "content": typed[0].question}])
    assert ids[: len(asked)] == asked
    check_rendering(voco_tiny, typed, max_length=999)


def test_lengths_are_counted_in_tokens_only_where_they_may_be_too_many(voco_tiny: Backbone, monkeypatch) -> None:
    short, long = [Turn("what is it?", "a cat")], [Turn("what is it? " * 40, "a cat")]
    with pytest.raises(UsageError, match="max_length=64: the first turn alone has more tokens"):
        check_turns(voco_tiny, long, max_length=64)
    check_turns(voco_tiny, long, max_length=2048)
    monkeypatch.setattr(turns_module, "encode_turns", None)
    check_turns(voco_tiny, short, max_length=512)
    with pytest.raises(TypeError):
        check_turns(voco_tiny, long, max_length=64)


def test_what_the_tokenizer_loses_is_found_at_the_start(voco_tiny: Backbone) -> None:
    """A tokenizer that swaps letters, so that what is trained is not what stands in the data."""
    check_rendering(voco_tiny, TURNS, max_length=999)

    class Garbled(type(voco_tiny.tokenizer)):
        def decode(self, ids, **options):
            text = super().decode(ids, **options)
            return text.replace("cat", "dog") if "user" in text else text

    garbled = Garbled.__new__(Garbled)
    garbled.__dict__.update(voco_tiny.tokenizer.__dict__)
    with pytest.raises(ModelError, match="do not fit each other"):
        check_rendering(replace(voco_tiny, tokenizer=garbled), [Turn("is it a cat?", "yes")], max_length=999)


# ---------------------------------------------------------------------- templates of other shapes

IN_STRINGS = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "inst": "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ '[INST] ' if m.role == 'user' else '' }}{{ m.content }}{{ ' [/INST]' if m.role == 'user' else ' ' }}"
    "{% endif %}{% endfor %}",
    "headers": "{{ bos_token }}{% for m in messages %}<|h|>{{ m.role }}<|/h|>\n\n{{ m.content | trim }}<|eot|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}",
    "vicuna": "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% elif m.role == 'user' %}"
    "USER: {{ m.content }} {% else %}ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
    "zephyr": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "model turns": "{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}"
    "<end>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}",
    "instruction": "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}"
    "### Instruction:\n{{ m.content }}\n\n{% else %}### Response:\n{{ m.content }}{{ eos_token }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}",
    "bare": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
}
IN_PARTS = {
    "parts, media first": "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}"
    "{% if p.type == 'video' %}<video>{% endif %}{% endfor %}{% for p in m.content %}{% if p.type == 'text' %}"
    "{{ p.text }}{% endif %}{% endfor %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    "parts in order": "{% for m in messages %}{{ m.role | capitalize }}: {% for p in m.content %}"
    "{% if p.type == 'video' %}<video>\n{% else %}{{ p.text }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}",
    "parts or strings": "{% for m in messages %}<<{{ m.role }}>>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{{ '<video>' if p.type == 'video' else p.text }}{% endfor %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<<assistant>>{% endif %}",
}
HARD = [
    Turn("what  is\tit?", "a cat"),
    Turn("what  is\tit?", "a cat"),  # asked and answered again
    Turn("and </s> or <video>?", "<image> is a word </s> here"),
    Turn("does a cat say a cat?", "what  is\tit?"),
    Turn("how many?", " 2 \n"),
]


@pytest.mark.parametrize("template", {**IN_STRINGS, **IN_PARTS}.values(), ids={**IN_STRINGS, **IN_PARTS})
@pytest.mark.parametrize(
    "has_frames", [True, pytest.param(False, marks=pytest.mark.exhaustive)], ids=["frames", "text alone"]
)
def test_templates_of_other_shapes_teach_the_answers(internvl: Backbone, template: str, has_frames: bool) -> None:
    backbone = with_template(internvl, template)
    backbone = replace(backbone, template=backbone.writer.template())
    end = backbone.tokenizer.eos_token
    ids, owners = encode_turns(backbone, HARD, max_length=9999, has_frames=has_frames)
    for number, turn in enumerate(HARD):
        labels = [i for i, owner in zip(ids, owners, strict=True) if owner == number]
        text = backbone.tokenizer.decode(labels, skip_special_tokens=False)
        assert text.startswith((turn.answer.strip(), " " + turn.answer.strip()))
        rest = text.lstrip().removeprefix(turn.answer.strip())
        assert rest in (end, "<|im_end|>" + end, "<|eot|>" + end, "<end>\n" + end, "\n" + end, end + "\n"), rest
        assert labels[-1] == backbone.tokenizer.eos_token_id
    asked = [{"role": "user", "content": HARD[0].question}]
    assert ids[: owners.index(0)] == backbone.conversation_ids(asked, has_frames=has_frames)


@pytest.fixture(scope="module")
def internvl() -> Backbone:
    return tiny_family("internvl", as_trained=True).backbone
