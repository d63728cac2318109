"""Random inputs of multi-scale deformable attention."""

from typing import NamedTuple

import torch


class PointCase(NamedTuple):
    batch: int = 2
    queries: int = 5
    heads: int = 2
    channels: int = 4
    points: int = 2
    shapes: tuple = ((3, 4), (2, 2), (1, 1))


#: Odd sizes of everything; many points, one level, one pixel, blocks that are not full.
CASES = {
    "three levels": PointCase(),
    "odd": PointCase(1, 7, 3, 5, 3, ((4, 3), (2, 5))),
    "one of each": PointCase(1, 1, 1, 1, 1, ((1, 1),)),
    "many points": PointCase(1, 3, 2, 8, 6, ((5, 6),)),
    "many queries": PointCase(1, 150, 1, 16, 1, ((6, 5), (3, 3))),
    "wide heads": PointCase(3, 2, 1, 72, 2, ((2, 3),)),
}


#: Pixels that points keep from the lines through the pixels' centers, where derivatives jump: by
#: rounding alone, one way of sampling finds a point on one side, and the next on the other.
LEAST_DISTANCE = 1e-3


def draw(case, dtype=torch.float64, device="cpu", spread=0.3):
    """Value, shapes, locations (some outside of the maps) and weights, which sum to one."""
    keys = sum(height * width for height, width in case.shapes)
    lead = (case.batch, case.queries, case.heads)
    value = torch.randn(case.batch, keys, case.heads, case.channels, dtype=torch.float64)
    grid = (*lead, len(case.shapes), case.points)
    locations = _between_pixels(case.shapes, grid, spread, dtype)
    weights = torch.randn(*grid, dtype=torch.float64).flatten(3).softmax(-1).view(grid)
    value, locations, weights = (x.to(device, dtype) for x in (value, locations, weights))
    return value, case.shapes, locations, weights


def _between_pixels(shapes, grid, spread, dtype):
    """Locations that keep their distance when they are rounded to ``dtype``."""
    sides = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float64)
    locations = torch.full((*grid, 2), torch.nan, dtype=torch.float64)
    while True:
        positions = locations.to(dtype).double() * sides[:, None] - 0.5
        near = ~((positions - positions.round()).abs() > LEAST_DISTANCE)
        if not near.any():
            return locations
        drawn = torch.rand(int(near.sum()), dtype=torch.float64)
        locations[near] = drawn * (1 + 2 * spread) - spread


def with_gradients(function, value, shapes, locations, weights, grad):
    """The result and the gradients for value, locations and weights."""
    leaves = [x.detach().clone().requires_grad_() for x in (value, locations, weights)]
    out = function(leaves[0], shapes, leaves[1], leaves[2])
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))]
