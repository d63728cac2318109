"""Shifted-window attention: the operation, and its checks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from . import dispatch, triton_backend
from .argument_checks import FINITE, RATE, Integer, check_tensor, two_integers
from .cpu import attention_backend
from .geometry.valid_sizes import check_valid_sizes
from .geometry.windows import WindowGrid
from .reference import attention_reference, attention_sdpa
from .reference.window_steps import AttentionInputs

#: What computes attention, by the name that users write in ``backend=``; all with one meaning.
BACKENDS: dict[str, Callable[[AttentionInputs], Tensor]] = {
    "reference": attention_reference.run,
    "sdpa": attention_sdpa.run,
    "cpu": attention_backend.run,
    "triton": triton_backend.run,
}

_HEADS = Integer(1)


def shifted_window_attention(
    qkv: Tensor,
    bias_table: Tensor,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    shift_size: tuple[int, int] = (0, 0),
    scale: float | None = None,
    logit_scale: Tensor | None = None,
    valid_sizes: Tensor | None = None,
    padding_qkv: Tensor | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Multi-head self-attention within (shifted) windows of a token map of any size.

    Swin Transformer (https://arxiv.org/abs/2103.14030), section 3.2 and equation 4:
    ``softmax(q k^T * scale + bias) v`` in each window. The map is filled up to whole windows at
    the bottom and right, the windows are displaced by a cyclic shift, and tokens that only the
    shift brought together do not see each other. All of it follows from the map's actual size.

    Args:
        qkv: (B, H, W, 3 * C) queries, keys and values of the unpadded map, for any H, W >= 1;
            within the last axis q, k, v come one after the other, each as (heads, head dim).
        bias_table: ((2 M_h - 1) (2 M_w - 1), heads) relative position bias.
        num_heads: number of heads; divides C.
        window_size: rows M_h and columns M_w of a window, in tokens.
        shift_size: rows and columns of the shift, ``0 <= shift < window``.
        scale: factor on q k^T. ``None`` means ``head_dim ** -0.5``, or nothing beside
            ``logit_scale``.
        logit_scale: (heads,) factors of scaled cosine attention (Swin Transformer V2,
            https://arxiv.org/abs/2111.09883, equation 2): queries and keys are divided by their
            length (at least 1e-12), and q k^T is multiplied by its head's factor, as given.
            ``None``: dot products.
        valid_sizes: (B, 2) integers >= 0: rows and columns, from the top left, that belong to each
            image; more than the map has means all of it. A tensor, an array or lists; of a tensor
            on a device, which is not looked at, less than 0 means 0. Tokens outside, and tokens
            that only fill up windows, are keys for no one, and their outputs are zero. ``None``:
            tokens that fill up windows are seen, as the original does.
        padding_qkv: (3 * C,) query, key and value of a token that only fills up a window: the
            bias of the projection, since the original pads zeros before it. ``None``: zeros.
            Of no effect beside ``valid_sizes``.
        dropout_p: probability with which an attention weight is dropped.
        backend: ``'auto'`` or a name in :data:`swin_backbone.ops.BACKENDS`.

    Returns:
        (B, H, W, C), in the dtype of ``qkv``.

    Raises:
        ValueError: if a shape does not fit, or the backend is unknown or cannot run the inputs.
        TypeError: if an argument is of another kind: ``qkv`` or ``logit_scale`` not floating
            point, ``valid_sizes`` or a size not of integers, ...
    """
    check_tensor("qkv", qkv)
    if qkv.dim() != 4 or qkv.shape[1] < 1 or qkv.shape[2] < 1:
        raise ValueError(f"qkv must be (B, H, W, 3*C) with H, W >= 1, got {tuple(qkv.shape)}")
    check_inputs(qkv, bias_table, num_heads, window_size, shift_size, padding_qkv, dropout_p)
    check_options(qkv, num_heads, scale, logit_scale)
    if valid_sizes is not None:
        valid_sizes = check_valid_sizes(valid_sizes, qkv.shape[0], at_least=0).to(qkv.device)
    inputs = AttentionInputs(
        qkv=qkv,
        bias_table=bias_table,
        padding_qkv=padding_qkv,
        grid=WindowGrid(qkv.shape[1], qkv.shape[2], tuple(window_size), tuple(shift_size)),
        num_heads=num_heads,
        scale=resolve_scale(qkv, num_heads, scale, logit_scale),
        dropout_p=dropout_p,
        logit_scale=logit_scale,
        valid_sizes=valid_sizes,
    )
    return BACKENDS[dispatch.attention(inputs, backend)](inputs)


def check_inputs(qkv, bias_table, num_heads, window_size, shift_size, padding_qkv, dropout_p):
    """Raise for what does not fit, on a batch of maps or on packed images."""
    check_tensor("bias_table", bias_table)
    check_tensor("padding_qkv", padding_qkv, optional=True)
    if not qkv.is_floating_point():
        raise TypeError(f"qkv must be floating point, got {qkv.dtype}")
    _HEADS("num_heads", num_heads)
    if qkv.shape[-1] % (3 * num_heads):
        raise ValueError(
            f"num_heads must divide C where qkv has 3*C channels, "
            f"got num_heads={num_heads} and {qkv.shape[-1]} channels"
        )
    two_integers("window_size", window_size, 1)
    two_integers("shift_size", shift_size, 0)
    if not all(0 <= s < w for s, w in zip(shift_size, window_size, strict=True)):
        raise ValueError(
            f"shift_size must be >= 0 and below window_size={window_size}, got {shift_size}"
        )
    expected = ((2 * window_size[0] - 1) * (2 * window_size[1] - 1), num_heads)
    if tuple(bias_table.shape) != expected:
        raise ValueError(f"bias_table must be {expected}, got {tuple(bias_table.shape)}")
    if padding_qkv is not None and tuple(padding_qkv.shape) != (qkv.shape[-1],):
        raise ValueError(f"padding_qkv must be ({qkv.shape[-1]},), got {tuple(padding_qkv.shape)}")
    RATE("dropout_p", dropout_p)


def check_options(qkv, num_heads, scale, logit_scale):
    """Raise for scores that cannot be scaled so."""
    check_tensor("logit_scale", logit_scale, optional=True)
    if scale is not None:
        FINITE("scale", scale)
    if logit_scale is not None:
        if scale is not None:
            raise ValueError(f"give scale or logit_scale, not both; got scale={scale}")
        if not logit_scale.is_floating_point():
            raise TypeError(f"logit_scale must be floating point, got {logit_scale.dtype}")
        if tuple(logit_scale.shape) != (num_heads,):
            raise ValueError(
                f"logit_scale must be ({num_heads},), one a head, got {tuple(logit_scale.shape)}"
            )


def resolve_scale(qkv, num_heads, scale, logit_scale) -> float:
    """The factor on q k^T where ``None`` was given: that of the head's channels, or none."""
    if scale is not None:
        return scale
    return 1.0 if logit_scale is not None else (qkv.shape[-1] // (3 * num_heads)) ** -0.5
