"""What the operations of detectors are measured on: points, boxes, regions, at sizes of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import NamedTuple

import torch
from torch import Tensor

from swin_backbone import ops

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HEADS, CHANNELS, POINTS = 8, 32, 4


@dataclass
class Work:
    """One operation on some tensors, and the ways to compute it.

    Attributes:
        case: what it is.
        dtype: of the tensors.
        tensors: what each way gets; those that need a gradient come first.
        ways: by name.
        exact: the same in float64, or ``None`` where it has no result that is rounded.
        right: the name of the way whose result the others are to give, or ``None``.
    """

    case: str
    dtype: str
    tensors: list
    ways: dict[str, Callable]
    exact: Callable | None = None
    right: str | None = None

    @property
    def learnt(self) -> list[Tensor]:
        """Tensors whose gradients are computed."""
        return [x for x in self.tensors if isinstance(x, Tensor) and x.requires_grad]


class Points(NamedTuple):
    """A layer: image size, strides of its levels, images, and queries (``None``: each pixel)."""

    size: tuple[int, int]
    strides: tuple[int, ...]
    batch: int
    queries: int | None

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [tuple(-(-side // stride) for side in self.size) for stride in self.strides]


POINT_CASES = {
    "dino encoder": Points((800, 1344), (8, 16, 32, 64), 2, None),
    "dino decoder": Points((800, 1344), (8, 16, 32, 64), 2, 900),
    "mask2former b2": Points((512, 512), (8, 16, 32), 2, None),
    "mask2former b8": Points((512, 512), (8, 16, 32), 8, None),
}


def attention(name: str, dtype: str, shrink: int, device: str) -> Work:
    """Multi-scale deformable attention of a layer, of images whose sides are divided by
    ``shrink``."""
    case = POINT_CASES[name]
    case = case._replace(size=tuple(side // shrink for side in case.size))

    def exact(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ops.multi_scale_deformable_attention(
            value, case.shapes, locations, weights, impl="torch"
        )

    tensors = draw_points(case, DTYPES[dtype], device)
    ways = dict(ways_of_attention(case.shapes, DTYPES[dtype], device))
    return Work(f"{name} points", dtype, tensors, ways, exact)


def draw_points(case: Points, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Value, locations some pixels around each query's own place, and weights."""
    keys = sum(height * width for height, width in case.shapes)
    queries = case.queries or keys
    sides = torch.tensor(case.shapes, dtype=torch.float32).flip(1)
    grid = (case.batch, queries, HEADS, len(sides), POINTS)
    around = 3 * torch.randn(*grid, 2) / sides[:, None]
    locations = torch.rand(1, queries, 1, 1, 1, 2) + around
    weights = torch.randn(grid).flatten(3).softmax(-1).view(grid)
    value = torch.randn(case.batch, keys, HEADS, CHANNELS)
    return [x.to(device, dtype).requires_grad_() for x in (value, locations, weights)]


def ways_of_attention(
    shapes: list, dtype: torch.dtype, device: str
) -> Iterator[tuple[str, Callable]]:
    """Functions of value, locations and weights."""
    import mmcv
    from mmcv.ops import multi_scale_deform_attn as stock

    from swin_backbone.openmmlab.mmcv_ext import EXTENSION

    yield "ours", lambda v, x, w: ops.multi_scale_deformable_attention(v, shapes, x, w)
    sizes = torch.tensor(shapes)
    yield (
        "mmcv, PyTorch",
        lambda v, x, w: stock.multi_scale_deformable_attn_pytorch(v, sizes, x, w),
    )
    compiled = PathFinder.find_spec(EXTENSION, mmcv.__path__) is not None
    if compiled and dtype != torch.bfloat16 and device == "cuda":
        there = sizes.to(device)
        starts = torch.cat([there.new_zeros(1), there.prod(1).cumsum(0)[:-1]])
        apply = stock.MultiScaleDeformableAttnFunction.apply
        yield "mmcv, compiled", lambda v, x, w: apply(v, there, starts, x, w, 64)


def suppression(count: int, threshold: float, ties: bool, device: str) -> Work:
    """Boxes at random; with ties of whole pixels, and of scores that repeat."""
    from torchvision.ops import nms

    corner = torch.rand(count, 2, device=device) * 1300
    boxes = torch.cat([corner, corner + 4 + 150 * torch.rand_like(corner)], 1)
    scores = torch.rand(count, device=device)
    if ties:
        boxes, scores = boxes.round(), (100 * scores).round() / 100
    # A threshold of float32, as the kernels of GPUs have it: on a CPU torchvision's is a double.
    threshold = torch.tensor(threshold).item()
    case = f"{count} boxes{', whole pixels and ties' if ties else ''}, {threshold:.2g}"
    ways = {"ours": ops.non_maximum_suppression, "torchvision": nms}
    return Work(case, "float32", [boxes, scores, threshold], ways, right="torchvision")


class Regions(NamedTuple):
    """Regions of two images: how many, and rows and columns that they are pooled to."""

    count: int
    size: int


REGION_CASES = {"mask-rcnn boxes": Regions(1024, 7), "mask-rcnn masks": Regions(256, 14)}
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def regions(name: str, dtype: str, shrink: int, device: str) -> Work:
    """RoI align of a pyramid of 256 channels at 800x1344, channels-last, each region at the level
    of its size; sides of images, and how many regions there are, are divided by ``shrink``."""
    from torchvision.ops import roi_align

    case, (rows, columns) = REGION_CASES[name], (800 // shrink, 1344 // shrink)
    case = case._replace(count=max(1, case.count // shrink))
    sides = [(-(-rows // round(1 / s)), -(-columns // round(1 / s))) for s in SCALES]
    maps = [torch.randn(2, 256, *side, device=device).to(DTYPES[dtype]) for side in sides]
    maps = [x.contiguous(memory_format=torch.channels_last).requires_grad_() for x in maps]
    whole = torch.tensor([columns, rows])
    extent = whole * 10 ** (-2 * torch.rand(case.count, 2))
    corner = torch.rand(case.count, 2) * (whole - extent)
    rois = torch.cat([torch.randint(2, (case.count, 1)), corner, corner + extent], 1).to(device)
    levels = (extent.prod(1).sqrt() * shrink / 56).log2().floor().clamp(0, 3).long().to(device)

    def ours(*maps: Tensor) -> Tensor:
        return ops.roi_align(maps, rois, levels, SCALES, case.size)

    def by_levels(*maps: Tensor) -> Tensor:
        """As mmdet goes about it, in float32 where torchvision has no kernel for bfloat16."""
        maps = [x.float() if x.dtype == torch.bfloat16 else x for x in maps]
        out = maps[0].new_zeros(case.count, 256, case.size, case.size)
        for level, (x, scale) in enumerate(zip(maps, SCALES, strict=True)):
            places = (levels == level).nonzero()[:, 0]
            pooled = roi_align(x, rois[places].to(x.dtype), case.size, scale, 0, True)
            out = out.index_put((places,), pooled)
        return out.to(DTYPES[dtype]) if out.element_size() < 8 else out

    ways = {"ours": ours, "torchvision": by_levels}
    return Work(f"{name} regions", dtype, maps, ways, by_levels)


def relative_errors(found: Sequence[Tensor], exact: Sequence[Tensor]) -> str:
    """Distance to what is exact, of its length, for each tensor; 0 where nothing has a length."""
    pairs = zip(found, exact, strict=True)
    distances = [((a.double() - b).norm() / b.norm().clamp(min=1e-30)).item() for a, b in pairs]
    return ", ".join(f"{distance:.1e}" for distance in distances)
