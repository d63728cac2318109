"""Photometric distortion and normalisation of bytes."""

import torch
import triton
from torch import Tensor

from .kernels.photometric_kernels import distort_pixels
from .launch import Launch, remembered

PIXELS = 1024
#: A product that is fused with a sum is rounded once, and what is cut off to bytes shows it.
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@remembered
def _launch(batch, pixels, distorts, normalises, swaps) -> Launch:
    constants = {
        "DISTORTS": distorts,
        "NORMALISES": normalises,
        "SWAPS": swaps,
        "BLOCK": PIXELS,
    }
    grid = (triton.cdiv(pixels, PIXELS), batch)
    return Launch(distort_pixels, grid, (pixels,), constants, OPTIONS)


def distort_images(
    images: Tensor,
    drawn: Tensor | None,
    mean: Tensor | None,
    deviation: Tensor | None,
    swap: bool,
) -> Tensor:
    """See :func:`swin_backbone.ops.distort_images`."""
    batch, height, width, _ = images.shape
    images = images.contiguous()
    out = torch.empty((batch, 3, height, width), dtype=torch.float32, device=images.device)
    # What is not read needs an address all the same.
    given = (out if tensor is None else tensor.contiguous() for tensor in (drawn, mean, deviation))
    start = _launch(batch, height * width, drawn is not None, mean is not None, swap)
    start(images, *given, out)
    return out
