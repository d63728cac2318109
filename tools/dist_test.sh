#!/usr/bin/env bash
# Evaluate on all GPUs of one or more nodes, through torchrun.
#
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
#
# NNODES, NODE_RANK, MASTER_ADDR and PORT as in dist_train.sh.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '4p' "$0" >&2; exit 2; }
exec "$(dirname "$0")/torchrun.sh" test.py "$1" "$3" "$2" "${@:4}"
