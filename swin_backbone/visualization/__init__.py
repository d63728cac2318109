"""Pictures of predictions."""

from .segmentation import add_legend, contact_sheet, paint_overlay

__all__ = ["add_legend", "contact_sheet", "paint_overlay"]
