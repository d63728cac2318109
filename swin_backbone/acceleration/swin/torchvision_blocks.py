"""Blocks of torchvision's Swin Transformers, V1 and V2."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from ...model.plain_modules import is_bare, own_tensor
from ...ops import Windows
from ...ops.torch_internals.module_contents import children
from ..rewrite import imported, is_of
from . import halves
from .block_rewrite import block_rewrite, is_one_of, is_usual_call, own_forward

_MODULE = "torchvision.models.swin_transformer"
BLOCKS = tuple((_MODULE, f"SwinTransformerBlock{v}") for v in ("", "V2"))
ATTENTION = tuple((_MODULE, f"ShiftedWindowAttention{v}") for v in ("", "V2"))


def finds(module: nn.Module) -> bool:
    return is_one_of(module, BLOCKS)


def why_not(block: nn.Module) -> str | None:
    reason = own_forward(block, BLOCKS)
    if reason is not None:
        return reason
    attention = children(block)["attn"]
    expected = imported(_MODULE, ATTENTION[_is_v2(block)][1])
    if type(attention) is not expected:
        return f"its attention is a {type(attention).__name__}"
    kinds = [type(layer) for layer in children(children(block)["mlp"]).values()]
    if len(kinds) != 5:  # linear, activation, dropout, linear, dropout
        return "its MLP has other layers"
    return None


def _is_v2(block: nn.Module) -> bool:
    return is_of(block, imported(_MODULE, "SwinTransformerBlockV2"))


def forward(block: nn.Module, x: Tensor) -> Tensor:
    """``SwinTransformerBlock.forward`` and ``SwinTransformerBlockV2.forward``: (B, H, W, C)."""
    layers = children(children(block)["attn"])
    # The class reads the weights of whatever stands there.
    bare = all(is_bare(layers[name], nn.Linear) for name in ("qkv", "proj"))
    if not bare or not is_usual_call(block, x, 4):
        return type(block).forward(block, x)
    is_v2 = _is_v2(block)
    run = halves.post_norm if is_v2 else halves.pre_norm
    own = children(block)
    return run(block, x, _attention(own, x, is_v2), _mlp(own))


def _attention(own: Mapping, x: Tensor, is_v2: bool) -> halves.Attention:
    attention = own["attn"]
    inside = children(attention)
    window = tuple(attention.window_size)
    # No shift along an axis that one window covers.
    sides = zip(attention.shift_size, window, x.shape[1:3], strict=True)
    shift = tuple(0 if w >= n else s for s, w, n in sides)
    rate = attention.attention_dropout if attention.training else 0.0
    windows = Windows(
        attention.num_heads, window, shift, (x.shape[-1] // attention.num_heads) ** -0.5, rate
    )
    drops = attention.dropout > 0 and attention.training
    after = (nn.Dropout(attention.dropout),) if drops else ()  # the class has the number alone
    qkv = inside["qkv"]
    layers = (own["norm1"], (qkv,), inside["proj"], after, own["stochastic_depth"])
    if not is_v2:
        table = own_tensor(attention, "relative_position_bias_table")
        return halves.Attention(*layers, windows, table)
    biases = None
    if qkv.bias is not None:  # keys have none
        query, _, value = qkv.bias.chunk(3)
        biases = (query, value)
    scores = halves.Cosine(
        own_tensor(attention, "logit_scale"),
        inside["cpb_mlp"],
        attention.relative_coords_table,
        (0, 0),
        biases,
    )
    return halves.Attention(*layers, windows, scores)


def _mlp(own: Mapping) -> halves.Mlp:
    mlp = own["mlp"]
    up, act, drop1, down, drop2 = children(mlp).values()
    path = own["stochastic_depth"]
    return halves.Mlp(own["norm2"], up, act, down, (drop1, drop2), (mlp,), path)


def calls(block: nn.Module, random: Callable[..., Tensor]) -> list[tuple[tuple, dict]]:
    """Maps that windows do not cover, and one that a window covers along an axis."""
    rows, columns = block.attn.window_size
    sizes = [(2 * rows + 1, 2 * columns + 1), (max(rows - 1, 1), 2 * columns)]
    return [((random(2, *size, len(block.norm1.weight)),), {}) for size in sizes]


REWRITE = block_rewrite(finds, why_not, forward, calls, ("attn", "mlp"))
