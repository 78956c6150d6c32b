"""Write down what the library's own processors and models make of videos, for families without published cases.

    python -m scripts.processor_cases [FAMILY ...]

They want torchvision, which nothing else here does. What they make is kept in tests/golden/processors, one small file a
family: token ids, the last logits, greedy tokens, and the sizes that frames of many shapes are given. Weights and
pixels are hashes of names (`tests.helpers.processor_checkpoints`), so they are not kept.

torchvision's build for GPUs does beside torch's for CPUs: its compiled operators are missed only where they are used.
The files were made after ``pip install --no-deps torchvision==0.28.0`` beside torch 2.13 and transformers 5.24.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

for _operator in ("nms", "qnms"):  # before anything imports torchvision, which stops where it does not find these
    torch.library.define(f"torchvision::{_operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")

import torchvision  # type: ignore[import-not-found]  # noqa: E402
import transformers  # noqa: E402

from tests.helpers.processor_checkpoints import (  # noqa: E402
    CASES,
    CHECKPOINTS,
    ProcessorCase,
    cells_of,
    make_checkpoint,
)

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "processors"
NUM_TOKENS = 8
SHAPES = [  # of recordings, height and width, for vision tokens of 8 x 8 pixels
    *((32, 56), (56, 32), (64, 64), (90, 160), (160, 90), (100, 300), (300, 40), (67, 91), (48, 50)),
    *((8, 8), (6, 30), (20, 4), (12, 12), (9, 200), (500, 500)),
]
PUBLISHED = {"qwen3_vl_moe": {"size": {"shortest_edge": 4096, "longest_edge": 25165824}}}
RECORDINGS = [(64, 64), (96, 160), (144, 256), (240, 320), (360, 640), (640, 360), (480, 480), (1080, 1920)]


def conversation(case: ProcessorCase, video: Any, *, plain_answers: bool) -> list[dict[str, Any]]:
    """Write a conversation as the library takes it: contents in parts, the video in the first question."""
    messages: list[dict[str, Any]] = []
    has_video = False
    for role, text in case.turns:
        content: Any = [{"type": "text", "text": text}]
        if role == "user" and not has_video:
            content, has_video = [{"type": "video", "video": video}, *content], True
        elif plain_answers and role != "user":
            content = text
        messages.append({"role": role, "content": content})
    return messages


@torch.inference_mode()
def measure_case(number: int, case: ProcessorCase, name: str, processor: Any, model: Any) -> dict[str, Any]:
    """One case, or the processor's reason to refuse it."""
    checkpoint = CHECKPOINTS[name]
    pixels = cells_of(number, case.samples or len(case.indices), checkpoint.sizes[case.size % len(checkpoint.sizes)])
    metadata = {
        "fps": case.fps,
        "total_num_frames": case.samples or max(case.indices) + 1,
        "duration": (case.samples or max(case.indices) + 1) / case.fps,
        "frames_indices": list(range(case.samples)) or list(case.indices),
    }
    options = dict(checkpoint.of_processor) | {"do_sample_frames": bool(case.samples)}
    if case.samples:
        options["fps"] = 2.0
    messages = conversation(case, pixels, plain_answers=checkpoint.plain_answers)
    try:
        inputs = processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"return_tensors": "pt", "video_metadata": [metadata], "return_metadata": True, **options},
        )
    except ValueError as error:
        return {"case": number, "refused": str(error)}
    told = inputs.pop("video_metadata", None)
    indices = list(map(int, told[0].frames_indices)) if told and told[0].frames_indices is not None else None
    generated = model.generate(
        **inputs,
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=model.config.get_text_config().vocab_size,
        return_dict_in_generate=True,
        output_logits=True,
    )
    length = inputs["input_ids"].shape[1]
    return {
        "case": number,
        "indices": indices,
        "input_ids": inputs["input_ids"][0].tolist(),
        "last_logits": [round(float(logit), 5) for logit in generated.logits[0][0]],
        "greedy": generated.sequences[0, length:].tolist(),
    }


def measure_sizes(name: str, video_processor: Any, shapes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Rows and columns of patches that a video processor gives to recordings of some shapes."""
    found = []
    for height, width in shapes:
        for num_pictures in (2, 8):
            pixels = np.zeros((num_pictures, height, width, 3), np.uint8)
            given = video_processor(
                videos=[pixels], return_tensors="pt", do_sample_frames=False, **CHECKPOINTS[name].of_processor
            )
            about = {"height": height, "width": width, "num_pictures": num_pictures}
            found.append(about | {"grid": given["video_grid_thw"][0].tolist()})
    return found


def measure_defaults(name: str, video_processor: Any) -> dict[str, Any]:
    """The same with the settings that the library takes where a checkpoint says nothing, or those published."""
    default = type(video_processor)(**PUBLISHED.get(name, {}))
    keys = ("patch_size", "image_mean", "image_std")
    settings = {"size": {edge: default.size[edge] for edge in ("shortest_edge", "longest_edge")}}
    settings |= {key: getattr(default, key) for key in keys}
    return {"settings": settings, "sizes": measure_sizes(name, default, RECORDINGS)}


def measure(name: str, versions: dict[str, str]) -> dict[str, Any]:
    """All cases of a family."""
    with tempfile.TemporaryDirectory() as folder:
        digest = make_checkpoint(name, Path(folder))
        processor = transformers.AutoProcessor.from_pretrained(folder)
        loader = transformers.AutoModelForImageTextToText
        model = loader.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
        made = {
            "made_by": f"python -m scripts.processor_cases {name}",
            "versions": versions,
            "processor": type(processor).__name__,
            "video_processor": type(processor.video_processor).__name__,
            "weight_names": digest,
            "cases": [measure_case(number, case, name, processor, model) for number, case in enumerate(CASES)],
        }
        if hasattr(processor.video_processor, "patch_size"):  # frames keep their shape
            made["sizes"] = measure_sizes(name, processor.video_processor, SHAPES)
            made["defaults"] = measure_defaults(name, processor.video_processor)
        return made


def main() -> None:
    """Write the files of the families named, or of all."""
    versions = {module.__name__: module.__version__ for module in (torch, torchvision, transformers)}
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or CHECKPOINTS:
        text = json.dumps(measure(name, versions), indent=None, separators=(",", ":"))
        for start in ('"cases":', '"sizes":', '"defaults":', '{"case":', '{"height":'):
            text = text.replace(start, f"\n{start}")
        (GOLDEN / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
