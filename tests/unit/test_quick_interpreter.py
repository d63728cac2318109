"""The interpreter in less time computes what it computes by itself."""

import numpy as np
import pytest
import torch
from helpers import triton_kernels

triton = triton_kernels.triton
tl = triton.language
if triton_kernels.HAS_GPU:
    pytest.skip("kernels are compiled here", allow_module_level=True)
interpreter = triton.runtime.interpreter
hurried = getattr(interpreter.ReduceOps.generic_reduce, "by_element", None)
if hurried is None:
    pytest.skip("this Triton's interpreter is left as it is", allow_module_level=True)


@triton.jit
def _sums(first, second, other, more):
    return first + other, second * 0.5 + more


@triton.jit
def _largest(one, other):
    return tl.maximum(one, other)


@triton.jit
def reduce_kernel(x, sums, others, largest, rows: tl.constexpr, columns: tl.constexpr,
                  axis: tl.constexpr, keep: tl.constexpr):  # fmt: skip
    places = tl.arange(0, rows)[:, None] * columns + tl.arange(0, columns)[None]
    value = tl.load(x + places)
    one, two = tl.reduce((value, value * value), axis, _sums, keep_dims=keep)
    most = tl.reduce(value, axis, _largest, keep_dims=keep)
    if keep:
        one, two, most = tl.ravel(one), tl.ravel(two), tl.ravel(most)
    left = tl.arange(0, columns if axis == 0 else rows)
    tl.store(sums + left, one)
    tl.store(others + left, two)
    tl.store(largest + left, most)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_reductions_have_the_same_bits(monkeypatch, axis, keep, dtype):
    rows, columns = 8, 16
    x = (torch.randn(rows, columns) * 10).to(getattr(torch, dtype))
    results = []
    for reduce in (interpreter.ReduceOps.generic_reduce, hurried):
        monkeypatch.setattr(interpreter.ReduceOps, "generic_reduce", reduce)
        out = x.new_empty(3, columns if axis == 0 else rows)
        reduce_kernel[(1,)](x, *out, rows, columns, axis, keep)
        results.append(out.numpy().tobytes())
    assert results[0] == results[1]
    expected = x.double().amax(axis).numpy()
    assert np.array_equal(out[2].double().numpy(), expected)
