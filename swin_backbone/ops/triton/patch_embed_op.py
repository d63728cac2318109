"""Patch embedding as an operator of torch: one kernel forward, one backward.

Nothing but the image is kept for the backward pass: a patch's projection is recomputed.
"""

from functools import partial
from typing import List  # noqa: UP035

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from ..double_backward import plain_gradients
from ..geometry.corner_pad import corner_pad
from .autograd_op import Differentiable, register
from .kernels.patch_embed_kernels import embed_backward, embed_forward
from .launch import Launch, looped, precision, remembered
from .linear_op import like_parameters
from .partial_sums import summed

#: Programs of the backward pass, relative to :data:`swin_backbone.ops.triton.launch.PROGRAMS`: each
#: leaves partial sums of all gradients.
PROGRAMS_FACTOR = 0.25

_Sizes = List[int]  # noqa: UP006  (rows and columns of a patch)


@remembered
def _launches(shape, channels, patch, eps, grad_image, precision) -> tuple[Launch, Launch]:
    batch, image_channels, height, width = shape
    rows, columns = triton.cdiv(height, patch[0]), triton.cdiv(width, patch[1])
    lines = batch * rows
    pixels = image_channels * patch[0] * patch[1]
    constants = {
        "C": channels,
        "COLUMNS": max(16, triton.next_power_of_2(channels)),
        "K": pixels,
        "INPUTS": max(16, triton.next_power_of_2(pixels + 1)),
        "PATCH_H": patch[0],
        "PATCH_W": patch[1],
        "PRECISION": precision,
    }
    numbers = (lines, height, width, rows, columns)
    block, options = _forward_block(channels)
    blocks = lines * triton.cdiv(columns, block)
    forward = Launch(
        embed_forward, (blocks,), (*numbers, eps), {**constants, "ROWS": block}, options
    )
    block, options = _backward_block(channels)
    blocks = lines * triton.cdiv(columns, block)
    programs, blocks_per_program = looped(blocks, 1, PROGRAMS_FACTOR)
    constants |= {"ROWS": block, "GRAD_IMAGE": grad_image}
    numbers = (*numbers, blocks_per_program, eps)
    return forward, Launch(embed_backward, (programs,), numbers, constants, options)


def _forward_block(channels: int) -> tuple[int, dict]:
    """Tokens side by side that a program handles at once, and the launch's options."""
    return 32, {"num_warps": 4 if channels <= 128 else 8, "num_stages": 2}


def _backward_block(channels: int) -> tuple[int, dict]:
    """The same for the backward pass, whose sums fill most of the registers."""
    if channels > 128:
        return 16, {"num_warps": 8, "num_stages": 3}
    return 16, {"num_warps": 4, "num_stages": 3, "maxnreg": 168}


def _map_shape(image: Tensor, channels: int, patch) -> tuple[int, ...]:
    batch, _, height, width = image.shape
    return batch, -(-height // patch[0]), -(-width // patch[1]), channels


def _embed_forward(
    image: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    low: Tensor,
    eps: float,
    patch: _Sizes,
    dtype: torch.dtype,
) -> Tensor:
    """``norm(patches(image) @ weight^T + bias)``.

    Args:
        image: (B, channels, H, W), contiguous.
        weight: (C, pixels of a patch), for its gradient.
        low: ``weight`` in the compute dtype, for its values.
        patch: rows and columns of a patch.
        dtype: of the result.

    Returns:
        (B, ceil(H / rows), ceil(W / columns), C).
    """
    channels = low.shape[0]
    kind = precision(low.dtype)
    launch, _ = _launches(tuple(image.shape), channels, tuple(patch), eps, False, kind)
    out = image.new_empty(_map_shape(image, channels, patch), dtype=dtype)
    launch(image, low, bias, norm_weight, norm_bias, out)
    return out


def _embed_backward(
    grad_out: Tensor,
    image: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    low: Tensor,
    eps: float,
    patch: _Sizes,
    grad_image: bool,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`_embed_forward` for ``image`` (empty without ``grad_image``) and, in this
    order and in float32, weight and bias, norm weight and bias."""
    channels, pixels = low.shape
    kind = precision(low.dtype)
    _, launch = _launches(tuple(image.shape), channels, tuple(patch), eps, grad_image, kind)
    weights = channels * pixels
    partials = image.new_empty((launch.grid[0], weights + 3 * channels), dtype=torch.float32)
    for_image = torch.empty_like(image) if grad_image else image.new_empty(0)
    target = for_image if grad_image else image  # to which nothing is written
    launch(image, low, bias, norm_weight, grad_out, target, partials)
    grad_weight, *others = summed([partials], [weights, channels, channels, channels])
    return [for_image, grad_weight.view(channels, pixels), *others]


_patch_embed = register("patch_embed", _embed_forward)


@_patch_embed.register_fake
def _(image, weight, bias, norm_weight, norm_bias, low, eps, patch, dtype):
    return image.new_empty(_map_shape(image, low.shape[0], patch), dtype=dtype)


_patch_embed_backward = register("patch_embed_backward", _embed_backward)


@_patch_embed_backward.register_fake
def _(grad_out, image, bias, norm_weight, low, eps, patch, grad_image):
    shapes = (low.shape, bias.shape, bias.shape, bias.shape)
    wide = [low.new_empty(shape, dtype=torch.float32) for shape in shapes]
    return [torch.empty_like(image) if grad_image else image.new_empty(0), *wide]


def _save(ctx, inputs, output):
    *tensors, ctx.eps, ctx.patch, ctx.dtype = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_by(gradients):
    def differentiate(ctx, grad_out):
        image, *parameters, low = ctx.saved_tensors
        _, bias, norm_weight, _ = parameters
        wanted = ctx.needs_input_grad[0]
        grad_image, *grads = gradients(
            grad_out.contiguous(), image, bias, norm_weight, low, ctx.eps, ctx.patch, wanted
        )
        grads = like_parameters(grads, parameters)
        return grad_image if wanted else None, *grads, None, None, None, None

    return differentiate


def _plain(image, weight, bias, norm_weight, norm_bias, low, eps, patch, dtype) -> Tensor:
    """:func:`_embed_forward` by plain operators, from ``weight`` and not from ``low``."""
    image = corner_pad(image, patch, patch, dims=(2, 3)).to(low.dtype)
    patches = image.unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
    projected = F.linear(patches, weight.to(low.dtype)).float() + bias.float()
    norm = norm_weight.float(), norm_bias.float()
    return F.layer_norm(projected, norm_weight.shape, *norm, eps).to(dtype)


def _differentiate_again(ctx, grad_out):
    *learned, low = ctx.saved_tensors
    plain = partial(_plain, low=low, eps=ctx.eps, patch=ctx.patch, dtype=ctx.dtype)
    return *plain_gradients(plain, learned, grad_out), *[None] * 4


#: Patch embedding; arguments and result as of :func:`_embed_forward`.
patch_embed = Differentiable(
    _patch_embed,
    _embed_forward,
    _save,
    _differentiate_by(_patch_embed_backward),
    _differentiate_by(_embed_backward),
    _differentiate_again,
)
