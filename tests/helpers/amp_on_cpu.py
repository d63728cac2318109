"""Importing this lets mmengine's mixed precision, which is for GPUs, run on the CPU (bfloat16)."""

from functools import partialmethod

from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

amp_optimizer_wrapper.is_cuda_available = lambda: True
ShardedGradScaler.__init__ = partialmethod(ShardedGradScaler.__init__, "cpu")
