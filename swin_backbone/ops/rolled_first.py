"""Maps that timm shifts before it fills them up to whole windows, where the order matters.

The operation shifts what is already whole windows. So tokens are laid where that gives timm's
windows: in one pass there, and in one pass back. The fused kernels do it as they read and write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .kept_tables import remembered_tables
from .tracing import in_functorch

if TYPE_CHECKING:
    from .residual_branches import Windows


class Places(NamedTuple):
    """Where tokens lie.

    Attributes:
        size: rows and columns of whole windows.
        tokens: (rows * columns,) the token of the map at each place; any where there is none.
        empty: the places without a token.
        places: (H * W,) the place of each token.
    """

    size: tuple[int, int]
    tokens: Tensor
    empty: Tensor
    places: Tensor


def lay_out(x: Tensor, windows: Windows, filler: Tensor | None = None) -> tuple[Tensor, Places]:
    """(B, H, W, C) to (B, rows, columns, C) of whole windows, which the operation is to shift;
    ``filler`` (C,), or zeros, is what only fills up."""
    make = _make if torch.compiler.is_compiling() else _remembered
    places = make(*x.shape[1:3], windows.window_size, windows.shift_size, x.device)
    moved = _move(x.flatten(1, 2), places.tokens, places.places, places.empty, True)
    if filler is not None:
        rows = filler.to(moved.dtype).expand(len(moved), len(places.empty), -1)
        moved.index_add_(1, places.empty, rows)
    return moved.unflatten(1, places.size), places


def take_back(x: Tensor, places: Places, height: int, width: int) -> Tensor:
    """(B, rows, columns, C) to the map (B, H, W, C)."""
    moved = _move(x.flatten(1, 2), places.places, places.tokens, places.empty, False)
    return moved.unflatten(1, (height, width))


def _make(height: int, width: int, window, shift, device: torch.device) -> Places:
    rows, down = _axis(height, window[0], shift[0], device)
    columns, right = _axis(width, window[1], shift[1], device)
    inside = (rows >= 0)[:, None] & (columns >= 0)
    tokens = (rows[:, None] * width + columns).where(inside, 0).flatten()
    places = (down[:, None] * len(columns) + right).flatten()
    return Places((len(rows), len(columns)), tokens, (~inside).flatten().nonzero()[:, 0], places)


_remembered = remembered_tables(_make)


def _axis(side: int, window: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each place along an axis its token, -1 for none; and for each token its place."""
    padded = -(-side // window) * window
    # Shifted by the library: token (i + shift) % side lies at i. The operation's shift is undone.
    rolled = (torch.arange(padded, device=device) - shift) % padded
    tokens = torch.where(rolled < side, (rolled + shift) % side, -1)
    places = ((torch.arange(side, device=device) - shift) % side + shift) % padded
    return tokens, places


def _move(x: Tensor, index: Tensor, back: Tensor, empty: Tensor, fills: bool) -> Tensor:
    if in_functorch():  # which takes no autograd functions of this kind
        return _moved(x, index, empty if fills else None)
    return _Move.apply(x, index, back, empty, fills)


class _Move(torch.autograd.Function):
    """Tokens from place to place: each goes to one place, so that gradients are moved back."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, back: Tensor, empty: Tensor, fills: bool) -> Tensor:
        ctx.save_for_backward(index, back, empty)
        ctx.fills = fills
        return _moved(x, index, empty if fills else None)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        index, back, empty = ctx.saved_tensors
        moved = _Move.apply(gradient, back, index, empty, not ctx.fills)
        return moved, None, None, None, None


def _moved(x: Tensor, index: Tensor, empty: Tensor | None) -> Tensor:
    moved = x.index_select(1, index)
    return moved if empty is None else moved.index_fill_(1, empty, 0)
