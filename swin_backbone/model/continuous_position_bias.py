"""The small network that computes relative position bias for a window of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import LinearParameters, log_spaced_offsets, reference_of
from ..ops.position_bias import HIGHEST_BIAS, full_precision
from ..ops.torch_internals.module_contents import children
from .plain_modules import is_bare, linear_parameters


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
        reference = reference_of(window_size, pretrained_window_size)
        weight = self._like()
        with full_precision(weight.device):
            offsets = log_spaced_offsets(window_size, reference, weight.device, weight.dtype)
            return HIGHEST_BIAS * torch.sigmoid(super().forward(offsets))

    def plain_layers(self) -> tuple[LinearParameters, Tensor] | None:
        """Parameters of the first layer and weight of the second; ``None`` if calls of the modules
        may do more than compute with them."""
        if not is_bare(self, ContinuousPositionBias) or len(own := children(self)) != 3:
            return None
        up, act, down = own.values()
        up, down = linear_parameters(up), linear_parameters(down)
        if up is None or down is None or not is_bare(act, nn.ReLU):
            return None
        if up.bias is None or down.bias is not None:
            return None
        return up, down.weight

    def _like(self) -> Tensor:
        """A tensor of the device and dtype of the coordinates."""
        weight = getattr(self[0], "weight", None)
        if isinstance(weight, Tensor):
            return weight
        # Quantised layers have none, on the CPU.
        return next(self.parameters(), torch.empty(0, device="cpu"))
