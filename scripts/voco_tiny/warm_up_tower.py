"""Teach voco-tiny's vision tower and projector to see, as CLIP's pre-training does for LLaVA: supervised, per patch.

    python scripts/voco_tiny/warm_up_tower.py OUT [--model voco-tiny] [--steps 1200] [--batch-size 64] [--seed 0]

Three linear heads read every vision token after the projector: the shape, the colour and the place of the object that
covers its patch, or none. The heads are thrown away; tower and projector are saved in OUT with the rest of the model
as it was. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.model.voco import VocoModel
from voco_video.shapes.rendering import render
from voco_video.shapes.world import COLOURS, PLACES, SHAPES, Scene, draw_scene, scene_rng

CLASSES = {"shape": SHAPES, "colour": tuple(COLOURS), "place": PLACES}
IGNORED = -100


@dataclass(frozen=True)
class PatchBatch:
    """Images uint8 ``[B, H, W, 3]`` and per head the class of every patch ``[B, N]``: 0 none, -100 undecided."""

    pixels: np.ndarray
    labels: dict[str, Tensor]


def draw_batch(*, seed: int, split: str, first: int, batch_size: int, size: int, grid: int) -> PatchBatch:
    """Images ``first ... first + batch_size - 1`` of a split, each a scene at a random moment."""
    images, labels = [], []
    for index in range(first, first + batch_size):
        scene = draw_scene(seed, split=split, index=index, always_visible=True)
        seconds = scene_rng(seed, split=split, index=index, purpose=2).random() * scene.duration_seconds
        images.append(render(scene, [seconds], size=size)[0])
        labels.append(patch_labels(scene, seconds, grid=grid))
    stacked = torch.from_numpy(np.stack(labels))  # [B, heads, N]
    return PatchBatch(np.stack(images), {name: stacked[:, i] for i, name in enumerate(CLASSES)})


def patch_labels(scene: Scene, seconds: float, *, grid: int) -> np.ndarray:
    """Classes of every patch, int64 ``[heads, N]``; patches that an object only touches are left undecided."""
    centres = (np.arange(grid) + 0.5) / grid
    x, y = (axis.flatten() for axis in np.meshgrid(centres, centres))  # [N], row by row
    classes = np.zeros((len(CLASSES), grid * grid), np.int64)
    for thing in scene.objects:
        object_x, object_y = thing.positions([seconds])[0]
        distance = np.hypot(x - object_x, y - object_y)
        values = (thing.shape, thing.colour, thing.place_at(seconds))
        for row, (names, value) in enumerate(zip(CLASSES.values(), values, strict=True)):
            classes[row, distance < thing.radius + 0.5 / grid] = IGNORED
            classes[row, distance < thing.radius] = 1 + list(names).index(value)
    return classes


def head_loss(tokens: Tensor, heads: nn.ModuleDict, batch: PatchBatch) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy summed over heads for vision tokens ``[B, N, D]``, and accuracy on patches with an object."""
    loss, accuracy = tokens.new_zeros(()), {}
    for name, head in heads.items():
        logits, labels = head(tokens).flatten(0, 1), batch.labels[name].flatten().to(tokens.device)
        loss = loss + nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED)
        with_object = labels > 0
        accuracy[name] = float((logits.argmax(-1) == labels)[with_object].float().mean())
    return loss, accuracy


def warm_up(model: VocoModel, *, steps: int, batch_size: int, learning_rate: float, seed: int) -> dict[str, float]:
    """Train tower and projector in place; returns accuracy per head on 1 000 validation images."""
    size, grid = model.backbone.images.fit.height, math.isqrt(model.backbone.num_vision_tokens)
    torch.manual_seed(seed)
    heads = nn.ModuleDict({name: nn.Linear(model.backbone.hidden_size, 1 + len(c)) for name, c in CLASSES.items()})
    heads.to(model.backbone.device)
    inner = model.backbone.hf_model.model
    trained = [*inner.vision_tower.parameters(), *inner.multi_modal_projector.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    shape = {"batch_size": batch_size, "size": size, "grid": grid, "seed": seed}
    bar = tqdm(range(steps), desc="warm-up", mininterval=10)
    for step in bar:
        batch = draw_batch(split="train", first=step * batch_size, **shape)
        loss, accuracy = head_loss(model.vision_tokens(batch.pixels), heads, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{float(loss):.3f}", **{n: f"{a:.3f}" for n, a in accuracy.items()}, refresh=False)
    return validate(model, heads, shape | {"batch_size": 100})


@torch.inference_mode()
def validate(model: VocoModel, heads: nn.ModuleDict, shape: dict[str, int]) -> dict[str, float]:
    """Accuracy per head on patches with an object, on 1 000 images of the validation split."""
    rows = []
    for first in range(0, 1000, shape["batch_size"]):
        batch = draw_batch(split="val", first=first, **shape)
        rows.append(head_loss(model.vision_tokens(batch.pixels), heads, batch)[1])
    return {name: float(np.mean([row[name] for row in rows])) for name in CLASSES}


def main() -> None:
    """Parse, warm up, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="folder of the checkpoint to write")
    parser.add_argument("--model", default="voco-tiny", help="checkpoint to start from")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = load_voco_model(arguments.model, dtype="float32")
    accuracy = warm_up(
        model,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    save_voco_model(model, arguments.out)
    print(f"{arguments.out}: accuracy per patch " + ", ".join(f"{n} {a:.1%}" for n, a in accuracy.items()))


if __name__ == "__main__":
    main()
