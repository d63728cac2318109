"""Multi-scale deformable attention by one operator, whosever module it is in.

The libraries that have it share their projections and differ in what they call for the sampling in
between: a function of PyTorch's ``grid_sample``, an autograd function around compiled code, or a
module without parameters. Each has a stand-in here under its name. The module's own ``forward``
runs, with these in place of what it would call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType

import torch
from torch import Tensor, nn

from .. import ops
from .rewrite import Rewrite, Undo, imported, inside_decorators, replace_methods, with_globals

#: Where mmcv's module is.
MMCV, MMCVS = "mmcv.ops.multi_scale_deform_attn", "MultiScaleDeformableAttention"
#: What a module without parameters is given that does the sampling alone (transformers).
SAMPLING = (
    "self",
    "value",
    "value_spatial_shapes",
    "value_spatial_shapes_list",
    "level_start_index",
    "sampling_locations",
    "attention_weights",
    "im2col_step",
)


def _of_a_function(stock: Callable) -> Callable:
    """For mmcv's, detectron2's and transformers' functions of PyTorch's own sampling."""

    def sample(value: Tensor, shapes, locations: Tensor, weights: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            return stock(value, shapes, locations, weights)
        return ops.multi_scale_deformable_attention(value, shapes, locations, weights)

    return sample


def _of_an_autograd_function(stock: type) -> type:
    """For mmcv's and detectron2's functions around compiled code."""

    class Sampling:
        @staticmethod
        def apply(value, shapes, level_start_index, locations, weights, im2col_step) -> Tensor:
            return ops.multi_scale_deformable_attention(value, shapes, locations, weights)

    return Sampling


#: By the names that modules call: what makes a stand-in for what has the name.
STAND_INS: dict[str, Callable] = {
    "MultiScaleDeformableAttnFunction": _of_an_autograd_function,  # mmcv
    "multi_scale_deformable_attn_pytorch": _of_a_function,
    "MSDeformAttnFunction": _of_an_autograd_function,  # Deformable DETR, detectron2's models
    "ms_deform_attn_core_pytorch": _of_a_function,
    "multi_scale_deformable_attention": _of_a_function,  # transformers' Mask2Former, OneFormer
}
#: The same, with a number of points of each level's own.
UNEVEN = "multi_scale_deformable_attention_v2"


def _called(module: nn.Module) -> set[str]:
    """Names of the sampling that a module's ``forward`` calls."""
    forward = inspect.unwrap(type(module).forward)
    if not isinstance(forward, FunctionType):
        return set()
    known = {*STAND_INS, UNEVEN} & set(forward.__code__.co_names)
    return {name for name in known if name in forward.__globals__}


def _is_sampling(module: nn.Module) -> bool:
    forward = inspect.unwrap(type(module).forward)
    code = getattr(forward, "__code__", None)
    return code is not None and code.co_varnames[: code.co_argcount] == SAMPLING


def finds(module: nn.Module) -> bool:
    if _is_sampling(module) or _called(module):
        return True
    # D-FINE's modules keep the function as an attribute.
    return getattr(module.__dict__.get("ms_deformable_attn_core"), "__name__", "") == UNEVEN


def why_not(module: nn.Module) -> str | None:
    if "forward" in module.__dict__:
        return "its forward was replaced"
    if not (_is_sampling(module) or _called(module) - {UNEVEN}):
        return "its levels have different numbers of points, or take the nearest value"
    return None


def apply(module: nn.Module) -> Undo:
    if _is_sampling(module):
        return replace_methods(module, {"forward": sample})
    names = _called(module) - {UNEVEN}
    if type(module).forward is getattr(imported(MMCV, MMCVS), "forward", None):
        return replace_methods(module, {"forward": mmcv_forward})
    return replace_methods(module, {"forward": _with_stand_ins(type(module).forward, names)})


def sample(
    module: nn.Module,
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_spatial_shapes_list: list[tuple[int, int]],
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """``MultiScaleDeformableAttention.forward`` of transformers."""
    if torch.jit.is_tracing():
        return type(module).forward(
            module, value, value_spatial_shapes, value_spatial_shapes_list, level_start_index,
            sampling_locations, attention_weights, im2col_step,
        )  # fmt: skip
    return ops.multi_scale_deformable_attention(
        value, value_spatial_shapes_list, sampling_locations, attention_weights
    )


def mmcv_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    identity: Tensor | None = None,
    query_pos: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    reference_points: Tensor | None = None,
    spatial_shapes: Tensor | None = None,
    level_start_index: Tensor | None = None,
    **kwargs,
) -> Tensor:
    """``MultiScaleDeformableAttention.forward`` of mmcv, which asserts that shapes fit the values:
    on a GPU a wait for it in each layer."""
    if torch.jit.is_tracing() or "residual" in kwargs:
        forward = _with_stand_ins(type(module).forward, _called(module) - {UNEVEN})
        given = {} if identity is None else {"identity": identity}
        return forward(
            module, query, key=key, value=value, query_pos=query_pos,
            key_padding_mask=key_padding_mask, reference_points=reference_points,
            spatial_shapes=spatial_shapes, level_start_index=level_start_index, **given, **kwargs,
        )  # fmt: skip
    value = query if value is None else value
    identity = query if identity is None else identity
    query = query if query_pos is None else query + query_pos
    if not module.batch_first:
        query, value = query.transpose(0, 1), value.transpose(0, 1)
    value = module.value_proj(value)
    if key_padding_mask is not None:
        value = value.masked_fill(key_padding_mask[..., None], 0.0)
    value = value.unflatten(-1, (module.num_heads, -1))
    count = (module.num_heads, module.num_levels, module.num_points)
    offsets = module.sampling_offsets(query).unflatten(-1, (*count, 2))
    weights = module.attention_weights(query).unflatten(-1, (module.num_heads, -1)).softmax(-1)
    reference = reference_points[:, :, None, :, None]
    if reference.shape[-1] == 2:
        locations = reference + offsets / spatial_shapes.flip(-1)[:, None]
    elif reference.shape[-1] == 4:
        corner, sides = reference.split(2, -1)
        locations = corner + offsets / module.num_points * sides * 0.5
    else:
        raise ValueError(f"reference_points must end in 2 or 4 numbers, got {reference.shape[-1]}")
    out = ops.multi_scale_deformable_attention(
        value, spatial_shapes, locations, weights.unflatten(-1, count[1:])
    )
    out = module.output_proj(out)
    out = out if module.batch_first else out.transpose(0, 1)
    return module.dropout(out) + identity


def _with_stand_ins(function: FunctionType, names: set[str]) -> FunctionType:
    """The same function, which calls stand-ins, with the decorators around it."""

    def change(inner: FunctionType) -> FunctionType:
        found = {name: STAND_INS[name](inner.__globals__[name]) for name in names}
        return with_globals(inner, **found)

    return inside_decorators(function, change)


REWRITE = Rewrite(
    "deformable_attention",
    "multi-scale deformable attention by one operator",
    finds,
    why_not,
    apply,
)
