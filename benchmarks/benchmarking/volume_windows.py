"""Windows of three axes, of clips and scans: a prototype beside the package's own of two.

A window of D x H x W tokens is a list of N tokens. One table says where they lie, whatever is
padded and shifted; another gives the relative position of each pair. Masks follow from the borders
that a window crosses: eight kinds at most, however many windows there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int, int]


class Tables(NamedTuple):
    """Where the tokens of windows lie.

    Attributes:
        tokens: (windows, N) index of each token in the volume; its number of tokens for padding.
        places: (tokens of the volume,) index of each in the windows, one after the other.
        kinds: for each kind of window, which windows are of it, and the pairs (N, N) that do not
            see each other, ``None`` if all do.
    """

    tokens: Tensor
    places: Tensor
    kinds: list[tuple[Tensor, Tensor | None]]


@lru_cache(maxsize=32)
def window_tables(size: Size, window: Size, shift: Size, device: torch.device) -> Tables:
    """Of a volume of ``size`` tokens, filled up to whole windows behind each axis' end."""
    padded = [-(-n // w) * w for n, w in zip(size, window, strict=True)]
    axes = [(torch.arange(p) + s) % p for p, s in zip(padded, shift, strict=True)]
    grid = torch.meshgrid(*axes, indexing="ij")
    inside = torch.stack([g < n for g, n in zip(grid, size, strict=True)]).all(0)
    index = (grid[0] * size[1] + grid[1]) * size[2] + grid[2]
    tokens = _cut(torch.where(inside, index, size[0] * size[1] * size[2]), window)
    flat = tokens.flatten()
    places = torch.empty(size[0] * size[1] * size[2], dtype=torch.long)
    real = flat < len(places)
    places[flat[real]] = torch.arange(len(flat))[real]
    # Whether a token was rolled over the end of each axis.
    rolled = sum(
        (g < s).long() * 2**axis for axis, (g, s) in enumerate(zip(grid, shift, strict=True))
    )
    kinds, numbers = [], _cut(rolled, window)
    patterns, of_window = numbers.unique(dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        hidden = pattern[:, None] != pattern[None, :]
        members = (of_window == number).nonzero()[:, 0].to(device)
        kinds.append((members, hidden.to(device) if hidden.any() else None))
    return Tables(tokens.to(device), places.to(device), kinds)


def _cut(volume: Tensor, window: Size) -> Tensor:
    """(D, H, W) to (windows, N)."""
    for axis in (4, 2, 0):
        volume = volume.unflatten(axis // 2, (-1, window[axis // 2]))
    return volume.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)


@lru_cache(maxsize=32)
def pair_index(window: Size, device: torch.device) -> Tensor:
    """(N, N): the row of a table of relative positions for each pair of tokens."""
    places = torch.tensor(list(product(*map(range, window))))
    offsets = places[:, None] - places[None, :] + torch.tensor(window) - 1
    down, right = 2 * window[1] - 1, 2 * window[2] - 1
    return ((offsets[..., 0] * down + offsets[..., 1]) * right + offsets[..., 2]).to(device)


def attend_in_volume(
    qkv: Tensor,
    bias_table: Tensor,
    num_heads: int,
    window: Sequence[int],
    shift: Sequence[int],
    padding_qkv: Tensor | None = None,
) -> Tensor:
    """:func:`swin_backbone.ops.shifted_window_attention` with one more axis.

    Args:
        qkv: (B, D, H, W, 3 C) of the volume, not padded.
        bias_table: ((2 D_w - 1) (2 H_w - 1) (2 W_w - 1), heads).
        num_heads: divides C.
        window: D_w, H_w, W_w.
        shift: of each axis.
        padding_qkv: (3 C,) of a token that only fills up a window; ``None`` for zeros.

    Returns:
        (B, D, H, W, C).
    """
    window, shift, size = tuple(window), tuple(shift), tuple(qkv.shape[1:4])
    tables = window_tables(size, window, shift, qkv.device)
    tokens = qkv.flatten(1, 3)
    if tables.tokens.numel() != tokens.shape[1]:
        fill = tokens.new_zeros(tokens.shape[-1]) if padding_qkv is None else padding_qkv
        tokens = torch.cat([tokens, fill.to(qkv.dtype).expand(len(qkv), 1, -1)], dim=1)
    windows = tokens.index_select(1, tables.tokens.flatten())
    windows = windows.view(len(qkv), *tables.tokens.shape, 3, num_heads, -1).permute(
        3, 0, 1, 4, 2, 5
    )
    bias = bias_table[pair_index(window, qkv.device)].permute(2, 0, 1).to(qkv.dtype)
    parts, order = [], []
    for members, hidden in tables.kinds:
        own = windows if len(members) == windows.shape[2] else windows[:, :, members]
        mask = bias if hidden is None else bias.masked_fill(hidden, float("-inf"))
        query, key, value = own.flatten(1, 2)
        parts.append(F.scaled_dot_product_attention(query, key, value, attn_mask=mask))
        order.append(members)
    attended = torch.cat([part.unflatten(0, (len(qkv), -1)) for part in parts], dim=1)
    attended = attended[:, torch.cat(order).argsort()] if len(order) > 1 else attended
    attended = attended.transpose(2, 3).flatten(-2).flatten(1, 2)
    return attended.index_select(1, tables.places).unflatten(1, size)
