"""Layers named in a config (``norm_cfg``, ``act_cfg``): ours to make, or the registry's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mmengine.registry import MODELS
from torch import nn


def norm_factory(norm_cfg: Mapping) -> Callable[[int], nn.Module]:
    """A function from channels to norm layer.

    Args:
        norm_cfg: ``dict(type='LN', eps=..., requires_grad=...)`` or another type that is
            registered in mmengine's ``MODELS`` and norms the last axis.

    Raises:
        ValueError: if there is no ``type``, or it is unknown.
    """
    options = dict(norm_cfg)
    requires_grad = options.pop("requires_grad", True)
    layer = _layer_class("norm_cfg", options, {"LN": nn.LayerNorm})

    def make(channels: int) -> nn.Module:
        norm = layer(channels, **options)
        norm.requires_grad_(requires_grad)
        return norm

    return make


def act_factory(act_cfg: Mapping) -> Callable[[], nn.Module]:
    """A function that makes an activation layer, from ``dict(type='GELU', ...)``.

    Raises:
        ValueError: if there is no ``type``, or it is unknown.
    """
    options = dict(act_cfg)
    layer = _layer_class("act_cfg", options, {"GELU": nn.GELU, "ReLU": nn.ReLU})
    return lambda: layer(**options)


def _layer_class(argument: str, options: dict, ours: Mapping[str, type]) -> type:
    """Take ``type`` out of ``options`` and look it up."""
    name = options.pop("type", None)
    layer = ours.get(name) or (MODELS.get(name) if isinstance(name, str) else name)
    if layer is None:
        raise ValueError(
            f"{argument} must name a layer in 'type': one of {list(ours)} or one registered in "
            f"mmengine's MODELS, got {name!r}"
        )
    return layer
