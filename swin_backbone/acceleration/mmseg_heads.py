"""Which modules are decode heads of mmseg."""

from __future__ import annotations

from torch import nn

from .rewrite import imported, is_of


def decode_head() -> type | None:
    """mmseg's ``BaseDecodeHead``; ``None`` where nothing has imported it."""
    return imported("mmseg.models.decode_heads.decode_head", "BaseDecodeHead")


def is_decode_head(module: nn.Module) -> bool:
    """Whether a module is a decode head of mmseg, or of a class that is derived from its."""
    return is_of(module, decode_head())
