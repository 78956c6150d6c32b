#!/usr/bin/env bash
# Train on several GPUs of one machine with plain data parallelism.
#   scripts/train_gpus.sh NUM_GPUS RECIPE [--resume] [--set key=value ...]
set -euo pipefail
num_gpus=${1:?how many GPUs}
shift
exec torchrun --standalone --nproc-per-node "$num_gpus" --no-python voco-video train "$@"
