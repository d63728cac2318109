"""Shifted-window attention of images of different sizes, their tokens in one list."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import dispatch
from .argument_checks import Flag, check_tensor
from .attention import check_inputs, check_options, resolve_scale, shifted_window_attention
from .geometry.packing import Packing
from .geometry.token_layout import TokenLayout
from .geometry.valid_sizes import check_valid_sizes
from .triton_backend import run_kernels


def shifted_window_attention_packed(
    qkv: Tensor,
    sizes: Sequence[tuple[int, int]] | Packing,
    bias_table: Tensor,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    shift_size: tuple[int, int] = (0, 0),
    scale: float | None = None,
    logit_scale: Tensor | None = None,
    padding_qkv: Tensor | None = None,
    mask_padding: bool = False,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """:func:`shifted_window_attention` of several images at once, without padding between them.

    Windows are local, so a table of sizes is all that is needed to tell images apart.

    Args:
        qkv: (T, 3 * C), the tokens of all images, one image after the other, each row by row.
        sizes: rows H and columns W of each image's map, all >= 1; their products add up to T. Or a
            :class:`Packing`, which keeps what kernels need to know, and ``mask_padding``.
        bias_table: as for one map.
        num_heads: as for one map.
        window_size: as for one map.
        shift_size: as for one map.
        scale: as for one map.
        logit_scale: as for one map.
        padding_qkv: as for one map.
        mask_padding: whether tokens that only fill up windows are keys for no one (what
            ``valid_sizes`` does for one map). Of no effect beside a :class:`Packing`.
        dropout_p: as for one map.
        backend: as for one map; a packed implementation of that name runs if there is one and it
            can, and otherwise each image by itself.

    Returns:
        (T, C), in the dtype of ``qkv``: what each image gives by itself.

    Raises:
        ValueError: if the sizes do not add up, or for what :func:`shifted_window_attention`
            raises it.
        TypeError: as there.
    """
    dispatch.check_backend_name(backend)
    packing = sizes
    if not isinstance(sizes, Packing):
        own = check_valid_sizes(sizes, name="sizes").tolist()
        packing = Packing(tuple(map(tuple, own)), Flag()("mask_padding", mask_padding))
    check_tensor("qkv", qkv)
    _check_tokens(qkv, packing)
    check_inputs(qkv, bias_table, num_heads, window_size, shift_size, padding_qkv, dropout_p)
    check_options(qkv, num_heads, scale, logit_scale)
    options = {
        "num_heads": num_heads,
        "window_size": tuple(window_size),
        "shift_size": tuple(shift_size),
        "scale": scale,
        "logit_scale": logit_scale,
        "padding_qkv": padding_qkv,
        "dropout_p": dropout_p,
    }
    way = dispatch.variable_length_attention(qkv, num_heads, tuple(window_size), backend)
    if way == "triton":
        return _in_one_launch(qkv, packing, bias_table, **options)
    return _one_by_one(qkv, packing, bias_table, backend=backend, **options)


def attend(qkv: Tensor, bias_table: Tensor, layout: TokenLayout, **options) -> Tensor:
    """The attention operation on tokens, wherever they lie.

    Args:
        qkv: (B, H, W, 3 * C), or of variable length (T, 3 * C).
        bias_table: relative position bias.
        layout: where the tokens lie.
        **options: what both operations take.

    Returns:
        (B, H, W, C) or (T, C).
    """
    if layout.packing is None:
        return shifted_window_attention(qkv, bias_table, valid_sizes=layout.valid_sizes, **options)
    return shifted_window_attention_packed(qkv, layout.packing, bias_table, **options)


def _one_by_one(qkv: Tensor, packing: Packing, bias_table: Tensor, **options) -> Tensor:
    """The definition: each image by itself, through the operation on maps."""
    attended = []
    for part in packing.split(qkv):
        valid = torch.tensor([part.shape[:2]], device=part.device) if packing.mask_padding else None
        own = shifted_window_attention(part[None], bias_table, valid_sizes=valid, **options)
        attended.append(own.flatten(0, 2))
    return torch.cat(attended)


def _in_one_launch(
    qkv: Tensor,
    packing: Packing,
    bias_table: Tensor,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    shift_size: tuple[int, int],
    scale: float | None,
    logit_scale: Tensor | None,
    padding_qkv: Tensor | None,
    dropout_p: float,
) -> Tensor:
    """All windows of all images in one launch; a table says where each lies."""
    windows = packing.windows(window_size, qkv.device)
    return run_kernels(
        qkv,
        bias_table,
        None if packing.mask_padding else padding_qkv,
        logit_scale,
        windows if packing.mask_padding else None,
        windows,
        [*window_size, *shift_size],
        resolve_scale(qkv, num_heads, scale, logit_scale),
        dropout_p,
    )


def _check_tokens(qkv: Tensor, packing: Packing) -> None:
    tokens = sum(packing.counts)
    if qkv.dim() != 2 or len(qkv) != tokens or min(map(min, packing.sizes), default=0) < 1:
        raise ValueError(
            f"qkv must be (T, 3*C) with T the sum of rows * columns >= 1 of "
            f"sizes={packing.sizes}, {tokens}; got {tuple(qkv.shape)}"
        )
