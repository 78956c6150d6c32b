"""Compressor ``full`` in form ``embeds`` against what the library's own processors and models made of videos.

`scripts.processor_cases` wrote that down (tests/golden/processors): the processors want torchvision, tests do not.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.as_trained import Shown, compressed, last_logits, system_of, text_ids
from tests.helpers.processor_checkpoints import CASES, CHECKPOINTS, GLM4_5V, ProcessorCase, cells_of, make_checkpoint
from tests.helpers.tiny_families import FAMILIES
from voco_video.answer.generate import generate
from voco_video.checkpoint.configurations import checked_config, read_images
from voco_video.checkpoint.folder import load_voco_model
from voco_video.data.samples import Turn
from voco_video.data.turns import encode_turns
from voco_video.errors import ModelError
from voco_video.model.families import ImageSettings
from voco_video.model.families.shaped import FRAME_TOKENS
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions

GOLDEN = Path(__file__).parents[1] / "golden" / "processors"
TO_THE_END = AnswerOptions(max_new_tokens=8, stop_at_end=False)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Family:
    name: str
    model: VocoModel
    folder: Path
    golden: dict[str, Any]


@pytest.fixture(scope="module", params=list(CHECKPOINTS))
def family(request, tmp_path_factory) -> Family:
    golden = json.loads((GOLDEN / f"{request.param}.json").read_text())
    folder = tmp_path_factory.mktemp(request.param)
    if make_checkpoint(request.param, folder) != golden["weight_names"]:
        pytest.skip(f"transformers {golden['versions']['transformers']}, which made the cases, names weights otherwise")
    return Family(request.param, load_voco_model(folder, layout="library", dtype="float32"), folder, golden)


def shown_of(name: str, number: int, case: ProcessorCase, indices: list[int]) -> Shown:
    """The pictures that the processor was given, or picked, with their times."""
    checkpoint = CHECKPOINTS[name]
    pixels = cells_of(number, case.samples or len(case.indices), checkpoint.sizes[case.size % len(checkpoint.sizes)])
    if case.samples:
        pixels = pixels[indices]
    else:
        indices = list(case.indices)
    total = case.samples or max(case.indices) + 1
    return Shown(pixels, np.array(indices) / case.fps, total / case.fps)


SOME = (1, 3, 5, 11)  # one picture, several turns, all roles, pictures that the processor picked


@pytest.mark.parametrize(
    "numbers",
    [SOME, pytest.param(tuple(set(range(len(CASES))) - set(SOME)), marks=pytest.mark.exhaustive)],
    ids=["some", "others"],
)
def test_prompt_logits_and_answer_are_those_of_the_real_processor(family, numbers):
    assert len(family.golden["cases"]) == len(CASES)
    for number in numbers:
        case, golden = CASES[number], family.golden["cases"][number]
        if "refused" in golden:
            assert case.indices == (0,)  # some processors want two pictures
            continue
        video = compressed(family.model, shown_of(family.name, number, case, golden["indices"]))
        assert video.whole_ids(case.turns) == golden["input_ids"], number
        prefix = video.prefix(system_of(case.turns))
        logits = last_logits(family.model, prefix, case.turns)
        assert float((logits - torch.tensor(golden["last_logits"])).abs().max()) <= TOLERANCE, number
        answer = generate(family.model, prefix, [text_ids(family.model, case.turns)], options=TO_THE_END)[0][0]
        assert answer == golden["greedy"], number


def test_answers_are_taught_in_the_words_of_the_published_templates(family):
    """The prompt that is trained on is the one that is asked, and a later answer stands behind the earlier ones."""
    backbone = family.model.backbone
    turns = [Turn("What moves?", "A dog."), Turn("Why?", "It is: so")]
    ids, owners = encode_turns(backbone, turns, max_length=999, system="Be brief.")
    asked = backbone.conversation_ids(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What moves?"}]
    )
    assert ids[: len(asked)] == asked
    for number, turn in enumerate(turns):
        told = backbone.tokenizer.decode([i for i, owner in zip(ids, owners, strict=True) if owner == number])
        thought = "\n<think></think>\n" if CHECKPOINTS[family.name].template == GLM4_5V else ""
        assert told.strip(" ") == f"{thought}{turn.answer}{backbone.tokenizer.eos_token}"


# ---------------------------------------------------------------------- sizes


# What limits on all pictures of a video together change, which cannot be known of one picture.
_TINY = {(64, 64, 2)}
BY_ALL_PICTURES = {
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm46v"), _TINY),
    "video_llama_3": {(240, 320, 8), (360, 640, 8), (640, 360, 8), (480, 480, 8), (1080, 1920, 8)},
}


def grid_by(images: ImageSettings, patch: int, size: dict[str, Any]) -> list[int]:
    fit = images.fit_for(size["width"], size["height"])
    return [fit.height // patch, fit.width // patch]


def test_frames_get_the_size_that_the_real_video_processor_gives_them(family):
    """As long as they have no more vision tokens than `FRAME_TOKENS`, and sides of at least one vision token."""
    images, compared = family.model.backbone.images, 0
    for size in family.golden.get("sizes", ()):
        given = size["grid"][1:]
        is_small = min(size["height"], size["width"]) < 8 and family.name not in ("qwen2_vl", "video_llama_3")
        if math.prod(given) > 4 * FRAME_TOKENS or is_small:  # the others scale these up to one vision token first
            assert math.prod(grid_by(images, 4, size)) <= 4 * FRAME_TOKENS
            continue
        assert grid_by(images, 4, size) == given, size
        compared += 1
    assert compared >= 20 or family.name == "llava_next_video"


def test_limits_on_sizes_are_those_of_videos(family):
    """The library's own settings, which stand for a checkpoint's where its files say nothing."""
    if "defaults" not in family.golden:
        return
    defaults = family.golden["defaults"]
    settings, patch = defaults["settings"], defaults["settings"]["patch_size"]
    config = FAMILIES[family.name].config()
    config.vision_config.patch_size = patch
    of_images = SimpleNamespace(
        size={"shortest_edge": 65536, "longest_edge": 2**24}, image_mean=[0.1] * 3, image_std=[1] * 3
    )
    kind = family.model.backbone.family
    images = kind.for_videos(kind.image_settings(of_images, config), settings)
    assert (images.mean, images.std) == (tuple(settings["image_mean"]), tuple(settings["image_std"]))
    grids = {}
    for size in defaults["sizes"]:
        grids[size["height"], size["width"], size["num_pictures"]] = size["grid"][1:], grid_by(images, patch, size)
    differing = {about for about, (given, ours) in grids.items() if given != ours}
    assert {a for a in differing if math.prod(grids[a][0]) <= 4 * FRAME_TOKENS} == BY_ALL_PICTURES.get(
        family.name, set()
    )


def test_settings_for_videos_are_read_where_the_library_reads_them(family, tmp_path):
    """From the joint file first, then from the one for videos, then from the one for pictures."""
    config = checked_config(family.folder)
    for file in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / file).write_bytes((family.folder / file).read_bytes())
    before = read_images(tmp_path, config)
    other = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(other))
    assert read_images(tmp_path, config).mean == (0.1, 0.2, 0.3)
    assert read_images(tmp_path, config).std == (0.4, 0.5, 0.6)
    joint = json.loads((tmp_path / "processor_config.json").read_text())
    other["image_mean"] = [0.7, 0.8, 0.9]
    (tmp_path / "processor_config.json").write_text(json.dumps(joint | {"video_processor": other}))
    assert read_images(tmp_path, config).mean == (0.7, 0.8, 0.9) != before.mean
    (tmp_path / "processor_config.json").write_text(json.dumps(joint | {"video_processor": {"image_std": [0, 0, 0]}}))
    with pytest.raises(ModelError, match="image_std has to be three numbers above 0"):
        read_images(tmp_path, config)
