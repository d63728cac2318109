"""Layers of transformers' Swin, Swin V2, Donut's and MaskFormer's Swin, and of their kin.

Layers of V1 have three linear layers for queries, keys and values in ``attention`` since version 5,
and in ``attention.self`` before and in the other models. Drop path of V1 is in the attention half
alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ...model.plain_modules import is_bare, own_tensor
from ...ops import Windows
from ...ops.torch_internals.module_contents import children
from . import halves
from .block_rewrite import block_rewrite, is_one_of, is_usual_call, own_forward
from .transformers_internals import attention_implementation, recompute

_MODELS = "transformers.models"
LAYERS = (
    (f"{_MODELS}.swin.modeling_swin", "SwinLayer"),
    (f"{_MODELS}.donut.modeling_donut_swin", "DonutSwinLayer"),
    (f"{_MODELS}.maskformer.modeling_maskformer_swin", "MaskFormerSwinLayer"),
    (f"{_MODELS}.clap.modeling_clap", "ClapAudioLayer"),
    (f"{_MODELS}.swinv2.modeling_swinv2", "Swinv2Layer"),
    (f"{_MODELS}.swin2sr.modeling_swin2sr", "Swin2SRLayer"),
)

#: Those of all versions.
PARTS = ("attention", "attention.relative_position_bias", "attention.self", "attention.output")
PARTS += ("attention.self.dropout", "mlp", "intermediate", "output")

_NOTHING = nn.Identity().eval()


def finds(module: nn.Module) -> bool:
    return is_one_of(module, LAYERS)


def why_not(layer: nn.Module) -> str | None:
    reason = own_forward(layer, LAYERS)
    if reason is not None:
        return reason
    attention = children(layer)["attention"]
    if not is_bare(attention, type(attention)):
        return "its attention is watched"
    if _is_joined(attention):
        way = attention_implementation(attention.config)
        return None if way == "sdpa" else f"its attn_implementation is {way!r}, not 'sdpa'"
    if not {"self", "output"} <= children(attention).keys():
        return f"its attention is a {type(attention).__name__}"
    return None


def _is_joined(attention: nn.Module) -> bool:
    """Whether the layers of attention are in one module, as since version 5."""
    return "q_proj" in children(attention)


#: A dictionary, as torch.compile looks up what is in one, and traces what a cache remembers.
_ARGUMENTS: dict[type, tuple[str, ...]] = {}


def _arguments(kind: type) -> tuple[str, ...]:
    """Names of the arguments of a layer's own ``forward``."""
    if kind not in _ARGUMENTS:
        _ARGUMENTS[kind] = tuple(inspect.signature(inspect.unwrap(kind.forward)).parameters)[1:]
    return _ARGUMENTS[kind]


def forward(layer: nn.Module, hidden_states: Tensor, *arguments, **options):
    """The layer's own ``forward``: (B, H * W, C)."""
    names = _arguments(type(layer))
    given = {**dict(zip(names[1:], arguments, strict=False)), **options}
    size = given.get("input_dimensions")
    if not _is_usual(layer, hidden_states, size, given):
        return type(layer).forward(layer, hidden_states, *arguments, **options)
    if "always_partition" in names and not given.get("always_partition"):
        layer.set_shift_and_window_size(size)  # as the class does, for good
    own = children(layer)
    half = (_joined_attention if _is_joined(own["attention"]) else _attention)(layer, own)
    is_v2 = isinstance(half.scores, halves.Cosine)
    offsets = half.scores.coordinates.flatten(0, -2) if is_v2 else half.scores
    if len(offsets) != (2 * half.windows.window_size[0] - 1) ** 2:
        return type(layer).forward(layer, hidden_states, *arguments, **options)

    def run(x: Tensor) -> Tensor:
        run_both = halves.post_norm if is_v2 else halves.pre_norm
        x = x.unflatten(1, tuple(size))
        return run_both(layer, x, half, _mlp(own, is_v2)).flatten(1, 2)

    wrapped = hasattr(type(layer).forward, "__wrapped__")  # where it recomputes, if it does
    again = wrapped and layer.gradient_checkpointing and layer.training and torch.is_grad_enabled()
    output = recompute(layer, run, hidden_states) if again else run(hidden_states)
    return (output,) if "output_attentions" in names else (output, None)


def _is_usual(layer: nn.Module, x: Tensor, size, given: Mapping) -> bool:
    if given.get("output_attentions") or given.get("head_mask") is not None:
        return False
    if not is_usual_call(layer, x, 3) or size is None:
        return False
    attention = children(layer)["attention"]
    if _is_joined(attention) and attention_implementation(attention.config) != "sdpa":
        return False
    return x.shape[1] == size[0] * size[1]


def _joined_attention(layer: nn.Module, own: Mapping) -> halves.Attention:
    attention = own["attention"]
    inside = children(attention)
    rate = attention.attention_dropout if attention.training else 0.0
    windows = _windows(layer, attention.num_attention_heads, attention.scaling, rate)
    table = own_tensor(inside["relative_position_bias"], "relative_position_bias_table")
    projections = (inside["q_proj"], inside["k_proj"], inside["v_proj"])
    return halves.Attention(
        own["layernorm_before"], projections, inside["o_proj"], (own["dropout"],), own["drop_path"],
        windows, table,
    )  # fmt: skip


def _attention(layer: nn.Module, own: Mapping) -> halves.Attention:
    parts = children(own["attention"])
    attention, output = parts["self"], children(parts["output"])
    inside = children(attention)
    drop = inside["dropout"]
    rate = drop.p if drop.training else 0.0
    scale = attention.attention_head_size**-0.5
    windows = _windows(layer, attention.num_attention_heads, scale, rate)
    projections = (inside["query"], inside["key"], inside["value"])
    layers = (projections, output["dense"], (output["dropout"],), own["drop_path"], windows)
    if not halves.is_cosine(attention):
        table = own_tensor(attention, "relative_position_bias_table")
        return halves.Attention(own["layernorm_before"], *layers, table)
    reference = tuple(attention.pretrained_window_size)
    network = inside["continuous_position_bias_mlp"]
    scores = halves.Cosine(
        own_tensor(attention, "logit_scale"),
        network,
        attention.relative_coords_table,
        reference,
        None,
    )
    return halves.Attention(own["layernorm_before"], *layers, scores)


def _windows(layer: nn.Module, heads: int, scale: float, rate: float) -> Windows:
    return Windows(heads, (layer.window_size,) * 2, (layer.shift_size,) * 2, scale, rate)


def _mlp(own: Mapping, is_v2: bool) -> halves.Mlp:
    norm = own["layernorm_after"]
    path = own["drop_path"] if is_v2 else _NOTHING
    if "mlp" in own:
        mlp, drop = own["mlp"], own["dropout"]
        inside = children(mlp)
        act = inside["activation_fn"]
        calls = (mlp, drop)
        return halves.Mlp(norm, inside["fc1"], act, inside["fc2"], (drop,), calls, path)
    first, last = own["intermediate"], own["output"]
    act = children(first).get("intermediate_act_fn", first.intermediate_act_fn)
    inside = children(last)
    up, down, drop = children(first)["dense"], inside["dense"], inside["dropout"]
    return halves.Mlp(norm, up, act, down, (drop,), (first, last), path)


def calls(layer: nn.Module, random: Callable[..., Tensor]) -> list[tuple[tuple, dict]]:
    """A map that windows do not cover."""
    size = (2 * layer.window_size + 1, 3 * layer.window_size)
    x = random(2, size[0] * size[1], len(layer.layernorm_before.weight))
    return [((x, size), {})]


REWRITE = block_rewrite(finds, why_not, forward, calls, PARTS)
