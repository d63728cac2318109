"""Multi-scale deformable attention, by our kernels on a GPU."""

from __future__ import annotations

from torch import Tensor

from ... import ops
from .common import write


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (https://arxiv.org/abs/2010.04159, equation 3).

    Args:
        value: (B, keys, heads, channels).
        value_spatial_shapes: (levels, 2), rows and columns.
        value_level_start_index: (levels,), not needed.
        sampling_locations: (B, queries, heads, levels, points, 2), x and y in [0, 1].
        attention_weights: (B, queries, heads, levels, points).
        im2col_step: not needed.

    Returns:
        (B, queries, heads * channels).
    """
    return ops.multi_scale_deformable_attention(
        value, value_spatial_shapes, sampling_locations, attention_weights
    )


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of :func:`ms_deform_attn_forward`, written to the tensors named ``grad_*``."""
    targets = (grad_value, grad_sampling_loc, grad_attn_weight)
    write(
        targets,
        ops.multi_scale_deformable_attention_gradients(
            grad_output, value, value_spatial_shapes, sampling_locations, attention_weights
        ),
    )
