#!/usr/bin/env bash
# voco-tiny from nothing: an untrained model, its tower, lists of images, words and vision tokens brought together, short
# questions, both for longer, counting, videos, then one set of answering weights for everything.
#   scripts/voco_tiny/train.sh [PROCESSES]        default 2; a killed run goes on where it was
set -euo pipefail
processes=${1:-2}
export OMP_NUM_THREADS=1 # one thread a process waits for nobody at every operation
[ -d runs/voco-tiny-untrained ] || python scripts/voco_tiny/make.py runs/voco-tiny-untrained
[ -d runs/voco-tiny-warm ] || python scripts/voco_tiny/warm_up_tower.py runs/voco-tiny-warm --model runs/voco-tiny-untrained
scripts/train_gpus.sh "$processes" voco-tiny/image --resume
[ -d runs/voco-tiny-aligned ] || python scripts/voco_tiny/align_projector.py runs/voco-tiny-image/last runs/voco-tiny-aligned
for part in image-short image-long image-count video video-more answers answers-more answers-counts; do
    scripts/train_gpus.sh "$processes" "voco-tiny/$part" --resume
done
