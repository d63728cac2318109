"""Pictures of predictions."""

from .detection import paint_instances
from .segmentation import add_legend, contact_sheet, paint_overlay

__all__ = ["add_legend", "contact_sheet", "paint_instances", "paint_overlay"]
