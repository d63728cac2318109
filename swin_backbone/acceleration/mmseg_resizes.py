"""Bilinear resizing of feature maps in mmseg's heads and necks, with a gradient that gathers.

mmseg's modules call one function, ``resize``. A module whose methods call it gets copies of these
methods that find :func:`resize` of this file under that name.
"""

from __future__ import annotations

from types import FunctionType

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import add_resized, concatenate_resized, resize_bilinear
from .mmseg_internals import chosen_inputs, method_of_features
from .rewrite import Rewrite, Undo, imported, replace_methods, with_globals

#: Methods that other rewrites replace: what they resize is scores, not feature maps.
NOT_FEATURES = ("loss_by_feat", "predict_by_feat")


def _stock_resize():
    return imported("mmseg.models.utils.wrappers", "resize")


def resize(
    input: Tensor,
    size=None,
    scale_factor=None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    warning: bool = True,
) -> Tensor:
    """mmseg's ``resize``; without its advice on sizes, which it has given for the stock model."""
    if mode == "bilinear" and size is not None and input.dim() == 4:
        return resize_bilinear(input, size, align_corners=bool(align_corners))
    return F.interpolate(input, size, scale_factor, mode, align_corners)


def _callers(module: nn.Module) -> dict[str, FunctionType]:
    """The methods of a module's class that call mmseg's ``resize``."""
    stock = _stock_resize()
    found: dict[str, FunctionType] = {}
    if stock is None:
        return found
    for kind in reversed(type(module).__mro__):
        for name, function in vars(kind).items():
            found.pop(name, None)  # a subclass's own comes instead
            if not isinstance(function, FunctionType) or name in NOT_FEATURES:
                continue
            calls = "resize" in function.__code__.co_names
            if calls and function.__globals__.get("resize") is stock:
                found[name] = function
    return found


def finds(module: nn.Module) -> bool:
    return bool(_callers(module))


def why_not(module: nn.Module) -> str | None:
    replaced = [name for name in _callers(module) if name in module.__dict__]
    return f"its {', '.join(replaced)} was replaced" if replaced else None


def apply(module: nn.Module) -> Undo:
    stock = imported("mmseg.models.decode_heads.uper_head", "UPerHead")
    of_upernet = method_of_features(stock)
    methods = {
        name: upernet_features if function is of_upernet else with_globals(function, resize=resize)
        for name, function in _callers(module).items()
    }
    return replace_methods(module, methods)


def upernet_features(head: nn.Module, inputs: list[Tensor]) -> Tensor:
    """``UPerHead._forward_feature``: the levels of the pyramid are resized to their places."""
    inputs = chosen_inputs(head, inputs)
    laterals = [conv(inputs[level]) for level, conv in enumerate(head.lateral_convs)]
    laterals.append(head.psp_forward(inputs))
    for level in range(len(laterals) - 1, 0, -1):
        below = laterals[level - 1]
        laterals[level - 1] = add_resized(below, laterals[level], align_corners=head.align_corners)
    levels = [conv(lateral) for conv, lateral in zip(head.fpn_convs, laterals, strict=False)]
    levels.append(laterals[-1])
    return head.fpn_bottleneck(
        concatenate_resized(levels, levels[0].shape[2:], align_corners=head.align_corners)
    )


REWRITE = Rewrite("resizes", "resizing whose gradient gathers", finds, why_not, apply)
