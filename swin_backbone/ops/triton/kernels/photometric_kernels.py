"""Photometric distortion as a Triton kernel: what it computes stands in
``ops/reference/photometric_reference.py``."""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _to_bytes(values):
    return tl.floor(tl.minimum(tl.maximum(values, 0.0), 255.0))


@triton.jit
def _fixed_point(value, factor, divisor):
    """``value * factor / divisor``, the quotient in 1/4096. No quotient lies near a half."""
    quotient = tl.floor(factor * 4096.0 / tl.maximum(divisor, 1.0) + 0.5)
    product = (value * quotient).to(tl.int32)
    return ((product + 2048) >> 12).to(tl.float32)


@triton.jit
def _through_hsv(blue, green, red, where, saturation, turn):
    """Colours by way of hue (of 180), saturation and value, all in bytes, if ``where``."""
    value = tl.maximum(tl.maximum(blue, green), red)
    extent = value - tl.minimum(tl.minimum(blue, green), red)
    strength = _to_bytes(_fixed_point(extent, 255.0, value) * saturation)
    sector = tl.where(value == green, blue - red + 2.0 * extent, red - green + 4.0 * extent)
    hue = _fixed_point(tl.where(value == red, green - blue, sector), 30.0, extent)
    hue = tl.where(hue < 0, hue + 180.0, hue) + turn
    hue = tl.where(hue < 0, hue + 180.0, hue)
    hue = tl.where(hue >= 180.0, hue - 180.0, hue)
    strength, value = strength * (1.0 / 255), value * (1.0 / 255)
    sixth = hue * (6.0 / 180)
    sector = tl.floor(sixth)
    rest = sixth - sector
    low = value * (1.0 - strength)
    falls = value * (1.0 - strength * rest)
    rises = value * (1.0 - strength * (1.0 - rest))
    one, two, three, four = sector == 1, sector == 2, sector == 3, sector == 4
    zero = (sector == 0) | (sector == 6)
    # Sectors:    0     1      2      3      4      5
    # blue      low   low  rises  value  value  falls
    # green   rises value  value  falls    low    low
    # red     value falls    low    low  rises  value
    new_blue = tl.where(zero | one, low, tl.where(two, rises, tl.where(three | four, value, falls)))
    new_green = tl.where(zero, rises, tl.where(one | two, value, tl.where(three, falls, low)))
    new_red = tl.where(one, falls, tl.where(two | three, low, tl.where(four, rises, value)))
    blue = tl.where(where, tl.floor(new_blue * 255.0), blue)
    green = tl.where(where, tl.floor(new_green * 255.0), green)
    red = tl.where(where, tl.floor(new_red * 255.0), red)
    return blue, green, red


@kernel("pixels")
def distort_pixels(
    images,
    drawn,
    mean,
    deviation,
    out,
    pixels,
    DISTORTS: tl.constexpr,
    NORMALISES: tl.constexpr,
    SWAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``out`` (B, 3, pixels) float32 of ``images`` (B, pixels, 3) uint8, blue first.

    The grid is blocks of pixels, then images.
    """
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < pixels
    source = images + (image * pixels + pixel) * 3
    blue = tl.load(source, mask=mask, other=0).to(tl.float32)
    green = tl.load(source + 1, mask=mask, other=0).to(tl.float32)
    red = tl.load(source + 2, mask=mask, other=0).to(tl.float32)
    if DISTORTS:
        row = drawn + image * 7
        brightness, contrast = tl.load(row), tl.load(row + 1)
        first = tl.load(row + 2) > 0
        before, after = tl.where(first, contrast, 1.0), tl.where(first, 1.0, contrast)
        blue = _to_bytes(_to_bytes(blue + brightness) * before)
        green = _to_bytes(_to_bytes(green + brightness) * before)
        red = _to_bytes(_to_bytes(red + brightness) * before)
        saturates, turns = tl.load(row + 3) > 0, tl.load(row + 5) > 0
        blue, green, red = _through_hsv(blue, green, red, saturates, tl.load(row + 4), 0.0)
        blue, green, red = _through_hsv(blue, green, red, turns, 1.0, tl.load(row + 6))
        blue = _to_bytes(blue * after)
        green = _to_bytes(green * after)
        red = _to_bytes(red * after)
    if SWAPS:
        blue, red = red, blue
    if NORMALISES:
        blue = (blue - tl.load(mean)) / tl.load(deviation)
        green = (green - tl.load(mean + 1)) / tl.load(deviation + 1)
        red = (red - tl.load(mean + 2)) / tl.load(deviation + 2)
    target = out + image * 3 * pixels + pixel
    tl.store(target, blue, mask=mask)
    tl.store(target + pixels, green, mask=mask)
    tl.store(target + 2 * pixels, red, mask=mask)
