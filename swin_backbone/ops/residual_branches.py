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
from .rolled_first import lay_out, take_back
from .triton_backend import dropout_seed
from .variable_length_attention import attend
from .weight_copies import LowPrecisionCopies, in_compute_dtype

#: How linear layers are computed where the branch is no kernel of its own.
_LINEAR = {"cpu": cpu_products, "torch": plain_products}


class Windows(NamedTuple):
    """How a residual branch attends: see :func:`swin_backbone.ops.shifted_window_attention`.

    ``rolls_first``: whether a map is shifted before it is filled up to whole windows, as timm's
    are, and not after. It matters to maps that windows do not cover evenly.
    """

    num_heads: int
    window_size: tuple[int, int]
    shift_size: tuple[int, int]
    scale: float
    dropout_p: float = 0.0
    rolls_first: bool = False

    def is_uneven(self, x: Tensor, layout: TokenLayout) -> bool:
        """Whether the order of shifting and filling up matters to the maps ``x`` (B, H, W, C).

        Raises:
            ValueError: where it would have to be another than it is of tokens of ``layout``.
        """
        of_parts = layout.packing is not None or layout.valid_sizes is not None
        if of_parts and self.rolls_first and self.shift_size != (0, 0):
            raise ValueError("windows.rolls_first takes whole maps alone, got a layout of parts")
        if not self.rolls_first or self.shift_size == (0, 0):
            return False
        return any(n % w for n, w in zip(x.shape[1:3], self.window_size, strict=True))

    def sizes(self, x: Tensor, layout: TokenLayout) -> list[int]:
        """As kernels take them: window and shift, and 1 where the order matters."""
        return [*self.window_size, *self.shift_size, *[1] * self.is_uneven(x, layout)]

    def attend(self, qkv: Tensor, bias_table: Tensor, layout: TokenLayout, **options) -> Tensor:
        """:func:`swin_backbone.ops.attend` within these windows."""
        is_uneven, places = self.is_uneven(qkv, layout), None
        if is_uneven:
            height, width = qkv.shape[1:3]
            qkv, places = lay_out(qkv, self, options["padding_qkv"])
        attended = attend(
            qkv,
            bias_table,
            layout,
            num_heads=self.num_heads,
            window_size=self.window_size,
            shift_size=self.shift_size,
            dropout_p=self.dropout_p,
            **options,
        )
        return take_back(attended, places, height, width) if is_uneven else attended


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
            *proj, *low, *tables, seed, norm.eps, windows.sizes(x, layout), windows.scale,
            windows.dropout_p,
        )[0]  # fmt: skip
    products = _LINEAR[way]

    def branch(x: Tensor, path_scale: Tensor | None) -> Tensor:
        attended = windows.attend(
            products.norm_linear(x, norm, qkv),
            bias_table,
            layout,
            scale=windows.scale,
            padding_qkv=qkv.bias,
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
