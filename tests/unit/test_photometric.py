"""Distortion and normalisation of bytes: the kernel against plain operators, and bad input."""

import pytest
import torch
from helpers.triton_kernels import DEVICE, triton  # noqa: F401

from swin_backbone import ops

MEAN, DEVIATION = (
    torch.tensor(values, device=DEVICE) for values in ([120.0, 110, 100], [58.0, 57, 56])
)


def draw(batch):
    """Every kind of distortion, and none."""
    rows = torch.rand(batch, 7) * torch.tensor([64, 1, 1, 1, 1, 1, 180.0])
    rows -= torch.tensor([32, -0.5, 0, 0, -0.5, 0, 0.0])
    rows[:, 6] = rows[:, 6].floor()
    for place in (2, 3, 5):
        rows[:, place] = (rows[:, place] > 0.5).float()
    rows[0] = torch.tensor([0, 1, 0, 0, 1, 0, 0.0])
    return rows.to(DEVICE)


@pytest.mark.parametrize("normalises", [True, False])
@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("size", [(3, 5), (32, 64), (41, 61)])
def test_the_kernel_is_the_reference(size, swap, normalises):
    images = torch.randint(0, 256, (12, *size, 3), dtype=torch.uint8, device=DEVICE)
    images[1] //= 100  # dark: greys and primary colours
    scale = (MEAN, DEVIATION) if normalises else (None, None)
    for drawn in (draw(12), None):
        expected = ops.distort_images(images, drawn, *scale, swap, impl="reference")
        found = ops.distort_images(images, drawn, *scale, swap, impl="triton")
        assert found.shape == (12, 3, *size)
        assert found.is_contiguous()
        unit = 1 / 56 if normalises else 1.0
        difference = (found - expected).abs()
        # Whole numbers before they are normalised: a rounding that falls otherwise is one of few.
        assert (difference > unit / 100).sum() <= 2 + 1e-4 * difference.numel()
        assert difference.max() <= 6 * unit
        torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)


def test_images_stay_as_they_are_where_nothing_was_drawn():
    images = torch.randint(0, 256, (2, 8, 16, 3), dtype=torch.uint8)
    none = torch.tensor([[0, 1, 0, 0, 1, 0, 0.0]] * 2)
    for drawn in (none, None):
        assert torch.equal(ops.distort_images(images, drawn), images.permute(0, 3, 1, 2).float())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": torch.zeros(1, 4, 4, 3)}, TypeError, "images must be uint8, got torch.float32"),
        (
            {"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)},
            ValueError,
            "must be .B, H, W, 3.",
        ),
        ({"drawn": torch.zeros(2, 7)}, ValueError, r"drawn must be \(1, 7\), got \(2, 7\)"),
        ({"drawn": torch.zeros(1, 7).double()}, TypeError, "drawn must be float32"),
        ({"mean": torch.zeros(3)}, ValueError, "both be given"),
        ({"mean": torch.zeros(1), "deviation": torch.ones(3)}, ValueError, r"mean must be \(3,\)"),
        ({"impl": "cuda"}, ValueError, "impl must be one of auto, reference, triton"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        ops.distort_images(**{"images": torch.zeros(1, 4, 4, 3, dtype=torch.uint8), **arguments})
