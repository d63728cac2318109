"""The attention kernels as an operator of torch.

torch 2.4 reads the operators' schemas from annotations that are types, not strings, and spells
lists ``typing.List``.
"""

from math import prod
from typing import List, Optional  # noqa: UP035

import torch
import triton
from torch import Tensor

from . import streamed_attention_op as streamed
from .attention_cut import Cut, cut_windows, head_width, modes, or_else, shape_of
from .autograd_op import Differentiable, register
from .kernels.attention_kernels import attention_backward, attention_forward
from .launch import Launch, precision, remembered
from .partial_sums import Pairs, summed
from .tuning import Work, config, tuned

#: Tokens of a window, and bytes of a key, up to which a window is on chip as a whole.
MOST_TOKENS, KEY_BYTES = 64, 2**8

_Sizes = List[int]  # noqa: UP006  (window rows, columns, shift rows, columns)
_Maybe = Optional[Tensor]  # noqa: UP045


def is_streamed(qkv: Tensor, heads: int, sizes: _Sizes) -> bool:
    """Whether windows are too large for the kernels that hold one as a whole."""
    key_bytes = head_width(qkv.shape[-1], heads) * qkv.dtype.itemsize
    return sizes[0] * sizes[1] > MOST_TOKENS or key_bytes > KEY_BYTES


def _work(kernel: str, shape, sizes, dtype: torch.dtype) -> Work:
    """For a launch cut for ``shape``, see :func:`.attention_cut.shape_of`."""
    rows = prod(shape[:-1]) * (sizes[0] * sizes[1] if len(shape) == 2 else 1)
    return Work(kernel, shape[-1] // 3, rows, dtype)


def _forward_work(qkv, table, padding, scales, valid, packed, seed, sizes, *others) -> Work | None:
    if is_streamed(qkv, table.shape[1], sizes):
        return None
    return _work("attention_forward", shape_of(qkv, packed), sizes, qkv.dtype)


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
        sizes: window rows and columns, shift rows and columns, in tokens.
        scale: factor on q k^T, without ``logit_scale``.
        dropout_p: probability with which an attention weight is dropped.

    Returns:
        (B, H, W, C), or (T, C), in the dtype of ``qkv``.
    """
    if is_streamed(qkv, table.shape[1], sizes):
        return streamed.attend(
            qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed, sizes, scale, dropout_p
        )
    launch = _forward_launch(
        shape_of(qkv, packed), table.shape[1], tuple(sizes), scale, dropout_p, qkv.dtype,
        precision(qkv.dtype), padding_qkv is not None, logit_scale is not None,
        valid_sizes is not None,
    )  # fmt: skip
    out = qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))
    launch(
        qkv, table, or_else(padding_qkv, qkv), or_else(logit_scale, table),
        or_else(valid_sizes, table), or_else(packed, table), or_else(seed, table), out,
    )  # fmt: skip
    return out


def _backward_work(
    grad_out, qkv, table, padding, scales, valid, packed, seed, sizes, *others, **options
) -> Work | None:
    if is_streamed(qkv, table.shape[1], sizes):
        return None
    return _work("attention_backward", shape_of(qkv, packed), sizes, qkv.dtype)


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
    if is_streamed(qkv, table.shape[1], sizes):
        return streamed.partials(
            grad_out, qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed, sizes, scale,
            dropout_p, sum_all,
        )  # fmt: skip
    launch, pairs = _backward_launch(
        shape_of(qkv, packed), table.shape[1], tuple(sizes), scale, dropout_p, qkv.dtype,
        precision(qkv.dtype), padding_qkv is not None, logit_scale is not None,
        valid_sizes is not None, sum_all,
    )  # fmt: skip
    grad_qkv = torch.empty_like(qkv)
    partials = qkv.new_empty((launch.grid[0], launch.constants["PITCH"]), dtype=torch.float32)
    launch(
        qkv, table, or_else(padding_qkv, qkv), or_else(logit_scale, table),
        or_else(valid_sizes, table), or_else(packed, table), or_else(seed, table), grad_out,
        grad_qkv, partials,
    )  # fmt: skip
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


def _cut(shape, heads, sizes, dtype, kernel) -> tuple[Cut, dict, dict]:
    """How one call is cut into programs, constants of both kernels, and the launch's options."""
    tokens, channels = sizes[0] * sizes[1], shape[-1]
    chosen = config(*_work(kernel, shape, sizes, dtype))
    cut = cut_windows(shape, heads, sizes, chosen.programs)
    constants = {
        **cut.constants,
        "KEYS": max(16, triton.next_power_of_2(tokens)),
        "CHANNELS": head_width(channels, heads),
    }
    return cut, constants, chosen.options


@remembered
def _forward_launch(
    shape, heads, sizes, scale, dropout_p, dtype, precision, has_padding, cosine, masked
) -> Launch:
    cut, constants, options = _cut(shape, heads, sizes, dtype, "attention_forward")
    constants |= modes(has_padding, cosine, masked, dropout_p) | {"PRECISION": precision}
    numbers = (scale, dropout_p, *cut.numbers)
    return Launch(attention_forward, (cut.runs, heads), numbers, constants, options)


@remembered
def _backward_launch(
    shape, heads, sizes, scale, dropout_p, dtype, precision, has_padding, cosine, masked, sum_all
) -> tuple[Launch, Pairs]:
    cut, constants, options = _cut(shape, heads, sizes, dtype, "attention_backward")
    keys = constants["KEYS"]
    pairs = Pairs(heads, keys * keys, keys, *sizes[:2])
    columns = pairs.columns + shape[-1] + (heads if cosine else 0)
    constants |= {"PITCH": 4 * triton.cdiv(columns, 4)}
    constants |= modes(has_padding, cosine, masked, dropout_p)
    constants |= {"SUM_ALL": sum_all, "PRECISION": precision}
    numbers = (scale, dropout_p, *cut.numbers)
    return Launch(attention_backward, (cut.runs, heads), numbers, constants, options), pairs
