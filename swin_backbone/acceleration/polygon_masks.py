"""Masks of polygons as bits, cut out where boxes lie, of all boxes at once and on any device.

pycocotools draws a polygon on a grid of a fifth of a pixel, walks along each edge point by point,
and notes in which row the walk passes from one side of a column's centre to the other. A pixel is
inside where an odd number of walks passed above it. Which point of an edge passes a column needs no
walk: it is computed here for each edge and column, with the same roundings, in float64.

Tested against pycocotools 2.0.11.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: Points of the grid to a pixel, and that of a pixel's centre.
GRID, CENTRE = 5, 2
#: Edges by columns that are looked at together, 32 MiB to a number of each.
TOGETHER = 2**22


class Outlines(NamedTuple):
    """Polygons of objects, as edges.

    Attributes:
        edges: float64 (objects, edges, 5): start x and y, end x and y, and the number of the
            polygon that it is of; of length zero where an object has fewer.
        most: polygons that an object has at most.
        dtype: that the polygons came in, in which their points are moved and scaled.
    """

    edges: Tensor
    most: int
    dtype: torch.dtype

    def pin_memory(self) -> Outlines:
        return self._replace(edges=self.edges.pin_memory())

    def to(self, device: torch.device, non_blocking: bool = False) -> Outlines:
        return self._replace(edges=self.edges.to(device, non_blocking=non_blocking))


def why_no_outlines(objects: Sequence) -> str | None:
    """Why polygons of objects, lists of numpy arrays of x and y in turns, are none that
    :func:`outlines_of` takes, or ``None`` if they are."""
    polygons = [polygon for one in objects for polygon in one]
    if not all(objects):
        return "an object has no polygon"
    if any(polygon.ndim != 1 or len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        return "a polygon has less than three points, or half a point"
    kinds = {str(polygon.dtype) for polygon in polygons}
    if len(kinds) != 1 or not kinds <= {"float32", "float64"}:
        return f"points are {' and '.join(sorted(kinds))}"
    return None


def outlines_of(objects: Sequence) -> Outlines:
    """Of at least one object, for which :func:`why_no_outlines` finds no reason."""
    most = max(sum(len(polygon) for polygon in one) // 2 for one in objects)
    edges = torch.zeros(len(objects), most, 5, dtype=torch.float64, device="cpu")
    filled = edges.numpy()
    for row, polygons in zip(filled, objects, strict=True):
        done = 0
        for number, polygon in enumerate(polygons):
            points = polygon.reshape(-1, 2)
            part = row[done : done + len(points)]
            part[:, :2], part[:-1, 2:4], part[-1, 2:4] = points, points[1:], points[0]
            part[:, 4] = number
            done += len(points)
    dtype = getattr(torch, str(objects[0][0].dtype))
    return Outlines(edges, max(map(len, objects)), dtype)


def cut_out(outlines: Outlines, boxes: Tensor, chosen: Tensor, size: tuple[int, int]) -> Tensor:
    """The polygons of an object within a box, as bits.

    Args:
        outlines: of the objects, on the device of ``boxes``.
        boxes: (N, 4), as x1, y1, x2, y2 in pixels, float32 or float64.
        chosen: int64 (N,), the object of each.
        size: rows and columns that a box is cut into.

    Returns:
        bool (N, *size).
    """
    number = max(1, TOGETHER // max(1, outlines.edges.shape[1] * size[1]))
    parts = zip(boxes.split(number), chosen.split(number), strict=True)
    return torch.cat([_cut_out(outlines, *part, size) for part in parts])


def _cut_out(outlines, boxes, chosen, size) -> Tensor:
    rows, columns = size
    edges = outlines.edges[chosen]
    points = edges[..., :4].unflatten(-1, (2, 2))
    points = _as_numpy(torch.sub, points, boxes[:, :2], outlines.dtype)
    points = _as_numpy(torch.mul, points, _factors(boxes, size), outlines.dtype)
    crosses, row = _crossings((points.double() * GRID + 0.5).trunc(), size)
    first = torch.arange(len(boxes), device=boxes.device)[:, None] * outlines.most
    polygon = (first + edges[..., 4].long())[..., None]
    place = (polygon * columns + torch.arange(columns, device=boxes.device)) * (rows + 1) + row
    counts = torch.zeros(
        len(boxes) * outlines.most * columns * (rows + 1), dtype=torch.int32, device=boxes.device
    )
    counts.scatter_add_(0, place.flatten(), crosses.flatten().int())
    counts = counts.view(len(boxes), outlines.most, columns, rows + 1)[..., :-1]
    inside = counts.cumsum(-1, dtype=torch.int32) % 2
    return inside.amax(1).mT.bool()


def _as_numpy(function: Callable, points: Tensor, numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """What numpy makes of arrays of points in ``dtype`` and of two numbers (N, 2) for each box,
    which it writes to arrays of that dtype."""
    within = _dtype_of(_one(dtype)[None] * _one(numbers.dtype))
    return function(points.to(within), numbers[:, None, None].to(within)).to(dtype)


def _one(dtype: torch.dtype):
    """numpy's 1."""
    return torch.ones((), dtype=dtype, device="cpu").numpy()[()]


def _dtype_of(value) -> torch.dtype:
    """Of what numpy computed: its versions promote arrays, numbers and integers differently."""
    return torch.float64 if value.itemsize == 8 else torch.float32


def _factors(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 2), from pixels of the image to those of the result, across and down."""
    dtype = _dtype_of(1 / _one(boxes.dtype))
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).to(dtype)
    wanted = torch.stack([torch.full_like(sides[:, 0], side) for side in reversed(size)], 1)
    return wanted / sides  # a number by a tensor would be multiplied by its inverse


def _crossings(points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where edges pass the centres of columns.

    Args:
        points: float64 (N, edges, 2, 2), whole numbers: start and end on the grid, x and y.
        size: rows and columns.

    Returns:
        bool (N, edges, columns), whether an edge passes it, and int64, the first row below.
    """
    rows, columns = size
    x, y = points[..., 0], points[..., 1]
    wide, high = (x[..., 1] - x[..., 0]).abs(), (y[..., 1] - y[..., 0]).abs()
    is_steep = wide < high
    flip = torch.where(is_steep, y[..., 0] > y[..., 1], x[..., 0] > x[..., 1])
    start_x, end_x = (torch.where(flip, x[..., 1 - i], x[..., i])[..., None] for i in (0, 1))
    start_y, end_y = (torch.where(flip, y[..., 1 - i], y[..., i])[..., None] for i in (0, 1))
    centres = torch.arange(columns, device=x.device, dtype=x.dtype) * GRID + CENTRE
    crosses = (torch.minimum(start_x, end_x) <= centres) & (torch.maximum(start_x, end_x) > centres)
    flat = _of_flat(start_x, start_y, (end_y - start_y) / wide[..., None].clamp(min=1), centres)
    steep = _of_steep(start_x, start_y, (end_x - start_x) / high[..., None].clamp(min=1), centres)
    last = torch.where(crosses, torch.where(is_steep[..., None], steep, flat), 0).long()
    below = torch.div(last + GRID - 1 - CENTRE, GRID, rounding_mode="floor")
    return crosses, below.clamp(0, rows)


def _of_flat(start_x, start_y, slope, centres) -> Tensor:
    """The higher of the two points that lie beside a column's centre, of edges that go a step
    across each time."""
    step = centres - start_x
    here, there = ((start_y + slope * t + 0.5).trunc() for t in (step, step + 1))
    return torch.minimum(here, there)


def _of_steep(start_x, start_y, slope, centres) -> Tensor:
    """The last point before a column's centre is passed, of edges that go a step down each time."""
    rises, other = slope > 0, centres + 1
    # Where it would be but for roundings, which move it by a step at most.
    first = ((other - 0.5 - start_x) / torch.where(slope == 0, 1, slope)).floor() - 1
    step = first
    for more in range(4):
        x = start_x + slope * (first + more) + 0.5
        step = step + torch.where(rises, x < other, x >= other)
    return start_y + step - 1
