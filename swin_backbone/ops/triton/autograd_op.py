"""One function and its gradient, for eager use and for torch.compile.

``torch.library`` makes a function an operator that torch.compile, torch.export and CUDA graphs
treat as one step. Its calls take the host several times as long as those of an autograd function,
which serves in eager use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import wraps
from inspect import signature
from itertools import compress

import torch
from torch import Tensor

from ..double_backward import differentiable_once
from ..torch_internals.tensor_views import copy_all


class Differentiable:
    """An operator of torch that is called in the quickest way there is.

    Args:
        operator: the registered operator; returns a tensor, or a tuple of which only the first
            has a gradient.
        forward: the function behind it.
        save: as ``setup_context`` of :meth:`torch.library.CustomOpDef.register_autograd`.
        differentiate: as ``backward`` there, calling ``gradients``'s operator.
        differentiate_eagerly: the same, calling the function behind it.
        differentiate_again: the same, by plain operators, for gradients that are differentiated
            themselves. ``None``: that is an error, which names the backend that can.
    """

    def __init__(
        self,
        operator,
        forward: Callable,
        save: Callable,
        differentiate: Callable,
        differentiate_eagerly: Callable,
        differentiate_again: Callable | None = None,
    ):
        operator.register_autograd(differentiate, setup_context=save)
        self.operator = operator
        self.forward = forward
        once = differentiable_once(differentiate_eagerly)

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *inputs):
                output = forward(*inputs)
                save(ctx, inputs, output)
                return output

            @staticmethod
            def backward(ctx, *grads):
                if torch.is_grad_enabled() and differentiate_again is not None:
                    return differentiate_again(ctx, *grads)
                return once(ctx, *grads)

        self.function = Function

    def __call__(self, *inputs) -> Tensor | tuple[Tensor, ...]:
        """Call the function with all of its arguments, by position."""
        if torch.compiler.is_compiling():
            return self.operator(*inputs)
        if torch.is_grad_enabled():
            return self.function.apply(*inputs)
        return self.forward(*inputs)


def register(name: str, function: Callable, random: bool = False):
    """``function`` as the operator ``swin_backbone::name`` of torch.

    Its annotations become the operator's schema. Of a list that it returns, what shares memory is
    copied, since an operator's outputs share none.

    Args:
        name: of the operator.
        function: what it computes.
        random: whether another call with the same arguments gives another result; torch is told
            so where it takes that.
    """

    @wraps(function)
    def on_own_memory(*arguments):
        result = function(*arguments)
        return apart(result) if isinstance(result, list) else result

    # A sequence: a single tag is taken by the newest torch alone.
    options = {"tags": (torch.Tag.nondeterministic_seeded,)} if random and _TAKES_TAGS else {}
    return torch.library.custom_op(
        f"swin_backbone::{name}", on_own_memory, mutates_args=(), **options
    )


_TAKES_TAGS = "tags" in signature(torch.library.custom_op).parameters


def apart(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors, and copies of those that share memory with others of them, made together; a
    view that has its memory to itself, as of a product's rows, is left as it is."""
    places = [tensor.untyped_storage().data_ptr() for tensor in tensors]
    counts = Counter(places)
    shared = [counts[place] > 1 for place in places]
    views = list(compress(tensors, shared))
    copies = [torch.empty_like(view, memory_format=torch.contiguous_format) for view in views]
    if views:
        copy_all(copies, views)
    remaining = iter(copies)
    return [next(remaining) if s else tensor for tensor, s in zip(tensors, shared, strict=True)]
