"""Class maps straight from scores at a head's own size, against mmseg's own steps."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor, SegTTAModel
from mmseg.structures import SegDataSample

from swin_backbone import ops
from swin_backbone.ops import banded_argmax as resized_bands

GEOMETRIES = [
    ops.Geometry((24, 36)),
    ops.Geometry((24, 36), out_size=(31, 50)),
    ops.Geometry((24, 36), (3, 0, 2, 1), "horizontal", (40, 17)),
    ops.Geometry((24, 36), (0, 4, 0, 0), "vertical", (9, 90), True),
    ops.Geometry((24, 36), (0, 0, 1, 5), "vertical"),
]


@pytest.fixture(autouse=True)
def several_bands(monkeypatch):
    """Bands of a few rows."""
    monkeypatch.setattr(resized_bands, "BAND", 1200)
    monkeypatch.setattr(resized_bands, "BAND_ON_GPU", 1200)


def mmsegs(scores, geometry, threshold=0.3):
    """What mmseg makes of scores that have been resized to the padded size."""
    meta = {
        "img_padding_size": geometry.padding,
        "flip": geometry.flip is not None,
        "flip_direction": geometry.flip,
        "ori_shape": geometry.final,
    }
    samples = [SegDataSample(metainfo=meta) for _ in scores]
    head = SimpleNamespace(threshold=threshold)
    segmentor = SimpleNamespace(align_corners=geometry.align_corners, decode_head=head)
    return BaseSegmentor.postprocess_result(segmentor, scores, samples)


def resized(x, geometry):
    return F.interpolate(x, geometry.size, mode="bilinear", align_corners=geometry.align_corners)


def stacked(samples, field="pred_sem_seg"):
    return torch.stack([sample.get(field).data for sample in samples])


def draw(classes, low=(6, 9)):
    return torch.randn(2, classes, *low, dtype=torch.float64)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("impl", ["reference", "tiled", "auto"])
@pytest.mark.parametrize("classes", [1, 6])
def test_mmsegs_steps(geometry, impl, classes):
    """float64, where no two scores tie."""
    x = draw(classes)
    samples = mmsegs(resized(x, geometry), geometry)
    threshold = 0.3 if classes == 1 else None
    found = ops.resized_argmax(x, geometry, threshold=threshold, with_scores=True, impl=impl)
    assert torch.equal(found.classes, stacked(samples).squeeze(1).long())
    expected = stacked(samples, "seg_logits").amax(1)
    torch.testing.assert_close(found.scores, expected, rtol=1e-10, atol=1e-10)
    plain = ops.resized_argmax(x, geometry, threshold=threshold, impl=impl)
    assert plain.scores is None


def windows(size, crop, stride):
    """As mmseg's sliding inference places them."""
    for y in range(max(size[0] - crop[0] + stride[0] - 1, 0) // stride[0] + 1):
        for x in range(max(size[1] - crop[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom = min(y * stride[0] + crop[0], size[0])
            right = min(x * stride[1] + crop[1], size[1])
            yield max(bottom - crop[0], 0), max(right - crop[1], 0)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_windows(geometry):
    """The mean of what overlapping windows say."""
    height, width = geometry.size
    crop = (10, 16)
    parts = [
        ops.Window(draw(4, (3, 4)), top, left, *crop)
        for top, left in windows(geometry.size, crop, (7, 10))
    ]
    total, count = torch.zeros(2, 4, height, width), torch.zeros(height, width)
    total = total.double()
    for logits, top, left, _, _ in parts:
        place = (..., slice(top, top + crop[0]), slice(left, left + crop[1]))
        total[place] += F.interpolate(
            logits, crop, mode="bilinear", align_corners=geometry.align_corners
        )
        count[place] += 1
    samples = mmsegs(total / count, geometry)
    found = ops.merged_argmax([ops.View(parts, geometry)])
    assert torch.equal(found.classes, stacked(samples).squeeze(1))
    with pytest.raises(ValueError, match="windows must cover"):
        ops.merged_argmax([ops.View(parts[1:], geometry)])


@pytest.mark.parametrize("classes", [1, 5])
def test_augmentations(classes):
    """Two scales, each turned round too, merged as mmseg merges them."""
    views, every = [], []
    for size, low in (((24, 36), (6, 9)), ((36, 52), (9, 13))):
        for flip in (None, "horizontal"):
            geometry = ops.Geometry(size, flip=flip, out_size=(30, 41))
            x = draw(classes, low)
            views.append(ops.View.whole(x, geometry))
            every.append(mmsegs(resized(x, geometry), geometry))
    module = SimpleNamespace(out_channels=classes, decode_head=SimpleNamespace(threshold=0.55))
    for sample in (sample for samples in every for sample in samples):
        sample.set_metainfo({"img_path": "an image"})
        sample.set_data({"gt_sem_seg": PixelData(data=torch.zeros(1, 30, 41))})
    merged = SegTTAModel.merge_preds(SimpleNamespace(module=module), list(zip(*every, strict=True)))
    found = ops.merged_argmax(views, threshold=0.55 if classes == 1 else None)
    expected = stacked(merged).reshape(2, 30, 41).long()
    assert torch.equal(found.classes, expected)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(13, 5), (3, 40), (7, 9)])
def test_resizing_by_matmul(size, align_corners):
    """What is resized in float64 on a GPU."""
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
    grad = torch.randn_like(expected)
    for ours in (
        ops.bilinear_resize.by_matmul(x, *size, align_corners),
        ops.resize_bilinear(x, size, align_corners),
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            *(torch.autograd.grad(out, x, grad, retain_graph=True) for out in (ours, expected))
        )


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (ops.Geometry((4, 4), (2, 2, 0, 0)), "sizes must be at least 1"),
        (ops.Geometry((4, 4), (-1, 0, 0, 0)), "size and padding"),
        (ops.Geometry((4, 4), flip="diagonal"), "flip must be None or one of"),
        (ops.Geometry((4, 4), out_size=(0, 3)), "sizes must be at least 1"),
    ],
)
def test_bad_geometry(geometry, words):
    with pytest.raises(ValueError, match=words):
        ops.resized_argmax(torch.zeros(1, 2, 2, 2), geometry)


def test_bad_arguments():
    geometry = ops.Geometry((4, 4))
    with pytest.raises(ValueError, match="threshold is for one class"):
        ops.resized_argmax(torch.zeros(1, 2, 2, 2), geometry, threshold=0.5)
    with pytest.raises(ValueError, match="threshold is for one class"):
        ops.resized_argmax(torch.zeros(1, 1, 2, 2), geometry)
    with pytest.raises(ValueError, match="logits must be"):
        ops.resized_argmax(torch.zeros(1, 2, 2), geometry)
    with pytest.raises(TypeError, match="x must be floating point"):
        ops.resize_bilinear(torch.zeros(1, 1, 2, 2).long(), (3, 3))
    with pytest.raises(ValueError, match="size must be two numbers"):
        ops.resize_bilinear(torch.zeros(1, 1, 2, 2), (3, 0))


def test_bands_within_one_window_of_several(monkeypatch):
    """Windows as wide as the image, one above the other, that come as rows are asked for: a band
    may see the second alone."""
    monkeypatch.setattr(resized_bands, "BAND", 4 * 24 * 3)
    logits = torch.randn(2, 1, 4, 5, 6, dtype=torch.float64)
    windows = [ops.Window(one, top, 0, 20, 24) for one, top in zip(logits, (0, 20), strict=True)]

    def reached(rows):
        return [w for w in windows if w.top < rows.stop and w.top + w.height > rows.start]

    view = ops.View(reached, ops.Geometry((40, 24)))
    resized = [F.interpolate(one, (20, 24), mode="bilinear") for one in logits]
    assert torch.equal(ops.merged_argmax([view]).classes, torch.cat(resized, 2).argmax(1))
