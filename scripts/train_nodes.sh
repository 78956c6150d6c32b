#!/usr/bin/env bash
# Train on several machines; run it on each of them.
#   MASTER_ADDR=first-machine NUM_NODES=4 NODE_RANK=0 scripts/train_nodes.sh GPUS_PER_NODE RECIPE [...]
set -euo pipefail
gpus_per_node=${1:?how many GPUs a machine}
shift
exec torchrun --nnodes "${NUM_NODES:?}" --node-rank "${NODE_RANK:?}" --nproc-per-node "$gpus_per_node" \
  --rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:?}:${MASTER_PORT:-29500}" --no-python voco-video train "$@"
