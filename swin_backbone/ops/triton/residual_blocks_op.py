"""The V1 blocks of a stage as one operator of torch, for compilers.

A compiler looks at each operator and at each tensor between them, forward and backward, and makes
of it what it would have been: a stage's blocks cost it as much as one, and the host one call.
Both branches of a block are computed, and kept for the backward pass, as
:mod:`.residual_attention_op` and :mod:`.residual_mlp_op` say.
"""

from collections.abc import Iterator, Sequence
from typing import List, NamedTuple, Optional  # noqa: UP035

import torch
from torch import Tensor

from ..torch_internals.tensor_views import copy_all, views_like
from .autograd_op import register
from .linear_op import like_parameters
from .residual_attention_op import attention_branch, attention_branch_gradients
from .residual_mlp_op import mlp_branch, mlp_branch_gradients

_Maybe = Optional[Tensor]  # noqa: UP045
_Tensors = List[Tensor]  # noqa: UP006
#: For each block, rows and columns of its window and of its shift, and which of ``path_scales`` is
#: that of its attention, before that of its MLP; -1 for none.
_Integers = List[int]  # noqa: UP006
#: For each block, what norms add to the variance, and the factor of its scores: of norm1, norm2,
#: attention.
_Numbers = List[float]  # noqa: UP006
INTEGERS, NUMBERS = 5, 3


class Parameters(NamedTuple):
    """Of a block. There is no ``qkv_bias``, or each block of a stage has one."""

    norm1_weight: Tensor
    norm1_bias: Tensor
    qkv_weight: Tensor
    qkv_bias: _Maybe
    table: Tensor
    proj_weight: Tensor
    proj_bias: Tensor
    norm2_weight: Tensor
    norm2_bias: Tensor
    up_weight: Tensor
    up_bias: Tensor
    down_weight: Tensor
    down_bias: Tensor


#: What branches read in the compute dtype.
LOW = ("qkv_bias", "qkv_weight", "proj_weight", "up_weight", "down_weight")
_NAMES = tuple(Parameters.__annotations__)
_BIAS = _NAMES.index("qkv_bias")


class _Block(NamedTuple):
    """What branches take beside tensors of tokens."""

    parameters: Parameters
    low: dict[str, Tensor]
    sizes: list[int]
    scales: tuple[_Maybe, _Maybe]
    eps: tuple[float, float]
    factor: float


def _blocks(
    images: int,
    path_scales: _Maybe,
    parameters: Sequence[Tensor],
    low: Sequence[Tensor],
    integers: Sequence[int],
    numbers: Sequence[float],
) -> Iterator[_Block]:
    count, copies = len(numbers) // NUMBERS, iter(low)
    each = len(parameters) // count
    for index in range(count):
        own = list(parameters[each * index : each * (index + 1)])
        if each < len(_NAMES):
            own.insert(_BIAS, None)
        own = Parameters(*own)
        names = [name for name in LOW if getattr(own, name) is not None]
        *sizes, row = integers[INTEGERS * index : INTEGERS * (index + 1)]
        scales = (None, None)
        if row >= 0:
            scales = tuple(path_scales[row + i, :images] for i in range(2))
        first, second, factor = numbers[NUMBERS * index : NUMBERS * (index + 1)]
        by_name = {name: next(copies) for name in names}
        yield _Block(own, by_name, sizes, scales, (first, second), factor)


def _to_cast(parameters: Sequence[Tensor], count: int) -> list[Tensor]:
    """What is read in the compute dtype, block by block."""
    each = len(parameters) // count
    names = [n for n in _NAMES if n != "qkv_bias" or each == len(_NAMES)]
    places = [names.index(name) for name in LOW if name in names]
    return [parameters[each * index + place] for index in range(count) for place in places]


def _read(flat: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """Weights in the compute dtype: pieces of ``flat``, or where it is empty, the weights."""
    return views_like(flat, weights) if flat.numel() else weights


def _forward(
    x: Tensor,
    path_scales: _Maybe,
    parameters: _Tensors,
    valid_sizes: _Maybe,
    dtype: torch.dtype,
    integers: _Integers,
    numbers: _Numbers,
    keep: bool,
) -> _Tensors:
    """A stage's blocks, one after the other.

    Args:
        x: (B, H, W, C), contiguous.
        path_scales: (branches, B or more) float32, factors of each image's branches.
        parameters: :class:`Parameters` of all blocks, those that there are.
        valid_sizes: (B, 2) int32, see
            :func:`swin_backbone.ops.triton.attention_op.attend`; ``None`` for all of the maps.
        dtype: the compute dtype.
        integers, numbers: of all blocks.
        keep: whether there may be a backward pass.

    Returns:
        With ``keep`` all weights in the compute dtype (empty if they are in it), then of each block
        queries, keys and values, the attended map, the map between branches, and the block's map.
        Without it, the last block's map alone.
    """
    weights = _to_cast(parameters, len(numbers) // NUMBERS)
    same = all(weight.dtype == dtype for weight in weights)
    flat = x.new_empty(0 if same else sum(w.numel() for w in weights), dtype=dtype)
    copies = _read(flat, weights)
    if not same:
        copy_all(copies, weights)
    kept = [flat]
    for block in _blocks(x.shape[0], path_scales, parameters, copies, integers, numbers):
        own, low = block.parameters, block.low
        between, *of_attention = attention_branch(
            x, block.scales[0], *own[:7], low["qkv_weight"], low.get("qkv_bias"),
            low["proj_weight"], valid_sizes, None, None, block.eps[0], block.sizes, block.factor,
            0.0,
        )  # fmt: skip
        if keep:
            kept += of_attention
        del of_attention  # memory goes back as soon as eager use gives it back
        x = mlp_branch(
            between, block.scales[1], *own[7:], low["up_weight"], low["down_weight"], block.eps[1]
        )
        if keep:
            kept += [between, x]
        del between
    return kept if keep else [x]


def _backward(
    grad_out: Tensor,
    x: Tensor,
    path_scales: _Maybe,
    parameters: _Tensors,
    valid_sizes: _Maybe,
    kept: _Tensors,
    integers: _Integers,
    numbers: _Numbers,
) -> _Tensors:
    """Gradients of :func:`_forward` for ``x``, and for ``parameters`` in their dtypes; of ``kept``
    the last map is not needed, and not there."""
    flat, *kept = kept
    copies = _read(flat, _to_cast(parameters, len(numbers) // NUMBERS))
    blocks = list(_blocks(x.shape[0], path_scales, parameters, copies, integers, numbers))
    grads: list[Tensor] = []
    for index in range(len(blocks) - 1, -1, -1):
        block, place = blocks[index], 4 * index
        own, low = block.parameters, block.low
        qkv, attended, between = kept[place : place + 3]
        grad_out, *of_mlp = mlp_branch_gradients(
            grad_out, between, block.scales[1], own.norm2_weight, own.norm2_bias, own.up_bias,
            low["up_weight"], low["down_weight"], block.eps[1],
        )  # fmt: skip
        grad_out, *of_attention = attention_branch_gradients(
            grad_out, qkv, attended, x if index == 0 else kept[place - 1], block.scales[0],
            own.norm1_weight, own.norm1_bias, own.table, low["qkv_weight"], low.get("qkv_bias"),
            low["proj_weight"], valid_sizes, None, None, block.eps[0], block.sizes, block.factor,
            0.0,
        )  # fmt: skip
        of_block = like_parameters([*of_attention, *of_mlp], own)
        grads = [grad for grad in of_block if grad is not None] + grads
    return [grad_out, *grads]


_residual_blocks = register("residual_blocks", _forward)


@_residual_blocks.register_fake
def _(x, path_scales, parameters, valid_sizes, dtype, integers, numbers, keep):
    if not keep:
        return [torch.empty_like(x)]
    count = len(numbers) // NUMBERS
    weights = _to_cast(parameters, count)
    same = all(weight.dtype == dtype for weight in weights)
    kept = [x.new_empty(0 if same else sum(w.numel() for w in weights), dtype=dtype)]
    for _ in range(count):
        qkv = x.new_empty(*x.shape[:-1], 3 * x.shape[-1], dtype=dtype)
        maps = torch.empty_like(x, dtype=dtype), torch.empty_like(x), torch.empty_like(x)
        kept += [qkv, *maps]
    return kept


_residual_blocks_backward = register("residual_blocks_backward", _backward)


@_residual_blocks_backward.register_fake
def _(grad_out, x, path_scales, parameters, valid_sizes, kept, integers, numbers):
    grads = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in parameters]
    return [torch.empty_like(x), *grads]


def _save(ctx, inputs, output):
    x, path_scales, parameters, valid_sizes, _, ctx.integers, ctx.numbers, _ = inputs
    *kept, _ = output
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)
    ctx.count = len(parameters)
    ctx.save_for_backward(x, path_scales, valid_sizes, *parameters, *kept)


def _differentiate(ctx, grads):
    count = ctx.count
    if grads[-1] is None:
        return None, None, [None] * count, *[None] * 5
    x, path_scales, valid_sizes, *tensors = ctx.saved_tensors
    grad_x, *grads = _residual_blocks_backward(
        grads[-1].contiguous(), x, path_scales, tensors[:count], valid_sizes, tensors[count:],
        ctx.integers, ctx.numbers,
    )  # fmt: skip
    return grad_x, None, grads, *[None] * 5


_residual_blocks.register_autograd(_differentiate, setup_context=_save)


def residual_blocks(*arguments) -> Tensor:
    """The last block's map (B, H, W, C); arguments as of :func:`_forward`."""
    return _residual_blocks(*arguments)[-1]
