"""One Swin Transformer block."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from ..ops import (
    LinearParameters,
    LowPrecisionCopies,
    NormParameters,
    ResidualBlock,
    TokenLayout,
    residual_attention,
    residual_mlp,
)
from ..ops.torch_internals.module_contents import children, parameters
from .apply_norm import apply_norm
from .checkpointed_block import CheckpointedBlock
from .drop_path import DropPath
from .mlp import Mlp
from .plain_modules import is_bare, linear_parameters, norm_parameters, why_not_bare
from .window_attention import WindowAttention


class BranchParameters(NamedTuple):
    """Parameters of a block as :mod:`swin_backbone.ops.residual_branches` takes them."""

    norm1: NormParameters
    qkv: LinearParameters
    proj: LinearParameters
    norm2: NormParameters
    up: LinearParameters
    down: LinearParameters


class SwinBlock(CheckpointedBlock):
    """Pre-norm residual block of window attention and MLP (Swin Transformer, equation
    3).

    Args:
        attention: the attention of this block, regular or shifted.
        embed_dims: channels of a token.
        hidden_dims: hidden channels of the MLP.
        norm_layer: makes a norm.
        act_layer: makes the activation.
        drop_rate: dropout in the MLP.
        drop_path_rate: stochastic depth of both residual branches.
        with_cp: recompute the block in the backward pass instead of storing what it computed.
    """

    def __init__(
        self,
        attention: WindowAttention,
        embed_dims: int,
        hidden_dims: int,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
    ):
        super().__init__(with_cp)
        self.norm1 = norm_layer(embed_dims)
        self.attn = attention
        self.norm2 = norm_layer(embed_dims)
        self.mlp = Mlp(embed_dims, hidden_dims, act_layer, drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def linear_weights(self) -> list[Tensor]:
        """What the fused branches read in the compute dtype, if it is they that run."""
        own = children(self)
        attn, mlp = own["attn"], own["mlp"]
        if type(attn) is not WindowAttention or type(mlp) is not Mlp:
            return []
        if attn.backend not in ("auto", "triton"):
            return []
        inside, layers = children(attn), children(mlp)
        qkv, others = inside["qkv"], (inside["proj"], layers["fc1"], layers["fc2"])
        tensors = [parameters(qkv).get("bias"), parameters(qkv).get("weight")]
        tensors += [parameters(layer).get("weight") for layer in others]
        return [tensor for tensor in tensors if tensor is not None]

    def branch_parameters(self) -> BranchParameters | None:
        """Parameters of both branches, or ``None`` if these are not what
        :mod:`swin_backbone.ops.residual_branches` computes."""
        own = children(self)
        attn, mlp = own["attn"], own["mlp"]
        if not (is_bare(attn, WindowAttention) and attn.is_plain()):
            return None
        if not (is_bare(mlp, Mlp) and mlp.is_plain() and is_bare(own["drop_path"], DropPath)):
            return None
        inside, layers = children(attn), children(mlp)
        branches = BranchParameters(
            norm_parameters(own["norm1"]),
            linear_parameters(inside["qkv"]),
            linear_parameters(inside["proj"]),
            norm_parameters(own["norm2"]),
            linear_parameters(layers["fc1"]),
            linear_parameters(layers["fc2"]),
        )
        return None if None in branches else branches

    def as_arguments(self, size: tuple[int, int]) -> ResidualBlock:
        """What :func:`swin_backbone.ops.residual_blocks` takes for maps of ``size`` tokens, where
        :meth:`branch_parameters` are not ``None``.

        Compilers read this, so it is short, and reads what a change of is to be seen."""
        own = children(self)
        attn, mlp, drop_path = own["attn"], own["mlp"], own["drop_path"]
        inside, layers = children(attn), children(mlp)
        windows, table = attn.fit(size)
        return ResidualBlock(
            _norm(own["norm1"]),
            _linear(inside["qkv"]),
            table,
            _linear(inside["proj"]),
            windows,
            _norm(own["norm2"]),
            _linear(layers["fc1"]),
            _linear(layers["fc2"]),
            attn.backend,
            drop_path.drop_prob if drop_path.is_dropping() else 0.0,
        )

    def why_by_modules(self) -> str | None:
        """Why :meth:`branches` are ``None``: what is not what the class says, as text."""
        tensors = "has weights that are more than tensors, or lacks some"
        parts = [
            ("norm1", nn.LayerNorm, norm_parameters, tensors),
            ("attn", WindowAttention, WindowAttention.is_plain, "drops out, or has another table"),
            ("attn.qkv", nn.Linear, linear_parameters, tensors),
            ("attn.proj", nn.Linear, linear_parameters, tensors),
            ("norm2", nn.LayerNorm, norm_parameters, tensors),
            ("mlp", Mlp, Mlp.is_plain, "drops out, or has another activation than GELU"),
            ("mlp.fc1", nn.Linear, linear_parameters, tensors),
            ("mlp.fc2", nn.Linear, linear_parameters, tensors),
            ("drop_path", DropPath, lambda module: True, ""),
        ]
        for name, kind, fits, words in parts:
            module = self.get_submodule(name)
            reason = why_not_bare(module, kind) or (None if fits(module) else words)
            if reason is not None:
                return f"{name} {reason}"
        return None

    def attention_input(self, x: Tensor) -> Tensor:
        """What the attention of this block gets where the block gets ``x``."""
        return apply_norm(self.norm1, x)

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
        windows, table = attn.fit(layout.map_size(x))
        x = residual_attention(
            x,
            branches.norm1,
            branches.qkv,
            table,
            branches.proj,
            windows,
            first,
            attn.backend,
            layout,
            copies,
        )
        return residual_mlp(
            x, branches.norm2, branches.up, branches.down, second, attn.backend, copies
        )

    def _forward_by_modules(self, x: Tensor, layout: TokenLayout) -> Tensor:
        first, second = layout.path_scales or (None, None)
        x = x + self.drop_path(self.attn(self.attention_input(x), layout), layout, first)
        return x + self.drop_path(self.mlp(apply_norm(self.norm2, x)), layout, second)


def _linear(layer: nn.Linear) -> LinearParameters:
    own = parameters(layer)
    return LinearParameters(own["weight"], own["bias"])


def _norm(norm: nn.LayerNorm) -> NormParameters:
    own = parameters(norm)
    return NormParameters(own["weight"], own["bias"], norm.eps)
