"""Patch merging and patch embedding in low precision, over numbers of channels."""

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import relative_error
from helpers.patch_cases import differentiate, draw, draw_embedding, embed, merge_plainly
from helpers.triton_kernels import DEVICE  # skips first where no kernel can run

from swin_backbone.ops import norm as norms


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [96, 128, 192, 384, 512])
def test_merging_in_low_precision(channels, dtype):
    """Within 1.5 times the error of torch's own under autocast."""
    tensors = [torch.randn(2, 33, 40, channels, device=DEVICE), *draw(channels, 2 * channels)]
    cotangent = torch.randn(2, 17, 20, 2 * channels, device=DEVICE)

    def stock(x, norm_weight, norm_bias, weight):
        merged = norms.merge_neighbours(x)
        return F.linear(F.layer_norm(merged, norm_weight.shape, norm_weight, norm_bias), weight)

    exact = differentiate(stock, tensors, torch.float64, cotangent)
    with torch.autocast("cuda", dtype):
        fast = differentiate(merge_plainly, tensors, torch.float32, cotangent)
        plain = differentiate(stock, tensors, torch.float32, cotangent)
    for a, b, e in zip(fast, plain, exact, strict=True):
        assert relative_error(a, e) <= 1.5 * relative_error(b, e) + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [96, 128, 192, 256])
def test_patch_embedding_in_low_precision(channels, dtype):
    """Within 1.5 times the error of torch's own under autocast."""
    tensors = [torch.randn(2, 3, 131, 160, device=DEVICE), *draw_embedding(channels, 3, (4, 4))]
    cotangent = torch.randn(2, 33, 40, channels, device=DEVICE)

    def stock(image, weight, bias, norm_weight, norm_bias):
        projected = F.conv2d(F.pad(image, (0, 0, 0, 1)), weight, bias, 4).permute(0, 2, 3, 1)
        return F.layer_norm(projected, norm_weight.shape, norm_weight, norm_bias)

    exact = differentiate(stock, tensors, torch.float64, cotangent)
    with torch.autocast("cuda", dtype):
        fast = differentiate(embed, tensors, torch.float32, cotangent)
        plain = differentiate(stock, tensors, torch.float32, cotangent)
    for a, b, e in zip(fast, plain, exact, strict=True):
        assert relative_error(a, e) <= 1.5 * relative_error(b, e) + 1e-6
