"""Gradients that travel between processes in 16 bits: one line of a config."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

COMPRESSIONS = {
    "bfloat16": default_hooks.bf16_compress_hook,
    "float16": default_hooks.fp16_compress_hook,
}
#: Attribute of a wrapper that says in which dtype its gradients travel.
_MARK = "swin_backbone_compressed_dtype"


@HOOKS.register_module()
class CompressGradientsHook(Hook):
    """Average the gradients of ``DistributedDataParallel`` in 16 bits, which halves their bytes.

        custom_hooks = [dict(type="CompressGradientsHook")]

    Args:
        dtype: ``'bfloat16'``, which has the range of float32, or ``'float16'``.
    """

    priority = "NORMAL"  # before graphs are made, which average by themselves

    def __init__(self, dtype: str = "bfloat16"):
        if dtype not in COMPRESSIONS:
            raise ValueError(f"dtype must be {' or '.join(COMPRESSIONS)}, got {dtype!r}")
        self.dtype = dtype

    def before_train(self, runner) -> None:
        """Register PyTorch's communication hook with the model's wrapper."""
        model = runner.model
        if not isinstance(model, DistributedDataParallel):
            print_log(
                f"CompressGradientsHook: a {type(model).__name__} averages no gradients by "
                f"DistributedDataParallel, so they stay as they are",
                "current",
            )
        elif compressed_dtype(model) is None:
            model.register_comm_hook(model.process_group, COMPRESSIONS[self.dtype])
            setattr(model, _MARK, getattr(torch, self.dtype))


def compressed_dtype(wrapper: nn.Module) -> torch.dtype | None:
    """In which dtype a wrapper's gradients travel, if :class:`CompressGradientsHook` says so."""
    return getattr(wrapper, _MARK, None)
