"""The two residual halves of a Swin block: attention, and perceptron.

Each is the composition that its reference spells out. Where Triton's kernels can run it, a half is
a few passes over memory: norms, biases, activation and residual stand inside the products' kernels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import linear as plain_products
from . import triton
from .cpu import onednn_linear as cpu_products
from .cpu.eager import why_not_eager
from .cpu.kept_images import for_kept_images
from .geometry.packing import Packing
from .geometry.windows import as_kernels_read
from .low_precision import in_low_precision
from .parameters import LinearParameters, NormParameters, product_dtype
from .symbolic import is_exporting
from .triton_backend import DTYPES, MAX_ELEMENTS, dropout_seed, why_not_device, why_not_windows
from .variable_length_attention import attend


class Windows(NamedTuple):
    """How a half-block attends: see :func:`swin_backbone.ops.shifted_window_attention`."""

    num_heads: int
    window_size: tuple[int, int]
    shift_size: tuple[int, int]
    scale: float
    dropout_p: float = 0.0


def residual_attention(
    x: Tensor,
    norm: NormParameters,
    qkv: LinearParameters,
    bias_table: Tensor,
    proj: LinearParameters,
    windows: Windows,
    keep: Tensor | None = None,
    backend: str = "auto",
    valid_sizes: Tensor | None = None,
    packing: Packing | None = None,
) -> Tensor:
    """``x + keep * proj(attention(qkv(norm(x))))``: Swin Transformer, equation 3, first line.

    Args:
        x: (B, H, W, C), or with ``packing`` (T, C).
        norm: over C channels.
        qkv: C to 3 C.
        bias_table: ((2 M_h - 1) (2 M_w - 1), heads) relative position bias.
        proj: C to C.
        windows: geometry of the attention.
        keep: (B,) float32 factor of each image's branch (stochastic depth), or (T,) of each
            token's; ``None`` for 1.
        backend: how the attention is computed; ``'auto'`` and ``'triton'`` allow the fused kernels.
        valid_sizes: (B, 2) rows and columns of each image that are seen; ``None`` for all.
        packing: where the tokens of each image lie; ``None`` for a batch of maps.

    Returns:
        A tensor like ``x``.
    """
    if why_not_fused(x, backend, windows) is None:
        low = in_low_precision((*qkv, proj.weight), product_dtype(x))
        seed = dropout_seed(windows.dropout_p, x.device)
        packed = None
        if packing is not None:
            packed = packing.windows(windows.window_size, x.device)
            valid_sizes = packed if packing.mask_padding else None
        else:
            valid_sizes = as_kernels_read(valid_sizes)
        return triton.residual_attention_op.residual_attention(
            x.contiguous(), keep, norm.weight, norm.bias, *qkv, bias_table.contiguous(), *proj,
            *low, valid_sizes, packed, seed, norm.eps, [*windows.window_size, *windows.shift_size],
            windows.scale, windows.dropout_p,
        )[0]  # fmt: skip
    products = cpu_products if _is_for_cpu(x, backend) else plain_products

    def half(x: Tensor, keep: Tensor | None) -> Tensor:
        attended = attend(
            products.norm_linear(x, norm, qkv),
            bias_table,
            valid_sizes,
            packing,
            num_heads=windows.num_heads,
            window_size=windows.window_size,
            shift_size=windows.shift_size,
            scale=windows.scale,
            padding_qkv=qkv.bias,
            dropout_p=windows.dropout_p,
            backend=backend,
        )
        return products.linear_add(attended, proj, x, keep)

    if products is cpu_products and valid_sizes is None and packing is None:
        return for_kept_images(half, x, keep, (*norm[:2], *qkv, bias_table, *proj))
    return half(x, keep)


def residual_mlp(
    x: Tensor,
    norm: NormParameters,
    up: LinearParameters,
    down: LinearParameters,
    keep: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """``x + keep * down(gelu(up(norm(x))))``: Swin Transformer, equation 3, second line.

    Args:
        x: (B, ..., C).
        norm: over C channels.
        up: C to the hidden channels.
        down: hidden channels to C.
        keep: (B,) float32 factor of each image's branch (stochastic depth), one for each row of the
            first axis; ``None`` for 1.
        backend: ``'auto'`` and ``'triton'`` allow the fused kernels.

    Returns:
        (B, H, W, C).
    """
    if why_not_fused(x, backend) is None and up.weight.shape[0] % 128 == 0:
        low = in_low_precision((up.weight, down.weight), product_dtype(x))
        return triton.residual_mlp_op.residual_mlp(
            x.contiguous(), keep, norm.weight, norm.bias, *up, *down, *low, norm.eps
        )  # fmt: skip
    products = cpu_products if _is_for_cpu(x, backend) else plain_products

    def half(x: Tensor, keep: Tensor | None) -> Tensor:
        return products.linear_add(products.norm_linear(x, norm, up, gelu=True), down, x, keep)

    if products is cpu_products:
        return for_kept_images(half, x, keep, (*norm[:2], *up, *down))
    return half(x, keep)


def _is_for_cpu(x: Tensor, backend: str) -> bool:
    return backend in ("auto", "cpu") and why_not_eager(x) is None


def why_not_fused(x: Tensor, backend: str, windows: Windows | None = None) -> str | None:
    """Why the fused kernels do not run a half-block, or ``None`` if they do.

    Args:
        x: (B, H, W, C) or (T, C).
        backend: what the user asked for.
        windows: of an attention half-block.
    """
    if backend not in ("auto", "triton"):
        return f"backend={backend!r} was asked for"
    if not x.is_cuda and backend == "auto":
        return "no CUDA device"
    if is_exporting():
        return "an exported model runs where there may be no Triton"
    reason = why_not_device(x)
    if reason is not None:
        return reason
    # The rest is the same for maps of the same kind, and is found out once for each.
    answer = _why_not_kind if torch.compiler.is_compiling() else _remembered_why_not_kind
    dtype, image = product_dtype(x), x.shape[1:]
    exact = x.is_cuda and dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return answer(x.dtype, dtype, exact, image[-1], image.numel(), windows)


def _why_not_kind(
    map_dtype: torch.dtype,
    dtype: torch.dtype,
    exact: bool,
    channels: int,
    elements: int,
    windows: Windows | None,
) -> str | None:
    """:func:`why_not_fused` for images of ``elements``, whose products are of ``dtype``."""
    if dtype not in DTYPES or map_dtype not in DTYPES:
        return f"computes in {', '.join(map(str, DTYPES))}, got {dtype}"
    if exact:
        return "float32 without tf32 has no matrix units: torch's own products are as fast"
    rest = channels - (1 << (channels.bit_length() - 1))
    if channels < 32 or (rest and (rest < 16 or rest & (rest - 1))):
        return f"channels must be a sum of two powers of two >= 16, got {channels}"
    if channels > 256 and channels % 64:
        return f"more than 256 channels must be a multiple of 64, got {channels}"
    if windows is None:
        return None
    if 3 * elements > MAX_ELEMENTS:
        return f"an image has at most {MAX_ELEMENTS} elements of qkv, got {3 * elements}"
    return why_not_windows(dtype, windows.window_size, channels // windows.num_heads)


_remembered_why_not_kind = lru_cache(maxsize=1024)(_why_not_kind)
