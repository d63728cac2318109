"""The two residual branches of a Swin V2 block, which end with their norm: attention, and MLP.

As :mod:`.residual_branches` for V1: each is the composition of plain operations that its reference
defines, and where Triton's kernels can run it, a few passes over memory.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import dispatch, triton
from .geometry.token_layout import MAPS, TokenLayout
from .layer_parameters import LinearParameters, NormParameters, compute_dtype
from .linear import scale_images
from .norm import layer_norm
from .position_bias import (
    MAX_LOGIT_SCALE,
    CosineScores,
    logit_factors,
    position_bias,
    reference_of,
)
from .residual_branches import Windows
from .triton_backend import dropout_seed
from .weight_copies import LowPrecisionCopies, in_compute_dtype


def post_norm_attention(
    x: Tensor,
    qkv: Tensor,
    biases: tuple[Tensor, Tensor] | None,
    scores: CosineScores,
    proj: LinearParameters,
    norm: NormParameters,
    windows: Windows,
    path_scale: Tensor | None = None,
    backend: str = "auto",
    layout: TokenLayout = MAPS,
    copies: LowPrecisionCopies | None = None,
) -> Tensor:
    """``x + path_scale * norm(proj(attention(qkv(x))))``: Swin Transformer V2, section 3.2.

    Args:
        x: (B, H, W, C), or of variable length (T, C).
        qkv: (3 C, C).
        biases: of queries and of values, (C,) each; keys have none. ``None``: neither have they.
        scores: of the cosine attention.
        proj: C to C.
        norm: over C channels.
        windows: geometry of the attention; its ``scale`` means nothing.
        path_scale: (B,) float32, the drop path scale of each image's branch, or (T,) of each
            token's; ``None`` for 1.
        backend: how the attention is computed; ``'auto'`` and ``'triton'`` allow the fused kernels.
        layout: where the tokens lie.
        copies: of the weights, in the compute dtype; what is not among them is cast here.

    Returns:
        A tensor like ``x``.
    """
    way = dispatch.post_norm_branch("attention branch", x, backend, windows)
    if way == "triton":
        dtype = compute_dtype(x)
        weight, proj_weight = in_compute_dtype((qkv, proj.weight), dtype, copies)
        sizes = [*windows.window_size, *reference_of(windows.window_size, scores.reference_size)]
        query, value = biases or (None, None)
        table, factors, bias = triton.attention_terms_op.attention_terms(
            *scores.up, scores.down, scores.logit_scale, query, value, sizes,
            math.log(MAX_LOGIT_SCALE), dtype,
        )  # fmt: skip
        return triton.post_norm_attention_op.post_norm_attention(
            x.contiguous(), path_scale, qkv, query, value, table, factors, *proj, *norm[:2], weight,
            None if biases is None else bias, proj_weight,
            *layout.kernel_tables(windows.window_size, x.device),
            dropout_seed(windows.dropout_p, x.device), norm.eps,
            windows.sizes(x, layout), windows.dropout_p,
            _learns(x, qkv, *proj, *norm[:2], *scores.up, query, scores.logit_scale, scores.down),
        )[0]  # fmt: skip
    bias = None
    if biases is not None:
        bias = torch.cat([biases[0], torch.zeros_like(biases[1]), biases[1]])
    attended = windows.attend(
        F.linear(x, qkv, bias),
        position_bias(scores, windows.window_size),
        layout,
        logit_scale=logit_factors(scores.logit_scale),
        padding_qkv=bias,
        backend=backend,
    )
    return x + scale_images(layer_norm(F.linear(attended, *proj), *norm), path_scale)


def post_norm_mlp(
    x: Tensor,
    up: LinearParameters,
    down: LinearParameters,
    norm: NormParameters,
    path_scale: Tensor | None = None,
    backend: str = "auto",
    copies: LowPrecisionCopies | None = None,
) -> Tensor:
    """``x + path_scale * norm(down(gelu(up(x))))``: Swin Transformer V2, section 3.2.

    Args:
        x: (B, ..., C).
        up: C to the hidden channels.
        down: hidden channels to C.
        norm: over C channels.
        path_scale: (B,) float32, the drop path scale of each image's branch, one for each row of
            the first axis; ``None`` for 1.
        backend: ``'auto'`` and ``'triton'`` allow the fused kernels.
        copies: of the weights, in the compute dtype; what is not among them is cast here.

    Returns:
        A tensor like ``x``.
    """
    way = dispatch.post_norm_branch("MLP branch", x, backend, hidden=up.weight.shape[0])
    if way == "triton":
        low = in_compute_dtype((up.weight, down.weight), compute_dtype(x), copies)
        return triton.post_norm_mlp_op.post_norm_mlp(
            x.contiguous(), path_scale, *up, *down, *norm[:2], *low, norm.eps,
            _learns(x, *up, *down, *norm[:2]),
        )[0]  # fmt: skip
    z = F.linear(F.gelu(F.linear(x, *up)), *down)
    return x + scale_images(layer_norm(z, *norm), path_scale)


def _learns(*tensors: Tensor | None) -> bool:
    """Whether there may be a backward pass, for which something is to be kept."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
