"""The command ``swin-backbone``."""

from .entry import main

__all__ = ["main"]
