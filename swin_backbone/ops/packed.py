"""Shifted-window attention of images of different sizes, their tokens in one list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import check_backend_name, shifted_window_attention


@dataclass(frozen=True)
class PackedInputs:
    """Arguments of one call of :func:`shifted_window_attention_packed`."""

    qkv: Tensor
    sizes: tuple[tuple[int, int], ...]
    bias_table: Tensor
    num_heads: int
    window_size: tuple[int, int]
    shift_size: tuple[int, int]
    scale: float | None
    logit_scale: Tensor | None
    padding_qkv: Tensor | None
    mask_padding: bool
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
    for part, size in zip(_split(inputs.qkv, inputs.sizes), inputs.sizes, strict=True):
        valid = torch.tensor([size], device=part.device) if inputs.mask_padding else None
        own = shifted_window_attention(
            part.unflatten(0, (1, *size)),
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


ONE_BY_ONE = PackedBackend(name="one by one", why_not=lambda inputs: None, run=_run_one_by_one)

#: In order of preference; the last takes everything.
PACKED_BACKENDS: list[PackedBackend] = [ONE_BY_ONE]


def shifted_window_attention_packed(
    qkv: Tensor,
    sizes: Sequence[tuple[int, int]],
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
        sizes: rows H and columns W of each image's map; their products add up to T.
        bias_table: as for one map.
        num_heads: as for one map.
        window_size: as for one map.
        shift_size: as for one map.
        scale: as for one map.
        logit_scale: as for one map.
        padding_qkv: as for one map.
        mask_padding: whether tokens that only fill up windows are keys for no one (what
            ``valid_sizes`` does for one map).
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
    sizes = tuple((int(rows), int(columns)) for rows, columns in sizes)
    tokens = sum(rows * columns for rows, columns in sizes)
    if qkv.dim() != 2 or len(qkv) != tokens or min(map(min, sizes), default=0) < 1:
        raise ValueError(
            f"qkv must be (T, 3*C) with T the sum of rows * columns >= 1 of sizes={sizes}, "
            f"{tokens}; got {tuple(qkv.shape)}"
        )
    inputs = PackedInputs(
        qkv,
        sizes,
        bias_table,
        num_heads,
        tuple(window_size),
        tuple(shift_size),
        scale,
        logit_scale,
        padding_qkv,
        mask_padding,
        dropout_p,
        backend,
    )
    for candidate in PACKED_BACKENDS:
        wanted = candidate is ONE_BY_ONE or backend in ("auto", candidate.name)
        if wanted and candidate.why_not(inputs) is None:
            return candidate.run(inputs)
    raise AssertionError("the last packed backend takes everything")


def _split(qkv: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
    return qkv.split([rows * columns for rows, columns in sizes])
