"""Label maps that do not hold classes from 0 on: other values, masks of 0 and 255, colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadMappedLabels:
    """Load a label map, and number its classes from 0, in the place of ``LoadAnnotations``.

    Args:
        values: what stands for each class, as ``[0, 255]`` for a mask.
        colours: or the colour that does, as (red, green, blue).

    What is in neither becomes 255, which losses and metrics leave out.

    Raises:
        ValueError: if not one of both is given, or an entry is there twice.
    """

    def __init__(
        self,
        values: Sequence[int] | None = None,
        colours: Sequence[Sequence[int]] | None = None,
    ):
        if (values is None) == (colours is None):
            raise ValueError("LoadMappedLabels takes either values or colours")
        self.values, self.colours = values, colours
        from ..label_maps import IGNORED, colour_codes  # needs what reads images

        entries = np.asarray(values if colours is None else colours, dtype=np.int64)
        codes = entries if colours is None else colour_codes(entries)
        if len(np.unique(codes)) != len(codes) or not 0 < len(codes) <= IGNORED:
            raise ValueError(
                f"LoadMappedLabels takes up to {IGNORED} different entries, got {codes}"
            )
        self._order = np.argsort(codes)
        self._codes = codes[self._order]

    def __call__(self, results: dict) -> dict:
        """Add ``gt_seg_map``, (H, W) uint8, of the file ``results['seg_map_path']``."""
        from ..label_maps import IGNORED, colour_codes, read_label_map

        written = read_label_map(results["seg_map_path"])
        if self.colours is not None:
            written = written[..., None].repeat(3, -1) if written.ndim == 2 else written
            written = colour_codes(written)
        elif written.ndim == 3:
            raise ValueError(f"label map {results['seg_map_path']} has colours, and no labels")
        place = np.searchsorted(self._codes, written).clip(max=len(self._codes) - 1)
        labels = np.where(self._codes[place] == written, self._order[place], IGNORED)
        results["gt_seg_map"] = labels.astype(np.uint8)
        results.setdefault("seg_fields", []).append("gt_seg_map")
        return results

    def __repr__(self) -> str:
        return f"LoadMappedLabels(values={self.values}, colours={self.colours})"
