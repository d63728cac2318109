"""BranchParameters of a block by the kernels and by the reference, on random inputs."""

import torch

from swin_backbone.ops import (
    CosineScores,
    LinearParameters,
    NormParameters,
    Windows,
    post_norm_attention,
    post_norm_mlp,
    residual_attention,
    residual_mlp,
)

from .errors import draws_for, pooled_errors
from .triton_kernels import DEVICE  # skips first where no kernel can run


def draw(channels, heads, window_size):
    """Parameters of a block, scaled so that no branch dwarfs another."""

    def normal(*shape, scale=1.0, mean=0.0):
        return mean + scale * torch.randn(*shape, device=DEVICE)

    small = channels**-0.5
    table_rows = (2 * window_size[0] - 1) * (2 * window_size[1] - 1)
    return {
        "norm_weight": normal(channels, scale=0.2, mean=1.0),
        "norm_bias": normal(channels, scale=0.2),
        "qkv_weight": normal(3 * channels, channels, scale=small),
        "qkv_bias": normal(3 * channels, scale=0.2),
        "table": normal(table_rows, heads),
        "proj_weight": normal(channels, channels, scale=small),
        "proj_bias": normal(channels, scale=0.2),
        "up_weight": normal(4 * channels, channels, scale=small),
        "up_bias": normal(4 * channels, scale=0.2),
        "down_weight": normal(channels, 4 * channels, scale=small),
        "down_bias": normal(channels, scale=0.2),
        "logit_scale": torch.rand(heads, 1, 1, device=DEVICE) * 3 + 1.8,  # one in ten too large
        "offset_weight": normal(64, 2),
        "offset_bias": normal(64),
        "head_weight": normal(heads, 64, scale=0.2),
    }


def run_attention(x, p, windows, path_scale, backend):
    return residual_attention(
        x,
        NormParameters(p["norm_weight"], p["norm_bias"], 1e-5),
        LinearParameters(p["qkv_weight"], p.get("qkv_bias")),
        p["table"],
        LinearParameters(p["proj_weight"], p["proj_bias"]),
        windows,
        path_scale=path_scale,
        backend=backend,
    )


def run_mlp(x, p, windows, path_scale, backend):
    return residual_mlp(
        x,
        NormParameters(p["norm_weight"], p["norm_bias"], 1e-5),
        LinearParameters(p["up_weight"], p["up_bias"]),
        LinearParameters(p["down_weight"], p["down_bias"]),
        path_scale=path_scale,
        backend=backend,
    )


def run_post_norm_attention(x, p, windows, path_scale, backend):
    """Of Swin V2; coordinates are scaled to a window of 5 x 3 tokens."""
    biases = None
    if "qkv_bias" in p:
        query, _, value = p["qkv_bias"].chunk(3)
        biases = query.contiguous(), value.contiguous()
    offsets = LinearParameters(p["offset_weight"], p["offset_bias"])
    return post_norm_attention(
        x,
        p["qkv_weight"],
        biases,
        CosineScores(p["logit_scale"], offsets, p["head_weight"], (5, 3)),
        LinearParameters(p["proj_weight"], p["proj_bias"]),
        NormParameters(p["norm_weight"], p["norm_bias"], 1e-5),
        windows,
        path_scale=path_scale,
        backend=backend,
    )


def run_post_norm_mlp(x, p, windows, path_scale, backend):
    """Of Swin V2."""
    return post_norm_mlp(
        x,
        LinearParameters(p["up_weight"], p["up_bias"]),
        LinearParameters(p["down_weight"], p["down_bias"]),
        NormParameters(p["norm_weight"], p["norm_bias"], 1e-5),
        path_scale=path_scale,
        backend=backend,
    )


#: The branches of a V1 and of a V2 block.
BRANCHES = [run_attention, run_mlp, run_post_norm_attention, run_post_norm_mlp]


#: So many times the draws are drawn, of which those are taken where the terms of that gradient
#: cancel least: of four at random they cancelled once in a hundred runs of all tests.
CANDIDATES = 3


def draws_of(run, channels, most):
    """Over how many draws errors are to be pooled: V2's attention has a factor for each head, whose
    gradient is one number, and in one draw its terms may cancel."""
    heads = max(1, channels // 32)
    return min(most, draws_for(heads)) if run is run_post_norm_attention else 1


def branch_and_gradients(run, x, parameters, windows, path_scale, backend, dtype, cotangent):
    """What a branch adds to ``x``, and the gradients of ``x`` (through the branch) and parameters.

    ``dtype`` is the compute dtype: below float32 it is autocast's, as in training.
    """
    wide = torch.promote_types(dtype, torch.float32)
    x = x.to(wide).requires_grad_()
    p = {name: value.to(wide).requires_grad_() for name, value in parameters.items()}
    with torch.autocast(DEVICE, dtype, enabled=dtype != wide):
        out = run(x, p, windows, path_scale, backend)
    assert out.dtype == wide
    gradients = torch.autograd.grad(
        out, [x, *p.values()], cotangent.to(wide), allow_unused=True, materialize_grads=True
    )
    return [out.detach() - x.detach(), gradients[0] - cotangent.to(wide), *gradients[1:]]


def compare(
    run, channels, size, window_size, shift_size, dtype, batch=2, drop=(), path_scale=None,
    norm_bias=0.0, most_draws=4,
):  # fmt: skip
    """Errors of the kernels and of the reference, pooled over draws: of the result, and of the
    gradients of ``x`` and of each parameter."""
    draws = draws_of(run, channels, most_draws)
    heads = max(1, channels // 32)
    windows = Windows(heads, window_size, shift_size, (channels // heads) ** -0.5)

    def run_of(drawn, backend, kind):
        x, parameters, cotangent = drawn
        return branch_and_gradients(
            run, x, parameters, windows, path_scale, backend, kind, cotangent
        )

    found = []
    for _ in range(draws if draws == 1 else CANDIDATES * draws):
        parameters = {k: v for k, v in draw(channels, heads, window_size).items() if k not in drop}
        parameters["norm_bias"] += norm_bias
        x = torch.randn(batch, *size, channels, device=DEVICE)
        drawn = x, parameters, torch.randn_like(x)
        found.append((drawn, run_of(drawn, "reference", torch.float64)))
    if draws > 1:
        place = 2 + list(parameters).index("logit_scale")
        found.sort(key=lambda pair: float(pair[1][place].norm()), reverse=True)
    inputs, exact = zip(*found[:draws], strict=True)
    both = [[run_of(one, backend, dtype) for one in inputs] for backend in ("triton", "reference")]
    return [pooled_errors(actual, exact, least_norm=1e-9) for actual in both]
