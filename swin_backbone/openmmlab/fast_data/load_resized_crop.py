"""Image and labels of a training sample: read, resized and cropped at once.

In the place of four stock transforms, which make more than is kept: labels are decoded and resized
at full size in several passes, each crop that is drawn is sorted to count its classes, and the
image is resized as a whole. Here labels are looked up where a crop wants them, and the image is
decoded, and resized, for the crop.
"""

from __future__ import annotations

import io

import cv2
import mmengine.fileio as fileio
import numpy as np
from mmcv.image import rescale_size
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from ...images import Header, UnreadableImageError, decode_image, read_header
from .cropped_resize import Box, crop_resized, crop_resized_labels, nearest_places

#: The parts of its size at which a JPEG can be decoded, smallest first.
REDUCTIONS = (8, 4, 2)
#: Counts of a histogram of OpenCV's are float32: whole numbers up to here.
MOST_COUNTED = 2**24


class LoadResizedCrop(BaseTransform):
    """Read, resize and crop image and labels as stock transforms do that are given in their places.

    Draws the same random numbers from numpy's generator in the same order. Labels are equal. An
    image is equal where it is not reduced and its crop covers most of it; elsewhere
    :func:`.cropped_resize.crop_resized` says what differs.

    Args:
        image: config of ``LoadImageFromFile``, with no other arguments than ``backend_args``.
        labels: config of what loads ``gt_seg_map``; mmseg's ``LoadAnnotations`` is the fast one.
        resize: config of ``RandomResize``, or of ``Resize`` with ``scale``; ``None``: no resizing.
        crop: config of mmseg's ``RandomCrop``.
        reduced: decode a JPEG that shrinks to a half or less at a half, a quarter or an eighth of
            its size. What it shows is then averaged, where stock leaves out pixels.

    Raises:
        UnreadableImageError: for an image that cannot be read; it names the file.
    """

    def __init__(
        self, image: dict, labels: dict, resize: dict | None, crop: dict, reduced: bool = True
    ):
        self.load_image = TRANSFORMS.build(image)
        self.load_labels = TRANSFORMS.build(labels)
        self.resize = None if resize is None else TRANSFORMS.build(resize)
        self.crop = TRANSFORMS.build(crop)
        self.reduced = reduced
        shapes = getattr(self.resize, "resize", self.resize)
        self.keep_ratio = getattr(shapes, "keep_ratio", False)

    def transform(self, results: dict) -> dict:
        """Add ``img`` (h, w, 3) BGR and ``gt_seg_map`` (h, w), both uint8, and what stock
        transforms add: ``img_shape``, ``ori_shape``, ``scale``, ``scale_factor``, ``flip``..."""
        labels, table = self.read_labels(results)
        content, header = self._read(results["img_path"])
        if labels.shape not in ((header.height, header.width), (header.width, header.height)):
            return self._by_stock_transforms(results)
        scale = None if self.resize is None else self.resize({})["scale"]
        image, reduction = self.decode(results["img_path"], content, header, scale)
        full = _full_size(image, header)
        if labels.shape != full:
            raise ValueError(
                f"labels {results['seg_map_path']!r} have {labels.shape[0]}x{labels.shape[1]} "
                f"pixels, and their image has {full[0]}x{full[1]} once it is turned upright"
            )
        size = full if scale is None else self._size(full, scale)
        places = tuple(nearest_places(old, new) for old, new in zip(full, size, strict=True))
        box, kept = self.draw_crop(labels, table, size, places)
        results["img"] = self.resize_crop(image, size, box, reduction, full)
        results["gt_seg_map"] = kept
        _say(results, "seg_fields", "gt_seg_map")
        results.update(ori_shape=full, img_shape=results["img"].shape[:2])
        if scale is not None:
            factor = (size[1] / full[1], size[0] / full[0])
            results.update(scale=scale, scale_factor=factor, keep_ratio=self.keep_ratio)
        return results

    def resize_crop(self, image, size, box: Box, reduction: int, full) -> np.ndarray:
        """What a crop keeps of the resized image: :func:`.cropped_resize.crop_resized`."""
        return crop_resized(image, size, box, reduction, full)

    def _by_stock_transforms(self, results: dict) -> dict:
        """For labels of another size than their image, which are resized by themselves."""
        for step in (self.load_image, self.load_labels, self.resize, self.crop):
            if step is not None:
                results = step(results)
        return results

    def _read(self, path: str) -> tuple[bytes, Header]:
        content = fileio.get(path, backend_args=self.load_image.backend_args)
        try:
            return content, read_header(content)
        except UnreadableImageError as error:
            raise UnreadableImageError(error.reason, path) from error

    def decode(self, path: str, content: bytes, header: Header, scale) -> tuple[np.ndarray, int]:
        """The image, and how many pixels along an axis each of its pixels stands for."""
        reduction = 1
        if self.reduced and scale is not None and header.format == "JPEG":
            # Sides as stored: if the image lies on its side, both are resized alike all the same.
            full = (header.height, header.width)
            sizes = [self._size(full, scale)]
            if not self.keep_ratio:
                sizes.append(sizes[0][::-1])
            reduction = _reduction(full, sizes)
        try:
            return decode_image(content, "BGR", reduction, header), reduction
        except UnreadableImageError as error:
            raise UnreadableImageError(error.reason, path) from error

    def _size(self, full: tuple[int, int], scale) -> tuple[int, int]:
        if not self.keep_ratio:
            return scale[1], scale[0]
        width, height = rescale_size(full[::-1], scale)
        return height, width

    def read_labels(self, results: dict) -> tuple[np.ndarray, np.ndarray | None]:
        """Values of a label map (H, W) uint8, and what each of the 256 values means, if not itself.

        A map in one channel is read here, and every other by its transform.
        """
        load = self.load_labels
        reduces = results.get("reduce_zero_label")
        if type(load) is LoadAnnotations and load.reduce_zero_label in (None, reduces):
            content = fileio.get(results["seg_map_path"], backend_args=load.backend_args)
            with Image.open(io.BytesIO(content)) as image:
                if image.mode in ("L", "P") and 1 not in image.size:
                    return np.asarray(image), _meaning(reduces, results.get("label_map"))
        results.update(load({**results, "seg_fields": list(results.get("seg_fields", []))}))
        results["seg_fields"].remove("gt_seg_map")
        return results["gt_seg_map"], None

    def draw_crop(self, labels, table, size, places) -> tuple[Box, np.ndarray]:
        """A crop as mmseg's ``RandomCrop`` draws it, and its labels."""
        crop = self.crop

        def draw() -> tuple[Box, np.ndarray]:
            begins = [
                np.random.randint(0, max(side - wanted, 0) + 1)
                for side, wanted in zip(size, crop.crop_size, strict=True)
            ]
            ends = [
                min(begin + wanted, side)
                for begin, wanted, side in zip(begins, crop.crop_size, size, strict=True)
            ]
            box = Box(begins[0], ends[0], begins[1], ends[1])
            kept = crop_resized_labels(labels, places, box)
            return box, kept if table is None else cv2.LUT(kept, table)

        box, kept = draw()
        if crop.cat_max_ratio < 1.0:
            for _ in range(10):
                counts = np.delete(count_labels(kept), crop.ignore_index)
                counts = counts[counts > 0]
                if len(counts) > 1 and counts.max() / counts.sum() < crop.cat_max_ratio:
                    break
                box, kept = draw()
        return box, kept

    def __repr__(self) -> str:
        return (
            f"LoadResizedCrop(image={self.load_image}, labels={self.load_labels}, "
            f"resize={self.resize}, crop={self.crop}, reduced={self.reduced})"
        )


def count_labels(labels: np.ndarray) -> np.ndarray:
    """How many pixels of a map of uint8 have each of 256 labels: (256,) integers."""
    if labels.size > MOST_COUNTED:
        return np.bincount(labels.ravel(), minlength=256)
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256])
    return counts.ravel().astype(np.int64)


def _meaning(reduce_zero: bool | None, renamed: dict | None) -> np.ndarray | None:
    """What mmseg's ``LoadAnnotations`` makes of each of 256 values; ``None``: what they are."""
    if not reduce_zero and renamed is None:
        return None
    table = np.arange(256, dtype=np.uint8)
    if reduce_zero:
        table = np.roll(table, 1)  # 0 is ignored, and 1 the first class
        table[[0, 255]] = 255
    if renamed is not None:
        before = table.copy()
        for old, new in renamed.items():
            table[before == old] = new
    return table


def _reduction(full: tuple[int, int], sizes: list[tuple[int, int]]) -> int:
    """The largest reduction that leaves no less than is asked for."""
    for reduction in REDUCTIONS:
        if all(
            old >= reduction * new for size in sizes for old, new in zip(full, size, strict=True)
        ):
            return reduction
    return 1


def _full_size(image: np.ndarray, header: Header) -> tuple[int, int]:
    """Rows and columns of the upright image before it was reduced."""
    stored = (header.height, header.width)
    rows, columns = image.shape[:2]
    if (rows, columns) in (stored, stored[::-1]):
        return rows, columns
    lies = (rows > columns) != (stored[0] > stored[1]) and stored[0] != stored[1]
    return stored[::-1] if lies else stored


def _say(results: dict, field: str, name: str) -> None:
    results.setdefault(field, []).append(name)
