"""Pictures of predictions."""

from ...extras import from_extra

with from_extra("visualization"):
    from .detection import paint_instances
    from .segmentation import add_legend, contact_sheet, paint_overlay

__all__ = ["add_legend", "contact_sheet", "paint_instances", "paint_overlay"]
