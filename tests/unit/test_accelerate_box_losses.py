"""Losses of boxes without waits for a device, against mmdet's box head."""

import copy

import pytest
import torch
from helpers.waits import waits

import swin_backbone  # lets mmcv.ops import

pytest.importorskip("mmdet")

from mmdet.models.roi_heads.bbox_heads import BBoxHead, Shared2FCBBoxHead
from mmdet.models.task_modules import AssignResult
from mmdet.models.task_modules.samplers import SamplingResult
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

CLASSES = 5
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def head_of(**options):
    settings = {"in_channels": 4, "roi_feat_size": 3, "fc_out_channels": 8, "num_classes": CLASSES}
    settings["loss_bbox"] = {"type": "L1Loss", "loss_weight": 2.0}
    with DefaultScope.overwrite_default_scope("mmdet"):
        return Shared2FCBBoxHead(**{**settings, **options})


def drawn(positive, negative, device="cpu"):
    """What a sampler gives of an image."""
    count = positive + negative
    corner = torch.rand(count + 3, 2) * 50
    boxes = torch.cat([corner, corner + 1 + torch.rand(count + 3, 2) * 20], 1)
    objects, boxes = boxes[:3], boxes[3:]
    numbers = torch.cat([torch.randint(1, len(objects) + 1, (positive,)), torch.zeros(negative)])
    labels = torch.randint(CLASSES, (count,))
    flags = torch.zeros(count, dtype=torch.uint8)
    places = torch.randperm(positive), positive + torch.randperm(negative)
    tensors = (*places, boxes, objects, flags, numbers.long(), torch.rand(count), labels)
    *first, flags, numbers, overlaps, labels = (one.to(device) for one in tensors)
    result = AssignResult(len(objects), numbers, overlaps, labels)
    return SamplingResult(*first, result, flags)


def step(head, results, weight=-1, dtype=torch.float32, **options):
    """Losses and gradients of the head's outputs."""
    torch.manual_seed(1)
    count = sum(len(result.priors) for result in results)
    device = next(head.parameters()).device
    rois = torch.cat([torch.rand(count, 1).to(device), torch.cat([r.priors for r in results])], 1)
    outputs = head(torch.randn(count, 4, 3, 3).to(device))
    outputs = [one.detach().to(dtype).requires_grad_() for one in outputs]
    cfg = ConfigDict(pos_weight=weight)
    found = head.loss_and_target(*outputs, rois, results, cfg, **options)
    losses = found["loss_bbox"]
    total = sum(value.sum() for name, value in losses.items() if "loss" in name)
    grads = torch.autograd.grad(total, outputs, allow_unused=True, materialize_grads=True)
    return {name: value.detach() for name, value in losses.items()}, grads, found["bbox_targets"]


IMAGES = {
    "two": [(7, 20), (3, 30)],
    "one without objects": [(0, 9), (4, 5), (0, 3)],
    "no objects": [(0, 9), (0, 5)],
    "objects alone": [(6, 0)],
    "no boxes": [(0, 0)],
}
OPTIONS = {
    "usual": {},
    "one box for all classes": {"reg_class_agnostic": True},
    "smooth": {"loss_bbox": {"type": "SmoothL1Loss", "beta": 0.5}},
    "boxes, each of its class": {"reg_decoded_bbox": True, "loss_bbox": {"type": "GIoULoss"}},
    **{
        f"boxes by {kind}": {
            "reg_decoded_bbox": True,
            "reg_class_agnostic": True,
            "loss_bbox": {"type": kind, "loss_weight": 10.0},
        }
        for kind in ("L1Loss", "IoULoss", "GIoULoss", "DIoULoss", "CIoULoss")
    },
    "weights of classes": {
        "loss_cls": {"type": "CrossEntropyLoss", "class_weight": [1.0, 2.0, 3.0, 1.0, 1.0, 0.5]}
    },
}


def assert_same(found, expected):
    """To the bit on a CPU. A GPU sums losses in an order of its own, and multiplies targets by the
    inverse of what mmdet divides them by: some roundings of their dtype."""
    if found.is_cuda:
        relative = 1e-5 if found.dtype == torch.float32 else 1e-2
        torch.testing.assert_close(found, expected, rtol=relative, atol=1e-6)
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight", [-1, 3.0])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
def test_the_same_losses(images, options, weight, dtype, device):
    stock = head_of(**options).to(device)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert "box_losses" in {row.rewrite for row in report.replaced}
    results = [drawn(*image, device) for image in images]
    (losses, grads, targets), (expected, right, others) = (
        step(head, results, weight, dtype) for head in (fast, stock)
    )
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.dtype == expected[name].dtype, name
        assert_same(loss, expected[name])
    for some, those in ((grads, right), (targets, others)):
        for one, other in zip(some, those, strict=True):
            assert_same(one, other)
    report.revert()
    assert "loss_and_target" not in vars(fast)


@pytest.mark.parametrize("options", [{"reduction_override": "none"}, {"concat": False}])
def test_other_calls_are_mmdets(options):
    """Which gives losses of each box, or none of images in a list."""
    stock = head_of()
    fast = copy.deepcopy(stock)
    swin_backbone.accelerate(fast)
    results = [drawn(3, 8), drawn(2, 5)]
    if "concat" in options:
        for head in (fast, stock):
            with pytest.raises(TypeError):
                step(head, results, **options)
    else:
        found, expected = (step(head, results, **options)[0] for head in (fast, stock))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("number", [2, 5])
def test_the_host_does_not_wait(number):
    """But on a CPU, where setting a part of a tensor to a number is counted as a copy."""
    stock = head_of()
    fast = copy.deepcopy(stock)
    swin_backbone.accelerate(fast)
    results = [drawn(4, 9) for _ in range(number)]
    targets = waits(lambda: fast.get_targets(results, ConfigDict(pos_weight=-1)))
    assert waits(lambda: step(fast, results)) == targets
    assert waits(lambda: step(stock, results)) >= targets + 7


class OwnTargets(Shared2FCBBoxHead):
    def get_targets(self, *args, **kwargs):
        return super().get_targets(*args, **kwargs)


def test_other_heads_are_left():
    with DefaultScope.overwrite_default_scope("mmdet"):
        heads = {
            "get_targets of its own": OwnTargets(in_channels=4, roi_feat_size=3),
            "BoundedIoULoss": head_of(loss_bbox={"type": "BoundedIoULoss"}),
            "no mean": head_of(loss_bbox={"type": "L1Loss", "reduction": "sum"}),
            "classes and": BBoxHead(with_reg=False),
        }
    for words, head in heads.items():
        left = swin_backbone.accelerate(head).left
        assert words in next(row.reason for row in left if row.rewrite == "box_losses")
