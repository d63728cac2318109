"""Images of different sizes as one list of tokens, without padding between them.

A kernel finds its way by tables on the device. They are made for all levels of a pyramid at once:
the host writes one short row for each image on each level, in a single copy that it does not wait
for, and the device spreads these rows over tokens and windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..host_copies import copied_to

Size = tuple[int, int]


class Level(NamedTuple):
    """Maps of one level of a pyramid.

    Attributes:
        sizes: rows and columns of each image's map, in tokens.
        window_size: rows and columns of a window, in tokens.
        batch_size: rows and columns of the batch that the maps are put into; ``None`` for none.
        merges: whether the next level's tokens are 2 x 2 neighbourhoods of these.
    """

    sizes: tuple[Size, ...]
    window_size: Size
    batch_size: Size | None = None
    merges: bool = False


class Tables(NamedTuple):
    """What is read of one level on the device.

    Attributes:
        window_size: rows and columns of the windows that ``windows`` is about.
        windows: (windows, 4) int32, image after image, each row by row: first token, rows and
            columns of the image's map, and the window's number on that map.
        image: (T,) int32, the image of each token.
        merged: (T,) int64, where each token goes in (T of the next level, 4): upper left, upper
            right, lower left, lower right of its neighbourhood; ``None`` if there is none.
        batch: (T,) int64, where each token goes in (B, rows, columns); ``None`` without a batch.
    """

    window_size: Size
    windows: Tensor
    image: Tensor
    merged: Tensor | None
    batch: Tensor | None


@dataclass(frozen=True)
class Packing:
    """Where the tokens of each image lie in a list of tokens (T, C): row by row, in order.

    Args:
        sizes: rows and columns of each image's map, in tokens.
        mask_padding: whether tokens that only fill up windows are no keys.
        tables: the same on the device; see :func:`pack_pyramid`.
        batch_size: rows and columns of the batch that the maps are put into in the end; ``None``
            for none.
    """

    sizes: tuple[Size, ...]
    mask_padding: bool = False
    tables: Tables | None = field(default=None, compare=False, repr=False)
    batch_size: Size | None = None

    @property
    def counts(self) -> list[int]:
        """Tokens of each image."""
        return [rows * columns for rows, columns in self.sizes]

    def windows(self, window_size: Size, device: torch.device) -> Tensor:
        """Table of windows of one size, see :class:`Tables`."""
        if self.tables is not None and self.tables.window_size == window_size:
            return self.tables.windows
        return make_tables([Level(self.sizes, window_size)], device)[0].windows

    def spread(self, values: Tensor) -> Tensor:
        """From a value for each image (B,) to one for each token (T,)."""
        if self.tables is not None:
            return values.index_select(0, self.tables.image)
        counts = torch.tensor(self.counts, device=values.device)
        return values.repeat_interleave(counts, output_size=sum(self.counts))

    def shrink(self, stride: Size) -> Packing:
        """The packing of maps that have a token for every ``stride`` of these, rounded up."""
        return Packing(tuple(shrink(size, stride) for size in self.sizes), self.mask_padding)

    def split(self, tokens: Tensor) -> list[Tensor]:
        """(T, C) to the map (H, W, C) of each image; views."""
        parts = tokens.split(self.counts)
        return [part.unflatten(0, size) for part, size in zip(parts, self.sizes, strict=True)]

    def to_batch(self, tokens: Tensor, size: Size) -> Tensor:
        """(T, C) to (B, size[0], size[1], C), zeros outside the images.

        Raises:
            ValueError: if a map is larger than ``size``.
        """
        check_fit(self.sizes, size)
        if self.tables is not None and self.tables.batch is not None:
            batch = tokens.new_zeros(len(self.sizes) * size[0] * size[1], tokens.shape[1])
            batch = batch.index_copy(0, self.tables.batch, tokens)
            return batch.view(len(self.sizes), *size, -1)
        padded = [
            F.pad(part, (0, 0, 0, size[1] - part.shape[1], 0, size[0] - part.shape[0]))
            for part in self.split(tokens)
        ]
        return torch.stack(padded)


def shrink(size: Size, stride: Size) -> Size:
    """Rows and columns of a map with a token for every ``stride`` of one of ``size``."""
    return -(-size[0] // stride[0]), -(-size[1] // stride[1])


def check_fit(sizes: Sequence[Size], size: Size) -> None:
    """Raise ``ValueError`` if a map is larger than a batch's."""
    for own in sizes:
        if own[0] > size[0] or own[1] > size[1]:
            raise ValueError(f"a map of {own} tokens does not fit into a batch of {size}")


def pack_pyramid(
    sizes: Sequence[Size],
    strides: Sequence[Size],
    window_sizes: Sequence[Size],
    device: torch.device,
    batch_size: Size | None = None,
    mask_padding: bool = False,
) -> list[Packing]:
    """The packings of a pyramid's levels, with their tables.

    Args:
        sizes: rows and columns of each image, in pixels.
        strides: step from the pixels to the first level, and from each level to the next.
        window_sizes: rows and columns of each level's windows, in tokens.
        device: where the tables are wanted.
        batch_size: rows and columns, in pixels, of the batch that maps are put into.
        mask_padding: see :class:`Packing`.

    Raises:
        ValueError: if an image is larger than ``batch_size``.
    """
    levels = []
    sizes = tuple(sizes)
    for index, (stride, window_size) in enumerate(zip(strides, window_sizes, strict=True)):
        sizes = tuple(shrink(size, stride) for size in sizes)
        batch_size = batch_size and shrink(batch_size, stride)
        if batch_size is not None:
            check_fit(sizes, batch_size)
        merges = index + 1 < len(strides) and tuple(strides[index + 1]) == (2, 2)
        levels.append(Level(sizes, tuple(window_size), batch_size, merges))
    tables = make_tables(levels, device)
    return [
        Packing(level.sizes, mask_padding, own, level.batch_size)
        for level, own in zip(levels, tables, strict=True)
    ]


def join(maps: Iterable[Tensor]) -> Tensor:
    """Maps (H, W, C) of any sizes to one list of tokens (T, C)."""
    return torch.cat([part.flatten(0, 1) for part in maps])


def make_tables(levels: Sequence[Level], device: torch.device) -> list[Tables]:
    """Tables of the levels of a pyramid, or of one."""
    rows, tokens, windows = _rows(levels)
    short = copied_to(torch.tensor(rows, dtype=torch.int32, device="cpu"), device)
    token, merged, batch = _spread_over_tokens(short, sum(tokens))
    table = _spread_over_windows(short, sum(windows))
    images = len(levels[0].sizes)
    parts = (x.split(tokens) for x in (token, merged, batch))
    return [
        Tables(
            level.window_size,
            own_windows,
            token - index * images,
            merged if level.merges else None,
            batch if level.batch_size is not None else None,
        )
        for index, (level, own_windows, token, merged, batch) in enumerate(
            zip(levels, table.split(windows), *parts, strict=True)
        )
    ]


def _rows(levels: Sequence[Level]) -> tuple[list[tuple[int, ...]], list[int], list[int]]:
    """A row for each image on each level; tokens and windows of each level.

    A row has: where the image's tokens and windows end among all levels'; first token on its level,
    rows and columns of its map, first window among all; first token among all, columns of its map,
    first token and columns on the next level, first place and columns in the batch.
    """
    rows: list[tuple[int, ...]] = []
    level_tokens, level_windows = [], []
    token = window = 0
    for level in levels:
        first_token, first_window, merged = token, window, 0
        (window_rows, window_columns), batch = level.window_size, 0
        batch_rows, batch_columns = level.batch_size or (0, 0)
        for height, width in level.sizes:
            token_end = token + height * width
            window_end = window + -(-height // window_rows) * -(-width // window_columns)
            merged_width = (width + 1) // 2
            rows.append((
                token_end, window_end,
                token - first_token, height, width, window,
                token, width, merged, merged_width, batch, batch_columns,
            ))  # fmt: skip
            token, window = token_end, window_end
            merged += (height + 1) // 2 * merged_width
            batch += batch_rows * batch_columns
        level_tokens.append(token - first_token)
        level_windows.append(window - first_window)
    return rows, level_tokens, level_windows


def _spread_over_tokens(rows: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each token: its row in ``rows``, its places among merged tokens and in the batch."""
    position = torch.arange(tokens, dtype=torch.int32, device=rows.device)
    own = torch.bucketize(position, rows[:, 0].contiguous(), out_int32=True, right=True)
    columns = rows[:, 6:].index_select(0, own).unbind(1)
    first, width, merged, merged_width, batch, batch_width = columns
    local = position - first
    y = torch.div(local, width, rounding_mode="floor")
    x = local - y * width
    merged = 4 * (merged + (y >> 1) * merged_width + (x >> 1)) + 2 * (y & 1) + (x & 1)
    batch = batch + y * batch_width + x
    return own, merged.long(), batch.long()


def _spread_over_windows(rows: Tensor, windows: int) -> Tensor:
    """Of each window: first token, rows and columns of its map, and its number on that map."""
    position = torch.arange(windows, dtype=torch.int32, device=rows.device)
    own = torch.bucketize(position, rows[:, 1].contiguous(), out_int32=True, right=True)
    table = rows[:, 2:6].index_select(0, own)
    table[:, 3].neg_().add_(position)
    return table
