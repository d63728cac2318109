"""Floors of single kernels: the work that is counted is the work that is done."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from benchmarking import kernel_work
from benchmarking.kernel_work import PRODUCTS, KernelFloor, Work, floors
from benchmarking.roofline import Ceilings
from helpers.block_cases import (
    branch_and_gradients,
    draw,
    run_attention,
    run_mlp,
    run_post_norm_attention,
    run_post_norm_mlp,
)
from helpers.triton_kernels import HAS_GPU, let_kernels_run
from torch.utils.flop_counter import FlopCounterMode

from swin_backbone import SwinBackbone
from swin_backbone.ops import Windows
from swin_backbone.ops.triton import residual_mlp_op
from swin_backbone.ops.triton.kernels import all_kernels
from swin_backbone.ops.triton.launch import Launch

interpreted = pytest.mark.skipif(HAS_GPU, reason="counts products in Triton's interpreter")
ATTENTION, MLP = (run_attention, run_post_norm_attention), (run_mlp, run_post_norm_mlp)
#: Kernels whose blocks are never full: of a patch's 48 pixels and a bias, of a few heads.
PADDED = {"embed_forward", "embed_backward", "attention_terms_forward", "attention_terms_backward"}


@pytest.fixture
def executed(monkeypatch):
    """Operations of products that kernels have executed, by kernel, in a counter that grows."""
    from triton.runtime.interpreter import InterpreterBuilder

    totals, running = Counter(), []
    multiply, start = InterpreterBuilder.create_dot, Launch.__call__

    def counted(self, a, b, *others):
        (*_, rows, inner), columns = a.data.shape, b.data.shape[-1]
        totals[running[-1]] += 2 * rows * inner * columns
        return multiply(self, a, b, *others)

    def named(self, *tensors):
        running.append(self.kernel.fn.__name__)
        start(self, *tensors)
        running.pop()

    monkeypatch.setattr(InterpreterBuilder, "create_dot", counted)
    monkeypatch.setattr(Launch, "__call__", named)
    return totals


def flops_by_kernel(works):
    counted = Counter()
    for work in works:
        counted[work.kernel] += work.flops
    return +counted  # without those that have none


@interpreted
@pytest.mark.parametrize(
    ("run", "channels", "window", "writes_hidden"),
    [
        *((run, 64, window, False) for run in ATTENTION for window in (8, 16)),
        *((run, 64, 8, writes_hidden) for run in MLP for writes_hidden in (False, True)),
        (run_attention, 384, 8, False),
        (run_mlp, 384, 8, False),
    ],
)
def test_products_are_those_that_kernels_execute(
    run, channels, window, writes_hidden, executed, monkeypatch
):
    """Of tokens and channels that fill all blocks, forward and backward."""
    monkeypatch.setattr(residual_mlp_op, "writes_hidden", lambda *_: writes_hidden)
    heads, windows = channels // 32, ((window, window), (window // 2, window // 2))
    x, cotangent = torch.randn(2, 128 // window**2 or 1, window, window, channels)
    arguments = draw(channels, heads, windows[0]), Windows(heads, *windows, 0.2), None, "triton"
    with kernel_work.recorded_work() as works:
        branch_and_gradients(run, x, *arguments, torch.float32, cotangent)
    counted = flops_by_kernel(works)
    assert set(counted) == set(executed)
    for kernel, flops in counted.items():
        if kernel in PADDED:
            assert executed[kernel] / 8 < flops <= executed[kernel]
        else:
            assert flops == executed[kernel], kernel


@interpreted
@pytest.mark.parametrize(("version", "window"), [("v1", 4), ("v2", 4), ("v1", (9, 8))])
def test_products_of_a_forward_pass_are_the_models(version, window, monkeypatch):
    """The kernels' and PyTorch's, as its counter counts those of the definition."""
    let_kernels_run(monkeypatch)
    config = {"embed_dims": 32, "depths": (1, 2), "num_heads": (1, 2), "strides": (4, 2)}
    config |= {"out_indices": (0, 1), "window_size": window, "version": version}
    model = SwinBackbone(**config, backend="triton").eval()
    options = {"with_flops": True, "record_shapes": True}
    with (
        torch.no_grad(),
        kernel_work.recorded_work() as works,
        torch.profiler.profile(**options) as profiler,
    ):
        model(torch.randn(1, 3, 36, 28))
    found = sum(work.flops for work in works) + kernel_work.flops_of_torch(profiler.events())
    with torch.device("meta"):
        reference = SwinBackbone(**config, backend="reference")
        with FlopCounterMode(display=False) as counter:
            reference(torch.empty(1, 3, 36, 28))
    assert found == counter.get_total_flops()
    assert len(works) > 10


def test_no_kernel_with_products_is_forgotten():
    """Of a new kernel that multiplies matrices the work must be known."""
    kernels = all_kernels()
    assert set(PRODUCTS) <= set(kernels)
    multiply = {name for name, kernel in kernels.items() if is_product(kernel)}
    assert multiply == set(PRODUCTS) | WEIGHTED_SUMS


#: They take sums of a few weighted pixels by matrix units; bytes are what binds them.
WEIGHTED_SUMS = {"pool", "pool_backward"}


def is_product(kernel):
    """Whether it multiplies matrices, itself or by a function that it calls."""
    names = kernel.fn.__code__.co_names
    called = [kernel.fn.__globals__.get(name) for name in names]
    return "dot" in names or any(is_product(one) for one in called if hasattr(one, "fn"))


def test_tensors_are_moved_once():
    """What stands in for a tensor that is not read is no other tensor."""
    launch = SimpleNamespace(
        kernel=SimpleNamespace(
            arg_names=("a", "residual", "out", "rows", "K", "N", "GELU"),
            fn=SimpleNamespace(__name__="linear"),
        ),
        numbers=(5,),
        constants={"K": 4, "N": 8, "GELU": True},
    )
    a, out = torch.randn(5, 4), torch.empty(5, 8, dtype=torch.bfloat16)
    work = kernel_work.work_of(launch, (a, a, out))
    assert work == Work("linear", 5 * 4 * 4 + 5 * 8 * 2, 2 * 5 * 4 * 8, 5 * 8)


def test_floors_add_up_launch_by_launch():
    ceilings = Ceilings("fp32", 10.0, 100.0, copy_bytes=1, product_size=1, exponentials=5.0)
    works = [
        Work("a", bytes=10),  # 1 s of bytes
        Work("a", bytes=10, flops=500),  # 5 s of products
        Work("b", bytes=10, flops=100, exponentials=10),  # 2 s of exponentials
    ]
    assert floors(works, ceilings) == {
        "a": KernelFloor(2, 6.0, "products"),
        "b": KernelFloor(1, 2.0, "exponentials"),
    }
    assert math.isinf(Ceilings("fp32", 1.0, 1.0, 1, 1).exponentials)
