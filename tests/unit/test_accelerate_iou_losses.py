"""Losses of overlaps without copies of a number to a device, against mmdet's."""

import copy
import pickle

import pytest
import torch
from helpers.waits import waits

import swin_backbone  # lets mmcv.ops import
from swin_backbone.model.plain_modules import is_bare

pytest.importorskip("mmdet")

from mmdet.models.losses import DIoULoss, GIoULoss, IoULoss
from mmdet.structures.bbox import bbox_overlaps
from torch import nn

from swin_backbone.acceleration.mmdet_iou_losses import overlaps_of_pairs

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LOSSES = {
    "GIoU": lambda: GIoULoss(loss_weight=2.0),
    "GIoU, sum": lambda: GIoULoss(reduction="sum"),
    "IoU, log": lambda: IoULoss(loss_weight=3.0),
    "IoU, linear": lambda: IoULoss(mode="linear"),
    "IoU, square": lambda: IoULoss(mode="square", reduction="none"),
}


def boxes_of(count, device="cpu", dtype=torch.float32):
    """Some far from others, some without an area, some the wrong way round."""
    corner = torch.rand(count, 2, dtype=torch.float32) * 40
    boxes = torch.cat([corner, corner + torch.rand(count, 2, dtype=torch.float32) * 30], 1)
    boxes[::5, 2:] = boxes[::5, :2]
    boxes[1::7] = boxes[1::7].flip(1)
    return boxes.to(device, dtype)


def pair(make):
    stock = make()
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert {row.rewrite for row in report.replaced} == {"iou_losses"}
    return fast, stock, report


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight", [None, "each", "none"])
@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_the_same_losses(make, count, weight, dtype, device):
    """To the bit, with gradients: none of these areas is mmdet's smallest."""
    fast, stock, report = pair(make)
    boxes, others = boxes_of(count, device, dtype), boxes_of(count, device, dtype)
    others[: count // 2] = boxes[: count // 2] + 1
    weights = {None: None, "each": torch.rand(count), "none": torch.zeros(count)}[weight]
    weights = None if weights is None else weights.to(device, dtype)
    results = []
    for loss in (fast, stock):
        inputs = [x.clone().requires_grad_() for x in (boxes, others)]
        options = {"avg_factor": 7} if loss.reduction == "mean" else {}
        found = loss(*inputs, weights, **options)
        grads = torch.autograd.grad(found.sum(), inputs, allow_unused=True) if count else []
        results.append([found, *(x for x in grads if x is not None)])
    torch.testing.assert_close(*results, rtol=0, atol=0)
    report.revert()
    assert "forward" not in vars(fast)


@pytest.mark.parametrize("mode", ["iou", "iof", "giou"])
@pytest.mark.parametrize("shape", [(9, 4), (0, 4), (2, 5, 4)])
@pytest.mark.parametrize("is_aligned", [True, False])
def test_overlaps_of_other_shapes(shape, mode, is_aligned):
    boxes, others = (boxes_of(torch.Size(shape).numel() // 4).view(shape) for _ in range(2))
    found, expected = (
        one(boxes, others, mode, is_aligned) for one in (overlaps_of_pairs, bbox_overlaps)
    )
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("make", [GIoULoss, IoULoss])
def test_the_host_does_not_wait(make):
    fast, stock, _ = pair(make)
    boxes, others = boxes_of(9), boxes_of(9)
    assert waits(lambda: fast(boxes, others)) == 0
    assert waits(lambda: stock(boxes, others)) == 1
    assert is_bare(fast, make)  # other rewrites do not step aside for this one


class OwnLoss(GIoULoss):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) / 2


def test_other_losses():
    replaced = GIoULoss()
    replaced.forward = lambda *args: torch.zeros(())
    (row,) = swin_backbone.accelerate(replaced).left
    assert "its forward was replaced" in row.reason
    for loss in (DIoULoss(), OwnLoss(), nn.L1Loss()):
        assert not swin_backbone.accelerate(loss).replaced


def test_a_pickle_is_mmdets():
    fast, stock, _ = pair(GIoULoss)
    loaded = pickle.loads(pickle.dumps(fast))
    boxes, others = boxes_of(9), boxes_of(9)
    assert torch.equal(loaded(boxes, others), stock(boxes, others))
    assert "iou_losses" in {row.rewrite for row in swin_backbone.accelerate(loaded).replaced}
