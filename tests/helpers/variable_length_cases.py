"""Variable-length attention by the kernels and by the reference, on random inputs."""

import torch

from swin_backbone.ops import (
    shifted_window_attention_packed,
)

from .errors import pooled_errors
from .triton_kernels import DEVICE

#: Maps of whole windows and not, smaller than a window, of one token.
SIZES = ((5, 7), (1, 1), (8, 4), (3, 9))


def run(tensors, backend, dtype, options, cosine):
    qkv, table, padding, logit_scale, cotangent = (t.to(dtype) for t in tensors)
    inputs = [t.requires_grad_() for t in (qkv, table, padding, logit_scale)]
    out = shifted_window_attention_packed(
        qkv, SIZES, table, padding_qkv=padding, num_heads=len(logit_scale), backend=backend,
        logit_scale=logit_scale if cosine else None, **options,
    )  # fmt: skip
    gradients = torch.autograd.grad(
        out, inputs, cotangent, allow_unused=True, materialize_grads=True
    )
    return [out.detach(), *gradients]


def compare(dtype, options, cosine, heads=2, head_dim=16, draws=1):
    """Errors of the kernels and of the reference in ``dtype``, against the reference in float64."""
    rows, columns = options["window_size"]
    tokens, channels = sum(rows * columns for rows, columns in SIZES), heads * head_dim
    table = ((2 * rows - 1) * (2 * columns - 1), heads)
    shapes = [(tokens, 3 * channels), table, (3 * channels,), (heads,), (tokens, channels)]
    ways = ("triton", dtype), ("reference", dtype), ("reference", torch.float64)
    drawn = []
    for _ in range(draws):
        tensors = [torch.randn(shape, device=DEVICE).to(dtype).float() for shape in shapes]
        tensors[3] = tensors[3].abs() + 1
        drawn.append([run(tensors, *way, options, cosine) for way in ways])
    kernels, reference, exact = zip(*drawn, strict=True)
    return pooled_errors(kernels, exact), pooled_errors(reference, exact)
