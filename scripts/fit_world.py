"""What a checkpoint's training frames look like: measured, and written beside its weights.

    python scripts/fit_world.py --model runs/mine/last --clips train/ --held-out val/ --about "street scenes from above"

`ask` and `find` then say so where a video is of something else. Both folders hold videos of what the model was trained
on; those held out decide how far from the others a frame may be. For voco-tiny:

    python -m benchmarks.shape_clips CLIPS/train --split train --num-clips 400
    python -m benchmarks.shape_clips CLIPS/val --split val --num-clips 200
    python scripts/fit_world.py --clips CLIPS/train --held-out CLIPS/val --stored \
        --about "MovingShapes (coloured shapes on a plain light ground)"
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from voco_video.checkpoint.files import find_checkpoint
from voco_video.checkpoint.folder import load_voco_model
from voco_video.checkpoint.world import VISION, Familiar, World, stored_features, vision_features
from voco_video.model.voco import VocoModel
from voco_video.options.compression import Form
from voco_video.options.sampling import Sampling
from voco_video.video.reading import read_frames

SHARE = 0.002  # of held-out frames that are beyond the limit


@torch.inference_mode()
def features_of(model: VocoModel, folder: Path, *, fps: float, stored: bool) -> dict[str, Tensor]:
    """Features of all frames of a folder's videos, ``[F, D]`` by kind."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        for pixels in torch.from_numpy(
            read_frames(path, Sampling(fps=fps), fit=model.backbone.images.fit).pixels
        ).split(16):
            vision_tokens = model.vision_tokens(pixels.numpy())
            found[VISION].append(vision_features(vision_tokens).clone())
            for form in get_args(Form) if stored else ():
                for kind, rows in stored_features(model.compress(vision_tokens, form=form)).items():
                    found[kind].append(rows.clone())
    return {kind: torch.cat(rows) for kind, rows in found.items()}


def main() -> None:
    """Measure, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="voco-tiny")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--about", required=True, help="what it was trained on, to be read after 'trained on'")
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--stored", action="store_true", help="for entries from before this file, too: small models")
    parser.add_argument("--out", type=Path, help="folder of the checkpoint (default: the model's)")
    arguments = parser.parse_args()
    model = load_voco_model(arguments.model, dtype="float32")
    how = {"fps": arguments.fps, "stored": arguments.stored}
    fitted = features_of(model, arguments.clips, **how)
    held_out = features_of(model, arguments.held_out, **how)
    familiar = {kind: Familiar.fit(rows, held_out[kind], share=SHARE) for kind, rows in fitted.items()}
    world = World(arguments.about, model.fingerprint(), familiar)
    path = world.save(arguments.out or find_checkpoint(arguments.model))
    limits = ", ".join(f"{kind} {one.limit:.2f}" for kind, one in familiar.items())
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {len(fitted[VISION])} frames; limits: {limits}")


if __name__ == "__main__":
    main()
