"""Non-maximum suppression: torchvision's boxes, by the definition and by kernels."""

import pytest
import torch
from helpers.served_ops import random_boxes
from helpers.triton_kernels import DEVICE  # skips first where no kernel can run

from swin_backbone import ops

torchvision_ops = pytest.importorskip("torchvision.ops")
#: Boxes without an area, of which Triton's interpreter divides zero by zero.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
both = pytest.mark.parametrize("impl", ["reference", "triton"])


def draw(count, side=40):
    """Boxes and scores that repeat: whole pixels, equal scores, boxes without an area."""
    boxes = random_boxes(count, side, torch.float32)
    boxes[::3] = boxes[::3].round()
    boxes[::7] = boxes[: len(boxes[::7])].clone()
    boxes[::11, 2:] = boxes[::11, :2]
    scores = torch.rand(count)
    scores[::2] = (scores[::2] * 4).round() / 4
    return boxes.to(DEVICE), scores.to(DEVICE)


@both
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("count", "side"), [(0, 9), (1, 9), (63, 9), (64, 200), (200, 30)])
def test_the_same_boxes(impl, count, side, threshold):
    boxes, scores = draw(count, side)
    found = ops.non_maximum_suppression(boxes, scores, threshold, impl=impl)
    expected = torchvision_ops.nms(boxes, scores, threshold)
    assert found.tolist() == expected.tolist()


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_overlaps_that_meet_the_threshold(impl, dtype, tenths):
    """In float32 3/10 is above 0.3 and 7/10 below 0.7: CPUs and GPUs compare otherwise."""
    if impl == "triton" and dtype == torch.float64:
        pytest.skip("kernels have no float64")
    boxes = torch.tensor([[0, 0, 10, 1], [0, 0, tenths, 1]], dtype=dtype, device=DEVICE)
    scores = torch.tensor([0.9, 0.8], device=DEVICE)
    below = torch.tensor(tenths / 10).nextafter(torch.tensor(0.0)).item()
    for threshold in (tenths / 10, below, torch.tensor(tenths / 10).item()):
        found = ops.non_maximum_suppression(boxes, scores, threshold, impl=impl)
        expected = torchvision_ops.nms(boxes, scores.to(dtype), threshold)
        assert found.tolist() == expected.tolist()
        assert ops.unsuppressed(boxes[None], threshold, impl=impl).sum() == len(expected)


@both
def test_a_threshold_that_is_met_exactly(impl):
    """Half of the first box is no more than half; the third is covered by what is gone."""
    boxes = torch.tensor([[0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 3, 1], [2, 0, 3, 1]], device=DEVICE)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6], device=DEVICE)
    assert ops.non_maximum_suppression(boxes.float(), scores, 0.5, impl=impl).tolist() == [0, 1, 3]


@both
def test_a_chain(impl):
    """Each box overlaps the next alone: every second one stays, which takes as many rounds."""
    left = torch.arange(150.0)
    boxes = torch.stack([left, 0 * left, left + 1.6, 0 * left + 1], 1).to(DEVICE)
    scores = torch.linspace(1, 0, 150).to(DEVICE)
    kept = ops.non_maximum_suppression(boxes, scores, 0.2, impl=impl)
    assert kept.tolist() == list(range(0, 150, 2))


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(impl, dtype):
    """Whole pixels, which 16 bits hold."""
    boxes, scores = draw(100)
    boxes, scores = boxes.round().to(dtype), scores.to(dtype)
    expected = torchvision_ops.nms(boxes.float(), scores.float(), 0.4)
    found = ops.non_maximum_suppression(boxes, scores, 0.4, impl=impl)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("impl", ["reference", "triton", "auto"])
@pytest.mark.parametrize(("images", "count"), [(0, 3), (2, 0), (1, 64), (3, 70), (2, 130)])
def test_images_of_a_batch(impl, images, count):
    """Each as by itself."""
    drawn = [draw(count, 25) for _ in range(images)]
    best_first = [boxes[scores.argsort(descending=True)] for boxes, scores in drawn]
    boxes = torch.stack(best_first) if images else torch.zeros(0, count, 4, device=DEVICE)
    falling = torch.linspace(1, 0, count, device=DEVICE)
    found = ops.unsuppressed(boxes, 0.5, impl=impl)
    assert found.shape == (images, count)
    assert found.dtype == torch.bool
    for of_image, stay in zip(boxes, found, strict=True):
        kept = torchvision_ops.nms(of_image, falling, 0.5)
        assert stay.nonzero().flatten().tolist() == kept.tolist()


BAD_BATCHES = {
    "one image": (torch.zeros(3, 4), 0.5, "auto", ValueError, r"\(B, N, 4\)"),
    "integers": (torch.zeros(1, 3, 4).int(), 0.5, "auto", TypeError, "floating"),
    "threshold": (torch.zeros(1, 3, 4), None, "auto", TypeError, "iou_threshold"),
    "way": (torch.zeros(1, 3, 4), 0.5, "cuda", ValueError, "impl"),
    "dtype of the way": (torch.zeros(1, 3, 4).double(), 0.5, "triton", ValueError, "float64"),
}


@pytest.mark.parametrize(
    ("boxes", "threshold", "impl", "kind", "words"), BAD_BATCHES.values(), ids=BAD_BATCHES
)
def test_errors_of_batches(boxes, threshold, impl, kind, words):
    with pytest.raises(kind, match=words):
        ops.unsuppressed(boxes, threshold, impl=impl)


BAD = {
    "no boxes": ((torch.zeros(3, 5), torch.zeros(3), 0.5), ValueError, "boxes"),
    "no tensor": (([[0, 0, 1, 1]], torch.zeros(1), 0.5), TypeError, "boxes"),
    "integers": ((torch.zeros(3, 4).int(), torch.zeros(3), 0.5), TypeError, "boxes"),
    "scores": ((torch.zeros(3, 4), torch.zeros(2), 0.5), ValueError, "scores"),
    "threshold": ((torch.zeros(3, 4), torch.zeros(3), "0.5"), TypeError, "iou_threshold"),
    "nan": ((torch.zeros(3, 4), torch.zeros(3), float("nan")), ValueError, "iou_threshold"),
}


@pytest.mark.parametrize(("arguments", "kind", "words"), BAD.values(), ids=BAD)
def test_errors(arguments, kind, words):
    with pytest.raises(kind, match=words):
        ops.non_maximum_suppression(*arguments)


def test_errors_of_the_way():
    with pytest.raises(ValueError, match="impl"):
        ops.non_maximum_suppression(torch.zeros(3, 4), torch.zeros(3), 0.5, impl="cuda")
    with pytest.raises(ValueError, match="float64"):
        ops.non_maximum_suppression(torch.zeros(3, 4).double(), torch.zeros(3), 0.5, impl="triton")
