"""Operators of the CPU: oneDNN's linear layers, and softmax written where its input is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .choosing import choose

LINEAR = "torch.ops.mkldnn._linear_pointwise"
#: Between two ways to add up the few numbers of a check: 16 of about 1 in float32, or in bfloat16.
_CLOSE = {torch.float32: 1e-5, torch.bfloat16: 0.1}


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """``F.linear``, and GELU if asked for, where :func:`has_onednn_linear` says so."""
    after = ("gelu", [], "none") if gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *after)


def onednn_linear_add(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``residual + F.linear(x)``, where :func:`has_onednn_linear` says so."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")


@cache
def has_onednn_linear(dtype: torch.dtype) -> bool:
    """Whether oneDNN's linear layers compute in ``dtype`` here, at the speed of the processor.

    Tried at the first call, not at import: it starts threads, which a process that forks should not
    have.
    """
    if not torch.backends.mkldnn.is_available() or dtype not in _CLOSE:
        return False
    if dtype == torch.bfloat16 and not _has_bfloat16():
        return False
    return choose(LINEAR, lambda _: _is_linear(dtype), None) is not None


def _has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16; if torch does not say it, no."""
    name = "torch.ops.mkldnn._is_mkldnn_bf16_supported"
    supports = choose(name, lambda ask: isinstance(ask(), bool), lambda: False)
    return supports()


def _is_linear(dtype: torch.dtype) -> bool:
    with torch.no_grad():
        x, residual, weight, bias = _numbers(dtype, (4, 16), (4, 8), (8, 16), (8,))
        wanted = F.linear(x.double(), weight.double(), bias.double())
        pairs = [
            (onednn_linear(x, weight, bias), wanted),
            (onednn_linear(x, weight, None), wanted - bias.double()),
            (onednn_linear(x, weight, bias, gelu=True), F.gelu(wanted)),
            (onednn_linear_add(x, residual, weight, bias), wanted + residual.double()),
        ]
    return all(
        got.dtype == dtype and torch.allclose(got.double(), want, rtol=0, atol=_CLOSE[dtype])
        for got, want in pairs
    )


def softmax_in_place(scores: Tensor) -> Tensor:
    """``scores`` become their softmax over the last axis; outside of autograd."""
    return _in_place_softmax()(scores)


def softmax_backward_in_place(gradient: Tensor, weights: Tensor) -> Tensor:
    """The gradient of a softmax's result becomes the gradient of its input.

    Args:
        gradient: (..., N) of the result; overwritten.
        weights: (..., N) the result.
    """
    return _in_place_softmax_backward()(gradient, weights)


def _softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, -1, out=scores)  # public, but documented without out


def _softmax_plainly(scores: Tensor) -> Tensor:
    return scores.copy_(scores.softmax(-1))


def _softmax_backward(gradient: Tensor, weights: Tensor) -> Tensor:
    torch._softmax_backward_data(gradient, weights, -1, weights.dtype, grad_input=gradient)
    return gradient


def _softmax_backward_plainly(gradient: Tensor, weights: Tensor) -> Tensor:
    gradient *= weights
    return gradient.sub_(weights * gradient.sum(-1, keepdim=True))


@cache
def _in_place_softmax() -> Callable[[Tensor], Tensor]:
    return _softmax if choose("torch.softmax", _is_softmax, None) else _softmax_plainly


@cache
def _in_place_softmax_backward() -> Callable[[Tensor, Tensor], Tensor]:
    name = "torch._softmax_backward_data"
    is_correct = choose(name, _is_softmax_backward, None)
    return _softmax_backward if is_correct else _softmax_backward_plainly


def _is_softmax(_: object) -> bool:
    with torch.no_grad():
        (scores,) = _numbers(torch.float32, (3, 5))
        wanted = scores.softmax(-1)
        return torch.equal(_softmax(scores), wanted) and torch.equal(scores, wanted)


def _is_softmax_backward(_: object) -> bool:
    with torch.no_grad():
        gradient, scores = _numbers(torch.float64, (3, 5), (3, 5))
        weights = scores.softmax(-1)
        wanted = _softmax_backward_plainly(gradient.clone(), weights)
        _softmax_backward(gradient, weights)
        return torch.allclose(gradient, wanted, rtol=0, atol=1e-12)


def _numbers(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Numbers between -1 and 1, of a generator of their own."""
    generator = torch.Generator("cpu").manual_seed(0)
    return [
        torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
        .mul_(2)
        .sub_(1)
        .to(dtype)
        for shape in shapes
    ]
