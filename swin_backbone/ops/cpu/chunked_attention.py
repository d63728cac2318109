"""Attention in windows that were gathered by rows, without and with a backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..double_backward import plain_gradients
from ..torch_internals.cpu_operators import softmax_backward_in_place, softmax_in_place
from .window_rows import WindowRows

#: Heads of windows that one step works on, for each thread: their scores, of 49 tokens, fit into a
#: second-level cache. In bfloat16 steps are so short that calls from Python would show.
HEADS_PER_THREAD = 64
HEADS_PER_THREAD_BFLOAT16 = 256
#: Between these a sum of exponentials of bfloat16 is as precise as any number.
SMALLEST_SUM, LARGEST_SUM = 1e-30, 1e30


def attend(qkv: Tensor, bias: Tensor, padding: Tensor, rows: WindowRows, scale: float) -> Tensor:
    """``softmax(q k^T * scale + bias) v`` in each window, without gradients.

    Args:
        qkv: (tokens of all maps, 3 C).
        bias: (heads, N, N), in the dtype of ``qkv``.
        padding: (3 C,) what stands where a window reaches beyond its map.
        rows: which tokens make a window.
        scale: factor on q k^T.

    Returns:
        (tokens, C).
    """
    heads, tokens = bias.shape[:2]
    gathered = qkv.index_select(0, rows.token)
    gathered[rows.padding] = padding
    windows = gathered.view(-1, tokens, 3, heads, qkv.shape[1] // (3 * heads))
    by_bmm = qkv.dtype == torch.bfloat16 and not multiplies_in_tiles()
    compute = _attend_by_bmm if by_bmm else _attend_by_flash
    out = []
    for chunk, mask in _chunks(rows, bias, qkv.dtype):
        attended = compute(windows[chunk].permute(2, 0, 3, 1, 4), mask, scale)
        out.append(attended.transpose(1, 2).reshape(-1, qkv.shape[1] // 3))
    return torch.cat(out).index_select(0, rows.position)


@cache
def multiplies_in_tiles() -> bool:
    """Whether the processor multiplies matrices of bfloat16 in tiles (AMX), as torch's attention
    then does. A torch that cannot tell has an attention that does not."""
    ask = getattr(torch.cpu, "get_capabilities", dict)
    return bool(ask().get("amx_bf16"))


def _attend_by_flash(qkv: Tensor, mask: Tensor, scale: float) -> Tensor:
    """(3, windows, heads, N, d) to (windows, heads, N, d): best where matmul is slow, and for
    bfloat16 in tiles."""
    return F.scaled_dot_product_attention(*qkv, attn_mask=mask, scale=scale)


def _attend_by_bmm(qkv: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The same by oneDNN's batched products, the fast ones in bfloat16 without tiles.

    A softmax that first looks for the largest score of each row takes longer than both products.
    Without that, exponentials keep their relative precision as long as no sum leaves the range
    of floating point; where one does, the softmax is done over again in the usual way.
    """
    windows, heads, tokens, head_dim = qkv.shape[1:]
    query, key, value = qkv.contiguous().flatten(1, 2)
    scores = torch.bmm(query, key.transpose(1, 2)).view(windows, heads, tokens, tokens)
    torch.add(mask, scores, alpha=scale, out=scores)
    exponentials = scores.exp().flatten(0, 1)
    sums = exponentials.sum(-1, keepdim=True, dtype=_sum_dtype(scores.dtype))
    if sums.min() > SMALLEST_SUM and sums.max() < LARGEST_SUM:
        attended = (torch.bmm(exponentials, value) / sums).to(value.dtype)
    else:
        attended = torch.bmm(scores.softmax(-1).flatten(0, 1), value)
    return attended.view(windows, heads, tokens, head_dim)


def attend_for_training(
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor,
    rows: WindowRows,
    scale: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """The same as :func:`attend`, with gradients of ``qkv``, ``bias`` and ``padding``.

    Args:
        dropout_p: probability with which an attention weight is dropped.
    """
    return _Attend.apply(qkv, bias, padding, rows, scale, dropout_p)


class _Attend(torch.autograd.Function):
    """Keeps q, k, v and the weights of attention, each head of a window as one matrix."""

    @staticmethod
    def forward(ctx, qkv, bias, padding, rows, scale, dropout_p):
        heads, tokens = bias.shape[:2]
        qkv_heads = _gather_windows(qkv, padding, rows, heads, tokens)
        query, key, value = qkv_heads.flatten(1, 2)
        weights = qkv.new_empty(len(query), tokens, tokens)
        attended = torch.empty_like(query)
        for chunk, mask in _chunks(rows, bias, qkv.dtype, unit=heads):
            scores = torch.bmm(query[chunk], key[chunk].transpose(1, 2), out=weights[chunk])
            by_head = scores.view(-1, heads, tokens, tokens)
            torch.add(mask, by_head, alpha=scale, out=by_head)
            softmax_in_place(scores)
            if dropout_p == 0:
                torch.bmm(scores, value[chunk], out=attended[chunk])
        kept = None
        if dropout_p > 0:
            kept = torch.empty_like(weights).bernoulli_(1 - dropout_p).div_(1 - dropout_p)
            torch.bmm(weights * kept, value, out=attended)
        ctx.save_for_backward(qkv, bias, padding, weights, kept)
        ctx.rows, ctx.scale = rows, scale
        return _gather_tokens(attended.view(1, -1, heads, tokens, query.shape[-1]), rows)

    @staticmethod
    def backward(ctx, gradient):
        qkv, bias, padding, weights, kept = ctx.saved_tensors
        rows = ctx.rows
        if torch.is_grad_enabled():
            plain = partial(_attend_reference, rows=rows, scale=ctx.scale, kept=kept)
            return *plain_gradients(plain, (qkv, bias, padding), gradient), None, None, None
        heads, tokens = bias.shape[:2]
        qkv_heads = _gather_windows(qkv, padding, rows, heads, tokens)
        head_dim = qkv_heads.shape[-1]
        gradient = _gather_heads(gradient.contiguous(), rows, 1, heads, tokens)
        _token_view(gradient)[_places(rows, tokens)] = 0
        gradient = gradient.view(-1, tokens, head_dim)
        query, key, value = qkv_heads.flatten(1, 2)
        qkv_gradient = torch.empty_like(qkv_heads)
        query_gradient, key_gradient, value_gradient = qkv_gradient.flatten(1, 2)
        bias_gradient = torch.zeros(
            heads, tokens, tokens, dtype=_sum_dtype(weights.dtype), device="cpu"
        )
        for chunk, _ in _chunks(rows, None, weights.dtype, unit=heads):
            dropped = weights[chunk] if kept is None else weights[chunk] * kept[chunk]
            torch.bmm(dropped.transpose(1, 2), gradient[chunk], out=value_gradient[chunk])
            scores = torch.bmm(gradient[chunk], value[chunk].transpose(1, 2))
            if kept is not None:
                scores *= kept[chunk]
            softmax_backward_in_place(scores, weights[chunk])
            by_head = scores.view(-1, heads, tokens, tokens)
            bias_gradient += by_head.sum(0, dtype=bias_gradient.dtype)
            scores *= ctx.scale
            torch.bmm(scores, key[chunk], out=query_gradient[chunk])
            torch.bmm(scores.transpose(1, 2), query[chunk], out=key_gradient[chunk])
        padding_gradient = _token_view(qkv_gradient)[_places(rows, tokens)].sum(0).flatten()
        return (
            _gather_tokens(qkv_gradient, rows), bias_gradient.to(weights.dtype), padding_gradient,
            None, None, None,
        )  # fmt: skip


def _attend_reference(
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor,
    rows: WindowRows,
    scale: float,
    kept: Tensor | None,
) -> Tensor:
    """What :class:`_Attend` computes, by operators that have derivatives of every order.

    Args:
        kept: (windows * heads, N, N) factors of the weights of attention (dropout).
    """
    heads, tokens = bias.shape[:2]
    gathered = qkv.index_select(0, rows.token)
    gathered = gathered.index_put((rows.padding,), padding)
    windows = gathered.view(-1, tokens, 3, heads, qkv.shape[1] // (3 * heads))
    query, key, value = windows.permute(2, 0, 3, 1, 4)
    counts = [count for count, _ in rows.kinds]
    scores = torch.cat([
        part if forbidden is None else part.masked_fill(forbidden, float("-inf"))
        for part, (_, forbidden) in zip(
            (query @ key.transpose(-2, -1) * scale + bias).split(counts), rows.kinds, strict=True
        )
    ])  # fmt: skip
    weights = scores.softmax(-1)
    if kept is not None:
        weights = weights * kept.view_as(weights)
    attended = (weights @ value).transpose(1, 2).reshape(-1, qkv.shape[1] // 3)
    return attended.index_select(0, rows.position)


def _chunks(
    rows: WindowRows, bias: Tensor | None, dtype: torch.dtype, unit: int | None = None
) -> Iterator[tuple[slice, Tensor | None]]:
    """Windows to work on at a time, and the bias with their forbidden pairs: (1, heads, N, N).

    Args:
        rows: the windows.
        bias: (heads, N, N), or ``None`` where it does not matter.
        dtype: of the computation.
        unit: rows of a window in what the slices cut.
    """
    heads = bias.shape[0] if unit is None else unit
    at_once = HEADS_PER_THREAD_BFLOAT16 if dtype == torch.bfloat16 else HEADS_PER_THREAD
    step = max(1, at_once * torch.get_num_threads() // heads)
    unit = unit or 1
    first = 0
    for count, forbidden in rows.kinds:
        mask = bias
        if bias is not None and forbidden is not None:
            mask = bias.masked_fill(forbidden, float("-inf"))
        for start in range(first, first + count, step):
            stop = min(start + step, first + count)
            yield slice(start * unit, stop * unit), None if mask is None else mask[None]
        first += count


def _gather_windows(
    qkv: Tensor, padding: Tensor, rows: WindowRows, heads: int, tokens: int
) -> Tensor:
    """(tokens of the maps, 3 C), and (3 C,) for what is padding, to (3, windows, heads, N, d)."""
    qkv_heads = _gather_heads(qkv, rows, 3, heads, tokens)
    _token_view(qkv_heads)[_places(rows, tokens)] = padding.view(3, heads, -1)
    return qkv_heads


def _gather_heads(x: Tensor, rows: WindowRows, parts: int, heads: int, tokens: int) -> Tensor:
    """(tokens of the maps, parts * heads * d) to (parts, windows, heads, N, d)."""
    slot = torch.arange(parts * heads, device="cpu").view(parts, 1, heads, 1)
    index = (rows.token * (parts * heads)).view(-1, 1, tokens) + slot
    vectors = x.view(-1, x.shape[1] // (parts * heads))
    return vectors.index_select(0, index.view(-1)).view(*index.shape, -1)


def _gather_tokens(x: Tensor, rows: WindowRows) -> Tensor:
    """(parts, windows, heads, N, d) to (tokens of the maps, parts * heads * d)."""
    parts, windows, heads, tokens, head_dim = x.shape
    window = rows.position.div(tokens, rounding_mode="floor")
    first = window * ((heads - 1) * tokens) + rows.position  # of head 0
    part = torch.arange(parts, device="cpu")[:, None] * (windows * heads * tokens)
    index = first.view(-1, 1, 1) + part + torch.arange(heads, device="cpu") * tokens
    return x.view(-1, head_dim).index_select(0, index.view(-1)).view(len(first), -1)


def _token_view(x: Tensor) -> Tensor:
    """(parts, windows, heads, N, d) as (windows, N, parts, heads, d)."""
    return x.permute(1, 3, 0, 2, 4)


def _places(rows: WindowRows, tokens: int) -> tuple[Tensor, Tensor]:
    """Window, and token of the window, of each padding token."""
    window = rows.padding.div(tokens, rounding_mode="floor")
    return window, rows.padding - window * tokens


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which to add many numbers of ``dtype``."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
