"""Shifted-window attention of images of different sizes, their tokens in one list."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .argument_kinds import Flag, check_tensor
from .attention import (
    check_backend_name,
    check_inputs,
    check_options,
    resolve_scale,
    shifted_window_attention,
)
from .geometry.packing import Packing
from .geometry.valid_sizes import check_valid_sizes
from .symbolic import is_exporting
from .triton_backend import run_kernels, why_not_tensors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedInputs:
    """Arguments of one call of :func:`shifted_window_attention_packed`."""

    qkv: Tensor
    packing: Packing
    bias_table: Tensor
    num_heads: int
    window_size: tuple[int, int]
    shift_size: tuple[int, int]
    scale: float | None
    logit_scale: Tensor | None
    padding_qkv: Tensor | None
    dropout_p: float
    backend: str


class PackedBackend(NamedTuple):
    """One implementation of the packed operation.

    Attributes:
        name: what users write in ``backend=``.
        why_not: why these inputs cannot run here, or ``None`` if they can.
        run: (T, C) from the inputs.
    """

    name: str
    why_not: Callable[[PackedInputs], str | None]
    run: Callable[[PackedInputs], Tensor]


def _run_one_by_one(inputs: PackedInputs) -> Tensor:
    """The definition: each image by itself, through the operation on maps."""
    attended = []
    for part in inputs.packing.split(inputs.qkv):
        valid = None
        if inputs.packing.mask_padding:
            valid = torch.tensor([part.shape[:2]], device=part.device)
        own = shifted_window_attention(
            part[None],
            inputs.bias_table,
            num_heads=inputs.num_heads,
            window_size=inputs.window_size,
            shift_size=inputs.shift_size,
            scale=inputs.scale,
            logit_scale=inputs.logit_scale,
            valid_sizes=valid,
            padding_qkv=inputs.padding_qkv,
            dropout_p=inputs.dropout_p,
            backend=inputs.backend,
        )
        attended.append(own.flatten(0, 2))
    return torch.cat(attended)


def _why_not_triton(inputs: PackedInputs) -> str | None:
    if not inputs.qkv.is_cuda and inputs.backend == "auto":
        return "no CUDA device"
    if is_exporting():
        return "an exported model runs where there may be no Triton"
    return why_not_tensors(inputs.qkv, inputs.num_heads, inputs.window_size)


def _run_triton(inputs: PackedInputs) -> Tensor:
    """All windows of all images in one launch; a table says where each lies."""
    qkv, packing = inputs.qkv, inputs.packing
    windows = packing.windows(inputs.window_size, qkv.device)
    return run_kernels(
        qkv,
        inputs.bias_table,
        None if packing.mask_padding else inputs.padding_qkv,
        inputs.logit_scale,
        windows if packing.mask_padding else None,
        windows,
        [*inputs.window_size, *inputs.shift_size],
        resolve_scale(qkv, inputs.num_heads, inputs.scale, inputs.logit_scale),
        inputs.dropout_p,
    )


TRITON = PackedBackend(name="triton", why_not=_why_not_triton, run=_run_triton)
ONE_BY_ONE = PackedBackend(name="one by one", why_not=lambda inputs: None, run=_run_one_by_one)

#: In order of preference; the last takes everything.
PACKED_BACKENDS: list[PackedBackend] = [TRITON, ONE_BY_ONE]


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
    check_backend_name(backend)
    packing = sizes
    if not isinstance(sizes, Packing):
        own = check_valid_sizes(sizes, name="sizes").tolist()
        packing = Packing(tuple(map(tuple, own)), Flag()("mask_padding", mask_padding))
    check_tensor("qkv", qkv)
    _check_tokens(qkv, packing)
    check_inputs(qkv, bias_table, num_heads, window_size, shift_size, padding_qkv, dropout_p)
    check_options(qkv, num_heads, scale, logit_scale)
    inputs = PackedInputs(
        qkv,
        packing,
        bias_table,
        num_heads,
        tuple(window_size),
        tuple(shift_size),
        scale,
        logit_scale,
        padding_qkv,
        dropout_p,
        backend,
    )
    for candidate in PACKED_BACKENDS:
        reason = _why_not(candidate, inputs)
        if not torch.compiler.is_compiling():
            logger.debug("packed attention by %r: %s", candidate.name, reason or "chosen")
        if reason is None:
            return candidate.run(inputs)
    raise AssertionError("the last packed backend takes everything")


def attend(
    qkv: Tensor, bias_table: Tensor, valid_sizes: Tensor | None, packing: Packing | None, **options
) -> Tensor:
    """The attention operation on a batch of maps, or on packed images.

    Args:
        qkv: (B, H, W, 3 * C), or with ``packing`` (T, 3 * C).
        bias_table: relative position bias.
        valid_sizes: (B, 2) rows and columns of each image that are seen; ``None`` for all.
        packing: where the tokens of each image lie.
        **options: what both operations take.

    Returns:
        (B, H, W, C) or (T, C).
    """
    if packing is None:
        return shifted_window_attention(qkv, bias_table, valid_sizes=valid_sizes, **options)
    return shifted_window_attention_packed(qkv, packing, bias_table, **options)


def _why_not(candidate: PackedBackend, inputs: PackedInputs) -> str | None:
    if candidate is not ONE_BY_ONE and inputs.backend not in ("auto", candidate.name):
        return f"backend={inputs.backend!r} was asked for"
    return candidate.why_not(inputs)


def _check_tokens(qkv: Tensor, packing: Packing) -> None:
    tokens = sum(packing.counts)
    if qkv.dim() != 2 or len(qkv) != tokens or min(map(min, packing.sizes), default=0) < 1:
        raise ValueError(
            f"qkv must be (T, 3*C) with T the sum of rows * columns >= 1 of "
            f"sizes={packing.sizes}, {tokens}; got {tuple(qkv.shape)}"
        )
