"""Attention in mmcv's ``MultiheadAttention`` without its weights, which mmcv throws away.

torch's module returns the mean of all heads' weights unless it is told not to, and then has to make
and keep them; without, its fused attention runs.
"""

from __future__ import annotations

from torch import Tensor, nn

from .rewrite import Rewrite, Undo, imported, is_of, own_method, replace_methods


def _stock() -> type | None:
    return imported("mmcv.cnn.bricks.transformer", "MultiheadAttention")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(module: nn.Module) -> str | None:
    reason = own_method(module, "forward", _stock())
    if reason is None and type(module.attn) is not nn.MultiheadAttention:
        reason = f"its attn is a {type(module.attn).__name__}"
    return reason or own_method(module.attn, "forward", nn.MultiheadAttention)


def apply(module: nn.Module) -> Undo:
    return replace_methods(module.attn, {"forward": forward})


def forward(attention: nn.Module, *args, **kwargs) -> tuple[Tensor, Tensor | None]:
    """``nn.MultiheadAttention.forward``, as mmcv calls it."""
    if len(args) <= 4:  # need_weights is the fifth
        kwargs.setdefault("need_weights", False)
    return type(attention).forward(attention, *args, **kwargs)


REWRITE = Rewrite(
    "attention_weights", "attention without the weights that nobody reads", finds, why_not, apply
)
