"""The two halves of a convolution at chosen pixels only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Take out what a convolution's kernel sees at some pixels of its output.

    Args:
        im: (1, C, H, W).
        mask_h_idx: int64 (N,), rows of the pixels.
        mask_w_idx: int64 (N,), columns of the pixels.
        col: (C kernel_h kernel_w, N), written.
        kernel_h: rows of the kernel.
        kernel_w: columns of the kernel.
        pad_h: rows of zeros above and below.
        pad_w: columns of zeros on the left and right.
    """
    # A pixel of the mask may lie further out than the convolution's output: it sees zeros there.
    padded = functional.pad(im[0], (pad_w, kernel_w, pad_h, kernel_h))
    rows = mask_h_idx[None, :] + torch.arange(kernel_h, device=im.device)[:, None]
    columns = mask_w_idx[None, :] + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows[:, None], columns[None]].reshape(col.shape))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Put columns back as pixels of a map.

    Args:
        col: (channels, N).
        mask_h_idx: int64 (N,), rows of the pixels.
        mask_w_idx: int64 (N,), columns of the pixels.
        im: (1, channels, height, width), written at these pixels.
        height: rows of the map.
        width: columns of the map.
        channels: of the map.
    """
    im[0, :, mask_h_idx, mask_w_idx] = col.to(im.dtype)
