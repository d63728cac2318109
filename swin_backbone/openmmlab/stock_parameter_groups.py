"""Groups of an optimizer that are those of the same run with ``SwinTransformer``.

Optimizers keep their state by group and by position, so a run goes on with another backbone only
if its groups are the same ones. mmengine's constructors form them from two things that differ
here: they leave out parameters that need no gradient, and mmseg freezes stages only after the
optimizer is built; and they look for ``custom_keys`` in the parameters' names.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..checkpoints.layouts import EXPORTS
from ..model.backbone import SwinBackbone
from ..ops.torch_internals.class_names import unwrapped_name

#: Parameters that some backbones have and others have not; configs name them all the same.
OPTIONAL = ("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp")
_MARK = "_swin_backbone"


def install_stock_groups() -> None:
    """Have mmengine's constructors, and all that inherit from them, form stock groups.

    Models without a ``SwinBackbone`` are not concerned. Idempotent.
    """
    build = DefaultOptimWrapperConstructor.__call__
    if not hasattr(build, _MARK):
        DefaultOptimWrapperConstructor.__call__ = _with_stock_groups(build)


def _with_stock_groups(build: Callable) -> Callable:
    @functools.wraps(build)
    def call(self, model: nn.Module):
        with _trainable(model), _mmseg_keys(self, getattr(model, "module", model)):
            return build(self, model)

    setattr(call, _MARK, True)
    return call


@contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    """What ``frozen_stages`` freezes needs gradients for as long as groups are formed."""
    frozen = [
        parameter
        for backbone in _backbones(model).values()
        for parameter in backbone.frozen_parameters()
        if not parameter.requires_grad
    ]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _mmseg_keys(constructor: DefaultOptimWrapperConstructor, model: nn.Module) -> Iterator[None]:
    """``custom_keys`` find parameters by their names in mmseg (``w_msa``, ``ffn``) too."""
    given = constructor.paramwise_cfg
    backbones = _backbones(model)
    keys = (given or {}).get("custom_keys")
    if backbones and keys:
        aliases = _mmseg_names(backbones)
        _warn_of_idle_keys(keys, model, aliases)
        constructor.paramwise_cfg = {**given, "custom_keys": with_aliases(keys, aliases)}
    try:
        yield
    finally:
        constructor.paramwise_cfg = given


def with_aliases(keys: Mapping[str, dict], aliases: Mapping[str, str]) -> dict[str, dict]:
    """Settings by part of a name, with one more entry for each name that only its alias matches.

    Args:
        keys: mmengine's ``custom_keys``: of those that are part of a name, the longest counts, and
            of equally long ones the first in the alphabet.
        aliases: another name of each parameter, by its name.
    """
    order = sorted(sorted(keys), key=len, reverse=True)
    more = {}
    for name, alias in aliases.items():
        own = _first(order, [name])
        either = _first(order, [name, alias])
        if either != own:
            more[name] = keys[either]
    return {**keys, **more}


def _first(keys: Sequence[str], names: Sequence[str]) -> str | None:
    return next((key for key in keys if any(key in name for name in names)), None)


def _warn_of_idle_keys(keys: Mapping, model: nn.Module, aliases: Mapping[str, str]) -> None:
    names = [f".{name}" for name, _ in model.named_parameters()] + list(aliases.values())
    for key in keys:
        if _first(OPTIONAL, [key]) is None and _first([key], names) is None:
            print_log(
                f"paramwise_cfg.custom_keys: {key!r} is part of no parameter's name, so its "
                f"settings have no effect",
                "current",
                logging.WARNING,
            )


def _backbones(model: nn.Module) -> dict[str, nn.Module]:
    return {n: module for n, module in model.named_modules() if isinstance(module, SwinBackbone)}


def _mmseg_names(backbones: Mapping[str, nn.Module]) -> dict[str, str]:
    """mmseg's name (V2: mmpretrain's) of each parameter of the blocks that it calls otherwise."""
    aliases = {}
    for prefix, backbone in backbones.items():
        names = EXPORTS["mmpretrain", backbone.version].names[backbone.version]
        for name, _ in backbone.named_parameters():
            plain = unwrapped_name(name)
            theirs = names.to_theirs(plain)
            if theirs not in (None, plain) and ".blocks." in name:
                aliases[f"{prefix}.{name}".lstrip(".")] = f"{prefix}.{theirs}".lstrip(".")
    return aliases
