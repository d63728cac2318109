"""The two residual branches of a Swin block: attention, and MLP.

Each is the composition that its reference defines. Where Triton's kernels can run it, a branch is
a few passes over memory: norm, bias, activation and residual are fused into its linear layers.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from . import dispatch, triton
from . import linear as plain_products
from .cpu import onednn_linear as cpu_products
from .cpu.skip_dropped_images import skip_dropped_images
from .geometry.token_layout import MAPS, TokenLayout
from .layer_parameters import LinearParameters, NormParameters, compute_dtype
from .triton_backend import dropout_seed
from .variable_length_attention import attend
from .weight_copies import LowPrecisionCopies, in_compute_dtype

#: How linear layers are computed where the branch is no kernel of its own.
_LINEAR = {"cpu": cpu_products, "torch": plain_products}


class Windows(NamedTuple):
    """How a residual branch attends: see :func:`swin_backbone.ops.shifted_window_attention`."""

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
    path_scale: Tensor | None = None,
    backend: str = "auto",
    layout: TokenLayout = MAPS,
    copies: LowPrecisionCopies | None = None,
) -> Tensor:
    """``x + path_scale * proj(attention(qkv(norm(x))))``: Swin Transformer, equation 3, first line.

    Args:
        x: (B, H, W, C), or of variable length (T, C).
        norm: over C channels.
        qkv: C to 3 C.
        bias_table: ((2 M_h - 1) (2 M_w - 1), heads) relative position bias.
        proj: C to C.
        windows: geometry of the attention.
        path_scale: (B,) float32, the drop path scale of each image's branch, or (T,) of each
            token's; ``None`` for 1.
        backend: how the attention is computed; ``'auto'`` and ``'triton'`` allow the fused kernels.
        layout: where the tokens lie.
        copies: of the weights, in the compute dtype; what is not among them is cast here.

    Returns:
        A tensor like ``x``.
    """
    way = dispatch.residual_branch("attention branch", x, backend, windows)
    if way == "triton":
        low = in_compute_dtype((*qkv, proj.weight), compute_dtype(x), copies)
        seed = dropout_seed(windows.dropout_p, x.device)
        tables = layout.kernel_tables(windows.window_size, x.device)
        return triton.residual_attention_op.residual_attention(
            x.contiguous(), path_scale, norm.weight, norm.bias, *qkv, bias_table.contiguous(),
            *proj, *low, *tables, seed, norm.eps, [*windows.window_size, *windows.shift_size],
            windows.scale, windows.dropout_p,
        )[0]  # fmt: skip
    products = _LINEAR[way]

    def branch(x: Tensor, path_scale: Tensor | None) -> Tensor:
        attended = attend(
            products.norm_linear(x, norm, qkv),
            bias_table,
            layout,
            num_heads=windows.num_heads,
            window_size=windows.window_size,
            shift_size=windows.shift_size,
            scale=windows.scale,
            padding_qkv=qkv.bias,
            dropout_p=windows.dropout_p,
            backend=backend,
        )
        return products.linear_add(attended, proj, x, path_scale)

    if way == "cpu" and layout.valid_sizes is None and layout.packing is None:
        return skip_dropped_images(branch, x, path_scale, (*norm[:2], *qkv, bias_table, *proj))
    return branch(x, path_scale)


def residual_mlp(
    x: Tensor,
    norm: NormParameters,
    up: LinearParameters,
    down: LinearParameters,
    path_scale: Tensor | None = None,
    backend: str = "auto",
    copies: LowPrecisionCopies | None = None,
) -> Tensor:
    """``x + path_scale * down(gelu(up(norm(x))))``: Swin Transformer, equation 3, second line.

    Args:
        x: (B, ..., C).
        norm: over C channels.
        up: C to the hidden channels.
        down: hidden channels to C.
        path_scale: (B,) float32, the drop path scale of each image's branch, one for each row of
            the first axis; ``None`` for 1.
        backend: ``'auto'`` and ``'triton'`` allow the fused kernels.
        copies: of the weights, in the compute dtype; what is not among them is cast here.

    Returns:
        (B, H, W, C).
    """
    way = dispatch.residual_branch("MLP branch", x, backend, hidden=up.weight.shape[0])
    if way == "triton":
        low = in_compute_dtype((up.weight, down.weight), compute_dtype(x), copies)
        return triton.residual_mlp_op.residual_mlp(
            x.contiguous(), path_scale, norm.weight, norm.bias, *up, *down, *low, norm.eps
        )
    products = _LINEAR[way]

    def branch(x: Tensor, path_scale: Tensor | None) -> Tensor:
        return products.linear_add(
            products.norm_linear(x, norm, up, gelu=True), down, x, path_scale
        )

    if way == "cpu":
        return skip_dropped_images(branch, x, path_scale, (*norm[:2], *up, *down))
    return branch(x, path_scale)
