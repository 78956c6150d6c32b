"""Step a: what the tests hold on a processor holds on this device too."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.plan import Bench, Figures, Part
from benchmarks.timing import check_same
from tests.helpers.as_trained import QUESTION, REFERENCES, Shown, compressed, library_answer, text_ids
from tests.helpers.models import one_masked_pass, random_pixels, tiny_voco
from tests.helpers.tiny_families import tiny_family
from voco_video import load_model
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel
from voco_video.shapes.questions import draw_questions
from voco_video.shapes.rendering import write_clip
from voco_video.shapes.world import draw_scene, scene_rng

FAMILIES = ("llava", "qwen2_5_vl")
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
"""Of logits and keys, as a share of their size: rounding, in sums of another order."""
ROOT = Path(__file__).parents[2]
GPU_TESTS_SECONDS = 60


def parts(bench: Bench) -> Iterator[Part]:
    """Own checks first, since they say most; the suite's tests last."""
    torch.backends.cudnn.allow_tf32 = False  # else float32 is compared with 10 bits of mantissa
    for dtype in TOLERANCES:
        for check in (_one_pass, _moved_keys, _sliced):
            name = check.__name__.strip("_").replace("_", " ")
            yield Part(f"{name}, {dtype}", lambda check=check, dtype=dtype: check(bench, dtype))  # type: ignore[misc]
    for family in FAMILIES:
        yield Part(f"as trained, {family}", lambda family=family: _as_trained(bench, family))  # type: ignore[misc]
    yield Part("entries made on processor and device answer alike", lambda: _entries(bench))
    yield Part("the suite's GPU tests", lambda: _suite(bench))


def _tiny(bench: Bench, dtype: str) -> VocoModel:
    return tiny_voco(dtype=getattr(torch, dtype)).to(bench.device)


def _held(dtype: str, **results: Tensor) -> Figures:
    return {"error": max(check_same(results, tolerance=TOLERANCES[dtype]).values()), "tolerance": TOLERANCES[dtype]}


@torch.inference_mode()
def _one_pass(bench: Bench, dtype: str) -> Figures:
    """Compress and answer against the published single pass under its mask, on the processor in float32."""
    model, exact = _tiny(bench, dtype), tiny_voco()
    pixels, text = random_pixels(5), torch.arange(8, 20)
    slow = one_masked_pass(exact, exact.vision_tokens(pixels), text, 4)
    tokens = model.compress(model.vision_tokens(pixels))
    logits = model(text[None].to(bench.device), prefix=model.prefix(tokens))[0][0]
    return _held(dtype, one=slow, two=logits)


@torch.inference_mode()
def _moved_keys(bench: Bench, dtype: str) -> Figures:
    """Move keys from 0 to other places, and compute them there."""
    model, positions = _tiny(bench, dtype), torch.arange(24)
    target = positions * 3 + 1000
    raw = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(0))
    inv_freq = model.backbone.inv_freq.float().cpu()

    def rotated(at: Tensor) -> Tensor:
        angles = at[:, None].float() * inv_freq
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        first, second = raw.chunk(2, -1)
        return raw * cos + torch.cat([-second, first], -1) * sin

    keys = rotated(positions).to(bench.device, model.backbone.dtype)
    moved = model.backbone.moved_keys(keys, source=positions, target=target)
    return _held(dtype, computed=rotated(target), moved=moved)


@torch.inference_mode()
def _sliced(bench: Bench, dtype: str) -> Figures:
    """Frames cut out of a batch, with their first VoCo tokens, against those frames compressed so alone."""
    model, pixels = _tiny(bench, dtype), random_pixels(6)
    cut = model.compress(model.vision_tokens(pixels))[2:5].first(2)
    alone = model.compress(model.vision_tokens(pixels[2:5]), num_voco_tokens=2)
    text = torch.arange(8, 20, device=bench.device)[None]
    logits = [model(text, prefix=model.prefix(tokens))[0] for tokens in (alone, _in_main_memory(cut))]
    return _held(dtype, alone=logits[0], cut=logits[1])


def _in_main_memory(tokens: VocoTokens) -> VocoTokens:
    return replace(tokens, **{name: tensor.cpu() for name, tensor in tokens.tensors().items()})


@torch.inference_mode()
def _as_trained(bench: Bench, name: str) -> Figures:
    """The library's own answer on the processor, and the product's on the device."""
    reference = REFERENCES[name]
    model = tiny_family(name, as_trained=True, variant="library", chat_template=reference.chat_template)
    shown = Shown.random(3, reference.sizes[0], fps=0.5)
    ids, logits, _ = library_answer(copy.deepcopy(model.backbone.hf_model), model, name, shown, QUESTION)
    model = model.to(bench.device)
    video = compressed(model, shown)
    if video.whole_ids(QUESTION) != ids[0].tolist():
        raise ValueError("the prompt's token ids differ")
    text = torch.tensor([text_ids(model, QUESTION)], device=bench.device)
    return _held("float32", library=logits, device=model(text, prefix=video.prefix())[0][0, -1])


def _entries(bench: Bench) -> Figures:
    """Entries of either place, asked in both places: all answers have to be the same."""
    scene = draw_scene(0, split="test", index=0)
    drawn = draw_questions(scene, scene_rng(0, split="test", index=0, purpose=7), num_questions=4)
    questions = [one.question for one in drawn]
    clip = write_clip(scene, bench.folder / "shapes.mp4", size=240)
    models = {
        place: load_model("voco-tiny", device=device, dtype="float32", cache_dir=bench.folder / f"cache {place}")
        for place, device in (("processor", "cpu"), ("device", bench.plan.device))
    }
    entries = {place: model.compress(clip, num_frames=8) for place, model in models.items()}
    found: dict[str, list[str]] = {}
    for made, entry in entries.items():
        digest = entry.result.entry.digest if entry.result else ""
        for asked, model in models.items():
            folder = bench.folder / f"cache {made}"
            reader = (
                model
                if asked == made
                else load_model("voco-tiny", device=model.voco.backbone.device.type, dtype="float32", cache_dir=folder)
            )
            video = reader.open(digest)
            found[f"{made} -> {asked}"] = [a.text for a in video.ask(questions, max_new_tokens=4)]
    if len({tuple(texts) for texts in found.values()}) > 1:
        raise ValueError(f"answers differ: {found}")
    return {"answers": next(iter(found.values()))}


def _suite(bench: Bench) -> Figures:
    """The tests that need a GPU, by their mark."""
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "-m", "gpu", "--timeout", str(GPU_TESTS_SECONDS)]
    command = [sys.executable, "-m", "pytest", *options, "tests/checkpoint/test_loading.py", "tests/test_gpu.py"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(ended.stdout[-6000:], ended.stderr[-2000:])
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?)", ended.stdout)}
    if ended.returncode or (bench.is_gpu and not counts.get("passed")):
        raise ValueError(f"pytest ended with {ended.returncode}: {counts}; see the log")
    return {"counts": counts}
