"""Attention to a few points of several maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from . import dispatch, triton
from .argument_checks import check_choice, check_tensor, is_sequence, show, two_integers, unpacked
from .kept_tables import remembered_tables
from .reference.deformable_attention_reference import by_gathering, by_grid_sample

#: What computes it; see :func:`multi_scale_deformable_attention`.
DEFORMABLE_ATTENTION = ("auto", "reference", "torch", "triton")


def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]] | Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    impl: str = "auto",
) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, https://arxiv.org/abs/2010.04159,
    equation 3): each head of a query sums values at a few points of each level, bilinearly sampled
    and weighted. What lies outside of a map counts as zero.

    The function behind mmcv's ``MultiScaleDeformableAttention``, detectron2's and Deformable DETR's
    ``MSDeformAttn`` and transformers' classes of that name. Sums are float32 for 16-bit tensors,
    and locations are used as they are given.

    Gradients exist for all three; derivatives of gradients come from the definition. On a GPU the
    gradient of ``value`` is added up atomically, in float32, so that its last bits differ from run
    to run; under ``torch.use_deterministic_algorithms(True)`` it is not, and takes longer.

    Args:
        value: (B, keys, heads, channels), floating point; the maps of all levels, one after the
            other, each row by row.
        spatial_shapes: (levels, 2), rows and columns of each level. Of a tensor on a GPU the
            numbers are not looked at, since that would wait for it; values that are not there
            then count as zero.
        sampling_locations: (B, queries, heads, levels, points, 2), x and y, from 0 to 1 across a
            map's area; floating point, of any precision.
        attention_weights: (B, queries, heads, levels, points), floating point, of any precision.
        impl: ``'reference'``, plain PyTorch, which defines it; ``'torch'``, PyTorch's bilinear
            sampling; ``'triton'``, kernels; ``'auto'``, the fastest one that can run.

    Returns:
        (B, queries, heads * channels), in the dtype of ``value``.

    Raises:
        ValueError: for other shapes, shapes that do not add up to the keys, or an ``impl`` that
            there is not or that cannot run.
        TypeError: for other types and dtypes.
    """
    check(value, sampling_locations, attention_weights)
    pairs = _pairs(spatial_shapes, value.shape[1], sampling_locations.shape[3])
    way = _chosen(impl, value, sampling_locations, attention_weights)
    if way == "triton":
        shapes = spatial_shapes if pairs is None else shapes_on_device(pairs, value.device)
        return triton.deformable_attention_op.attention(
            value.contiguous(),
            shapes.contiguous(),
            sampling_locations.contiguous(),
            attention_weights.contiguous(),
        )
    if pairs is None:  # plain operators cut the maps out
        pairs = _pairs(spatial_shapes.cpu(), value.shape[1], sampling_locations.shape[3])
    run = by_grid_sample if way == "torch" else by_gathering
    return run(value, pairs, sampling_locations, attention_weights)


def multi_scale_deformable_attention_gradients(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`multi_scale_deformable_attention`, for who differentiates by hand.

    Args:
        grad_out: (B, queries, heads * channels), in the dtype of ``value``.
        value: as there, like all that follow.
        spatial_shapes: a tensor.

    Returns:
        For value, locations and weights, each in its dtype.
    """
    inputs = (value, sampling_locations, attention_weights)
    check(*inputs)
    if dispatch.deformable_attention(*inputs) == "triton":
        value, locations, weights = (x.contiguous() for x in inputs)
        return triton.deformable_attention_op.gradients(
            grad_out, value, spatial_shapes.contiguous(), locations, weights
        )
    with torch.enable_grad():
        value, locations, weights = (x.detach().requires_grad_() for x in inputs)
        out = multi_scale_deformable_attention(value, spatial_shapes, locations, weights)
    return torch.autograd.grad(out, (value, locations, weights), grad_out)


def check(value: Tensor, locations: Tensor, weights: Tensor) -> None:
    """Raise what :func:`multi_scale_deformable_attention` says of the tensors."""
    tensors = {
        "value": (value, 4, "(B, keys, heads, channels)"),
        "sampling_locations": (locations, 6, "(B, queries, heads, levels, points, 2)"),
        "attention_weights": (weights, 5, "(B, queries, heads, levels, points)"),
    }
    for name, (tensor, axes, words) in tensors.items():
        check_tensor(name, tensor)
        if tensor.dim() != axes:
            raise ValueError(f"{name} must be {words}, got {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.device != value.device:
            raise ValueError(
                f"{name} must lie on {value.device} as value does, not {tensor.device}"
            )
    batch, _, heads, channels = value.shape
    expected = (batch, locations.shape[1], heads, *locations.shape[3:5])
    if tuple(locations.shape) != (*expected, 2):
        raise ValueError(
            f"sampling_locations must be {(batch, 'queries', heads, 'levels', 'points', 2)} for "
            f"value {tuple(value.shape)}, got {tuple(locations.shape)}"
        )
    if tuple(weights.shape) != expected:
        raise ValueError(f"attention_weights must be {expected}, got {tuple(weights.shape)}")
    if 0 in (heads, channels, *locations.shape[3:5]):
        raise ValueError(
            "there must be a head, a channel, a level and a point, got value "
            f"{tuple(value.shape)} and sampling_locations {tuple(locations.shape)}"
        )


def _pairs(shapes, keys: int, levels: int) -> tuple[tuple[int, int], ...] | None:
    """``spatial_shapes`` as numbers, checked; ``None`` if they lie on a GPU."""
    words = f"spatial_shapes must be rows and columns of {levels} levels"
    if isinstance(shapes, Tensor):
        if shapes.is_floating_point() or shapes.is_complex() or shapes.dtype == torch.bool:
            raise TypeError(f"{words}, integers, got {shapes.dtype}")
        if tuple(shapes.shape) != (levels, 2):
            raise ValueError(f"{words}, got a tensor of shape {tuple(shapes.shape)}")
        if shapes.device.type != "cpu" or torch.compiler.is_compiling():
            return None
        shapes = shapes.tolist()
    plain = isinstance(shapes, list | tuple) and all(
        isinstance(pair, list | tuple) and all(type(n) is int for n in pair) for pair in shapes
    )
    if plain:
        check = _numbers if torch.compiler.is_compiling() else _remembered_pairs
        return check(tuple(map(tuple, shapes)), keys, levels)
    return _numbers(shapes, keys, levels)


def _numbers(shapes, keys: int, levels: int) -> tuple[tuple[int, int], ...]:
    """Checked pairs of what is no tensor."""
    words = f"spatial_shapes must be rows and columns of {levels} levels"
    shapes = unpacked(shapes)
    if not is_sequence(shapes):
        raise TypeError(f"{words}, got {show(shapes)}")
    if len(shapes) != levels:
        raise ValueError(f"{words}, got {len(shapes)}")
    for pair in shapes:
        two_integers("each of spatial_shapes", unpacked(pair), 1)
    total = sum(height * width for height, width in shapes)
    if total != keys:
        raise ValueError(f"spatial_shapes must add up to the {keys} keys of value, got {total}")
    return tuple((height, width) for height, width in shapes)


#: A model asks for the same sizes in each layer.
_remembered_pairs = lru_cache(maxsize=256)(_numbers)


def _chosen(impl: str, value: Tensor, locations: Tensor, weights: Tensor) -> str:
    check_choice("impl", impl, DEFORMABLE_ATTENTION)
    if impl == "auto":
        return dispatch.deformable_attention(value, locations, weights)
    if impl == "triton":
        reason = dispatch.why_not_points(value, locations, weights)
        if reason is not None:
            raise ValueError(f"impl 'triton' cannot run: {reason}")
    return impl


def shapes_on_device(pairs: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """(levels, 2) int64. Remembered: a copy to a GPU waits for it."""
    if torch.compiler.is_compiling():
        return torch.tensor(pairs, device=device)
    return _remembered_on_device(pairs, device)


@remembered_tables
def _remembered_on_device(pairs: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(pairs, device=device)
