"""How kernels are compiled."""

from collections.abc import Callable

import triton


def kernel(*sizes: str) -> Callable:
    """Decorator: a kernel of Triton that is compiled once for whatever values ``sizes`` have.

    For other numbers Triton recompiles where one is 1, or a multiple of 16. Images of many sizes
    would be compiled for again and again, some seconds each.

    Args:
        sizes: names of numbers that the kernel takes.
    """

    def decorate(function: Callable):
        compiled = triton.jit(do_not_specialize=sizes)(function)
        compiled.sizes = frozenset(sizes)
        return compiled

    return decorate
