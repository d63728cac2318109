"""The attention kernels as an operator of torch.

torch 2.4 reads the operators' schemas from annotations that are types, not strings, and spells
lists ``typing.List``.
"""

from typing import List, Optional  # noqa: UP035

import torch
import triton
from torch import Tensor

from . import row_attention_op as by_rows
from . import streamed_attention_op as streamed
from .attention_cut import (
    cut_windows,
    head_width,
    kind_of_call,
    modes,
    shape_of,
    stand_ins,
    work_of,
)
from .autograd_op import Differentiable, register
from .kernels.attention_kernels import attention_backward, attention_forward
from .launch import Launch, remembered
from .partial_sums import Pairs, summed
from .tuning import Work, config, tuned

#: Tokens of a window up to which a program holds all of its scores at once.
MOST_TOKENS = 64
#: Queries that it holds where keys leave little room on chip, as wide heads in float32 do.
SMALL_QUERY_BLOCK = 16
#: Bytes of a key up to which there is room.
KEY_BYTES = 2**8

_Sizes = List[int]  # noqa: UP006  (window rows, columns, shift rows, columns)
_Maybe = Optional[Tensor]  # noqa: UP045


def is_large(sizes: _Sizes) -> bool:
    """Whether windows are computed by kernels of :func:`of_large_windows`."""
    return sizes[0] * sizes[1] > MOST_TOKENS


def of_large_windows(qkv: Tensor, heads: int, sizes: _Sizes, cosine: bool = False):
    """The module whose kernels compute windows of which :func:`is_large` says so: by whole rows
    of scores, :mod:`.row_attention_op`, or else by blocks, :mod:`.streamed_attention_op`.

    Args:
        qkv: (..., 3 * C).
        heads: number of heads.
        sizes: window rows and columns, and more.
        cosine: whether scores are cosines.
    """
    fits = by_rows.takes(qkv.dtype, sizes, qkv.shape[-1] // (3 * heads), cosine)
    return by_rows if fits else streamed


def _forward_work(qkv, table, padding, scales, valid, packed, seed, sizes, *others) -> Work | None:
    if is_large(sizes):
        return None
    return work_of("attention_forward", shape_of(qkv, packed), sizes, qkv.dtype)


@tuned(lambda: _forward_launch.cache_clear(), _forward_work)
def attend(
    qkv: Tensor,
    table: Tensor,
    padding_qkv: _Maybe,
    logit_scale: _Maybe,
    valid_sizes: _Maybe,
    packed: _Maybe,
    seed: _Maybe,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> Tensor:
    """Launch the forward kernel.

    Args:
        qkv: (B, H, W, 3 * C), contiguous, or with ``packed`` (T, 3 * C).
        table: ((2 M_h - 1) (2 M_w - 1), heads) relative position bias, contiguous.
        padding_qkv: (3 * C,) of a token that only fills a window; ``None`` for zeros.
        logit_scale: (heads,) factors of cosine attention; ``None`` for scaled dot products.
        valid_sizes: (B, 2) int32, rows and columns of each image that are keys; ``None``: all are,
            and tokens that fill windows. Beside ``packed``, whatever it holds, only the latter are
            none.
        packed: (windows, 4) int32, where the windows of packed maps lie, see
            :meth:`swin_backbone.ops.packed_maps.PackedMaps.windows`; ``None`` for a batch of maps.
        seed: (1,) int64, for dropout; on the device, so that a graph can be replayed with another.
        sizes: window rows and columns, shift rows and columns, in tokens; and 1 for maps that are
            rolled before they are filled up.
        scale: factor on q k^T, without ``logit_scale``.
        dropout_p: probability with which an attention weight is dropped.

    Returns:
        (B, H, W, C), or (T, C), in the dtype of ``qkv``.
    """
    if is_large(sizes):
        cosine = logit_scale is not None
        return of_large_windows(qkv, table.shape[1], sizes, cosine).attend(
            qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed, sizes, scale, dropout_p
        )
    kind = kind_of_call(
        qkv, table, padding_qkv, logit_scale, valid_sizes, packed, sizes, scale, dropout_p
    )
    launch = _forward_launch(*kind)
    out = qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))
    others = stand_ins(qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed)
    launch(qkv, table, *others, out)
    return out


def _backward_work(
    grad_out, qkv, table, padding, scales, valid, packed, seed, sizes, *others, **options
) -> Work | None:
    if is_large(sizes):
        return None
    return work_of("attention_backward", shape_of(qkv, packed), sizes, qkv.dtype)


@tuned(lambda: _backward_launch.cache_clear(), _backward_work)
def attention_partials(
    grad_out: Tensor,
    qkv: Tensor,
    table: Tensor,
    padding_qkv: _Maybe,
    logit_scale: _Maybe,
    valid_sizes: _Maybe,
    packed: _Maybe,
    seed: _Maybe,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
    sum_all: bool = False,
) -> tuple[Tensor, Tensor, tuple[Pairs, _Maybe]]:
    """Launch the backward kernel.

    Args:
        grad_out: gradient for the attended map, contiguous.
        sum_all: ``padding_qkv`` is a bias that is part of every token's queries, keys and values,
            and not only of those of tokens that fill windows.

    Returns:
        The gradient for ``qkv``; each program's partial sums of those for ``padding_qkv``, for
        ``logit_scale`` if there is one, and for ``table``: see
        :func:`swin_backbone.ops.triton.partial_sums.summed`, which takes them, and after the pieces
        what they are of pairs, and where these are if not among them.
    """
    if is_large(sizes):
        cosine = logit_scale is not None
        return of_large_windows(qkv, table.shape[1], sizes, cosine).partials(
            grad_out, qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed, sizes, scale,
            dropout_p, sum_all,
        )  # fmt: skip
    kind = kind_of_call(
        qkv, table, padding_qkv, logit_scale, valid_sizes, packed, sizes, scale, dropout_p
    )
    launch, pairs = _backward_launch(*kind, sum_all)
    grad_qkv = torch.empty_like(qkv)
    make = qkv.new_zeros if launch.constants["BLOCKS"] > 1 else qkv.new_empty
    partials = make((launch.grid[0], launch.constants["PITCH"]), dtype=torch.float32)
    others = stand_ins(qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed)
    launch(qkv, table, *others, grad_out, grad_qkv, partials)
    return grad_qkv, partials, (pairs, None)


def _attention_gradients(
    grad_out: Tensor,
    qkv: Tensor,
    table: Tensor,
    padding_qkv: _Maybe,
    logit_scale: _Maybe,
    valid_sizes: _Maybe,
    packed: _Maybe,
    seed: _Maybe,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`attend` for ``qkv``, ``table``, ``padding_qkv`` and ``logit_scale``, the
    last three in float32; the last two of no meaning where the inputs are ``None``."""
    grad_qkv, partials, pairs = attention_partials(
        grad_out, qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed, sizes, scale,
        dropout_p,
    )  # fmt: skip
    heads = table.shape[1] if logit_scale is not None else 0
    pieces = [qkv.shape[-1], heads, table.numel()]
    grad_padding, grad_scale, grad_table = summed([partials], pieces, *pairs)
    return [grad_qkv, grad_table.view(table.shape), grad_padding, grad_scale]


_window_attention = register("window_attention", attend)


@_window_attention.register_fake
def _(qkv, *arguments):
    return qkv.new_empty(*qkv.shape[:-1], qkv.shape[-1] // 3)


_window_attention_backward = register("window_attention_backward", _attention_gradients)


@_window_attention_backward.register_fake
def _(grad_out, qkv, table, padding_qkv, logit_scale, *arguments):
    wide = {"dtype": torch.float32}
    return [
        torch.empty_like(qkv),
        table.new_empty(table.shape, **wide),
        qkv.new_empty(qkv.shape[-1], **wide),
        qkv.new_empty(0 if logit_scale is None else table.shape[1], **wide),
    ]


def _save(ctx, inputs, output):
    *tensors, ctx.sizes, ctx.scale, ctx.dropout_p = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_by(gradients):
    def differentiate(ctx, grad_out):
        tensors = ctx.saved_tensors
        grads = gradients(grad_out.contiguous(), *tensors, ctx.sizes, ctx.scale, ctx.dropout_p)
        grads = [
            grad.to(tensor.dtype) if tensor is not None else None
            for grad, tensor in zip(grads, tensors, strict=False)
        ]
        return *grads, *[None] * 6

    return differentiate


#: Attention within shifted windows; arguments and result as of :func:`attend`.
window_attention = Differentiable(
    _window_attention,
    attend,
    _save,
    _differentiate_by(_window_attention_backward),
    _differentiate_by(_attention_gradients),
)


class _Plan:
    """How one call is cut into programs.

    Args:
        shape: see :func:`.attention_cut.shape_of`.
        heads: number of heads.
        sizes: window rows and columns, shift rows and columns.
        dtype: of queries, keys and values.
        kernel: which is to be launched.

    Attributes:
        runs: runs of windows, the first axis of the grid.
        heads: the second.
        blocks: blocks of queries in a window, the third (forward) or a loop (backward).
        numbers: sizes that may change from call to call without recompiling.
        constants: sizes that a kernel is compiled for.
        options: the launch's own.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        heads: int,
        sizes: tuple[int, ...],
        dtype: torch.dtype,
        kernel: str,
    ):
        tokens, channels = sizes[0] * sizes[1], shape[-1]
        keys = max(16, triton.next_power_of_2(tokens))
        width = head_width(channels, heads)
        chosen = config(*work_of(kernel, shape, sizes, dtype))
        queries = keys
        if width * dtype.itemsize > KEY_BYTES:
            queries, chosen = min(keys, SMALL_QUERY_BLOCK), chosen._replace(stages=1)
        cut = cut_windows(shape, heads, sizes, chosen.programs)
        self.heads = heads
        self.blocks = triton.cdiv(tokens, queries)
        self.runs = cut.runs
        self.options = chosen.options
        self.numbers = cut.numbers
        self.constants = {**cut.constants, "QUERIES": queries, "KEYS": keys, "CHANNELS": width}


@remembered
def _forward_launch(
    shape, heads, sizes, scale, dropout_p, dtype, precision, has_padding, cosine, masked
) -> Launch:
    plan = _Plan(shape, heads, sizes, dtype, "attention_forward")
    constants = {**plan.constants, **modes(has_padding, cosine, masked, dropout_p)}
    constants["PRECISION"] = precision
    grid = (plan.runs, plan.heads, plan.blocks)
    numbers = (scale, dropout_p, *plan.numbers)
    return Launch(attention_forward, grid, numbers, constants, plan.options)


@remembered
def _backward_launch(
    shape, heads, sizes, scale, dropout_p, dtype, precision, has_padding, cosine, masked, sum_all
) -> tuple[Launch, Pairs]:
    plan = _Plan(shape, heads, sizes, dtype, "attention_backward")
    keys = plan.constants["KEYS"]
    pairs = Pairs(heads, plan.blocks * plan.constants["QUERIES"] * keys, keys, *sizes[:2])
    columns = pairs.columns + shape[-1] + (heads if cosine else 0)
    constants = {**plan.constants, "BLOCKS": plan.blocks, "PITCH": 4 * triton.cdiv(columns, 4)}
    constants |= modes(has_padding, cosine, masked, dropout_p)
    constants |= {"SUM_ALL": sum_all, "PRECISION": precision}
    numbers = (scale, dropout_p, *plan.numbers)
    grid = (plan.runs, plan.heads)
    return Launch(attention_backward, grid, numbers, constants, plan.options), pairs
