"""Variable-length attention over dtypes, windows and head dimensions."""

import pytest
import torch
from helpers.errors import assert_as_good, draws_for
from helpers.variable_length_cases import compare


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize(("window", "shift"), [(7, 0), (7, 3), (8, 4), (12, 6), (16, 8), (24, 12)])
@pytest.mark.parametrize("head_dim", [32, 64])
def test_full_grid(dtype, cosine, mask_padding, window, shift, head_dim):
    options = {"window_size": (window, window), "shift_size": (shift, shift)}
    options["mask_padding"] = mask_padding
    heads = 12  # cosine attention's factors are what there is the least of
    kernels, reference = compare(dtype, options, cosine, heads, head_dim, draws_for(heads))
    assert_as_good(kernels, reference, dtype)
