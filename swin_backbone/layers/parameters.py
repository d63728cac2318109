"""Parameters of layers, read for operations that compute what the layers would.

They are read at every call, so that whatever puts other tensors in their places (loading, sharding,
conversions) is seen, and past ``nn.Module.__getattr__``, which takes ten times as long: a backbone
has hundreds.
"""

from __future__ import annotations

from torch import nn

from ..ops import LinearParameters, NormParameters


def linear_parameters(layer: nn.Module) -> LinearParameters | None:
    """Of torch's linear layer; ``None`` for any other module, which may compute something else."""
    if not is_bare(layer, nn.Linear):
        return None
    own = layer._parameters
    if "weight" in own and "bias" in own:
        return LinearParameters(own["weight"], own["bias"])
    return LinearParameters(layer.weight, layer.bias)  # replicas and flat shards keep them there


def norm_parameters(norm: nn.Module) -> NormParameters | None:
    """Of torch's layer norm with weight and bias; ``None`` for any other module."""
    if not is_bare(norm, nn.LayerNorm):
        return None
    own = norm._parameters
    if "weight" in own and "bias" in own:
        weight, bias = own["weight"], own["bias"]
    else:
        weight, bias = norm.weight, norm.bias
    return None if weight is None or bias is None else NormParameters(weight, bias, norm.eps)


def is_bare(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``module`` computes what ``kind`` says: it is no variant, and has no hooks."""
    return type(module) is kind and not (module._forward_pre_hooks or module._forward_hooks)
