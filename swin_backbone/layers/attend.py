"""Window attention of a batch of maps, or of packed images."""

from __future__ import annotations

from torch import Tensor

from ..ops import shifted_window_attention, shifted_window_attention_packed
from .packing import Packing


def attend(
    qkv: Tensor, bias_table: Tensor, valid_sizes: Tensor | None, packing: Packing | None, **options
) -> Tensor:
    """The attention operation on whatever a stage runs on.

    Args:
        qkv: (B, H, W, 3 * C), or with ``packing`` (T, 3 * C).
        bias_table: relative position bias.
        valid_sizes: (B, 2) rows and columns of each image that are seen; ``None`` for all.
        packing: where the tokens of each image lie.
        **options: what both operations take.

    Returns:
        (B, H, W, C) or (T, C).
    """
    if packing is None:
        return shifted_window_attention(qkv, bias_table, valid_sizes=valid_sizes, **options)
    return shifted_window_attention_packed(
        qkv, packing.sizes, bias_table, mask_padding=packing.mask_padding, **options
    )
