"""Attention by the kernels and by the reference, on random inputs."""

import torch

from swin_backbone.ops import shifted_window_attention

from .errors import pooled_errors
from .triton_kernels import DEVICE  # skips first where no kernel can run

WINDOWS = [((7, 7), (3, 3)), ((7, 7), (0, 0)), ((8, 8), (4, 4)), ((4, 4), (2, 2)), ((3, 5), (0, 2))]


#: Whose keys pass by in blocks: of 32 tokens, and of 64 where these divide a window.
LARGE_WINDOWS = [
    ((9, 9), (4, 4)),
    ((12, 12), (6, 6)),
    ((16, 16), (8, 8)),
    ((24, 24), (12, 12)),
]
#: What all published architectures have, with and without a shift, and others.
ALL_WINDOWS = [
    *WINDOWS,
    *LARGE_WINDOWS,
    ((5, 5), (2, 2)),
    ((12, 12), (0, 0)),
    ((8, 24), (0, 12)),
    ((5, 9), (2, 4)),
]


#: Cosine attention, valid sizes, and both.
OPTIONS = [(True, False), (False, True), (True, True)]


def make_inputs(size, window_size, heads=2, head_dim=16, batch=2):
    table_rows = (2 * window_size[0] - 1) * (2 * window_size[1] - 1)
    channels = 3 * heads * head_dim
    shapes = [(batch, *size, channels), (table_rows, heads), (channels,)]
    return [torch.randn(shape, device=DEVICE) for shape in shapes]


def attend_and_differentiate(
    inputs, backend, dtype, cotangent, heads, window_size, shift_size, valid_sizes=None
):
    tensors = [tensor.to(dtype).requires_grad_() for tensor in inputs]
    qkv, table, padding, *logit_scale = tensors
    out = shifted_window_attention(
        qkv, table, padding_qkv=padding, num_heads=heads, window_size=window_size,
        shift_size=shift_size, backend=backend, valid_sizes=valid_sizes,
        logit_scale=logit_scale[0] if logit_scale else None,
    )  # fmt: skip
    assert out.dtype == dtype
    gradients = torch.autograd.grad(
        out, tensors, cotangent.to(dtype), allow_unused=True, materialize_grads=True
    )
    return [out.detach(), *gradients]


def compare(*case, draws=1, **options):
    """Errors of the kernels and of the reference in a dtype, against the reference in float64; case
    and options as of :func:`attend_in_three_ways`."""
    drawn = [attend_in_three_ways(*case, **options) for _ in range(draws)]
    kernels, reference, exact = zip(*drawn, strict=True)
    return pooled_errors(kernels, exact), pooled_errors(reference, exact)


def attend_in_three_ways(
    size, window_size, shift_size, dtype, heads=2, head_dim=16, batch=2, cosine=False, masked=False
):
    """By the kernels and the reference in ``dtype``, and by the reference in float64."""
    inputs = [t.to(dtype).float() for t in make_inputs(size, window_size, heads, head_dim, batch)]
    if cosine:
        inputs.append(torch.rand(heads, device=DEVICE).to(dtype).float() * 8 + 1)
    valid_sizes = None
    if masked:  # one image inside the map, one without a single token
        valid_sizes = torch.tensor([[(size[0] + 1) // 2, size[1]], [0, 3]], device=DEVICE)
    cotangent = torch.randn(batch, *size, heads * head_dim, device=DEVICE).to(dtype).float()
    arguments = (cotangent, heads, window_size, shift_size, valid_sizes)
    ways = ("triton", dtype), ("reference", dtype), ("reference", torch.float64)
    return [attend_and_differentiate(inputs, *way, *arguments) for way in ways]
