"""When the ways of this package may be taken."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def why_not_eager(x: Tensor) -> str | None:
    """Why ``x`` is not computed with eagerly on a CPU, or ``None`` if it is.

    Compilers fuse plain operators better than what is fused by hand here; exporters, counters of
    operations and transforms know only plain ones.
    """
    if x.device.type != "cpu":
        return f"needs the CPU, got {x.device.type}"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "is being compiled"
    if type(x) not in (Tensor, nn.Parameter) or _get_current_dispatch_mode_stack():
        return "something watches the operators"
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return "has no transforms but plain gradients"
    return None
