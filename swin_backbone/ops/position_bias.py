"""What cosine attention of Swin V2 adds to its scores, and multiplies its cosines by."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from .geometry.windows import log_spaced_offsets
from .layer_parameters import LinearParameters

#: Attention logits are at most this factor times the cosine (Swin Transformer V2, section 3.2).
MAX_LOGIT_SCALE = 100.0
#: What the sigmoid of the bias is multiplied by, as in the original's code.
HIGHEST_BIAS = 16


class CosineScores(NamedTuple):
    """Parameters of the scores of one block's cosine attention.

    Attributes:
        logit_scale: (heads, 1, 1) logarithms of the factors of cosines.
        up: two coordinates to the hidden channels of the network of position bias.
        down: (heads, hidden), its second layer, without a bias.
        reference_size: rows and columns of the window that coordinates are scaled to; 0 on an axis
            for the window's own.
    """

    logit_scale: Tensor
    up: LinearParameters
    down: Tensor
    reference_size: tuple[int, int] = (0, 0)


def reference_of(window_size: tuple[int, int], reference_size: tuple[int, int]) -> tuple[int, int]:
    """The window that coordinates are scaled to: the own size on an axis where 0 is given."""
    rows, columns = zip(reference_size, window_size, strict=True)
    return rows[0] or rows[1], columns[0] or columns[1]


def logit_factors(logit_scale: Tensor) -> Tensor:
    """Factors of cosines (heads,), of their logarithms (heads, 1, 1)."""
    return logit_scale.clamp(max=math.log(MAX_LOGIT_SCALE)).exp().flatten()


def position_bias(scores: CosineScores, window_size: tuple[int, int]) -> Tensor:
    """Bias table ((2 M_h - 1) (2 M_w - 1), heads) of a window, by plain operators: Swin Transformer
    V2, section 3.3."""
    up = scores.up
    reference = reference_of(window_size, scores.reference_size)
    with full_precision(up.weight.device):
        offsets = log_spaced_offsets(window_size, reference, up.weight.device, up.weight.dtype)
        hidden = torch.relu(torch.nn.functional.linear(offsets, *up))
        return HIGHEST_BIAS * torch.sigmoid(torch.nn.functional.linear(hidden, scores.down))


def full_precision(device: torch.device) -> AbstractContextManager:
    """Within, nothing is cast: rounding a few hundred rows to half precision would save nothing."""
    kind = device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)
