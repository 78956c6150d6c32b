"""Put a trained voco-tiny into the package, in bfloat16: half the bytes.

python scripts/voco_tiny/ship.py runs/voco-tiny-answers-counts/last [FOLDER]  default: the package
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from voco_video.answer.frame_scorer import Retriever
from voco_video.checkpoint.finding import ASSETS
from voco_video.checkpoint.folder import load_voco_model, save_voco_model
from voco_video.checkpoint.world import World

ABOUT = (
    "voco-tiny knows nothing but MovingShapes: coloured shapes that stand, move, appear and disappear. "
    "It learned on two shared CPU cores in about six hours."
)


def main() -> None:
    """Load, say what it knows, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=ASSETS / "voco-tiny")
    arguments = parser.parse_args()
    source, folder = arguments.source, arguments.folder
    model = load_voco_model(source, dtype="bfloat16")
    model.about = ABOUT
    model.default_form = "embeds"  # a tenth of the bytes, and better at time: see benchmarks/results/retention.md
    learned, world = Retriever.load(source) or Retriever.load(folder), World.load(folder)
    if folder.is_dir():
        shutil.rmtree(folder)
    save_voco_model(model, folder)
    keep_learned(learned, world, folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB, fingerprint {model.fingerprint()[:12]}")


def keep_learned(learned: Retriever | None, world: World | None, folder: Path) -> None:
    """What finds frames goes with the weights that compress; where those changed, it has to be made again."""
    shipped = load_voco_model(folder, dtype="float32")
    if world is not None and world.belongs_to(shipped, shipped.fingerprint()):
        world.save(folder)
    else:
        print("nothing tells what these weights were trained on: run scripts/fit_world.py")
    if learned is not None and learned.belongs_to(shipped, shipped.fingerprint()):
        learned.save(folder)
    else:
        print("nothing learned about finding frames fits these weights: run scripts/train_retrieval.py")


if __name__ == "__main__":
    main()
