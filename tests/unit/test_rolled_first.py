"""Maps that are shifted before they are filled up: kernels against the composition, in float64."""

import pytest
import torch
from helpers.block_cases import (
    branch_and_gradients,
    draw,
    run_attention,
    run_post_norm_attention,
)
from helpers.errors import assert_as_good, pooled_errors
from helpers.triton_kernels import DEVICE  # skips first where no kernel can run

from swin_backbone.ops import Packing, TokenLayout, Windows
from swin_backbone.ops.triton import attention_op

RUNS = [run_attention, run_post_norm_attention]
#: Map, window and shift: more to fill up than a window without its shift, one axis that is even, a
#: map smaller than its shift.
GEOMETRIES = [
    ((9, 5), (4, 4), (2, 2)),
    ((5, 8), (4, 4), (2, 1)),
    ((5, 7), (4, 3), (0, 2)),
    ((1, 5), (4, 4), (2, 2)),
]


def compare(run, size, windows, draws=1):
    drawn = [differentiate(run, size, windows) for _ in range(draws)]
    exact, reference, kernels = zip(*drawn, strict=True)
    errors = [pooled_errors(found, exact, least_norm=1e-9) for found in (kernels, reference)]
    assert_as_good(*errors, torch.float32)


def differentiate(run, size, windows, channels=32):
    """By the reference in float64 and float32, and by the kernels."""
    parameters = draw(channels, windows.num_heads, windows.window_size)
    x = torch.randn(2, *size, channels, device=DEVICE)
    cotangent = torch.randn_like(x)
    ways = ("reference", torch.float64), ("reference", torch.float32), ("triton", torch.float32)
    arguments = run, x, parameters, windows, None
    return [branch_and_gradients(*arguments, *way, cotangent) for way in ways]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("size", "window", "shift"), GEOMETRIES)
def test_kernels_agree_with_the_composition(run, size, window, shift):
    """V2's pooled over draws: nearly all of the one factor's gradient cancels."""
    draws = 4 if run is run_post_norm_attention else 1
    compare(run, size, Windows(1, window, shift, 0.2, rolls_first=True), draws=draws)


@pytest.mark.parametrize("by_rows", [True, False])
def test_kernels_of_large_windows(by_rows, monkeypatch):
    if not by_rows:
        monkeypatch.setattr(attention_op.by_rows, "takes", lambda *_: False)
    compare(run_attention, (12, 10), Windows(1, (9, 9), (4, 4), 0.2, rolls_first=True))


def test_kernels_of_large_windows_with_cosines():
    windows = Windows(1, (9, 9), (4, 4), 0.2, rolls_first=True)
    compare(run_post_norm_attention, (12, 7), windows, draws=4)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_the_order_matters_to_uneven_maps_alone(backend):
    parameters = draw(32, 1, (4, 4))
    for size, same in (((8, 4), True), ((9, 4), False)):
        x = torch.randn(1, *size, 32, device=DEVICE)
        first, then = (
            run_attention(x, parameters, Windows(1, (4, 4), (2, 2), 0.2, 0.0, rolls), None, backend)
            for rolls in (True, False)
        )
        assert torch.allclose(first, then, atol=1e-5) == same


@pytest.mark.parametrize("part", ["valid_sizes", "packing"])
def test_tokens_that_are_no_whole_maps_are_refused(part):
    windows = Windows(1, (4, 4), (2, 2), 0.2, rolls_first=True)
    layout = {"valid_sizes": torch.tensor([[5, 4]]), "packing": Packing(((5, 5),), False)}[part]
    with pytest.raises(ValueError, match=r"windows\.rolls_first takes whole maps alone"):
        windows.sizes(torch.randn(1, 5, 5, 32), TokenLayout(**{part: layout}))
