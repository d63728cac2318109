"""Means over the cells of a map as a Triton kernel, of maps whose channels come last."""

import triton.language as tl

from .jit import kernel


@kernel("height", "width", "out_height", "out_width")
def pool_cells(
    x,
    out,
    height,
    width,
    out_height,
    out_width,
    C: tl.constexpr,
    PIXELS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``out`` (B, out_height, out_width, C) of ``x`` (B, height, width, C).

    Cells are those of ``nn.AdaptiveAvgPool2d``. The grid is cells, then blocks of channels, then
    images.
    """
    cell, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row, column = cell // out_width, cell % out_width
    top, left = row * height // out_height, column * width // out_width
    rows = ((row + 1) * height + out_height - 1) // out_height - top
    columns = ((column + 1) * width + out_width - 1) // out_width - left
    total = tl.zeros([PIXELS, COLUMNS], tl.float32)
    for start in range(0, rows * columns, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        place = (top + pixel // columns) * width + left + pixel % columns
        place = (image * height * width + place)[:, None] * C + channel[None, :]
        mask = (pixel < rows * columns)[:, None] & (channel < C)[None, :]
        total += tl.load(x + place, mask=mask, other=0.0)
    target = out + (image * out_height * out_width + cell) * C + channel
    tl.store(target, tl.sum(total, 0) / (rows * columns), mask=channel < C)
