"""Launches of what ends a branch whose norm comes behind it: ``x + path_scale * norm(z)``."""

from __future__ import annotations

from math import gcd

import torch
import triton
from torch import Tensor

from .kernels.post_norm_kernels import (
    linear_norm_add,
    linear_norm_backward,
    norm_add,
    norm_add_backward,
)
from .launch import Launch, looped, precision, remembered, rows_of_warps, split
from .linear_op import CHANNELS_ON_CHIP, rows_of
from .norm_op import BACKWARD_ELEMENTS, FORWARD_ELEMENTS
from .tuning import Work, config, tuned

#: Up to this many channels, the backward pass keeps whole rows on chip: it holds two such blocks.
CHANNELS_BACKWARD = 192


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """A pointer for an argument that a kernel is compiled not to read."""
    return stand_in if tensor is None else tensor


def _work(kernel: str, most: int):
    def describe(a: Tensor, *others) -> Work | None:
        channels = a.shape[-1]
        return Work(kernel, channels, rows_of(a), a.dtype) if channels <= most else None

    return describe


@remembered
def _linear_launch(backward, rows, images, channels, eps, has_path_scale, dtype, precision):
    name = "linear_norm_backward" if backward else "linear_norm_add"
    chosen = config(name, channels, rows, dtype)
    left, right = split(channels)
    constants = {"C": channels, "LEFT": left, "RIGHT": right, "ROWS": chosen.rows}
    constants |= {"DEPTH": gcd(channels, chosen.depth), "HAS_PATH_SCALE": has_path_scale}
    constants |= {"PRECISION": precision}
    kernel = linear_norm_add
    if backward:
        kernel, constants["COLUMNS"] = linear_norm_backward, gcd(channels, chosen.columns)
    grid, numbers = (triton.cdiv(rows, chosen.rows),), (rows, rows // images, eps)
    return Launch(kernel, grid, numbers, constants, chosen.options)


def _launch_for(backward: bool, x: Tensor, path_scale: Tensor | None, eps: float, dtype) -> Launch:
    return _linear_launch(
        backward, rows_of(x), x.shape[0], x.shape[-1], eps, path_scale is not None, dtype,
        precision(dtype),
    )  # fmt: skip


@tuned(_linear_launch.cache_clear, _work("linear_norm_add", CHANNELS_ON_CHIP))
def multiply_norm_add(
    a: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    x: Tensor,
    path_scale: Tensor | None,
    eps: float,
) -> Tensor:
    """``x + path_scale * norm(a @ weight^T + bias)``; ``weight`` is (C, C), ``x`` (B, ..., C)."""
    if x.shape[-1] > CHANNELS_ON_CHIP:
        z = torch.mm(a.view(-1, a.shape[-1]), weight.t())
        return add_normed(z, bias, gamma, beta, x, path_scale, eps)
    out = torch.empty_like(x)
    launch = _launch_for(False, x, path_scale, eps, a.dtype)
    launch(a, weight, bias, gamma, beta, x, _or(path_scale, x), out)
    return out


@tuned(_linear_launch.cache_clear, _work("linear_norm_backward", CHANNELS_BACKWARD))
def multiply_norm_gradients(
    a: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor,
    grad_out: Tensor,
    path_scale: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`multiply_norm_add` for ``a @ weight^T`` and for ``a``, (rows, C); and
    partial sums of those of gamma, beta and ``bias``, (programs, 3 C)."""
    channels = a.shape[-1]
    if channels > CHANNELS_BACKWARD:
        z = torch.mm(a.view(-1, channels), weight.t())
        grad_z, partials = normed_gradients(z, bias, gamma, grad_out, path_scale, eps)
        return grad_z, torch.mm(grad_z, weight), partials
    launch = _launch_for(True, grad_out, path_scale, eps, a.dtype)
    grad_z, grad_a = (a.new_empty((rows_of(a), channels)) for _ in range(2))
    partials = a.new_empty((launch.grid[0], 3 * channels), dtype=torch.float32)
    scale = _or(path_scale, gamma)
    launch(a, weight, bias, gamma, scale, grad_out, grad_z, grad_a, partials)
    return grad_z, grad_a, partials


@remembered
def _norm_launch(backward, rows, images, channels, eps, has_path_scale) -> Launch:
    elements = BACKWARD_ELEMENTS if backward else FORWARD_ELEMENTS
    block, columns, warps = rows_of_warps(channels, elements)
    constants = {"C": channels, "COLUMNS": columns, "ROWS": block}
    constants |= {"HAS_PATH_SCALE": has_path_scale}
    numbers, options = (rows, rows // images, eps), {"num_warps": warps}
    if not backward:
        return Launch(norm_add, (triton.cdiv(rows, block),), numbers, constants, options)
    programs, rows_per_program = looped(rows, block, 2 * min(1, BACKWARD_ELEMENTS / columns))
    numbers = (*numbers, rows_per_program)
    return Launch(norm_add_backward, (programs,), numbers, constants, options)


def add_normed(
    z: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    x: Tensor,
    path_scale: Tensor | None,
    eps: float,
) -> Tensor:
    """``x + path_scale * norm(z + bias)``; ``z`` is (rows, C), ``x`` (B, ..., C)."""
    out = torch.empty_like(x)
    launch = _norm_launch(False, z.shape[0], x.shape[0], z.shape[1], eps, path_scale is not None)
    launch(z, bias, gamma, beta, x, _or(path_scale, x), out)
    return out


def normed_gradients(
    z: Tensor,
    bias: Tensor,
    gamma: Tensor,
    grad_out: Tensor,
    path_scale: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Gradient of :func:`add_normed` for ``z``, and partial sums of those of gamma, beta and
    ``bias``, (programs, 3 C)."""
    rows, channels = z.shape
    launch = _norm_launch(True, rows, grad_out.shape[0], channels, eps, path_scale is not None)
    grad_z = torch.empty_like(z)
    partials = z.new_empty((launch.grid[0], 3 * channels), dtype=torch.float32)
    launch(z, bias, gamma, _or(path_scale, gamma), grad_out, grad_z, partials)
    return grad_z, partials
