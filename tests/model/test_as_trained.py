"""Compressor ``full`` in form ``embeds`` is the model itself: as the library computes it, prompt, logits and answer.

Against what the library's own processors made (``golden/as_trained``), and against its models run here, on prompts
written by hand.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.as_trained import (
    QUESTION,
    REFERENCES,
    SEVERAL_TURNS,
    WITH_SYSTEM,
    Shown,
    Turns,
    compressed,
    last_logits,
    library_answer,
    library_ids,
    spread_by_rounding,
    system_of,
    text_ids,
    training_losses,
)
from tests.helpers.masked_pass import one_pass
from tests.helpers.tiny_families import ALL_FAMILIES, EACH_OF_ALL, EMBEDS_ONLY, tiny_family
from voco_video.answer.generate import Message, answer_questions, generate, stream_answer
from voco_video.checkpoint.folder import load_voco_model
from voco_video.errors import ModelError, UsageError
from voco_video.model.mixed_prefix import assemble
from voco_video.model.tokens import Prefix
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions

TOLERANCE = 1e-4
GOLDEN = {  # the cases of each
    "InternVL3-1B-hf": (0, 1, 2, 3),
    "Qwen2.5-VL-3B-Instruct": (0, 1, 2, 3),
    "Qwen3-VL-2B-Instruct": (0, 1, 2),
    "SmolVLM2-500M-Video-Instruct": (0, 1, 2, 3),
    "llava-1.5-7b-hf": (0, 1, 2, 3),
    "llava-onevision-qwen2-0.5b-ov-hf": (0, 1, 2, 3),
}
TIMES_BEHIND = ("glm4v", "glm4v_moe", "glm46v")
WITH_TIMES = ("smolvlm", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "video_llama_3")  # before frames
WITH_LABELS = (*WITH_TIMES, "internvl")  # times or numbers before frames
TO_THE_END = AnswerOptions(max_new_tokens=8, stop_at_end=False)


@dataclass(frozen=True)
class GoldenCase:
    shown: Shown
    turns: Turns
    input_ids: list[int]
    last_logits: torch.Tensor
    greedy: list[int]


@dataclass(frozen=True)
class GoldenFamily:
    model: VocoModel
    cases: dict[int, GoldenCase]
    folder: Path


@pytest.fixture(scope="module", params=list(GOLDEN))
def golden(request, shared) -> GoldenFamily:
    folder = shared / "golden" / "as_trained" / request.param
    try:
        model = load_voco_model(folder, layout="library", dtype="float32")
    except ModelError as error:
        if "by Lanczos, which torch" not in str(error):
            raise
        pytest.skip(str(error))
    model.backbone.hf_model.generation_config.repetition_penalty = 1.0  # the cases were made without
    tensors, cases = load_file(folder / "cases.safetensors"), {}
    for case in json.loads((folder / "cases.json").read_text()):
        cells, number = tensors[f"{case['case']}.cells"].numpy(), case["case"]
        scale = [side // cell for side, cell in zip(case["frame_size"], cells.shape[1:3], strict=True)]
        pixels, num_frames, fps = cells.repeat(scale[0], 1).repeat(scale[1], 2), case["num_frames"], case["fps"]
        cases[number] = GoldenCase(
            Shown(pixels, np.arange(num_frames) / fps, num_frames / fps),
            [tuple(turn) for turn in case["turns"]],
            tensors[f"{number}.input_ids"].tolist(),
            tensors[f"{number}.last_logits"],
            tensors[f"{number}.greedy"].tolist(),
        )
    assert tuple(cases) == GOLDEN[request.param]
    return GoldenFamily(model, cases, folder)


def greedy_tokens(model: VocoModel, prefix: Prefix, turns: Turns) -> list[int]:
    return generate(model, prefix, [text_ids(model, turns)], options=TO_THE_END)[0][0]


def largest_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    assert left.shape == right.shape
    return float((left.float() - right.float()).abs().max())


def test_prompt_logits_and_answer_are_those_of_the_librarys_processor_and_model(golden):
    model = golden.model
    for number, case in golden.cases.items():
        video = compressed(model, case.shown)
        assert video.whole_ids(case.turns) == case.input_ids, number
        prefix = video.prefix()
        assert largest_difference(last_logits(model, prefix, case.turns), case.last_logits) <= TOLERANCE, number
        assert greedy_tokens(model, prefix, case.turns) == case.greedy, number


# ---------------------------------------------------------------------- the library's models, run here


@dataclass(frozen=True)
class Live:
    """A tiny random model and a copy of it that only the library touches: some keep positions from call to call."""

    name: str
    model: VocoModel
    released: VocoModel
    hf_model: Any


def test_every_family_is_held_against_the_library():
    assert set(REFERENCES) == set(ALL_FAMILIES)


def live_family(name: str, seed: int = 0) -> Live:
    template = REFERENCES[name].chat_template
    models = [
        tiny_family(name, as_trained=True, variant=variant, chat_template=template, seed=seed)
        for variant in ("library", "released")
    ]
    return Live(name, models[0], models[1], copy.deepcopy(models[0].backbone.hf_model))


@pytest.fixture(scope="module", params=EACH_OF_ALL)
def live(request) -> Live:
    return live_family(request.param)


@dataclass(frozen=True)
class Case:
    num_pictures: int
    fps: float = 1.0
    size: int = 0
    turns: Turns = tuple(QUESTION)
    seed: int = 0

    def shown(self, name: str) -> Shown:
        sizes = REFERENCES[name].sizes
        return Shown.random(self.num_pictures, sizes[self.size % len(sizes)], fps=self.fps, seed=self.seed)


CASES = [
    Case(2, fps=0.1, size=1),  # 10 s apart, further than there are rows and columns
    Case(3, fps=0.5, size=2, turns=SEVERAL_TURNS),
    Case(5, fps=3.0, size=3),
    *(
        pytest.param(case, marks=pytest.mark.exhaustive)
        for case in (
            Case(1),
            Case(4, fps=8.0, size=1, turns=WITH_SYSTEM),
            Case(6, fps=2.0, size=0, turns=SEVERAL_TURNS),
            Case(7, fps=0.01, size=1),  # minutes
            Case(8, fps=24.0, size=2),
        )
    ),
]
KINDS = [
    *(("voco", "kv"), ("pool:1", "embeds")),
    *(
        pytest.param(*kind, marks=pytest.mark.exhaustive)
        for kind in (("voco", "embeds"), ("pool:1", "kv"), ("full", "kv"), ("full", "embeds"))
    ),
]
MORE_CASES = [
    Case(num_pictures, fps, size, turns, seed=num_pictures)
    for num_pictures in range(1, 9)
    for fps in (0.1, 0.3, 1.0, 2.5, 7.0)
    for size in range(4)
    for turns in (QUESTION, [*WITH_SYSTEM, *SEVERAL_TURNS[1:]])
]


def assert_as_the_library(live: Live, case: Case) -> None:
    shown, model = case.shown(live.name), live.model
    ids, logits, greedy = library_answer(live.hf_model, model, live.name, shown, case.turns)
    video = compressed(model, shown)
    assert video.whole_ids(case.turns) == ids[0].tolist()
    prefix = video.prefix(system_of(case.turns))
    difference = largest_difference(last_logits(model, prefix, case.turns), logits)
    if difference > TOLERANCE:  # two experts may be as good to within a rounding: see there
        assert difference <= 2 * spread_by_rounding(live.hf_model, model, live.name, shown, case.turns)
    assert greedy_tokens(model, prefix, case.turns) == greedy


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.num_pictures} at {case.fps} fps")
def test_a_tiny_model_answers_as_the_library_runs_it(live, case):
    assert_as_the_library(live, case)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", [1, 2])
def test_every_number_of_pictures_shape_and_rate_is_as_the_library_has_it(live, seed):
    other = live_family(live.name, seed)
    for case in (case for i, case in enumerate(MORE_CASES) if (i + i // 2 + seed) % 2):  # half for each, to save time
        assert_as_the_library(other, case)


# ---------------------------------------------------------------------- several questions, streaming, turns


@pytest.fixture(scope="module")
def video(live):
    return compressed(live.model, Case(5, fps=0.5, size=1).shown(live.name))


@pytest.fixture(scope="module")
def prefix(video) -> Prefix:
    return video.prefix()


def test_questions_asked_together_or_streamed_are_answered_as_alone(live, prefix):
    questions, nothing = ["What moves?", "Where does it go, and when is it there again?", "Who?"], np.empty(0)
    together = answer_questions(live.model, prefix, questions, options=TO_THE_END, frame_pts_seconds=nothing)
    for question, answer in zip(questions, together, strict=True):
        alone = greedy_tokens(live.model, prefix, [("user", question)])
        assert list(answer.token_ids) == alone
        streamed = stream_answer(live.model, prefix, question, options=TO_THE_END)
        assert "".join(streamed).strip() == answer.text
    assert len({answer.token_ids for answer in together}) > 1


def test_history_is_what_earlier_turns_were(live, prefix):
    history = [Message(role, text) for role, text in SEVERAL_TURNS[:-1]]
    answer = answer_questions(
        live.model, prefix, ["And then?"], history=history, options=TO_THE_END, frame_pts_seconds=np.empty(0)
    )[0]
    case = Case(5, fps=0.5, size=1)
    expected = library_answer(live.hf_model, live.model, live.name, case.shown(live.name), SEVERAL_TURNS)[2]
    assert list(answer.token_ids) == expected


# ---------------------------------------------------------------------- as released, and what would be noticed


def test_the_default_layout_differs_from_the_librarys_only_where_it_is_said(live):
    """Qwen3-VL has no pair around all frames; Qwen2.5-VL goes on behind the last moment, not inside the video."""
    for case, agrees in [(Case(6, fps=4.0, turns=SEVERAL_TURNS), True), (Case(6, fps=0.1), live.name != "qwen2_5_vl")]:
        shown = case.shown(live.name)
        library, released = (compressed(model, shown) for model in (live.model, live.released))
        expected = library_ids(live.model, live.name, shown, case.turns, variant="released")[0].tolist()
        assert released.whole_ids(case.turns) == expected
        if live.name.startswith("qwen3"):
            assert len(expected) == len(library.whole_ids(case.turns)) - 2
            continue
        same = largest_difference(*(last_logits(v.model, v.prefix(), case.turns) for v in (library, released))) == 0
        assert same == agrees


def test_as_released_text_of_qwen2_5_follows_the_last_moment_of_the_video():
    """The code that it was released with: text goes on behind the largest position of any axis."""
    live = live_family("qwen2_5_vl")
    shown = Case(6, fps=0.1, size=1).shown(live.name)
    ids = library_ids(live.model, live.name, shown, QUESTION)
    inputs = REFERENCES[live.name].inputs(live.model, shown, ids)
    types = inputs["mm_token_type_ids"]
    positions, _ = live.hf_model.model.get_rope_index(
        ids, types, video_grid_thw=inputs["video_grid_thw"], second_per_grid_ts=inputs["second_per_grid_ts"]
    )
    behind = int(types[0].nonzero()[-1]) + 1
    largest = int(positions[:, 0, :behind].max())
    assert largest > int(positions[0, 0, behind]), "the video reaches no further than the text: nothing is compared"
    positions[:, 0, behind:] += largest + 1 - positions[:, 0, behind].clone()[:, None]
    with torch.inference_mode():
        expected = live.hf_model(input_ids=ids, position_ids=positions, **inputs).logits[0, -1]
    ours = last_logits(live.released, compressed(live.released, shown).prefix(), QUESTION)
    assert largest_difference(ours, expected) <= TOLERANCE


def test_irregular_times_stand_where_they_are():
    """The library knows one interval for a whole video; frames at any times are checked on positions by hand."""
    live = live_family("qwen2_5_vl")
    shown = replace(Case(6, size=1).shown(live.name), seconds=np.array([1.0, 1.5, 2.3, 2.4, 9.0, 9.1]))
    ids = library_ids(live.model, live.name, shown, QUESTION)
    inputs = REFERENCES[live.name].inputs(live.model, shown, ids)
    positions, _ = live.hf_model.model.get_rope_index(
        ids, inputs["mm_token_type_ids"], video_grid_thw=inputs["video_grid_thw"]
    )
    is_video = inputs["mm_token_type_ids"][0] == 2
    first = int(positions[0, 0, is_video][0])
    per_frame = int(is_video.sum()) // 3
    elapsed = [0, 5, 32]  # 4 positions a second: of 1.3 s and of 8 s
    positions[0, 0, is_video] = first + torch.tensor(elapsed).repeat_interleave(per_frame)
    with torch.inference_mode():
        expected = live.hf_model(input_ids=ids, position_ids=positions, **inputs).logits[0, -1]
    ours = last_logits(live.model, compressed(live.model, shown).prefix(), QUESTION)
    assert largest_difference(ours, expected) <= TOLERANCE


def test_a_change_is_noticed(live):
    """Frames swapped, another time, a label left out: each moves the logits by far more than rounding does."""
    shown = Case(6, fps=0.5).shown(live.name)
    model, video = live.model, compressed(live.model, shown)
    ours = last_logits(model, video.prefix(), QUESTION)

    def is_noticed(logits: torch.Tensor) -> bool:
        return largest_difference(logits, ours) > 100 * TOLERANCE

    swapped = replace(shown, pixels=shown.pixels[[0, 1, 4, 5, 2, 3]])
    assert is_noticed(last_logits(model, compressed(model, swapped).prefix(), QUESTION))
    slower = replace(shown, seconds=shown.seconds * 3, duration_seconds=shown.duration_seconds * 3)
    tells_time = live.name in ("qwen2_5_vl", *WITH_TIMES, *TIMES_BEHIND)
    assert is_noticed(last_logits(model, compressed(model, slower).prefix(), QUESTION)) == tells_time
    leads = video.leads()
    assert all(leads[1:]) == (live.name in ("llava", "gemma3", *WITH_LABELS, *TIMES_BEHIND))  # words between frames
    fewer = dict(enumerate([leads[0][:-2], *leads[1:]]))
    counts = torch.full((video.tokens.num_frames,), video.tokens.num_voco_tokens)
    assert is_noticed(
        last_logits(model, assemble(model, video.tokens, counts=counts, texts=fewer, times=video.times), QUESTION)
    )


# ---------------------------------------------------------------------- what is kept of frames otherwise


def skip_what_is_refused(live: Live, compressor: str, form: str) -> None:
    if form == "kv" and live.name in EMBEDS_ONLY:
        with pytest.raises(
            UsageError, match=r"form 'kv' cannot be had from .*most of its layers .*; use form 'embeds'"
        ):
            compressed(live.model, Case(2).shown(live.name), compressor, "kv")
        pytest.skip("refused with the reason")


def test_one_frame_in_form_kv_is_the_same_where_no_words_stand_before_it(live):
    skip_what_is_refused(live, "full", "kv")
    shown = Case(1).shown(live.name)
    forms = [compressed(live.model, shown, form=form).prefix() for form in ("embeds", "kv")]
    logits = [last_logits(live.model, prefix, QUESTION) for prefix in forms]
    has_words = live.name in WITH_LABELS  # which no frame has seen in form kv
    assert (largest_difference(*logits) > 100 * TOLERANCE) == has_words
    assert (largest_difference(*logits) <= TOLERANCE) == (not has_words)


def test_the_loss_of_training_is_that_of_the_librarys_logits(live):
    for case in (Case(1), Case(5, fps=0.3, size=1), Case(4, fps=2.0, size=2)):
        ours, expected = training_losses(live.hf_model, live.model, live.name, case.shown(live.name))
        assert expected > 1
        assert abs(ours - expected) <= TOLERANCE


@pytest.mark.parametrize(("compressor", "form"), KINDS)
def test_whatever_is_kept_of_frames_is_as_one_pass_written_out(live, compressor, form):
    """Moved keys and words read between them, against one row under a mask; and in both layouts."""
    skip_what_is_refused(live, compressor, form)
    for model, case in [(live.model, Case(5, fps=0.5, size=1)), (live.released, Case(6, fps=0.3, turns=WITH_SYSTEM))]:
        shown = case.shown(live.name)
        ours = last_logits(model, compressed(model, shown, compressor, form).prefix(system_of(case.turns)), case.turns)
        assert largest_difference(ours, one_pass(model, shown, case.turns, compressor, form)) <= TOLERANCE
        other = replace(shown, pixels=255 - shown.pixels)
        assert largest_difference(ours, one_pass(model, other, case.turns, compressor, form)) > 100 * TOLERANCE


@pytest.mark.parametrize(("compressor", "form"), KINDS)
def test_frames_stand_between_the_words_whatever_is_kept_of_them(live, compressor, form):
    """The positions of words and frames, counted by hand."""
    skip_what_is_refused(live, compressor, form)
    shown = Case(5, fps=0.5, size=2).shown(live.name)
    video = compressed(live.model, shown, compressor, form)
    prefix, leads = video.prefix(), video.leads()
    model = live.model
    template, vision = model.backbone.template, model.backbone.grid_of(*shown.pixels.shape[1:3])
    around = len(template.frame_before_ids) - len(template.context_ids) + len(template.frame_after_ids)
    kept = {"voco": 4, "pool:1": around + 1, "full": around + vision[0] * vision[1]}[compressor]
    learned = model.backbone.family.after_embeds(model.backbone.hf_model)
    num_learned = 0 if learned is None else len(learned)
    num_words, num_frames = sum(map(len, leads)), video.tokens.num_frames
    assert prefix.frame_slots.shape == (num_frames, kept)
    assert prefix.length == num_words + num_frames * kept + num_learned
    spans = [kept] * num_frames
    if compressor != "voco" and live.name.startswith(
        ("qwen", "glm")
    ):  # a picture takes as many positions as its longer side
        spans = [around + (1 if compressor == "pool:1" else max(vision))] * num_frames
    if compressor != "voco" and live.name in (
        "qwen2_vl",
        "qwen2_5_vl",
    ):  # all frames at the same rows and columns, apart in time
        spans = [spans[0], *[0] * (num_frames - 1)]
    assert prefix.text_start == num_words + sum(spans) + num_learned
    logits = last_logits(model, prefix, QUESTION)
    other = compressed(model, replace(shown, pixels=255 - shown.pixels), compressor, form)
    assert largest_difference(last_logits(model, other.prefix(), QUESTION), logits) > 100 * TOLERANCE
