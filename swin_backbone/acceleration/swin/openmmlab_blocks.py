"""Blocks of mmseg's, mmdet's and mmpretrain's Swin Transformers, and of mmpretrain's V2."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...model.apply_norm import apply_norm
from ...model.plain_modules import is_bare, own_tensor
from ...ops import Windows
from ...ops.torch_internals.module_contents import children
from ..rewrite import imported
from . import halves
from .block_rewrite import Place, block_rewrite, is_one_of, is_usual_call, own_forward

_PACKAGES = ("mmseg", "mmdet", "mmpose")
BLOCKS = (
    *((f"{package}.models.backbones.swin", "SwinBlock") for package in _PACKAGES),
    ("mmpretrain.models.backbones.swin_transformer", "SwinBlock"),
    ("mmpretrain.models.backbones.swin_transformer_v2", "SwinBlockV2"),
)
_MODULES = (
    *(f"{package}.models.backbones.swin" for package in _PACKAGES),
    "mmpretrain.models.utils.attention",
)
SHIFTS = tuple((module, "ShiftWindowMSA") for module in _MODULES)
ATTENTION = tuple((module, f"WindowMSA{v}") for module in _MODULES for v in ("", "V2"))
FFN = (("mmcv.cnn.bricks.transformer", "FFN"),)
PARTS = ("attn", "attn.w_msa", "attn.w_msa.softmax", "attn.w_msa.attn_drop")
PARTS += ("ffn", "ffn.layers", "ffn.layers.0")

_NOTHING = nn.Identity().eval()


def finds(module: nn.Module) -> bool:
    return is_one_of(module, BLOCKS)


def why_not(block: nn.Module) -> str | None:
    reason = own_forward(block, BLOCKS)
    if reason is not None:
        return reason
    shifts, ffn = block.attn, block.ffn
    for part, places in ((shifts, SHIFTS), (shifts.w_msa, ATTENTION), (ffn, FFN)):
        if not _is_stock(part, places):
            return f"its {type(part).__name__} is none of the library's, or watched"
    if len(ffn.layers) != 3 or len(ffn.layers[0]) != 3:
        return "its MLP has another number of layers"
    return None


def _is_stock(part: nn.Module, places: tuple[Place, ...]) -> bool:
    return any(is_bare(part, kind) for p in places if (kind := imported(*p)) is not None)


def forward(block: nn.Module, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """``SwinBlock.forward`` and ``SwinBlockV2.forward``: (B, H * W, C)."""
    if not is_usual_call(block, x, 3):
        return type(block).forward(block, x, hw_shape)
    size, own = tuple(hw_shape), children(block)
    shift = _shift(own["attn"], size)
    attention = children(own["attn"])["w_msa"]
    is_v2 = halves.is_cosine(attention)
    usual = shift is not None and x.shape[1] == size[0] * size[1]
    # The class of V2 reads the weight of whatever is there.
    if not usual or (is_v2 and not is_bare(children(attention)["qkv"], nn.Linear)):
        return type(block).forward(block, x, hw_shape)

    def run(x: Tensor) -> Tensor:
        x = x.unflatten(1, size)
        if not is_v2:
            return halves.pre_norm(block, x, _attention(own, shift), _mlp(own)).flatten(1, 2)
        halved = _cosine_attention(own, shift), _normed_mlp(own)
        x = halves.post_norm(block, x, *halved).flatten(1, 2)
        return apply_norm(own["norm3"], x) if "norm3" in own else x

    if block.with_cp and x.requires_grad:
        return checkpoint(run, x, use_reentrant=False)
    return run(x)


def _shift(shifts: nn.Module, size: tuple[int, int]) -> int | None:
    """The shift on a map of ``size``; ``None`` where the class refuses the map."""
    if getattr(shifts, "pad_small_map", True) or min(size) > shifts.window_size:
        return shifts.shift_size
    return 0 if min(size) == shifts.window_size else None


def _windows(attention: nn.Module, shift: int, scale: float) -> Windows:
    drop = children(attention)["attn_drop"]
    rate = drop.p if drop.training else 0.0
    window = tuple(attention.window_size)
    return Windows(attention.num_heads, window, (shift, shift), scale, rate)


def _attention(own: Mapping, shift: int) -> halves.Attention:
    shifts = children(own["attn"])
    attention = shifts["w_msa"]
    inside = children(attention)
    windows = _windows(attention, shift, attention.scale)
    table = own_tensor(attention, "relative_position_bias_table")
    layers = ((inside["qkv"],), inside["proj"], (inside["proj_drop"],), shifts["drop"])
    return halves.Attention(own["norm1"], *layers, windows, table)


def _cosine_attention(own: Mapping, shift: int) -> halves.Attention:
    """Drop path comes before the norm."""
    shifts = children(own["attn"])
    attention = shifts["w_msa"]
    inside = children(attention)
    windows = _windows(attention, shift, 1.0)
    query, value = own_tensor(attention, "q_bias"), own_tensor(attention, "v_bias")
    scores = halves.Cosine(
        own_tensor(attention, "logit_scale"),
        inside["cpb_mlp"],
        attention.relative_coords_table,
        None,  # it keeps the coordinates alone
        None if query is None else (query, value),
    )
    after = (inside["proj_drop"], shifts["drop"])
    layers = ((inside["qkv"],), inside["proj"], after, _NOTHING)
    return halves.Attention(own["norm1"], *layers, windows, scores)


def _mlp(own: Mapping) -> halves.Mlp:
    ffn = children(own["ffn"])
    first, down, last = children(ffn["layers"]).values()
    up, act, drop = children(first).values()
    gamma = ffn.get("gamma2", _NOTHING)
    calls = (ffn["layers"], gamma)
    drops = (drop, last, gamma)
    return halves.Mlp(own["norm2"], up, act, down, drops, calls, ffn["dropout_layer"])


def _normed_mlp(own: Mapping) -> halves.Mlp:
    """Drop path comes before the norm."""
    mlp = _mlp(own)
    path = mlp.drop_path
    drops = (*mlp.drops, path) if path.training and getattr(path, "drop_prob", 1) else mlp.drops
    return mlp._replace(calls=(*mlp.calls, path), drops=drops, drop_path=_NOTHING)


def calls(block: nn.Module, random: Callable[..., Tensor]) -> list[tuple[tuple, dict]]:
    """Maps that windows do not cover, and one that a window covers."""
    window = block.attn.window_size
    sizes = [(2 * window + 1, 3 * window), (window, 2 * window)]
    width = len(block.norm1.weight)
    return [((random(2, rows * columns, width), (rows, columns)), {}) for rows, columns in sizes]


REWRITE = block_rewrite(finds, why_not, forward, calls, PARTS)
