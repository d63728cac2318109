"""Which tokens a token attends to, and the bias that its position gives it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...model import AttentionCall
from ...ops import attend


@torch.no_grad()
def token_attention(call: AttentionCall, token: tuple[int, int]) -> Tensor:
    """Weights with which one token attends to every other.

    The operation is linear in the values. So values that mark one token each read off that token's
    weight, whatever windows, shifts, masks and scales are involved.

    Args:
        call: what the attention module hands on, see its ``attention_call``.
        token: row and column of the token.

    Returns:
        (heads, H, W), zero outside of the token's window; the sum of a head is below one by what
        goes to padding.

    Raises:
        ValueError: if the token is not on the map.
    """
    _, height, width, channels = call.qkv.shape
    row, column = token
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"token must be on the map of {height}x{width} tokens, got {token}")
    heads = call.options["num_heads"]
    head_dim = channels // (3 * heads)
    reach_down, reach_across = call.options["window_size"]
    near = [
        (r, c)
        for r in range(max(row - reach_down + 1, 0), min(row + reach_down, height))
        for c in range(max(column - reach_across + 1, 0), min(column + reach_across, width))
    ]
    weights = call.qkv.new_zeros(heads, height, width)
    for begin in range(0, len(near), head_dim):
        marked = near[begin : begin + head_dim]
        attended = _attend_to_marks(call, marked)[0, row, column].view(heads, head_dim)
        for channel, (r, c) in enumerate(marked):
            weights[:, r, c] = attended[:, channel]
    return weights


def _attend_to_marks(call: AttentionCall, marked: list[tuple[int, int]]) -> Tensor:
    """The operation on values that are 1 in channel i of each head at the i-th marked token."""
    batch, height, width, channels = call.qkv.shape
    heads, third = call.options["num_heads"], channels // 3
    values = call.qkv.new_zeros(batch, height, width, heads, third // heads)
    for channel, (row, column) in enumerate(marked):
        values[:, row, column, :, channel] = 1
    qkv = torch.cat([call.qkv[..., : 2 * third], values.flatten(-2)], dim=-1)
    options = {**call.options, "dropout_p": 0.0, "backend": "reference"}
    if options.get("padding_qkv") is not None:  # padding is attended to as ever, and marks nothing
        padding = options["padding_qkv"]
        options["padding_qkv"] = torch.cat([padding[: 2 * third], 0 * padding[2 * third :]])
    return attend(qkv, call.bias_table, call.layout, **options)


@torch.no_grad()
def bias_maps(call: AttentionCall) -> Tensor:
    """(heads, 2 M_h - 1, 2 M_w - 1): bias by the offset of the query from the key."""
    height, width = call.options["window_size"]
    return call.bias_table.t().reshape(-1, 2 * height - 1, 2 * width - 1)
