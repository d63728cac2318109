#!/usr/bin/env bash
# Train on all GPUs of one or more nodes, through torchrun.
#
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#
# On several nodes, run it on each with NNODES, NODE_RANK and MASTER_ADDR (and PORT) set. Without
# GPUs, GPUS is the number of processes, which talk through gloo.
exec "$(dirname "$0")/torchrun.sh" train.py "$@"
