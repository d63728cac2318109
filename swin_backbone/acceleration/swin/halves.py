"""The two halves of a Swin block of any library, computed with the library's own parameters.

A half says which modules it has. Where these are what their classes say, and nothing drops out, the
public operations compute with their parameters. Where something else stands in a layer's place,
such as an adapter, that layer is called, and only attention is computed in our way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.apply_norm import apply_norm
from ...model.plain_modules import (
    is_bare,
    is_idle,
    is_plain,
    linear_parameters,
    norm_parameters,
)
from ...ops import (
    MAPS,
    CosineScores,
    LinearParameters,
    NormParameters,
    Windows,
    attend,
    compute_dtype,
    corner_pad,
    dispatch,
    logit_factors,
    post_norm_attention,
    post_norm_mlp,
    residual_attention,
    residual_mlp,
)
from ...ops.rolled_first import lay_out, take_back
from ...ops.torch_internals.module_contents import children, parameters
from ..rewrite import imported
from .drop_paths import knows_drop_path, path_scale
from .on_gpu import on_gpu
from .weights_together import Cast, cast_weights

#: What the sigmoid of V2's position bias is multiplied by.
HIGHEST_BIAS = 16


class Cosine(NamedTuple):
    """What scores of cosine attention are computed with.

    Attributes:
        logit_scale: (heads, 1, 1) logarithms of the factors of cosines.
        network: two linear layers from coordinates to position bias, ReLU between them.
        coordinates: (1, 2 M_h - 1, 2 M_w - 1, 2), the library's own.
        reference: the window that they are scaled to, 0 for the own; ``None`` if nobody says.
        biases: of queries and values, (C,) each; keys have none. ``None``: neither have they, or
            they are those of three projections.
    """

    logit_scale: Tensor
    network: nn.Module
    coordinates: Tensor
    reference: tuple[int, int] | None
    biases: tuple[Tensor, Tensor] | None

    def table(self) -> Tensor:
        """((2 M_h - 1) (2 M_w - 1), heads) bias, as the libraries compute it."""
        return HIGHEST_BIAS * torch.sigmoid(self.network(self.coordinates).flatten(0, -2))

    def bias(self) -> Tensor | None:
        """(3 C,) of queries, keys (zero) and values."""
        if self.biases is None:
            return None
        query, value = self.biases
        return torch.cat([query, torch.zeros_like(query), value])

    def parameters(self) -> CosineScores | None:
        """As the fused operation takes them; ``None`` where something else stands there."""
        layers = list(children(self.network).values())
        if self.reference is None or len(layers) != 3 or not is_bare(layers[1], nn.ReLU):
            return None
        up, down = linear(layers[0]), linear(layers[2])
        if up is None or down is None or down.bias is not None or not is_plain(self.logit_scale):
            return None
        return CosineScores(self.logit_scale, up, down.weight, self.reference)


class Attention(NamedTuple):
    """The attention half of a block.

    Attributes:
        norm: before attention (V1), or after it (V2).
        projections: to queries, keys and values: one linear layer, or three.
        proj: the linear layer behind attention.
        after: what follows it.
        drop_path: of the branch.
        windows: geometry, and whether maps are rolled first; of V2 without ``scale``.
        scores: what scores are computed with: relative position bias, a table of
            ((2 M_h - 1) (2 M_w - 1), heads) (V1), or :class:`Cosine` (V2).
    """

    norm: nn.Module
    projections: tuple[nn.Module, ...]
    proj: nn.Module
    after: tuple[nn.Module, ...]
    drop_path: nn.Module
    windows: Windows
    scores: Tensor | Cosine


class Mlp(NamedTuple):
    """The MLP half of a block.

    Attributes:
        norm: before the MLP (V1), or after it (V2).
        up: the first linear layer.
        act: the activation.
        down: the second linear layer.
        drops: dropout anywhere in it.
        calls: the modules that make up the MLP, to be called one after the other.
        drop_path: of the branch.
    """

    norm: nn.Module
    up: nn.Module
    act: nn.Module
    down: nn.Module
    drops: tuple[nn.Module, ...]
    calls: tuple[nn.Module, ...]
    drop_path: nn.Module


class Layers(NamedTuple):
    """Parameters of both halves; ``None`` for a layer that is not what its class says."""

    norms: tuple[NormParameters | None, NormParameters | None]
    projections: list[LinearParameters | None]
    proj: LinearParameters | None
    up: LinearParameters | None
    down: LinearParameters | None

    @classmethod
    def of(cls, attention: Attention, mlp: Mlp) -> Layers:
        """Those of a block."""
        return cls(
            (norm_parameters(attention.norm), norm_parameters(mlp.norm)),
            [linear(layer) for layer in attention.projections],
            linear(attention.proj),
            linear(mlp.up),
            linear(mlp.down),
        )


def is_cosine(attention: nn.Module) -> bool:
    """Whether a library's attention is that of V2."""
    if "relative_position_bias_table" in parameters(attention):  # as nearly all of V1 have it
        return False
    return hasattr(attention, "logit_scale")


def pre_norm(block: nn.Module, x: Tensor, attention: Attention, mlp: Mlp) -> Tensor:
    """A block of V1: (B, H, W, C) to the same."""
    layers, cast = Layers.of(attention, mlp), None
    if on_gpu(x) and dispatch.why_not_fused(x, "auto", attention.windows) is None:
        cast = _cast(block, x, layers)
    return _mlp_branch(_attention_branch(x, attention, layers, cast), mlp, layers, cast)


def post_norm(block: nn.Module, x: Tensor, attention: Attention, mlp: Mlp) -> Tensor:
    """A block of V2: (B, H, W, C) to the same."""
    layers, cast = Layers.of(attention, mlp), None
    if is_fused(x, attention.windows):
        cast = _cast(block, x, layers, with_biases=False)  # which are read as they are
    return _post_norm_mlp(_post_norm_attention(x, attention, layers, cast), mlp, layers, cast)


def _cast(block, x: Tensor, layers: Layers, with_biases: bool = True) -> Cast | None:
    """All weights of a block in the compute dtype, where its layers are what they seem."""
    projections, others = layers.projections, (layers.proj, layers.up, layers.down)
    if None in projections or None in others:
        return None
    if not with_biases:
        projections = [LinearParameters(layer.weight, None) for layer in projections]
    return cast_weights(block, x, projections, others)


def _projection(layers: Layers, cast: Cast | None) -> LinearParameters | None:
    return _joint(layers.projections) if cast is None else cast.projection


def _post_norm_attention(x: Tensor, half: Attention, layers: Layers, cast: Cast | None) -> Tensor:
    known = all(map(is_idle, half.after)) and knows_drop_path(half.drop_path)
    if known and is_fused(x, half.windows):
        norm, proj, qkv = layers.norms[0], layers.proj, _projection(layers, cast)
        scores = half.scores.parameters()
        if None not in (norm, proj, qkv, scores):
            biases = half.scores.biases
            if len(half.projections) == 3:
                biases = _biases(half.projections)
            scale = path_scale(half.drop_path, x)
            return post_norm_attention(
                x, qkv.weight, biases, scores, proj, norm, half.windows, scale, copies=cast
            )
    return x + half.drop_path(apply_norm(half.norm, _attend(x, half, layers)))


def is_fused(x: Tensor, windows: Windows | None = None, hidden: int = 0) -> bool:
    """Whether a half of V2 runs as kernels; else it is computed from the library's own
    coordinates."""
    what = "MLP branch" if windows is None else "attention branch"
    return on_gpu(x) and dispatch.post_norm_branch(what, x, "auto", windows, hidden) == "triton"


def _biases(projections: tuple[nn.Module, ...]) -> tuple[Tensor, Tensor] | None:
    """Of queries and values, of three layers of which that of keys has none."""
    query, _, value = (layer.bias for layer in projections)
    return None if query is None or value is None else (query, value)


def _post_norm_mlp(x: Tensor, half: Mlp, layers: Layers, cast: Cast | None) -> Tensor:
    norm, up, down = layers.norms[1], layers.up, layers.down
    known = None not in (norm, up, down) and is_gelu(half.act) and all(map(is_idle, half.drops))
    known = known and knows_drop_path(half.drop_path)
    if known and is_fused(x, hidden=len(up.weight)):
        return post_norm_mlp(x, up, down, norm, path_scale(half.drop_path, x), copies=cast)
    return x + half.drop_path(apply_norm(half.norm, _call(half.calls, x)))


def _attention_branch(x: Tensor, half: Attention, layers: Layers, cast: Cast | None) -> Tensor:
    norm, proj = layers.norms[0], layers.proj
    known = None not in (norm, proj) and all(map(is_idle, half.after))
    known = known and is_plain(half.scores) and knows_drop_path(half.drop_path)
    qkv = _projection(layers, cast) if known else None
    if qkv is not None:
        scale = path_scale(half.drop_path, x)
        return residual_attention(x, norm, qkv, half.scores, proj, half.windows, scale, copies=cast)
    return x + half.drop_path(_attend(apply_norm(half.norm, x), half, layers))


def _mlp_branch(x: Tensor, half: Mlp, layers: Layers, cast: Cast | None) -> Tensor:
    norm, up, down = layers.norms[1], layers.up, layers.down
    known = None not in (norm, up, down) and is_gelu(half.act) and all(map(is_idle, half.drops))
    if known and knows_drop_path(half.drop_path):
        return residual_mlp(x, norm, up, down, path_scale(half.drop_path, x), copies=cast)
    return x + half.drop_path(_call(half.calls, apply_norm(half.norm, x)))


def _attend(x: Tensor, half: Attention, layers: Layers) -> Tensor:
    """Projection, attention and projection of (B, H, W, C)."""
    height, width = x.shape[1:3]
    places = None
    if half.windows.is_uneven(x, MAPS):
        x, places = lay_out(x.to(compute_dtype(x)), half.windows)
    qkv, padding = _project(x, half, layers)
    windows = half.windows
    options = {
        "num_heads": windows.num_heads,
        "window_size": windows.window_size,
        "shift_size": windows.shift_size,
        "dropout_p": windows.dropout_p,
    }
    if isinstance(half.scores, Cosine):
        table, options["logit_scale"] = half.scores.table(), logit_factors(half.scores.logit_scale)
    else:
        table, options["scale"] = half.scores, windows.scale
    attended = attend(qkv, table, MAPS, padding_qkv=padding, **options)
    if places is not None:
        attended = take_back(attended, places, height, width)
    elif attended.shape[1:3] != (height, width):
        attended = attended[:, :height, :width]
    return _call((half.proj, *half.after), attended)


def _project(x: Tensor, half: Attention, layers: Layers) -> tuple[Tensor, Tensor | None]:
    """Queries, keys and values, and those of a token that only fills up windows.

    That of zero is the bias, where layers are what they seem. What another layer makes of a zero,
    only a call can tell: then the map is filled up before.
    """
    joint = _joint(layers.projections)
    if joint is not None:
        bias = joint.bias
        if isinstance(half.scores, Cosine) and len(half.projections) == 1:
            bias = half.scores.bias()
        return F.linear(x, joint.weight, bias), bias
    x = corner_pad(x, half.windows.window_size, half.windows.window_size, dims=(1, 2))
    return torch.cat([layer(x) for layer in half.projections], dim=-1), None


def _joint(layers: list[LinearParameters | None]) -> LinearParameters | None:
    """Weight (3 C, C) and bias (3 C,) of the layers together; ``None`` where one is something
    else."""
    if None in layers:
        return None
    if len(layers) == 1:
        return layers[0]
    weight = torch.cat([layer.weight for layer in layers])
    biases = [layer.bias for layer in layers]
    if all(bias is None for bias in biases):
        return LinearParameters(weight, None)
    zeros = weight.new_zeros(len(layers[0].weight))
    return LinearParameters(weight, torch.cat([zeros if b is None else b for b in biases]))


def _call(modules: tuple[nn.Module, ...], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


def linear(layer: nn.Module) -> LinearParameters | None:
    """Parameters of torch's linear layer, or of mmcv's, which also takes empty batches."""
    if type(layer) is nn.Linear:
        return linear_parameters(layer)
    mmcv = imported("mmcv.cnn.bricks.wrappers", "Linear")
    return None if mmcv is None else linear_parameters(layer, mmcv)


def is_gelu(act: nn.Module) -> bool:
    """Whether an activation is GELU, not approximated."""
    if is_bare(act, nn.GELU):
        return act.approximate == "none"
    timm = imported("timm.layers.activations", "GELU")
    if timm is not None and is_bare(act, timm):
        return True
    transformers = imported("transformers.activations", "GELUActivation")
    return transformers is not None and is_bare(act, transformers) and act.act is F.gelu
