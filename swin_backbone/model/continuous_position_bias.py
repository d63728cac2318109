"""The small network that computes relative position bias for a window of any size."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..ops import log_spaced_offsets


class ContinuousPositionBias(nn.Sequential):
    """Log-spaced continuous relative position bias (Swin Transformer V2, section 3.3).

    Two linear layers from a pair of relative coordinates to one number a head; the bias is 16
    times its sigmoid, as in the original's code.

    Args:
        num_heads: number of heads.
        hidden_dims: channels between the layers.
    """

    def __init__(self, num_heads: int, hidden_dims: int = 512):
        super().__init__(
            nn.Linear(2, hidden_dims), nn.ReLU(), nn.Linear(hidden_dims, num_heads, bias=False)
        )

    def forward(
        self, window_size: tuple[int, int], pretrained_window_size: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """Bias table of a window.

        Args:
            window_size: rows M_h and columns M_w of the window, in tokens.
            pretrained_window_size: the window to which the coordinates are scaled; 0 on an axis
                for the window's own size.

        Returns:
            ((2 M_h - 1) (2 M_w - 1), heads), in the parameters' dtype.
        """
        reference = tuple(
            pretrained or own
            for pretrained, own in zip(pretrained_window_size, window_size, strict=True)
        )
        weight = self._like()
        # A few hundred rows: rounding them to half precision would save nothing.
        kind = weight.device.type
        with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
            offsets = log_spaced_offsets(window_size, reference, weight.device, weight.dtype)
            return 16 * torch.sigmoid(super().forward(offsets))

    def _like(self) -> Tensor:
        """A tensor of the device and dtype of the coordinates."""
        weight = getattr(self[0], "weight", None)
        if isinstance(weight, Tensor):
            return weight
        return next(self.parameters(), torch.empty(0))  # quantised layers have none, on the CPU
