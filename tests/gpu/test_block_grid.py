"""Both halves of a block of V1 and of V2 in low precision, over numbers of channels."""

import pytest
import torch
from helpers.block_cases import BRANCHES, compare
from helpers.triton_kernels import DEVICE  # skips first where no kernel can run


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("window_size", "shift_size"),
    [
        ((7, 7), (3, 3)),
        ((8, 8), (4, 4)),
        ((5, 9), (2, 4)),
        ((12, 12), (0, 0)),
        ((12, 12), (6, 6)),
        ((16, 16), (8, 8)),
        ((24, 24), (12, 12)),
    ],
)
@pytest.mark.parametrize("channels", [96, 128, 192, 256, 384, 512, 768, 1024, 1536])
@pytest.mark.parametrize("run", BRANCHES)
def test_halves_in_low_precision(run, channels, window_size, shift_size, dtype):
    """Within 1.5 times the error of the reference under autocast."""
    path_scale = torch.tensor([1.25, 0.8], device=DEVICE)
    kernels, reference = compare(
        run, channels, (40, 67), window_size, shift_size, dtype, path_scale=path_scale,
        most_draws=100,
    )  # fmt: skip
    assert all(a <= 1.5 * b + 1e-6 for a, b in zip(kernels, reference, strict=True)), (
        kernels,
        reference,
    )
