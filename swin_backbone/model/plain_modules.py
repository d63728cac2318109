"""When a layer computes what its class says, and nothing else: its parameters then stand for it.

Fast ways compute with parameters, and call no module. So whatever puts something else in the place
of a module's call has to be seen here, and only here: another class (an adapter, a parametrisation,
a quantised layer), hooks of a module or of all modules, a ``forward`` of an instance's own, tensors
that are more than tensors. Where anything does, these functions return ``None`` (or ``False``), and
the caller calls its modules.

All is looked up at every call, so that whatever puts other tensors in the parameters' places
(loading, sharding, conversions) is seen too, and past ``nn.Module.__getattr__``, which takes ten
times as long: a backbone has hundreds.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import LinearParameters, NormParameters
from ..ops.torch_internals.module_contents import is_bare, is_itself, parameters

__all__ = [
    "is_bare",
    "is_idle",
    "is_itself",
    "is_plain",
    "linear_parameters",
    "norm_parameters",
    "own_tensor",
    "patch_parameters",
    "why_not_bare",
]

PLAIN = frozenset((nn.Parameter, Tensor, type(None)))


def why_not_bare(module: nn.Module, kind: type[nn.Module]) -> str | None:
    """What :func:`is_bare` sees, as text; ``None`` where it says yes."""
    if type(module) is not kind:
        return f"is a {type(module).__name__}, not a {kind.__name__}"
    if not is_itself(module, kind):
        return "has hooks or a forward of its own"
    return None if is_bare(module, kind) else "is called with hooks of all modules"


def is_plain(tensor: Tensor | None) -> bool:
    """Whether this is a tensor (or none) and no more, which shards and quantised ones are."""
    return type(tensor) in PLAIN


def own_tensor(module: nn.Module, name: str) -> Tensor | None:
    """A module's parameter, wherever it is kept: replicas, flat shards and parametrised modules
    have it as an attribute; ``None`` if there is none."""
    own = parameters(module)
    return own[name] if name in own else getattr(module, name, None)


def is_idle(dropout: nn.Module) -> bool:
    """Whether a dropout lets everything through."""
    if is_bare(dropout, nn.Dropout):
        return not (dropout.training and dropout.p > 0.0)
    return is_bare(dropout, nn.Identity)


def linear_parameters(
    layer: nn.Module, kind: type[nn.Module] = nn.Linear
) -> LinearParameters | None:
    """Of torch's linear layer, or one of a class that computes the same."""
    if not is_bare(layer, kind):
        return None
    return _plain(layer)


def norm_parameters(norm: nn.Module) -> NormParameters | None:
    """Of torch's layer norm over one axis, with weight and bias."""
    if not is_bare(norm, nn.LayerNorm):
        return None
    own = _plain(norm)
    if own is None or own[0] is None or own[1] is None or len(norm.normalized_shape) != 1:
        return None
    return NormParameters(*own, norm.eps)


def patch_parameters(layer: nn.Module, patch: tuple[int, int]) -> LinearParameters | None:
    """Of torch's convolution whose kernel and stride are ``patch``: (C, channels, *patch), (C,)."""
    if not is_bare(layer, nn.Conv2d):
        return None
    usual = layer.kernel_size == layer.stride == patch and layer.padding == (0, 0)
    usual = usual and layer.dilation == (1, 1) and layer.groups == 1
    return _plain(layer) if usual else None


def _plain(layer: nn.Module) -> LinearParameters | None:
    """Weight and bias of a layer, if they are plain."""
    own = parameters(layer)
    if "weight" in own and "bias" in own:
        weight, bias = own["weight"], own["bias"]
    else:  # replicas and flat shards keep them there
        weight, bias = layer.weight, layer.bias
    return LinearParameters(weight, bias) if is_plain(weight) and is_plain(bias) else None
