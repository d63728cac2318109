"""Layers named in a config (``norm_cfg``, ``act_cfg``): ours to make, or the registry's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..framework import framework
from ..ops.argument_checks import POSITIVE, Flag, Kind, show

#: What torch's layer norm takes beside the channels.
LAYER_NORM_OPTIONS: dict[str, Kind] = {
    "eps": POSITIVE,
    "elementwise_affine": Flag(),
    "bias": Flag(),
}


def norm_factory(norm_cfg: Mapping, channels: int) -> Callable[[int], nn.Module]:
    """A function from channels to norm layer.

    Args:
        norm_cfg: ``dict(type='LN', eps=..., requires_grad=...)`` or another type that norms
            the last axis: a class, or with mmengine a name that is registered in its ``MODELS``.
        channels: of tokens on which the layer is tried.

    Raises:
        ValueError: if there is no ``type``, it is unknown, or the layer does not norm each token
            by itself.
        TypeError: if an option is unknown or of the wrong kind.
    """
    options = dict(norm_cfg)
    requires_grad = Flag()("norm_cfg['requires_grad']", options.pop("requires_grad", True))
    layer = _layer_class("norm_cfg", options, {"LN": nn.LayerNorm})
    if layer is nn.LayerNorm:
        for name, value in options.items():
            if name not in LAYER_NORM_OPTIONS:
                known = ", ".join(map(repr, LAYER_NORM_OPTIONS))
                raise TypeError(f"norm_cfg of type 'LN' takes {known}; got {name!r}")
            options[name] = LAYER_NORM_OPTIONS[name](f"norm_cfg[{name!r}]", value)

    def make(channels: int) -> nn.Module:
        norm = layer(channels, **options)
        norm.requires_grad_(requires_grad)
        return norm

    wanted = "norms each token's channels, the last axis, as 'LN' does"
    for tried in (channels, 2 * channels):  # of the first two stages
        _try_on_tokens("norm_cfg", norm_cfg, lambda tried=tried: make(tried), tried, True, wanted)
    return make


def act_factory(act_cfg: Mapping, channels: int) -> Callable[[], nn.Module]:
    """A function that makes an activation layer, from ``dict(type='GELU', ...)``.

    Args:
        act_cfg: the layer's ``type`` and options.
        channels: of tokens on which the layer is tried.

    Raises:
        ValueError: if there is no ``type``, it is unknown, or the layer does not act on each token
            by itself.
        TypeError: if the layer cannot be made from the options.
    """
    options = dict(act_cfg)
    layer = _layer_class("act_cfg", options, {"GELU": nn.GELU, "ReLU": nn.ReLU})

    def make() -> nn.Module:
        return layer(**options)

    # In evaluation: some activations draw random numbers in training.
    wanted = "acts on each token by itself, as 'GELU' does"
    _try_on_tokens("act_cfg", act_cfg, make, channels, False, wanted)
    return make


def _layer_class(argument: str, options: dict, ours: Mapping[str, type]) -> Callable:
    """Take ``type`` out of ``options`` and look it up."""
    name = options.pop("type", None)
    layer = name
    if isinstance(name, str):
        layer = ours.get(name) or framework().find_layer(name)
    if not callable(layer):
        raise ValueError(
            f"{argument} must name a layer in 'type': one of {list(ours)} or "
            f"{framework().other_layers}, got {show(name)}"
        )
    return layer


def _try_on_tokens(
    argument: str,
    config: Mapping,
    make: Callable[[], nn.Module],
    channels: int,
    training: bool,
    wanted: str,
) -> None:
    """Raise unless the layer gives each token (of the last axis) what it gives it alone.

    Any class may be registered under any name; what it computes is all that counts. A batch norm
    mixes images, and what norms the second axis would take rows of a map for its channels.
    """
    got = f"got {argument}={show(dict(config))}"
    with (
        torch.device("cpu"),
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            layer = make()
        except Exception as error:  # whatever a stranger's class raises
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{argument} must be what makes its layer, {got}: {error}") from error
        if not isinstance(layer, nn.Module):
            raise ValueError(f"{argument} must name a module in 'type', {got}")
        tokens = torch.randn(2, 3, 5, channels)
        if not all(x.is_cpu and type(x) in (Tensor, nn.Parameter) for x in layer.parameters()):
            return  # made without memory, to be filled later
        reason = _why_not_on_tokens(layer.train(training), tokens)
    if reason is not None:
        raise ValueError(f"{argument} must name a layer that {wanted}, {got}, which {reason}")


def _why_not_on_tokens(layer: nn.Module, tokens: Tensor) -> str | None:
    """Why a map, a list of its tokens and single tokens are not treated alike, or ``None``."""
    rows = tokens.view(-1, tokens.shape[-1])
    try:
        whole, listed = layer(tokens.clone()), layer(rows.clone())  # some layers act in place
        few = torch.cat([layer(rows[i : i + 1].clone()) for i in range(3)])
        same = whole.shape == tokens.shape and torch.allclose(
            torch.cat([whole.view(rows.shape)[:3], listed]),
            torch.cat([few, whole.view(rows.shape)]),
            rtol=0.02,  # whatever the default dtype is
            atol=0.02,
        )
    except Exception as error:  # whatever a stranger's class raises
        return f"does not take tokens: {' '.join(str(error).split())[:200]}"
    return None if same else "mixes tokens, gives another shape, or no finite numbers"
