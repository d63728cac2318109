"""What lets one trace serve every size: steps that depend on a size without asking for it.

``torch.export`` and the ONNX exporter run the model on sizes that are symbols
(:class:`torch.SymInt`). An ``if`` on such a size ties the trace to the answer it got. So where
plain integers let a step be skipped (nothing to pad, no copy needed), a trace keeps the step and
does it with an amount that may turn out to be zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .tracing import in_functorch
from .versions import release

#: Whether torch.compile says what it knows of a symbol. Before, each answer has a graph of its own.
ASKS_COMPILERS = release(torch.__version__)[:2] >= (2, 8)


def has_symbols(x: Tensor) -> bool:
    """Whether ``x`` has a size that is a symbol."""
    return any(type(size) is not int for size in x.shape)


def known_zero(*amounts: int) -> bool:
    """Whether all amounts are zero for certain; ``False`` for symbols, whatever they stand for."""
    if ASKS_COMPILERS and torch.compiler.is_compiling():  # to which a symbol's type is int
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return all(statically_known_true(amount == 0) for amount in amounts)
    return all(type(amount) is int and amount == 0 for amount in amounts)


def contiguous(x: Tensor) -> Tensor:
    """``x.contiguous()``; a copy in any case where a size is a symbol.

    Whether a permuted map is contiguous depends on which of its axes have length one.
    """
    if has_symbols(x):
        return x.clone(memory_format=torch.contiguous_format)
    return x.contiguous()


def has_values(x: Tensor) -> bool:
    """Whether steps on ``x`` compute something now, and are not only traced or captured."""
    if torch.compiler.is_compiling() or type(x) is not Tensor or in_functorch():
        return False  # such as a fake one, or one that only stands for many
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())
