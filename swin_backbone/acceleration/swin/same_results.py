"""Whether a block computes what is to stand in its place: tried once for each kind of block.

Classes change from version to version, and copies are edited. So a copy of the block gets random
parameters, and runs both ways in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...model.plain_modules import is_plain
from ...ops.torch_internals.module_contents import children, parameters

#: Relative difference up to which results are the same: coordinates of V2 may be float32.
TOLERANCE = 1e-6

#: Arguments of a call, from a random map of (B, H, W, C) that a function makes.
Calls = Callable[[nn.Module, Callable[..., Tensor]], list[tuple[tuple, dict]]]

_FOUND: dict[tuple, str | None] = {}


def why_sharded(module: nn.Module) -> str | None:
    """Why a module cannot be tried, as its weights are in other processes, or ``None``.

    FSDP leaves its layers with parts of one flat tensor, ``fully_shard`` with distributed ones.
    """
    for layer in module.modules():
        if type(layer) in (nn.Linear, nn.LayerNorm):
            weight = parameters(layer).get("weight")
            is_norm = type(layer) is nn.LayerNorm
            whole = layer.normalized_shape if is_norm else (layer.out_features, layer.in_features)
            if weight is not None and not (is_plain(weight) and weight.shape == whole):
                return "its weights are sharded: accelerate first, and shard then"
    return None


def why_different(block: nn.Module, forward: Callable, calls: Calls) -> str | None:
    """Why ``forward`` does not compute what the class of ``block`` does, or ``None`` if it does.

    Args:
        block: any block; it is left as it is, and so are random numbers.
        forward: takes the block, and what its own ``forward`` takes.
        calls: examples of what a block is called with.
    """
    if any(p.is_meta for p in block.parameters()):  # whether or not its kind is known
        return "it cannot be tried on the meta device: accelerate when its weights are there"
    kind = _kind(block, forward)
    if kind not in _FOUND:
        reason = _try_both(block, forward, calls)
        if reason is not None and reason.startswith("it cannot"):
            return reason  # of this block, not of its kind
        _FOUND[kind] = reason
    return _FOUND[kind]


def _kind(block: nn.Module, forward: Callable) -> tuple:
    """What blocks have in common that compute the same with other numbers."""
    shifts = getattr(block, "shift_size", getattr(children(block).get("attn"), "shift_size", 0))
    shifted = any(shifts) if isinstance(shifts, list | tuple) else bool(shifts)
    kinds = [type(module) for module in block.modules()]
    return (forward, shifted, *kinds, *(kind.forward for kind in kinds))


def _try_both(block: nn.Module, forward: Callable, calls: Calls) -> str | None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator, device="cpu")

    try:
        ours = copy.deepcopy(block).double().cpu().eval()
        for module in ours.modules():
            module.__dict__.pop("forward", None)
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.add_(0.2 * random(*parameter.shape))
        examples = calls(ours, random)
        theirs = copy.deepcopy(ours)
    except Exception as error:
        return f"it cannot be tried: {type(error).__name__}: {error}"
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for arguments, options in examples:
            try:
                expected = type(theirs).forward(theirs, *arguments, **options)
                found = forward(ours, *arguments, **options)
            except Exception as error:
                return f"it cannot be tried: {type(error).__name__}: {error}"
            if not _equal(expected, found):
                return "its class computes something else"
    return None


def _equal(expected, found) -> bool:
    if isinstance(expected, tuple):
        same = isinstance(found, tuple) and len(found) == len(expected)
        return same and all(map(_equal, expected, found))
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
        return expected == found
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    return bool((expected - found).norm() <= TOLERANCE * expected.norm())
