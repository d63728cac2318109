"""The one check of sizes that come with a batch: rows and columns of each image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..argument_checks import INT32_MAX, is_integer, is_sequence, show, unpacked
from ..symbolic_shapes import has_values


def check_valid_sizes(
    sizes: Any, images: int | None = None, at_least: int = 1, name: str = "valid_sizes"
) -> Tensor:
    """Rows and columns of each image, as a tensor.

    Numbers on the host are looked at. Those on a device are not, since it would have to be waited
    for; :func:`swin_backbone.ops.geometry.windows.as_kernels_read` says what becomes of them.

    Args:
        sizes: (B, 2) integers: a tensor, an array, or lists and tuples.
        images: B, or ``None`` for any.
        at_least: the smallest number that is taken; none is beyond 2**31 - 1.
        name: of the argument, for errors.

    Returns:
        (B, 2) integers: ``sizes`` itself where it is a tensor, else int64 on the host.

    Raises:
        TypeError: if they are not integers.
        ValueError: if they have another shape, or a number is out of range.
    """
    if not isinstance(sizes, Tensor):
        return _from_host(sizes, images, at_least, name)
    if sizes.is_floating_point() or sizes.is_complex() or sizes.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {sizes.dtype}")
    wanted = sizes.shape[0] if images is None and sizes.dim() else images
    if tuple(sizes.shape) != (wanted, 2):
        raise ValueError(_words(name, images, tuple(sizes.shape)))
    if sizes.device.type == "cpu" and has_values(sizes):
        # As int64, since few operations know unsigned ones; what is beyond it turns negative.
        least, most = sizes.to(torch.int64).aminmax() if len(sizes) else (at_least, at_least)
        if not at_least <= int(least) <= int(most) <= INT32_MAX:
            raise ValueError(_range(name, at_least, sizes.tolist()))
    return sizes


def _from_host(sizes: Any, images: int | None, at_least: int, name: str) -> Tensor:
    rows = unpacked(sizes)
    if not is_sequence(rows):
        raise TypeError(_words(name, images, show(sizes)))
    rows = [row.tolist() if isinstance(row, Tensor) else unpacked(row) for row in rows]
    if not all(is_sequence(row) and len(row) == 2 for row in rows):
        raise ValueError(_words(name, images, show(sizes)))
    if images is not None and len(rows) != images:
        raise ValueError(_words(name, images, (len(rows), 2)))
    rows = [[_number(value) for value in row] for row in rows]
    if not all(is_integer(value) for row in rows for value in row):
        raise TypeError(f"{name} must be integers, got {show(sizes)}")
    if not all(at_least <= value <= INT32_MAX for row in rows for value in row):
        raise ValueError(_range(name, at_least, sizes))
    return torch.tensor(rows, dtype=torch.int64, device="cpu").reshape(-1, 2)


def _number(value: Any) -> Any:
    """What a tensor of no axes on the host holds."""
    if isinstance(value, Tensor) and value.dim() == 0 and value.device.type == "cpu":
        return value.item()
    return value


def _words(name: str, images: int | None, got: object) -> str:
    batch = "B" if images is None else images
    return f"{name} must be ({batch}, 2), got {got}: rows and columns of each image"


def _range(name: str, at_least: int, got: object) -> str:
    return f"images need {name} >= {at_least}, got {show(got)} (and below 2**31)"
