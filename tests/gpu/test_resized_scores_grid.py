"""Losses of resized scores at the sizes of a head, and the memory they take."""

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import assert_as_good, relative_error
from helpers.resized_cases import IGNORED, draw, gradient, run

from swin_backbone import ops


@pytest.fixture(autouse=True)
def poisoned():
    """Fresh memory is filled with NaN, so that what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "sizes", [(150, (32, 32), (128, 128)), (19, (33, 17), (100, 51)), (1000, (8, 8), (32, 64))]
)
@pytest.mark.parametrize("align_corners", [False, True])
def test_losses_on_a_card(dtype, sizes, align_corners):
    classes, low, size = sizes
    x, y = draw(classes, low, size, classes, dtype)
    options = {"align_corners": align_corners, "avg_non_ignore": True}
    kernels, again = (run(x, y, False, "triton", **options) for _ in range(2))
    exact = run(x.double(), y, False, "reference", **options)
    leaf = x.detach().requires_grad_()
    full = F.interpolate(leaf, size, mode="bilinear", align_corners=align_corners)
    loss = F.cross_entropy(full.float(), y, ignore_index=IGNORED)
    stock = [loss.detach(), gradient(loss, leaf)]
    assert_as_good(
        [relative_error(*pair) for pair in zip(kernels[:2], exact[:2], strict=True)],
        [relative_error(*pair) for pair in zip(stock, exact[:2], strict=True)],
        dtype,
    )
    assert all(map(torch.equal, kernels, again))


def test_memory_of_a_loss():
    """Forward and backward: less than one full-size map of scores in 16 bits, 79 MB."""
    x, y = draw(150, (128, 128), (512, 512), 150, torch.bfloat16)
    x.requires_grad_()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ops.resized_cross_entropy(x, y, ignore_index=IGNORED).loss.backward()
    assert torch.cuda.max_memory_allocated() - before < 2 * 150 * 512 * 512
