#!/usr/bin/env bash
# Start a tool in several processes: torchrun.sh TOOL CONFIG GPUS [arguments of the tool]
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: tools/dist_train.sh CONFIG GPUS [...]" >&2; exit 2; }
tools=$(cd "$(dirname "$0")" && pwd)
tool=$1 config=$2 gpus=$3
shift 3
PYTHON=${PYTHON:-python}
exec "$PYTHON" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$tools/$tool" "$config" "$@" --launcher pytorch
