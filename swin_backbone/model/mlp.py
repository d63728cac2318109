"""The two-layer MLP of a block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..ops.torch_internals.module_contents import children
from .plain_modules import is_bare, is_idle


class Mlp(nn.Module):
    """Linear, activation, linear, each followed by dropout.

    Args:
        embed_dims: channels in and out.
        hidden_dims: channels between.
        act_layer: makes the activation.
        drop_rate: probability of dropping an element.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden_dims: int,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)

    def is_plain(self) -> bool:
        """Whether there is nothing between the linear layers but GELU, not approximated."""
        own = children(self)
        act = own["act"]
        exact = is_bare(act, nn.GELU) and act.approximate == "none"
        return exact and is_idle(own["drop"])

    def forward(self, x: Tensor) -> Tensor:
        """(..., embed_dims) to the same shape."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
