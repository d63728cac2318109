"""Where the rewrites that are meant for a GPU run."""

from __future__ import annotations

from torch import Tensor


def on_gpu(x: Tensor) -> bool:
    """Whether a call's tensor is on one."""
    return x.is_cuda
