"""Pictures of predictions."""

from .segmentation import add_legend, paint_overlay

__all__ = ["add_legend", "paint_overlay"]
