"""Positional encodings of maps without padding, made once for each size.

mmdet computes sines and cosines of every pixel from a mask that says that all pixels count: 26
operators for each level, in Mask2Former for the levels of its pixel decoder and again for those of
its head. Without padding they follow from the size alone: the same bits, in memory of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from .mmdet_mask_losses import stock_head
from .recent_values import RecentValues, may_keep
from .rewrite import Rewrite, Undo, imported, is_of, own_method, replace_methods

#: Of an encoding's module, those of the sizes that were asked for last: 17 MiB at 100x168.
_kept = RecentValues(16)
#: What else decides, of a module.
SETTINGS = ("num_feats", "temperature", "normalize", "scale", "eps", "offset")
#: A module whose masks say that all pixels count, as long as who calls it makes such masks.
_without_padding: ContextVar[nn.Module | None] = ContextVar("without_padding", default=None)


def _stock() -> type | None:
    return imported("mmdet.models.layers.positional_encoding", "SinePositionalEncoding")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(module: nn.Module) -> str | None:
    return own_method(module, "forward", _stock())


def apply(module: nn.Module) -> Undo:
    return replace_methods(module, {"forward": forward})


def forward(module: nn.Module, mask: Tensor | None, *args, **kwargs) -> Tensor:
    """``SinePositionalEncoding.forward``."""
    like = mask
    if mask is None:  # mmdet's newer releases take a map then
        like = kwargs.get("input", args[0] if args else None)
    elif _without_padding.get() is not module:
        like = None
    if not isinstance(like, Tensor) or not may_keep([like]):
        return type(module).forward(module, mask, *args, **kwargs)
    batch, (rows, columns) = len(like), like.shape[-2:]
    key = (rows, columns, like.device, *(getattr(module, name) for name in SETTINGS))
    found = _kept.get(module, key)
    if found is None:
        with torch.no_grad():
            blank = torch.zeros(1, rows, columns, dtype=torch.bool, device=like.device)
            found = type(module).forward(module, blank)
        _kept.keep(module, key, found)
    # Laid out as the stock one, whose channels are last.
    return found.expand(batch, -1, -1, -1).clone(memory_format=torch.channels_last)


@contextmanager
def without_padding(module: nn.Module) -> Iterator[None]:
    """Within it, masks that ``module`` gets say that all pixels count."""
    token = _without_padding.set(module)
    try:
        yield
    finally:
        _without_padding.reset(token)


def _finds_head(module: nn.Module) -> bool:
    return is_of(module, stock_head())


def _why_not_head(head: nn.Module) -> str | None:
    return own_method(head, "forward", stock_head())


def _apply_to_head(head: nn.Module) -> Undo:
    return replace_methods(head, {"forward": head_forward})


def head_forward(head: nn.Module, *args, **kwargs):
    """``Mask2FormerHead.forward``, which encodes positions of maps without padding."""
    with without_padding(head.decoder_positional_encoding):
        return type(head).forward(head, *args, **kwargs)


REWRITE = Rewrite(
    "positional_encodings",
    "positions of maps without padding encoded once for each size",
    finds,
    why_not,
    apply,
)
HEADS = Rewrite(
    "positional_encodings",
    "positions of its maps encoded once for each size",
    _finds_head,
    _why_not_head,
    _apply_to_head,
)
