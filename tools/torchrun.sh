#!/usr/bin/env bash
# Start a tool in several processes: torchrun.sh TOOL CONFIG GPUS [arguments of the tool]
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: tools/dist_train.sh CONFIG GPUS [...]" >&2; exit 2; }
tools=$(cd "$(dirname "$0")" && pwd)
tool=$1 config=$2 gpus=$3
shift 3
[ -n "${PYTHON:-}" ] || PYTHON=python
backend=()
if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    backend=(env_cfg.dist_cfg.backend=gloo)
fi
# --cfg-options may be given once, so what is needed here joins what the caller wrote.
options=() rest=() taking=0
for argument in "$@"; do
    case "$argument" in
        --cfg-options) taking=1 ;;
        --*) taking=0 && rest+=("$argument") ;;
        *) if [ "$taking" = 1 ]; then options+=("$argument"); else rest+=("$argument"); fi ;;
    esac
done
options=("${backend[@]}" "${options[@]}")
[ ${#options[@]} -eq 0 ] || rest+=(--cfg-options "${options[@]}")
exec "$PYTHON" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$tools/$tool" "$config" --launcher pytorch "${rest[@]}"
