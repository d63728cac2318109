"""Whose checkpoints we read: one adapter a layout, recognised by keys and never by file name."""

from collections.abc import Collection

from .base import Layout
from .official import OFFICIAL
from .openmmlab import OPENMMLAB
from .own import OWN

#: In the order in which equally good matches win.
LAYOUTS = (OWN, OPENMMLAB, OFFICIAL)


def recognise_layout(keys: Collection[str], target: Collection[str]) -> tuple[Layout, int]:
    """The layout that explains most of a module's keys, and how many it explains."""
    targets = set(target)

    def explained(layout: Layout) -> int:
        return len(targets & {layout.rename(key) for key in keys})

    best = max(LAYOUTS, key=explained)
    return best, explained(best)


__all__ = ["LAYOUTS", "Layout", "recognise_layout"]
