"""Which two neighbours a bilinear resize mixes, along one axis, and how much of each.

Rows and columns are independent, so that two short tables describe a resize of any map. Sizes are
turned into positions as ``torch.nn.functional.interpolate`` does, in the dtype that it uses.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..kept_tables import remembered_tables


class Axis(NamedTuple):
    """One axis of a bilinear resize from ``n`` samples to ``N``.

    Attributes:
        lower: (N,) int32, the sample before each position.
        weight: (N,), of the sample after it; that of the one before is what is left of one. Zero
            where there is no sample after it.
        first: (n + 1,) int32. Positions ``first[i]`` to ``first[i + 1] - 1`` have ``lower == i``,
            so those that sample ``i`` is a part of are ``first[i - 1]`` to ``first[i + 1] - 1``.
        reach: the most positions that one sample is a part of.
    """

    lower: Tensor
    weight: Tensor
    first: Tensor
    reach: int


@remembered_tables
def axis(
    samples: int,
    positions: int,
    align_corners: bool,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Axis:
    """The tables of an axis; remembered, since a training asks for the same sizes each step.

    Args:
        samples: that there are.
        positions: that are wanted.
        align_corners: whether the first and last samples and positions coincide, rather than the
            ends of the areas they stand for.
        dtype: float32 or float64, of the positions' arithmetic and of the weights.
        device: of the tables.
    """
    with torch.inference_mode(False), torch.no_grad():
        source = _source(samples, positions, align_corners, dtype)
        lower = source.long().clamp(max=samples - 1)
        weight = (source - lower).clamp(0, 1)
        weight = torch.where(lower == samples - 1, torch.zeros_like(weight), weight)
        first = torch.searchsorted(lower, torch.arange(samples + 1, device="cpu"))
        begin = torch.cat([first[:1], first[:-2]])
        reach = int((first[1:] - begin).max())
        return Axis(lower.int().to(device), weight.to(device), first.int().to(device), reach)


def mixing(table: Axis, rows: slice, samples: slice) -> Tensor:
    """(rows, samples): what some positions of an axis have of some samples."""
    number = torch.arange(samples.start, samples.stop, device=table.weight.device)
    distance = number - table.lower[rows, None]
    weight = table.weight[rows, None]
    return (distance == 0) * (1 - weight) + (distance == 1) * weight


def _source(samples: int, positions: int, align_corners: bool, dtype: torch.dtype) -> Tensor:
    """Where positions lie among samples."""
    place = torch.arange(positions, dtype=dtype, device="cpu")
    if align_corners:
        steps = torch.tensor(samples - 1, dtype=dtype, device="cpu") / max(positions - 1, 1)
        return place * (steps if positions > 1 else 0)
    scale = torch.tensor(samples, dtype=dtype, device="cpu") / positions
    return ((place + 0.5) * scale - 0.5).clamp(min=0)


class Taps(NamedTuple):
    """One axis of two bilinear resizes, one after the other, as one step.

    Attributes:
        samples: (taps, N) int32; which samples each of ``N`` positions mixes.
        weights: (taps, N), what each counts.
    """

    samples: Tensor
    weights: Tensor


@remembered_tables
def taps(
    samples: int,
    size: int,
    before: int,
    after: int,
    flipped: bool,
    positions: int,
    align_corners: bool,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Taps:
    """Resize to ``size``, cut off some of both ends, turn round, and resize to ``positions``.

    Two taps where the second resize changes nothing, else four.

    Args:
        samples: that there are.
        size: of the first resize.
        before: positions that are cut off at the beginning.
        after: and at the end.
        flipped: whether what is left is turned round.
        positions: of the second resize.
        align_corners: of both.
        device: of the tables.
        dtype: float32 or float64.
    """
    with torch.inference_mode(False), torch.no_grad():
        length = size - before - after
        first, second = (
            axis(*sizes, align_corners, dtype) for sizes in ((samples, size), (length, positions))
        )
        middle = second.lower.long()
        parts = [(middle, 1 - second.weight)]
        if length != positions:
            parts.append(((middle + 1).clamp(max=length - 1), second.weight))
        places, weights = [], []
        for place, weight in parts:
            place = before + (length - 1 - place if flipped else place)
            lower, upper_weight = first.lower.long()[place], first.weight[place]
            places += [lower, (lower + 1).clamp(max=samples - 1)]
            weights += [weight * (1 - upper_weight), weight * upper_weight]
        return Taps(torch.stack(places).int().to(device), torch.stack(weights).to(device))
