"""Overlays, legends and contact sheets."""

import numpy as np
import pytest

from swin_backbone.inference.visualization import (
    add_legend,
    contact_sheet,
    paint_instances,
    paint_overlay,
)

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


def test_masks_are_mixed_and_bordered_and_boxes_drawn():
    image = np.full((12, 12, 3), 100, np.uint8)
    mask = np.zeros((1, 12, 12), bool)
    mask[0, 3:8, 3:8] = True
    boxes = np.array([[1.0, 1.0, 9.0, 9.0]])
    painted = paint_instances(image, boxes, [""], [(255, 0, 0)], mask, opacity=0.5)
    assert painted[5, 5].tolist() == [178, 50, 50]  # within
    assert painted[3, 5].tolist() == [255, 0, 0]  # the mask's border
    assert painted[1, 5].tolist() == [255, 0, 0]  # the box
    assert painted[2, 5].tolist() == painted[11, 11].tolist() == [100, 100, 100]
    boxes_only = paint_instances(image, boxes, [""], [(255, 0, 0)])
    assert boxes_only[5, 5].tolist() == [100, 100, 100]


def test_the_first_object_is_on_top():
    masks = np.ones((2, 6, 6), bool)
    colours = [(255, 0, 0), (0, 0, 255)]
    boxes = np.array([[0, 0, 5, 5]] * 2)
    painted = paint_instances(np.zeros((6, 6, 3), np.uint8), boxes, [""] * 2, colours, masks, 1.0)
    assert painted[3, 3].tolist() == [255, 0, 0]


def test_texts_are_written():
    image = np.zeros((60, 80, 3), np.uint8)
    boxes = np.array([[10, 30, 40, 50]])
    plain, named = (paint_instances(image, boxes, [t], [(250, 250, 0)]) for t in ("", "car 0.9"))
    assert (plain != named).any()


@pytest.mark.parametrize(
    ("texts", "masks", "message"),
    [([], None, "1 boxes, 0 texts"), ([""], np.ones((1, 2, 2), bool), "masks must be")],
)
def test_objects_that_do_not_fit_are_named(texts, masks, message):
    boxes = np.zeros((1, 4))
    with pytest.raises(ValueError, match=message):
        paint_instances(np.zeros((6, 6, 3), np.uint8), boxes, texts, [(0, 0, 0)], masks)
