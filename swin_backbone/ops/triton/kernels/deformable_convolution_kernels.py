"""Deformable convolution's offsets as the points of deformable attention, and gradients back.

One point is what one place of the convolution's kernel looks at, for one output pixel and one group
of channels. Points lie (pixels, places, groups) in memory, offsets and masks (groups, places,
pixels). Both kernels only move numbers; programs take blocks of an image's points.
"""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _point(samples, pixels, GROUPS: tl.constexpr, PLACES: tl.constexpr, BLOCK: tl.constexpr):
    """Points of this program, which of them there are, and of each its output pixel, its place of
    the convolution's kernel, and its channel of the mask, which has two channels of offsets."""
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place, pixel = point // GROUPS % PLACES, point // (GROUPS * PLACES)
    channel = point % GROUPS * PLACES + place
    return point, point < samples, pixel, place, channel


@kernel("samples", "pixels", "width")
def place_points(
    offset,
    mask,
    locations,
    weights,
    samples,
    pixels,
    width,
    GROUPS: tl.constexpr,
    PLACES: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``locations`` (B, pixels, PLACES, GROUPS, 2), x and y in pixels of the input, and ``weights``
    without the last axis.

    Of ``offset`` (B, GROUPS, PLACES, 2, pixels), y and x, and ``mask`` (B, GROUPS, PLACES, pixels).
    ``width`` is the output's; samples are the points of an image. The grid is blocks of points,
    then images.
    """
    point, live, pixel, place, channel = _point(samples, pixels, GROUPS, PLACES, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    offset += 2 * image * samples
    source = 2 * channel * pixels + pixel
    y = tl.load(offset + source, mask=live, other=0.0).to(tl.float32)
    x = tl.load(offset + source + pixels, mask=live, other=0.0).to(tl.float32)
    y += pixel // width * STRIDE_H - PAD_H + place // KERNEL_W * DILATION_H
    x += pixel % width * STRIDE_W - PAD_W + place % KERNEL_W * DILATION_W
    weight = tl.load(mask + image * samples + channel * pixels + pixel, mask=live, other=0.0)
    locations += 2 * image * samples
    tl.store(locations + 2 * point, x, mask=live)
    tl.store(locations + 2 * point + 1, y, mask=live)
    tl.store(weights + image * samples + point, weight, mask=live)


@kernel("samples", "pixels")
def place_points_backward(
    grad_locations,
    grad_weights,
    grad_offset,
    grad_mask,
    samples,
    pixels,
    GROUPS: tl.constexpr,
    PLACES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``grad_offset`` and ``grad_mask`` of :func:`place_points`; shapes and grid are the same."""
    point, live, pixel, _, channel = _point(samples, pixels, GROUPS, PLACES, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    grad_locations += 2 * image * samples
    x = tl.load(grad_locations + 2 * point, mask=live)
    y = tl.load(grad_locations + 2 * point + 1, mask=live)
    weight = tl.load(grad_weights + image * samples + point, mask=live)
    grad_offset += 2 * image * samples
    target = 2 * channel * pixels + pixel
    tl.store(grad_offset + target, y, mask=live)
    tl.store(grad_offset + target + pixels, x, mask=live)
    tl.store(grad_mask + image * samples + channel * pixels + pixel, weight, mask=live)
