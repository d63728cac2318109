"""Several processes on the CPU, for machines without GPUs and for tests.

mmengine asks for a GPU of every process that torchrun starts, and hands device numbers to DDP.
Joining the group first, and a wrapper that asks for no device, is all that differs.
"""

from __future__ import annotations

import torch.distributed
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from torch import nn


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """DDP on the CPU. ``SyncBN``, which synchronises GPUs only, becomes plain batch norm."""

    def __init__(self, module: nn.Module, device_ids=None, **kwargs):
        super().__init__(revert_sync_batchnorm(module), device_ids=None, **kwargs)


def prepare_cpu_processes(cfg: Config) -> None:
    """Join the processes that torchrun started through gloo; to be called before the Runner."""
    torch.distributed.init_process_group("gloo")
    strategy = cfg.get("strategy")
    if strategy is None:
        cfg.model_wrapper_cfg = {
            "type": "CPUDistributedDataParallel",
            "broadcast_buffers": False,
            "find_unused_parameters": cfg.get("find_unused_parameters", False),
        }
    elif strategy.type == "DDPStrategy":
        strategy.setdefault("model_wrapper", {}).type = "CPUDistributedDataParallel"
    elif strategy.type in ("FSDPStrategy", "ResumableFSDPStrategy"):
        strategy.setdefault("model_wrapper", {}).device_id = "cpu"
