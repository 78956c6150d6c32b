#!/usr/bin/env bash
# All checks on one GPU in eight minutes, without network: see docs/gpu.md.
#   scripts/gpu_checks.sh OUT [--wheels FOLDER] [--only b,c] [--rehearse]
# Needs Python with torch for CUDA and transformers; PYTHON names it. Installs into OUT/packages alone.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
if [[ $# -lt 1 || $1 == -* ]]; then
    sed -n '2,4s/^# *//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
wheels=$root/wheels options=()
while [[ $# -gt 0 ]]; do
    if [[ $1 == --wheels ]]; then
        wheels=${2:?--wheels takes a folder}
        shift 2
    else
        options+=("$1")
        shift
    fi
done
if ! missing=$("$python" "$root/benchmarks/gpu/wheels.py" missing "$wheels"); then
    echo "collect them where there is a network: python benchmarks/gpu/wheels.py collect FOLDER --python VERSION" >&2
    exit 1
fi
packages=$out/packages
if [[ -n $missing ]]; then
    mapfile -t files <<<"$missing"
    "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$packages" "${files[@]}"
fi
cd "$root"
export PYTHONPATH="$packages:$root${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$python" -m benchmarks.gpu "$out" "${options[@]}"
