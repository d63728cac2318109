"""The work of each kernel of the package that a step starts, and of PyTorch's own products.

A floor is the time that the card's ceilings leave for it, launch by launch: its bytes', its
products' or its exponentials', whichever is longest.

*Bytes*: every tensor that a launch is given is moved once. *Operations*: the products of the
kernel's algorithm, recomputed ones included, two operations a multiply-add, of the tokens and
channels that there are and not of what fills blocks. *Exponentials*: of softmax, of GELU and of its
slope. What a kernel does beside that has other units to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from .roofline import Ceilings


class Work(NamedTuple):
    """What one launch does at least.

    Attributes:
        kernel: its name.
        bytes: read and written.
        flops: operations of products.
        exponentials: how many.
    """

    kernel: str
    bytes: int
    flops: int = 0
    exponentials: int = 0

    def seconds(self, ceilings: Ceilings) -> dict[str, float]:
        """By what binds: the least time for it."""
        return {
            "bytes": self.bytes / ceilings.copy,
            "products": self.flops / ceilings.product,
            "exponentials": self.exponentials / ceilings.exponentials,
        }


#: What a kernel was started with, by name.
Sizes = dict[str, int]


def _linear(inputs: str, products: int, exponentials: int = 0):
    """``products`` of rows with weights (N, ``inputs``), exponentials of each output."""
    return lambda s: (
        2 * products * s["rows"] * s[inputs] * s["N"],
        exponentials * s["rows"] * s["N"],
    )


def _square(products: int):
    """``products`` of rows with weights (C, C)."""
    return lambda s: (2 * products * s["rows"] * s["C"] ** 2, 0)


def _attention(products: int, exponentials: int):
    """``products`` and exponentials of every pair of tokens of a window, in every head."""

    def count(s: Sizes) -> tuple[int, int]:
        heads = s.get("HEADS") or s["heads"]
        pairs = s["windows"] * heads * (s["WINDOW_H"] * s["WINDOW_W"]) ** 2
        return 2 * products * pairs * s["HEAD"], exponentials * pairs

    return count


def _patches(products: int):
    def count(s: Sizes) -> tuple[int, int]:
        more = s.get("GRAD_IMAGE", 0)
        return 2 * (products + more) * s["lines"] * s["columns"] * s["C"] * s["K"], 0

    return count


def _position_bias(inner: int, outer: int):
    """Products with two coordinates, and with every head."""

    def count(s: Sizes) -> tuple[int, int]:
        rows = (2 * s["WINDOW_H"] - 1) * (2 * s["WINDOW_W"] - 1)
        return 2 * rows * s["HIDDEN"] * (2 * inner + s["HEADS"] * outer), 0

    return count


#: Operations of products and exponentials, by kernel; other kernels have neither.
PRODUCTS: dict[str, Callable[[Sizes], tuple[int, int]]] = {
    "norm_linear": _linear("C", 1),
    "cast_linear": _linear("C", 1),
    "linear": lambda s: _linear("K", 1, s["GELU"])(s),
    "gelu_backward": _linear("C", 2, 2),
    "mlp_forward": _linear("C", 2, 1),
    "mlp_backward": _linear("C", 3, 2),
    "mlp_weight_gradients": _linear("C", 4, 2),
    "post_norm_mlp_forward": _linear("C", 2, 1),
    "post_norm_mlp_backward": _linear("C", 3, 2),
    "linear_norm_add": _square(1),
    "linear_norm_backward": _square(2),
    "attention_forward": _attention(2, 1),
    "attention_backward": _attention(5, 1),
    "rows_forward": _attention(2, 1),
    "rows_backward_queries": _attention(3, 1),
    "rows_backward_keys": _attention(4, 1),
    "streamed_forward": _attention(2, 1),
    "streamed_backward_queries": _attention(5, 2),
    "streamed_backward_keys": _attention(4, 1),
    "attention_terms_forward": _position_bias(1, 1),
    "attention_terms_backward": _position_bias(2, 2),
    "embed_forward": _patches(1),
    "embed_backward": _patches(2),
}


def work_of(launch, tensors: tuple[Tensor, ...]) -> Work:
    """The work of one launch (:class:`swin_backbone.ops.triton.launch.Launch`)."""
    # A tensor that stands in for one that is not read is another argument, too.
    moved = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors}
    names = [name for name in launch.kernel.arg_names if name not in launch.constants]
    numbers = dict(zip(names[len(tensors) :], launch.numbers, strict=True))
    name = launch.kernel.fn.__name__
    count = PRODUCTS.get(name, lambda sizes: (0, 0))
    return Work(name, sum(moved.values()), *map(int, count({**launch.constants, **numbers})))


@contextmanager
def recorded_work() -> Iterator[list[Work]]:
    """Within, every launch of a kernel of the package is noted in the list that it gives."""
    from swin_backbone.ops.triton.launch import Launch

    works: list[Work] = []
    start = Launch.__call__

    def noted(self, *tensors):
        works.append(work_of(self, tensors))
        return start(self, *tensors)

    Launch.__call__ = noted
    try:
        yield works
    finally:
        Launch.__call__ = start


class KernelFloor(NamedTuple):
    """The least time of all launches of one kernel in a step.

    Attributes:
        launches: how many.
        seconds: sum of their floors.
        bound: what binds most of it: bytes, products or exponentials.
    """

    launches: int
    seconds: float
    bound: str


def floors(works: list[Work], ceilings: Ceilings) -> dict[str, KernelFloor]:
    """By kernel."""
    found = {}
    for name in dict.fromkeys(work.kernel for work in works):
        by_bound: dict[str, float] = {}
        launches = [work.seconds(ceilings) for work in works if work.kernel == name]
        for seconds in launches:
            bound = max(seconds, key=seconds.get)
            by_bound[bound] = by_bound.get(bound, 0.0) + seconds[bound]
        longest = max(by_bound, key=by_bound.get)
        found[name] = KernelFloor(len(launches), sum(by_bound.values()), longest)
    return found


#: PyTorch's operators whose operations its profiler counts, and that are products of matrices.
MATMULS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::conv2d")


def flops_of_torch(events) -> int:
    """Operations of PyTorch's own products in what a profiler saw (``with_flops=True``)."""
    return sum(event.flops or 0 for event in events if event.name in MATMULS)
