"""Blocks of Swin Transformer's original repositories, V1 and V2, and of the many copies of them.

They are known by their structure, wherever their classes are defined: those of classifiers know the
size of their map, those of detectors and segmentors (detectron2 and others) are told it and get the
mask of shifted windows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from ...model.plain_modules import is_bare, own_tensor
from ...ops import WindowGrid, Windows
from ...ops.geometry.windows import shifted_window_mask
from ...ops.torch_internals.module_contents import children, parameters
from . import halves
from .block_rewrite import block_rewrite, is_usual_call

BLOCK = {"norm1", "attn", "drop_path", "norm2", "mlp"}
ATTENTION = {"qkv", "attn_drop", "proj", "proj_drop", "softmax"}
MLP = {"fc1", "act", "fc2", "drop"}
PARTS = ("attn", "attn.softmax", "attn.attn_drop", "mlp")
#: Modules of libraries that have rewrites of their own.
LIBRARIES = ("timm.", "torchvision.", "transformers.", "mmseg.", "mmdet.", "mmpose.", "mmpretrain.")


def finds(module: nn.Module) -> bool:
    own = children(module)
    if BLOCK - own.keys() or type(module).__module__.startswith(LIBRARIES):
        return False
    numbers = parameters(own["attn"])
    table = "relative_position_bias_table" in numbers or "logit_scale" in numbers
    return table and isinstance(getattr(module, "shift_size", None), int)


def why_not(block: nn.Module) -> str | None:
    own = children(block)
    for part, expected in (("attn", ATTENTION), ("mlp", MLP)):
        missing = expected - children(own[part]).keys()
        if missing:
            return f"its {part} has no {', '.join(sorted(missing))}"
        if not is_bare(own[part], type(own[part])):
            return f"its {part} is watched"
    names = _arguments(block)
    if names not in (["x"], ["x", "mask_matrix"]):
        return f"its forward takes {', '.join(names)}"
    if names == ["x"] and not hasattr(block, "input_resolution"):
        return "it does not say the size of its map"
    return None


def _arguments(block: nn.Module) -> list[str]:
    return list(inspect.signature(type(block).forward).parameters)[1:]


def forward(block: nn.Module, x: Tensor, *mask: Tensor | None, **named) -> Tensor:
    """The block's own ``forward``: (B, H * W, C), and the mask of shifted windows of those that
    are told the size of their map."""
    told = bool(mask or named)
    own = children(block)
    is_v2 = halves.is_cosine(own["attn"])
    windows = _windows(block, own["attn"], is_v2)
    size = (block.H, block.W) if told else tuple(block.input_resolution)
    usual = is_usual_call(block, x, 3) and x.shape[1] == size[0] * size[1]
    usual = usual and (told or _cuts_evenly(windows, size))
    # The class of V2 reads the weight of whatever is there.
    if not usual or (is_v2 and not is_bare(children(own["attn"])["qkv"], nn.Linear)):
        return type(block).forward(block, x, *mask, **named)
    run = halves.post_norm if is_v2 else halves.pre_norm
    x = x.unflatten(1, size)
    return run(block, x, _attention(own, windows, is_v2), _mlp(own)).flatten(1, 2)


def _cuts_evenly(windows: Windows, size: tuple[int, int]) -> bool:
    return not any(n % w for n, w in zip(size, windows.window_size, strict=True))


def _windows(block: nn.Module, attention: nn.Module, is_v2: bool) -> Windows:
    drop = children(attention)["attn_drop"]
    rate = drop.p if drop.training else 0.0
    scale = 1.0 if is_v2 else attention.scale
    shift = (block.shift_size,) * 2
    return Windows(attention.num_heads, (block.window_size,) * 2, shift, scale, rate)


def _attention(own: Mapping, windows: Windows, is_v2: bool) -> halves.Attention:
    attention = own["attn"]
    inside = children(attention)
    layers = ((inside["qkv"],), inside["proj"], (inside["proj_drop"],), own["drop_path"], windows)
    if not is_v2:
        table = own_tensor(attention, "relative_position_bias_table")
        return halves.Attention(own["norm1"], *layers, table)
    query, value = own_tensor(attention, "q_bias"), own_tensor(attention, "v_bias")
    scores = halves.Cosine(
        own_tensor(attention, "logit_scale"),
        inside["cpb_mlp"],
        attention.relative_coords_table,
        None,
        None if query is None else (query, value),
    )
    return halves.Attention(own["norm1"], *layers, scores)


def _mlp(own: Mapping) -> halves.Mlp:
    layers = children(own["mlp"])
    parts = (layers["fc1"], layers["act"], layers["fc2"], (layers["drop"],))
    return halves.Mlp(own["norm2"], *parts, (own["mlp"],), own["drop_path"])


def calls(block: nn.Module, random: Callable[..., Tensor]) -> list[tuple[tuple, dict]]:
    """The block's own map; or one that windows do not cover, with its mask."""
    width = len(block.norm1.weight)
    if _arguments(block) == ["x"]:
        rows, columns = block.input_resolution
        return [((random(2, rows * columns, width),), {})]
    window, shift = block.window_size, block.shift_size
    block.H, block.W = rows, columns = 2 * window + 1, 3 * window
    grid = WindowGrid(rows, columns, (window, window), (shift, shift))
    mask = -100.0 * shifted_window_mask(grid).double()
    return [((random(2, rows * columns, width), mask), {})]


REWRITE = block_rewrite(finds, why_not, forward, calls, PARTS)
