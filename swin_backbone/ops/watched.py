"""Who wants to see, or to transform, the operators that are run: fast ways of our own hide them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def why_hidden(x: Tensor) -> str | None:
    """Why ``x`` is to be computed with by plain operators, or ``None`` if any way will do.

    Compilers are asked about elsewhere: they see registered operators.
    """
    if torch.jit.is_tracing():
        return "is being traced"
    if torch._C._len_torch_dispatch_stack() or type(x) not in (Tensor, nn.Parameter):
        return "something watches the operators"
    if is_transformed():
        return (
            "transforms of torch.func and forward-mode derivatives take plain operators only: "
            "use backend='reference' or 'auto'"
        )
    return None


def is_transformed() -> bool:
    """Whether a transform of ``torch.func``, or forward-mode differentiation, is under way."""
    stack = torch._C._functorch.peek_interpreter_stack()
    return stack is not None or forward_ad._current_level >= 0


def is_counted() -> bool:
    """Whether PyTorch's ``FlopCounterMode`` counts: it knows the products of plain operators, those
    of no kernel of ours, and of PyTorch's own attention not on every device."""
    if not torch._C._len_torch_dispatch_stack():
        return False
    modes = _get_current_dispatch_mode_stack()
    return any("FlopCounterMode" in type(mode).__name__ for mode in modes)
