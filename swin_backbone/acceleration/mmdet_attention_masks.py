"""Attention masks of mmdet's and mmseg's Mask2Former, compared before they are repeated.

Stock heads repeat each query's resized mask for eight heads, as numbers that gradients go through,
and compare the copies with one half. Here each is compared once, without gradients, which nothing
reads: the same masks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .mmdet_mask_losses import stock_head
from .rewrite import Rewrite, Undo, is_of, own_method, replace_methods


def finds(module: nn.Module) -> bool:
    return is_of(module, stock_head())


def why_not(head: nn.Module) -> str | None:
    return own_method(head, "_forward_head", stock_head())


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"_forward_head": forward_head})


def forward_head(
    head: nn.Module, decoder_out: Tensor, mask_feature: Tensor, attn_mask_target_size
) -> tuple[Tensor, Tensor, Tensor]:
    """``Mask2FormerHead._forward_head``.

    Args:
        head: the head.
        decoder_out: (B, Q, C).
        mask_feature: (B, C, h, w).
        attn_mask_target_size: rows and columns of the map that is attended to next.

    Returns:
        Scores of classes, masks (B, Q, h, w), and (B * heads, Q, keys) where not to look.
    """
    out = head.transformer_decoder.post_norm(decoder_out)
    scores, masks = (
        head.cls_embed(out),
        torch.einsum("bqc,bchw->bqhw", head.mask_embed(out), mask_feature),
    )
    with torch.no_grad():
        resized = functional.interpolate(
            masks.detach(), attn_mask_target_size, mode="bilinear", align_corners=False
        )
        away = resized.flatten(2).sigmoid() < 0.5  # not the sign: near zero sigmoids are one half
        away = away[:, None].expand(-1, head.num_heads, -1, -1).flatten(0, 1)
    return scores, masks, away


REWRITE = Rewrite(
    "attention_masks", "attention masks compared once for all heads", finds, why_not, apply
)
