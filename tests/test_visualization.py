"""Overlays, legends and contact sheets."""

import numpy as np
import pytest

from swin_backbone.visualization import add_legend, contact_sheet, paint_overlay

PALETTE = [(255, 0, 0), (0, 0, 255)]


def test_overlay_mixes_by_opacity_and_leaves_ignored_pixels():
    image = np.full((1, 3, 3), 100, np.uint8)
    labels = np.array([[0, 1, 255]])
    painted = paint_overlay(image, labels, PALETTE, opacity=0.5)
    assert painted.tolist() == [[[178, 50, 50], [50, 50, 178], [100, 100, 100]]]
    assert np.array_equal(paint_overlay(image, labels, PALETTE, 0.0), image)
    assert paint_overlay(image, labels, PALETTE, 1.0)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("shape", "opacity", "message"), [((2, 2), 0.5, "do not fit"), ((1, 3), 1.5, "opacity must")]
)
def test_bad_input_is_named(shape, opacity, message):
    with pytest.raises(ValueError, match=message):
        paint_overlay(np.zeros((1, 3, 3), np.uint8), np.zeros(shape, int), PALETTE, opacity)


def test_legend_shows_each_colour_beside_the_untouched_image():
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    picture = np.asarray(add_legend(image, ["one", "two"], PALETTE))
    assert np.array_equal(picture[:40, :50], image)
    legend = picture[:, 50:].reshape(-1, 3).tolist()
    assert all(list(colour) in legend for colour in PALETTE)


@pytest.mark.parametrize(("size", "row"), [((30, 20), 68), ((20, 30), 48)], ids=["upright", "wide"])
def test_sheet_holds_every_row(size, row):
    image, labels = np.zeros((*size, 3), np.uint8), np.zeros(size, int)
    one, three = (
        contact_sheet([(image, labels, 1 - labels)] * rows, ["a", "b"], PALETTE, cell=60)
        for rows in (1, 3)
    )
    assert three.height - one.height == 2 * row  # the picture and a gap
    colours = np.asarray(one)[:, :204].reshape(-1, 3).tolist()
    assert all(list(colour) in colours for colour in PALETTE)
