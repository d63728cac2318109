"""Patch merging of V1 in all libraries, on a GPU: neighbours, norm and projection in one step.

All have a norm of 4 C channels and a projection without bias. The four neighbours of a token come
one after the other, columns first, or channel by channel, as ``nn.Unfold`` has them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from ...model.plain_modules import is_bare, norm_parameters
from ...ops import merge_norm_linear
from ...ops.torch_internals.module_contents import children
from ..rewrite import Rewrite, Undo, replace_methods
from .block_rewrite import NAME, is_usual_call
from .halves import linear
from .on_gpu import on_gpu
from .same_results import why_different, why_sharded


def finds(module: nn.Module) -> bool:
    own = children(module)
    if "PatchMerging" not in type(module).__name__ or not {"norm", "reduction"} <= own.keys():
        return False
    if type(module).__module__.startswith("swin_backbone."):
        return False
    norm, layer = own["norm"], own["reduction"]
    of_v1 = isinstance(norm, nn.LayerNorm) and isinstance(layer, nn.Linear)
    return of_v1 and norm.normalized_shape == (layer.in_features,)


def why_not(merging: nn.Module) -> str | None:
    if "forward" in merging.__dict__:
        return "its forward was replaced"
    reason = why_sharded(merging)
    if reason is not None:
        return reason
    own = children(merging)
    if norm_parameters(own["norm"]) is None or not is_bare(own["reduction"], nn.Linear):
        return "its norm or projection is more than torch's, or watched"
    if own["reduction"].bias is not None or own["reduction"].in_features % 4:
        return "its projection has a bias"
    return why_different(merging, merge, calls)


def apply(merging: nn.Module) -> Undo:
    return replace_methods(merging, {"forward": forward})


def forward(merging: nn.Module, x: Tensor, *size, **named):
    """The module's own ``forward``: a map (B, H, W, C), or tokens (B, H * W, C) and their size."""
    if not is_usual_call(merging, x, x.dim()) or not on_gpu(x):
        return type(merging).forward(merging, x, *size, **named)
    return merge(merging, x, *size, **named)


def merge(merging: nn.Module, x: Tensor, *size, **named):
    """:func:`forward` by our operation, on any device."""
    own = children(merging)
    norm, layer = norm_parameters(own["norm"]), linear(own["reduction"])
    rows, columns = _size(merging, x, (*size, *named.values()))
    if norm is None or layer is None or (x.dim() == 3 and x.shape[1] != rows * columns):
        return type(merging).forward(merging, x, *size, **named)
    by_channel = "sampler" in own
    x_map = x.reshape(-1, rows, columns, x.shape[-1])
    merged = merge_norm_linear(x_map, norm, layer.weight, by_column=not by_channel)
    if x.dim() == 4:
        return merged
    tokens = merged.flatten(1, 2)
    return (tokens, tuple(merged.shape[1:3])) if by_channel else tokens


def _size(merging: nn.Module, x: Tensor, given: tuple) -> tuple[int, int]:
    """Rows and columns of the map, as one pair, as two numbers, or as the module knows them."""
    if x.dim() == 4:
        return x.shape[1], x.shape[2]
    if len(given) == 1:
        (given,) = given
    return tuple(given or merging.input_resolution)


def calls(merging: nn.Module, random: Callable[..., Tensor]) -> list[tuple[tuple, dict]]:
    """Whichever the module takes; sides are odd, unless it knows them."""
    width = merging.reduction.in_features // 4
    arguments = inspect.unwrap(type(merging).forward).__code__.co_argcount
    tokens = random(2, 35, width)
    if arguments > 2:
        return [((tokens, (5, 7)), {}) if arguments == 3 else ((tokens, 5, 7), {})]
    if not hasattr(merging, "input_resolution"):
        odd = tokens.unflatten(1, (5, 7))
        return [((odd if _takes(merging, odd) else random(2, 4, 6, width),), {})]
    rows, columns = merging.input_resolution
    return [((random(2, rows * columns, width),), {})]


def _takes(merging: nn.Module, x: Tensor) -> bool:
    """Whether a module takes a map; timm's before 1.0 takes those of even sides alone."""
    try:
        type(merging).forward(merging, x)
    except AssertionError:
        return False
    return True


REWRITE = Rewrite(NAME, "patch merging in one step, on a GPU", finds, why_not, apply)
