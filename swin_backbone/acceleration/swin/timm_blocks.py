"""Blocks of timm's ``SwinTransformer`` and ``SwinTransformerV2``, alone and in wrappers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from ...model.plain_modules import is_bare, own_tensor
from ...ops import Windows
from ...ops.torch_internals.module_contents import children
from ..rewrite import imported
from . import halves
from .block_rewrite import block_rewrite, is_one_of, is_usual_call, own_forward

_V1 = "timm.models.swin_transformer"
_V2 = "timm.models.swin_transformer_v2"
BLOCKS = ((_V1, "SwinTransformerBlock"), (_V2, "SwinTransformerV2Block"))
#: ``SwinTransformerV2Block`` of older versions.
OLDER = ((_V2, "SwinTransformerBlock"),)
PARTS = ("attn", "attn.softmax", "attn.attn_drop", "mlp")
ATTENTION = ((_V1, "WindowAttention"), (_V2, "WindowAttention"))


def finds(module: nn.Module) -> bool:
    return is_one_of(module, BLOCKS + OLDER)


def why_not(block: nn.Module) -> str | None:
    reason = own_forward(block, BLOCKS + OLDER)
    if reason is not None:
        return reason
    attention, mlp = children(block)["attn"], children(block)["mlp"]
    if not any(is_bare(attention, k) for p in ATTENTION if (k := imported(*p)) is not None):
        return f"its attention is a {type(attention).__name__}, or watched"
    width = 3 * attention.dim
    if getattr(attention.qkv, "out_features", width) != width:
        return "its heads have channels of their own"
    if not {"fc1", "act", "fc2"} <= children(mlp).keys():
        return f"its MLP is a {type(mlp).__name__}"
    return None


def forward(block: nn.Module, x: Tensor) -> Tensor:
    """``SwinTransformerBlock.forward`` and ``SwinTransformerV2Block.forward``: (B, H, W, C)."""
    if not is_usual_call(block, x, 4) or not _has_mask_for(block, x):
        return type(block).forward(block, x)
    own = children(block)
    is_v2 = halves.is_cosine(own["attn"])
    if is_v2 and not is_bare(own["attn"].qkv, nn.Linear):
        return type(block).forward(block, x)  # which reads the weight of whatever is there
    run = halves.post_norm if is_v2 else halves.pre_norm
    return run(block, x, _attention(block, own, is_v2), _mlp(own))


def _has_mask_for(block: nn.Module, x: Tensor) -> bool:
    """Whether the mask is made for each map, or was made for maps of this size."""
    if getattr(block, "dynamic_mask", False) or not any(_pair(block.shift_size)):
        return True
    sides = zip(x.shape[1:3], block.input_resolution, _pair(block.window_size), strict=True)
    return all(-(-side // window) == -(-made // window) for side, made, window in sides)


def _attention(block: nn.Module, own: Mapping, is_v2: bool) -> halves.Attention:
    attention = own["attn"]
    inside = children(attention)
    drop = inside["attn_drop"]
    windows = Windows(
        attention.num_heads,
        _pair(block.window_size),
        _pair(block.shift_size),
        1.0 if is_v2 else attention.scale,
        drop.p if drop.training else 0.0,
        rolls_first=True,
    )
    layers = (own["norm1"], (inside["qkv"],), inside["proj"], (inside["proj_drop"],))
    path = own.get("drop_path1") or own["drop_path"]
    if not is_v2:
        table = own_tensor(attention, "relative_position_bias_table")
        return halves.Attention(*layers, path, windows, table)
    query, value = own_tensor(attention, "q_bias"), own_tensor(attention, "v_bias")
    scores = halves.Cosine(
        own_tensor(attention, "logit_scale"),
        inside["cpb_mlp"],
        attention.relative_coords_table,
        _pair(attention.pretrained_window_size),
        None if query is None else (query, value),
    )
    return halves.Attention(*layers, path, windows, scores)


def _mlp(own: Mapping) -> halves.Mlp:
    mlp = own["mlp"]
    layers = children(mlp)
    drops = tuple(layers[name] for name in ("drop1", "norm", "drop2") if name in layers)
    path = own.get("drop_path2") or own["drop_path"]
    return halves.Mlp(
        own["norm2"], layers["fc1"], layers["act"], layers["fc2"], drops, (mlp,), path
    )


def _pair(sides: int | Sequence[int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else tuple(sides)


def calls(block: nn.Module, random: Callable[..., Tensor]) -> list[tuple[tuple, dict]]:
    """Maps that windows do not cover, where the block takes any."""
    size = block.input_resolution
    if hasattr(block, "dynamic_mask"):
        block.dynamic_mask = True
        size = [2 * window + 1 for window in _pair(block.window_size)]
    return [((random(2, *size, len(block.norm1.weight)),), {})]


REWRITE = block_rewrite(finds, why_not, forward, calls, PARTS)
