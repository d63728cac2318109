"""Contents that libraries keep in other orders or other pieces, under our names."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops.geometry.windows import log_spaced_offsets, relative_position_index
from .layout import Tensors

_ATTENTION = re.compile(r"(stages\.(\d+)\.blocks\.\d+\.attn)\.proj\.weight")


class Windows(NamedTuple):
    """The windows of an exported model, for what can't be read off its parameters.

    Attributes:
        window_size: rows and columns, in tokens; ``None`` if not known.
        pretrained: per stage, the window that V2's coordinates are scaled to, (0, 0) for none.
    """

    window_size: tuple[int, int] | None = None
    pretrained: tuple[tuple[int, int], ...] = ()


def merging_to_ours(tensors: Tensors, version: str) -> Tensors:
    """From the original's order of merged channels to ours; inverse of :func:`merging_to_theirs`.

    The original concatenates the neighbours (0,0), (1,0), (0,1), (1,1), each with its C
    channels; ours keeps the four neighbours (0,0), (0,1), (1,0), (1,1) of a channel together.
    """
    return {
        key: _to_unfold_order(tensor) if _is_merged(key, tensor, version) else tensor
        for key, tensor in tensors.items()
    }


def merging_to_theirs(tensors: Tensors, version: str) -> Tensors:
    """From our order of merged channels to the original's."""
    return {
        key: _from_unfold_order(tensor) if _is_merged(key, tensor, version) else tensor
        for key, tensor in tensors.items()
    }


def _is_merged(key: str, tensor: Tensor, version: str) -> bool:
    """Whether the last axis is one of 4 C merged channels: V2's norm comes after the merging."""
    merged = ".downsample.reduction." in key or (".downsample.norm." in key and version == "v1")
    return merged and tensor.dim() > 0 and tensor.shape[-1] % 4 == 0


def _to_unfold_order(tensor: Tensor) -> Tensor:
    neighbours = tensor.unflatten(-1, (4, tensor.shape[-1] // 4))
    return neighbours[..., [0, 2, 1, 3], :].transpose(-2, -1).flatten(-2)


def _from_unfold_order(tensor: Tensor) -> Tensor:
    channels = tensor.unflatten(-1, (tensor.shape[-1] // 4, 4))
    return channels.transpose(-2, -1)[..., [0, 2, 1, 3], :].flatten(-2)


def join_qkv(tensors: Tensors, version: str) -> Tensors:
    """Separate ``attn.query``, ``attn.key``, ``attn.value`` to what our modules have."""
    tensors = dict(tensors)
    for block in [key.removesuffix(".query.weight") for key in tensors if ".query.weight" in key]:
        _join(tensors, block, "weight")
        if version == "v1":
            _join(tensors, block, "bias")
        else:
            for theirs, ours in (("query", "q_bias"), ("value", "v_bias")):
                if f"{block}.{theirs}.bias" in tensors:
                    tensors[f"{block}.{ours}"] = tensors.pop(f"{block}.{theirs}.bias")
    return tensors


def _join(tensors: Tensors, block: str, parameter: str) -> None:
    names = [f"{block}.{part}.{parameter}" for part in ("query", "key", "value")]
    if all(name in tensors for name in names):
        tensors[f"{block}.qkv.{parameter}"] = torch.cat([tensors.pop(name) for name in names])


def split_qkv(tensors: Tensors, version: str) -> Tensors:
    """The inverse of :func:`join_qkv`."""
    split: Tensors = {}
    for key, tensor in tensors.items():
        block, _, parameter = key.partition(".attn.qkv.")
        if parameter:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                split[f"{block}.attn.{part}.{parameter}"] = piece
        elif key.endswith(".attn.q_bias"):
            split[key.removesuffix("q_bias") + "query.bias"] = tensor
        elif key.endswith(".attn.v_bias"):
            split[key.removesuffix("v_bias") + "value.bias"] = tensor
        else:
            split[key] = tensor
    return split


def split_bias(tensors: Tensors, version: str) -> Tensors:
    """V2's one bias of queries, keys and values, whose keys count as zero, to our two."""
    split: Tensors = {}
    for key, tensor in tensors.items():
        if version == "v2" and key.endswith(".attn.qkv.bias"):
            block = key.removesuffix("qkv.bias")
            split[f"{block}q_bias"], _, split[f"{block}v_bias"] = tensor.chunk(3)
        else:
            split[key] = tensor
    return split


def join_bias(tensors: Tensors, version: str) -> Tensors:
    """The inverse of :func:`split_bias`, with zeros for the keys."""
    joined: Tensors = {}
    for key, tensor in tensors.items():
        if key.endswith(".attn.q_bias"):
            value = tensors[key.replace(".q_bias", ".v_bias")]
            name = key.replace(".q_bias", ".qkv.bias")
            joined[name] = torch.cat([tensor, torch.zeros_like(tensor), value])
        elif not key.endswith(".attn.v_bias"):
            joined[key] = tensor
    return joined


def position_buffers(tensors: Tensors, version: str, windows: Windows) -> Tensors:
    """``relative_position_index``, and V2's ``relative_coords_table``, of every block.

    Returns:
        Under our names for attention, int64 (N, N) and (1, 2 M_h - 1, 2 M_w - 1, 2); nothing for
        V2 if the window is not known.
    """
    buffers: Tensors = {}
    for key, weight in tensors.items():
        found = _ATTENTION.fullmatch(key)
        if found is None:
            continue
        attention, stage = found[1], int(found[2])
        window = windows.window_size or _square_window(tensors, attention)
        if window is None:
            continue
        buffers[f"{attention}.relative_position_index"] = relative_position_index(window)
        if version == "v2":
            trained = windows.pretrained[stage] if windows.pretrained else (0, 0)
            reference = tuple(a or b for a, b in zip(trained, window, strict=True))
            offsets = log_spaced_offsets(window, reference, dtype=weight.dtype)
            plane = [2 * side - 1 for side in window]
            buffers[f"{attention}.relative_coords_table"] = offsets.unflatten(0, plane)[None]
    return buffers


def _square_window(tensors: Tensors, attention: str) -> tuple[int, int] | None:
    table = tensors.get(f"{attention}.relative_position_bias_table")
    if table is None:
        return None
    side = int(table.shape[0] ** 0.5)
    return ((side + 1) // 2,) * 2 if side * side == table.shape[0] and side % 2 else None
