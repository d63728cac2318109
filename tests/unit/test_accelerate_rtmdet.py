"""Matching and losses of RTMDet with few waits for a device, against mmdet's."""

import copy

import pytest
import torch
from helpers.waits import places_of_waits, waits

import swin_backbone

pytest.importorskip("mmdet")

from mmdet.models.dense_heads import RTMDetHead, RTMDetSepBNHead
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

CLASSES = 3
#: Of maps of images of 64x96.
SIZES = [(8, 12), (4, 6), (2, 3)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def head_of(train_cfg=(), kind=RTMDetSepBNHead, **options):
    settings = {"num_classes": CLASSES, "in_channels": 4, "stacked_convs": 1, "feat_channels": 4}
    settings |= {
        "anchor_generator": {"type": "MlvlPointGenerator", "offset": 0, "strides": [8, 16, 32]},
        "bbox_coder": {"type": "DistancePointBBoxCoder"},
        "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
        "with_objectness": False,
        "norm_cfg": {"type": "BN"},
    }
    train = {"assigner": {"type": "DynamicSoftLabelAssigner", "topk": 13}, "allowed_border": -1}
    train = None if train_cfg is None else train | {"pos_weight": -1, **dict(train_cfg)}
    with DefaultScope.overwrite_default_scope("mmdet"):
        return kind(**{**settings, **options}, train_cfg=train and ConfigDict(train))


def pair(**options):
    stock = head_of(**options)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert {"anchor_losses", "assigners"} <= {row.rewrite for row in report.replaced}
    assert not [row for row in report.left if row.rewrite == "anchor_losses"]
    return fast, stock, report


def objects_of(count, device="cpu"):
    """Some of which lie in others, and one that holds no point."""
    corner = torch.rand(count, 2) * 50
    boxes = torch.cat([corner, corner + 8 + torch.rand(count, 2) * 40], 1)
    boxes[3:4] = torch.tensor([1.0, 1.0, 3.0, 4.0])
    return InstanceData(bboxes=boxes.to(device), labels=torch.randint(CLASSES, (count,)).to(device))


def images_of(counts, device="cpu"):
    metas = [{"img_shape": (64, 96), "pad_shape": (64, 96)} for _ in counts]
    return [objects_of(count, device) for count in counts], metas


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("topk", [1, 13, 500])
@pytest.mark.parametrize(("predictions", "objects"), [(60, 1), (200, 7), (5, 12), (1, 1)])
def test_matching(predictions, objects, topk, device):
    """To the bit, of predictions of which many are several objects' cheapest."""
    fast, stock, report = pair()
    valid = torch.rand(300, device=device).argsort() < predictions
    cost = torch.rand(predictions, 1, device=device) + torch.rand(
        predictions, objects, device=device
    )
    overlaps = torch.rand(predictions, objects, device=device) ** 2
    results = []
    for head in (fast, stock):
        head.assigner.topk, mask = topk, valid.clone()
        found = head.assigner.dynamic_k_matching(cost, overlaps, objects, mask)
        results.append([*found, mask])
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    report.revert()
    assert "dynamic_k_matching" not in vars(fast.assigner)


def step(head, objects, metas, dtype=torch.float32, device="cpu"):
    """Losses of classes level by level, the sum of those of boxes, and gradients of maps."""
    torch.manual_seed(1)
    scores = [torch.randn(len(metas), CLASSES, *size, dtype=dtype) for size in SIZES]
    sides = [torch.rand(len(metas), 4, *size, dtype=dtype) * 40 for size in SIZES]
    maps = [[x.to(device).requires_grad_() for x in one] for one in (scores, sides)]
    losses = head.loss_by_feat(*maps, objects, metas)
    values = [*losses["loss_cls"], sum(losses["loss_bbox"])]
    grads = torch.autograd.grad(sum(values), [*maps[0], *maps[1]], materialize_grads=True)
    return [value.detach() for value in values], grads


OPTIONS = {
    "usual": {},
    "all levels alike": {"kind": RTMDetHead},
    "weight of objects": {"train_cfg": {"pos_weight": 3.0}},
    **{kind: {"loss_bbox": {"type": kind}} for kind in ("IoULoss", "DIoULoss", "CIoULoss")},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (0, 0), (2,)], ids=str)
def test_the_same_losses(counts, options, padding, device):
    """But for the order of sums in float32: mmdet compares boxes of float32 alone."""
    fast, stock, report = pair(**options)
    fast, stock = fast.to(device), stock.to(device)
    objects, metas = images_of(counts, device)
    if padding:
        metas[-1] = {"img_shape": (50, 60), "pad_shape": (56, 64)}
    found, expected = (step(head, objects, metas, device=device) for head in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    report.revert()
    assert "loss_by_feat" not in vars(fast)


def test_objects_without_a_point():
    """No prediction is matched, as none lies in an object."""
    fast, stock, _ = pair()
    objects, metas = images_of((0, 0))
    for one in objects:
        one.bboxes = torch.tensor([[1.0, 1.0, 3.0, 4.0]])
        one.labels = torch.tensor([1])
    found, expected = (step(head, objects, metas) for head in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("counts", [(3, 5), (0, 0)], ids=str)
def test_scores_in_16_bits(counts):
    """Under autocast, in the stock head's dtypes."""
    fast, stock, _ = pair()
    objects, metas = images_of(counts)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (step(head, objects, metas, torch.bfloat16) for head in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4)


def test_means_over_processes(monkeypatch):
    fast, stock, _ = pair()
    objects, metas = images_of((3, 5))
    alone = step(fast, objects, metas)
    for module in ("mmdet.utils", "mmdet.models.dense_heads.rtmdet_head"):
        monkeypatch.setattr(f"{module}.reduce_mean", lambda x: x * 0.75 + 2)
    found, expected = (step(head, objects, metas) for head in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[0][0], alone[0][0])
    assert not torch.allclose(found[0][-1], alone[0][-1])


def test_the_host_waits_no_more_for_each_object():
    """Once for all images, for each level in mmdet's loss of classes, and in its assignment of an
    image; but in its overlaps of boxes, for a number."""
    fast, stock, _ = pair()
    counted = []
    for objects in (4, 12):
        of_image, metas = images_of((objects,) * 2)

        def count(head, of_image=of_image, metas=metas):
            places = places_of_waits(lambda: step(head, of_image, metas))
            return sum(n for place, n in places.items() if "bbox_overlaps.py" not in place)

        assert count(fast) <= 1 + len(SIZES) + 10 * 2
        counted.append(count(stock))
    assert counted[1] > counted[0] > 50
    cost, valid = torch.rand(30, 9), torch.rand(50).argsort() < 30
    assert waits(lambda: fast.assigner.dynamic_k_matching(cost, cost, 9, valid)) == 1


class OwnTargets(RTMDetHead):
    def get_targets(self, *args, **kwargs):
        return super().get_targets(*args, **kwargs)


def test_other_heads_are_left():
    heads = {
        "get_targets of its own": head_of(kind=OwnTargets),
        "beyond a border": head_of({"allowed_border": 0}),
        "no QualityFocalLoss": head_of(loss_cls={"type": "FocalLoss", "use_sigmoid": True}),
        "loss_bbox is L1Loss": head_of(loss_bbox={"type": "L1Loss"}),
        "no train_cfg": head_of(None),
    }
    for words, head in heads.items():
        (row,) = [x for x in swin_backbone.accelerate(head).left if x.rewrite == "anchor_losses"]
        assert words in row.reason
