"""Bring vision tokens and words together, as LLaVA's first stage does: the projector alone, supervised, per patch.

    python scripts/voco_tiny/align_projector.py MODEL OUT [--steps 300] [--batch-size 32] [--seed 0]

A vision token of a red star at the top left is moved until, of all colours, shapes and places, it points most in the
directions of the input embeddings of "red", "star" and "top left". Attention can then find an object by its name
through one rule, "look for what looks like this word", where it would have to learn every word by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm
from warm_up_tower import CLASSES, IGNORED, draw_batch

from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.model.voco import VocoModel

SHARPNESS = 10.0
"""Cosines are multiplied by this; a token that is the sum of three words has a cosine of about 0.6 with each."""


def word_vectors(model: VocoModel) -> dict[str, Tensor]:
    """Input embeddings of every class's words, summed over its tokens, ``[classes, D]`` per head."""
    backbone = model.backbone
    vectors = {}
    for head, words in CLASSES.items():
        ids = [backbone.tokenizer(f" {word}", add_special_tokens=False).input_ids for word in words]
        vectors[head] = torch.stack([backbone.embed(one).sum(0) for one in ids]).detach()
    return vectors


def align(model: VocoModel, *, steps: int, batch_size: int, learning_rate: float, keep: float, seed: int) -> None:
    """Train the projector in place; ``keep`` weighs how far vision tokens may move from where they were."""
    size, grid = model.backbone.images.fit.height, round(model.backbone.num_vision_tokens**0.5)
    words = word_vectors(model)
    projector = model.backbone.hf_model.model.multi_modal_projector
    optimizer = torch.optim.AdamW(projector.parameters(), lr=learning_rate, weight_decay=0.0)
    before = {name: parameter.detach().clone() for name, parameter in projector.named_parameters()}
    bar = tqdm(range(steps), desc="align", mininterval=5)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, 2 * (1 - step / steps))
        batch = draw_batch(
            seed=seed, split="train", first=step * batch_size, batch_size=batch_size, size=size, grid=grid
        )
        tokens = model.vision_tokens(batch.pixels)  # [B, N, D]
        with torch.no_grad():
            old = torch.func.functional_call(projector, before, (_features(model, batch.pixels),))
        loss = keep * (tokens - old).square().sum(-1).mean() / old.square().sum(-1).mean()
        accuracy = {}
        for head, vectors in words.items():
            labels = batch.labels[head].flatten() - 1  # [B * N], -1 none
            has_object = (labels >= 0) & (labels != IGNORED - 1)
            directions = nn.functional.normalize(tokens.flatten(0, 1)[has_object], dim=-1)
            logits = SHARPNESS * directions @ nn.functional.normalize(vectors, dim=-1).T
            loss = loss + nn.functional.cross_entropy(logits, labels[has_object])
            accuracy[head] = float((logits.argmax(-1) == labels[has_object]).float().mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moved = float((tokens.detach() - old).square().sum(-1).mean() / old.square().sum(-1).mean())
        bar.set_postfix(loss=f"{float(loss):.2f}", moved=f"{moved:.2f}", **{n: f"{a:.2f}" for n, a in accuracy.items()})


@torch.no_grad()
def _features(model: VocoModel, pixels: Tensor) -> Tensor:
    """What the projector reads, ``[B, N, vision width]``."""
    inner = model.backbone.hf_model.model
    hidden = inner.vision_tower(model.backbone.pixel_values(pixels), output_hidden_states=True).hidden_states
    return hidden[model.backbone.hf_model.config.vision_feature_layer][:, 1:]


def main() -> None:
    """Parse, align, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint to start from")
    parser.add_argument("out", type=Path, help="folder of the checkpoint to write")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = load_voco_model(arguments.model, dtype="float32")
    model.requires_grad_(False)
    model.backbone.hf_model.model.multi_modal_projector.requires_grad_(True)
    align(
        model,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        keep=arguments.keep,
        seed=arguments.seed,
    )
    save_voco_model(model, arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
