"""Overlaps and targets of boxes without copies of numbers to a device, against mmdet's."""

import copy

import pytest
import torch
from helpers.waits import waits

import swin_backbone  # lets mmcv.ops import

pytest.importorskip("mmdet")

from mmdet.models.task_modules import BboxOverlaps2D, DeltaXYWHBBoxCoder, MaxIoUAssigner
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def pair(name, part):
    """Part of a head, accelerated, and the same as it was; the report."""
    head = torch.nn.Module()
    setattr(head, name, part)
    stock = copy.deepcopy(part)
    return part, stock, swin_backbone.accelerate(head)


def boxes_of(count, device="cpu", dtype=torch.float32):
    """Some of whole pixels, some without an area, some that occur twice."""
    corner = torch.rand(count, 2, dtype=dtype) * 40
    boxes = torch.cat([corner, corner + torch.rand(count, 2, dtype=dtype) * 30], 1)
    boxes[::3] = boxes[::3].round()
    boxes[::7] = boxes[: len(boxes[::7])].clone()
    boxes[5::11, 2:] = boxes[5::11, :2]
    return boxes.to(device)


def assigned(assigner, boxes, objects, ignored=None):
    truth = InstanceData(bboxes=objects, labels=torch.arange(len(objects), device=objects.device))
    ignored = None if ignored is None else InstanceData(bboxes=ignored)
    return assigner.assign(InstanceData(priors=boxes), truth, ignored)


def assert_same(found, expected):
    for name in ("gt_inds", "max_overlaps", "labels"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name
    assert found.num_gts == expected.num_gts


ASSIGNERS = {
    "usual": {},
    "on the CPU": {"gpu_assign_thr": 2},
    "without the ignored": {"ignore_iof_thr": 0.5},
    "16 bits": {"iou_calculator": {"type": "BboxOverlaps2D", "scale": 512.0, "dtype": "fp16"}},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", ASSIGNERS.values(), ids=ASSIGNERS)
@pytest.mark.parametrize(("count", "objects"), [(200, 5), (200, 0), (0, 3), (1, 1), (70, 30)])
def test_overlaps(count, objects, options, device):
    """The same bits of overlaps, and so the same assignment."""
    assigner = MaxIoUAssigner(0.6, 0.3, 0.3, **options)
    fast, stock, report = pair("assigner", assigner)
    assert {"assigners", "overlaps"} == {row.rewrite for row in report.replaced}
    for dtype in (torch.float32, torch.float64):
        boxes, truth = boxes_of(count, device, dtype), boxes_of(objects, device, dtype)
        for ignored in (None, boxes_of(0, device, dtype), boxes_of(4, device, dtype)):
            assert_same(*(assigned(one, boxes, truth, ignored) for one in (fast, stock)))
    report.revert()
    assert not {"assign", "assign_wrt_overlaps"} & vars(assigner).keys()


class OtherOverlaps(BboxOverlaps2D):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs) / 2


def test_other_overlaps_and_boxes():
    fast, stock, _ = pair("assigner", MaxIoUAssigner(0.4, 0.2))
    boxes, truth = boxes_of(100), boxes_of(4)
    typed = [HorizontalBoxes(one) for one in (boxes, truth)]
    assert_same(*(assigned(one, *typed) for one in (fast, stock)))
    for one in (fast, stock):
        one.iou_calculator = OtherOverlaps()
    assert_same(*(assigned(one, boxes, truth) for one in (fast, stock)))


CODERS = {
    "usual": {"target_stds": (0.1, 0.1, 0.2, 0.2)},
    "plain": {},
    "with means": {"target_means": (0.1, 0.1, -0.3, -0.3), "target_stds": (0.05, 0.05, 0.1, 0.1)},
    "of each side": {"target_means": (0.1, 0, 0, 0), "target_stds": (0.1, 0.2, 0.3, 0.4)},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", CODERS.values(), ids=CODERS)
@pytest.mark.parametrize("count", [0, 1, 60])
def test_targets(count, options, dtype, device):
    """The same on a CPU; on a GPU, which divides by a number otherwise, but for a rounding."""
    fast, stock, report = pair("bbox_coder", DeltaXYWHBBoxCoder(**options))
    assert {row.rewrite for row in report.replaced} == {"box_targets"}
    boxes, objects = (boxes_of(count, device, torch.float32).to(dtype) for _ in range(2))
    found, expected = (one.encode(boxes, objects) for one in (fast, stock))
    assert found.dtype == expected.dtype == torch.float32
    tolerance = 0 if device == "cpu" else 3e-7
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0, equal_nan=True)
    report.revert()
    assert "encode" not in vars(fast)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("clamp", [{}, {"add_ctr_clamp": True, "ctr_clamp": 2}])
@pytest.mark.parametrize("options", CODERS.values(), ids=CODERS)
@pytest.mark.parametrize(("count", "classes"), [(0, 1), (1, 1), (60, 1), (60, 3)])
def test_boxes_of_targets(count, classes, options, clamp, dtype, device):
    """The same bits, of images and of boxes anywhere, and of gradients; targets under autocast have
    16 bits."""
    fast, stock, report = pair("bbox_coder", DeltaXYWHBBoxCoder(**options, **clamp))
    boxes = boxes_of(count, device, torch.promote_types(dtype, torch.float32))
    targets = (4 * torch.randn(count, 4 * classes, dtype=torch.float32)).to(device, dtype)
    for shape in (None, (30, 50), (30, 50, 3), [30, 50]):
        results = []
        for one in (fast, stock):
            inputs = [x.detach().clone().requires_grad_() for x in (boxes, targets)]
            found = one.decode(*inputs, max_shape=shape)
            found.sum().backward()
            results.append([found, *(x.grad for x in inputs)])
        torch.testing.assert_close(*results, rtol=0, atol=0)
    report.revert()
    assert "decode" not in vars(fast)


def test_other_targets_are_mmdets():
    """Of several images, of boxes of a type, or within the shape that a tensor gives."""
    fast, stock, _ = pair("bbox_coder", DeltaXYWHBBoxCoder())
    boxes, targets = boxes_of(8), torch.randn(8, 4)
    shape = torch.tensor([30, 40])
    found, expected = (one.decode(boxes, targets, max_shape=shape) for one in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    found, expected = (
        one.decode(boxes.view(2, 4, 4), targets.view(2, 4, 4), max_shape=[(30, 40), (20, 20)])
        for one in (fast, stock)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    found = fast.decode(HorizontalBoxes(boxes), targets)
    torch.testing.assert_close(found, stock.decode(boxes, targets), rtol=0, atol=0)
    fast, stock, _ = pair("bbox_coder", DeltaXYWHBBoxCoder(use_box_type=True))
    assert isinstance(fast.decode(boxes, targets), HorizontalBoxes)
    with pytest.raises(AssertionError):
        fast.decode(boxes_of(3), targets)


def test_targets_of_boxes_of_a_type():
    fast, stock, _ = pair("bbox_coder", DeltaXYWHBBoxCoder())
    boxes, objects = (HorizontalBoxes(boxes_of(9)) for _ in range(2))
    found, expected = (one.encode(boxes, objects) for one in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(AssertionError):
        fast.encode(boxes_of(3), boxes_of(4))


def test_the_host_does_not_wait():
    boxes, objects = boxes_of(50), boxes_of(50)
    fast, stock, _ = pair("assigner", MaxIoUAssigner(0.6, 0.3, 0.3))
    assert waits(lambda: assigned(fast, boxes, objects[:4])) == 0
    assert waits(lambda: assigned(stock, boxes, objects[:4])) > 4
    fast, stock, _ = pair("bbox_coder", DeltaXYWHBBoxCoder())
    assert waits(lambda: fast.encode(boxes, objects)) == 0
    assert waits(lambda: stock.encode(boxes, objects)) == 2
    moves = torch.randn(50, 4)
    fast.decode(boxes, moves)  # numbers are rounded once
    assert waits(lambda: fast.decode(boxes, moves, max_shape=(30, 40))) == 0
    assert waits(lambda: stock.decode(boxes, moves, max_shape=(30, 40))) == 2
