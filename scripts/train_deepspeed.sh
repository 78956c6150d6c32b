#!/usr/bin/env bash
# Train on several GPUs of one machine with DeepSpeed ZeRO; the recipe names the stage (deepspeed: deepspeed/zero3.json).
#   scripts/train_deepspeed.sh NUM_GPUS RECIPE [--resume] [--set key=value ...]
# DeepSpeed builds its operators once: the folder below keeps them, and removing it clears a lock left by a killed build.
set -euo pipefail
num_gpus=${1:?how many GPUs}
shift
export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$HOME/.cache/voco-video-torch-extensions}
exec torchrun --standalone --nproc-per-node "$num_gpus" --no-python voco-video train "$@"
