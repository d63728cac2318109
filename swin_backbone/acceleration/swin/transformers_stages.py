"""Maps of transformers' Swin stages, on a GPU: views of the tokens, where a backbone norms them.

``SwinBackbone`` copies each stage's tokens channels first, and back again for the norm.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..rewrite import Rewrite, Undo, imported, own_method, replace_methods
from .block_rewrite import NAME
from .on_gpu import on_gpu

_METHOD = "get_reshaped_hidden_states"


def _stage() -> type | None:
    return imported("transformers.models.swin.modeling_swin", "SwinStage")


def finds(module: nn.Module) -> bool:
    stock = _stage()
    return stock is not None and isinstance(module, stock) and hasattr(stock, _METHOD)


def why_not(stage: nn.Module) -> str | None:
    return own_method(stage, _METHOD, _stage())


def apply(stage: nn.Module) -> Undo:
    return replace_methods(stage, {_METHOD: reshaped})


def reshaped(
    stage: nn.Module, after: Tensor, before: Tensor, height: int, width: int, is_before: bool
) -> Tensor:
    """``SwinStage.get_reshaped_hidden_states``: (B, C, H, W), channels last in memory."""
    if not is_before or not on_gpu(before):
        return getattr(type(stage), _METHOD)(stage, after, before, height, width, is_before)
    return before.unflatten(1, (height, width)).permute(0, 3, 1, 2)


REWRITE = Rewrite(NAME, "maps as views of tokens, on a GPU", finds, why_not, apply)
