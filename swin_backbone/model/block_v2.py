"""One Swin Transformer V2 block."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from ..ops import (
    CosineScores,
    LinearParameters,
    LowPrecisionCopies,
    NormParameters,
    TokenLayout,
    post_norm_attention,
    post_norm_mlp,
)
from ..ops.torch_internals.module_contents import children, parameters
from .apply_norm import apply_norm
from .checkpointed_block import CheckpointedBlock
from .drop_path import DropPath
from .mlp import Mlp
from .plain_modules import is_bare, linear_parameters, norm_parameters, why_not_bare
from .window_attention_v2 import WindowAttentionV2


class PostNormParameters(NamedTuple):
    """Parameters of a block as :mod:`swin_backbone.ops.post_norm_branches` takes them."""

    qkv: LinearParameters
    proj: LinearParameters
    norm1: NormParameters
    up: LinearParameters
    down: LinearParameters
    norm2: NormParameters
    scores: CosineScores


class SwinBlockV2(CheckpointedBlock):
    """Residual post-norm block of window attention and MLP (Swin Transformer V2,
    section 3.2): each branch is normed before it is added.

    Args:
        attention: the attention of this block, regular or shifted.
        embed_dims: channels of a token.
        hidden_dims: hidden channels of the MLP.
        norm_layer: makes a norm.
        act_layer: makes the activation.
        drop_rate: dropout in the MLP.
        drop_path_rate: stochastic depth of both residual branches.
        with_cp: recompute the block in the backward pass instead of storing what it computed.
        extra_norm: whether the main branch ends with a norm (section 3.2, for large models).
    """

    def __init__(
        self,
        attention: WindowAttentionV2,
        embed_dims: int,
        hidden_dims: int,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        extra_norm: bool = False,
    ):
        super().__init__(with_cp)
        self.attn = attention
        self.norm1 = norm_layer(embed_dims)
        self.mlp = Mlp(embed_dims, hidden_dims, act_layer, drop_rate)
        self.norm2 = norm_layer(embed_dims)
        self.drop_path = DropPath(drop_path_rate)
        self.norm3 = norm_layer(embed_dims) if extra_norm else nn.Identity()

    def linear_weights(self) -> list[Tensor]:
        """What the fused branches read in the compute dtype, if it is they that run."""
        own = children(self)
        attn, mlp = own["attn"], own["mlp"]
        if type(attn) is not WindowAttentionV2 or type(mlp) is not Mlp:
            return []
        if attn.backend not in ("auto", "triton"):
            return []
        inside, layers = children(attn), children(mlp)
        linear = (inside["qkv"], inside["proj"], layers["fc1"], layers["fc2"])
        tensors = [parameters(layer).get("weight") for layer in linear]
        return [tensor for tensor in tensors if tensor is not None]

    def branch_parameters(self) -> PostNormParameters | None:
        """Parameters of both branches, or ``None`` if these are not what
        :mod:`swin_backbone.ops.post_norm_branches` computes."""
        own = children(self)
        attn, mlp = own["attn"], own["mlp"]
        if not (is_bare(attn, WindowAttentionV2) and attn.is_plain()):
            return None
        if not (is_bare(mlp, Mlp) and mlp.is_plain() and is_bare(own["drop_path"], DropPath)):
            return None
        inside, layers = children(attn), children(mlp)
        branches = PostNormParameters(
            linear_parameters(inside["qkv"]),
            linear_parameters(inside["proj"]),
            norm_parameters(own["norm1"]),
            linear_parameters(layers["fc1"]),
            linear_parameters(layers["fc2"]),
            norm_parameters(own["norm2"]),
            attn.scores(),
        )
        return None if None in branches or branches.qkv.bias is not None else branches

    def why_by_modules(self) -> str | None:
        """Why :meth:`branch_parameters` are ``None``: what is not what the class says, as text."""
        tensors = "has weights that are more than tensors, or lacks some"
        parts = [
            ("attn", WindowAttentionV2, WindowAttentionV2.is_plain,
             "drops out, or has other parameters or layers of its scores"),
            ("attn.qkv", nn.Linear, _without_bias, f"{tensors}, or has a bias"),
            ("attn.proj", nn.Linear, linear_parameters, tensors),
            ("norm1", nn.LayerNorm, norm_parameters, tensors),
            ("mlp", Mlp, Mlp.is_plain, "drops out, or has another activation than GELU"),
            ("mlp.fc1", nn.Linear, linear_parameters, tensors),
            ("mlp.fc2", nn.Linear, linear_parameters, tensors),
            ("norm2", nn.LayerNorm, norm_parameters, tensors),
            ("drop_path", DropPath, lambda module: True, ""),
        ]  # fmt: skip
        for name, kind, fits, words in parts:
            module = self.get_submodule(name)
            reason = why_not_bare(module, kind) or (None if fits(module) else words)
            if reason is not None:
                return f"{name} {reason}"
        return None

    def attention_input(self, x: Tensor) -> Tensor:
        """What the attention of this block gets where the block gets ``x``: the same."""
        return x

    def _forward(self, x: Tensor, layout: TokenLayout, copies: LowPrecisionCopies | None) -> Tensor:
        branches = self.branch_parameters()
        if branches is None:
            return self._forward_by_modules(x, layout)
        own = children(self)
        attn, drop_path = own["attn"], own["drop_path"]
        first, second = layout.path_scales or (
            drop_path.sample(x, layout),
            drop_path.sample(x, layout),
        )
        x = post_norm_attention(
            x,
            branches.qkv.weight,
            attn.biases(),
            branches.scores,
            branches.proj,
            branches.norm1,
            attn.fit(layout.map_size(x)),
            first,
            attn.backend,
            layout,
            copies,
        )
        x = post_norm_mlp(
            x, branches.up, branches.down, branches.norm2, second, attn.backend, copies
        )
        return apply_norm(own["norm3"], x)

    def _forward_by_modules(self, x: Tensor, layout: TokenLayout) -> Tensor:
        first, second = layout.path_scales or (None, None)
        attended = self.attn(x, layout)
        x = x + self.drop_path(apply_norm(self.norm1, attended), layout, first)
        x = x + self.drop_path(apply_norm(self.norm2, self.mlp(x)), layout, second)
        return apply_norm(self.norm3, x)


def _without_bias(layer: nn.Module) -> bool:
    own = linear_parameters(layer)
    return own is not None and own.bias is None
