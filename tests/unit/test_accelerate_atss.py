"""Assignment and losses of ATSS without waits for a device, against mmdet's."""

import copy

import pytest
import torch
from helpers.waits import places_of_waits, waits

import swin_backbone

pytest.importorskip("mmdet")

from mmdet.models.dense_heads import ATSSHead
from mmdet.models.task_modules import ATSSAssigner, MaxIoUAssigner
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

CLASSES = 3
#: Of maps of images of 64x96.
SIZES = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def head_of(train_cfg=(), kind=ATSSHead, **options):
    settings = {"num_classes": CLASSES, "in_channels": 4, "stacked_convs": 1, "feat_channels": 4}
    settings |= {
        "anchor_generator": {
            "type": "AnchorGenerator",
            "octave_base_scale": 4,
            "scales_per_octave": 1,
            "ratios": [1.0],
            "strides": [8, 16, 32, 64, 128],
        },
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
        "norm_cfg": {"type": "BN"},
    }
    train = {"assigner": {"type": "ATSSAssigner", "topk": 9}, "allowed_border": -1}
    train |= {"pos_weight": -1, **dict(train_cfg)}
    with DefaultScope.overwrite_default_scope("mmdet"):
        return kind(**{**settings, **options}, train_cfg=ConfigDict(train))


def pair(**options):
    stock = head_of(**options)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert {"anchor_losses", "assigners"} <= {row.rewrite for row in report.replaced}
    return fast, stock, report


def objects_of(count, device="cpu"):
    """Some of whole pixels, some that occur twice: of equal overlaps with an anchor."""
    corner = torch.rand(count, 2) * 50
    boxes = torch.cat([corner, corner + 8 + torch.rand(count, 2) * 40], 1)
    boxes[::3] = boxes[::3].round()
    boxes[1::4] = boxes[: len(boxes[1::4])].clone()
    return InstanceData(bboxes=boxes.to(device), labels=torch.randint(CLASSES, (count,)).to(device))


def images_of(counts, device="cpu"):
    metas = [{"img_shape": (64, 96), "pad_shape": (64, 96)} for _ in counts]
    return [objects_of(count, device) for count in counts], metas


def assigned(head, objects, ignored=None):
    levels = head.prior_generator.grid_priors(SIZES, device=objects.bboxes.device)
    anchors = InstanceData(priors=torch.cat(levels))
    return head.assigner.assign(anchors, list(map(len, levels)), objects, ignored)


def assert_same(found, expected):
    assert found.num_gts == expected.num_gts
    for name in ("gt_inds", "max_overlaps", "labels"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("topk", [1, 9, 200])
@pytest.mark.parametrize("count", [0, 1, 6, 40])
def test_assignment(count, topk, device):
    """To the bit; with more candidates than a level has."""
    fast, stock, report = pair(train_cfg={"assigner": {"type": "ATSSAssigner", "topk": topk}})
    objects = objects_of(count, device)
    assert_same(*(assigned(head, objects) for head in (fast, stock)))
    report.revert()
    assert "assign" not in vars(fast.assigner)


def test_objects_that_are_ignored():
    fast, stock, _ = pair()
    for head in (fast, stock):
        head.assigner.ignore_iof_thr = 0.3
    objects, ignored = objects_of(6), objects_of(3)
    assert_same(*(assigned(head, objects, ignored) for head in (fast, stock)))


def step(head, objects, metas, dtype=torch.float64, device="cpu"):
    """Losses of classes level by level, sums of the others, and gradients of maps."""
    torch.manual_seed(1)
    maps = [
        [
            torch.randn(len(metas), channels, *size, dtype=dtype).to(device).requires_grad_()
            for size in SIZES
        ]
        for channels in (CLASSES, 4, 1)
    ]
    losses = head.loss_by_feat(*maps, objects, metas)
    values = [*losses["loss_cls"], sum(losses["loss_bbox"]), sum(losses["loss_centerness"])]
    grads = torch.autograd.grad(
        sum(values), [x for one in maps for x in one], materialize_grads=True
    )
    return [value.detach() for value in values], grads


OPTIONS = {
    "usual": {},
    "weight of objects": {"train_cfg": {"pos_weight": 3.0}},
    "border": {"train_cfg": {"allowed_border": 0}},
    "wide border": {"train_cfg": {"allowed_border": 20}},
    **{kind: {"loss_bbox": {"type": kind}} for kind in ("IoULoss", "DIoULoss", "CIoULoss")},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (0, 0), (2,)], ids=str)
def test_the_same_losses(counts, options, padding, device):
    """Maps are float64. Weights of anchors, targets and what sums are divided by are float32, and
    so is a loss of centers, unless mmdet adds the zero of a level without an object."""
    fast, stock, report = pair(**options)
    fast, stock = fast.to(device), stock.to(device)
    objects, metas = images_of(counts, device)
    if padding:
        metas[-1] = {"img_shape": (50, 60), "pad_shape": (56, 64)}
    found, expected = (step(head, objects, metas, device=device) for head in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9, check_dtype=False)
    report.revert()
    assert "loss_by_feat" not in vars(fast)


def test_means_over_processes(monkeypatch):
    """Of anchors with an object, and of how central they are, as mmdet asks for them."""
    fast, stock, _ = pair()
    objects, metas = images_of((3, 5))
    alone = step(fast, objects, metas)
    for module in ("mmdet.utils", "mmdet.models.dense_heads.atss_head"):
        monkeypatch.setattr(f"{module}.reduce_mean", lambda x: x * 0.75 + 2)
    found, expected = (step(head, objects, metas) for head in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9, check_dtype=False)
    assert not torch.allclose(found[0][0], alone[0][0])
    assert not torch.allclose(found[0][-2], alone[0][-2])


@pytest.mark.parametrize("counts", [(3, 5), (0, 0)], ids=str)
def test_maps_in_16_bits(counts):
    """As autocast leaves them: in the stock head's dtypes. Sums of gradients are in bfloat16."""
    fast, stock, _ = pair()
    objects, metas = images_of(counts)
    found, expected = (step(head, objects, metas, torch.bfloat16) for head in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("number", [1, 4])
def test_the_host_waits_once(number):
    """But in mmdet's overlaps of boxes, for a number, and on a CPU in the focal loss, which makes
    labels one-hot there."""
    fast, stock, _ = pair()
    objects, metas = images_of((3,) * number)

    def count(head):
        places = places_of_waits(lambda: step(head, objects, metas, torch.float32))
        numbers = ("focal_loss.py", "bbox_overlaps.py")
        return sum(many for place, many in places.items() if not any(n in place for n in numbers))

    count(fast)  # numbers are rounded once
    assert count(fast) == 1
    assert count(stock) > 20 * number
    assert waits(lambda: assigned(fast, objects[0])) == 0
    assert waits(lambda: assigned(stock, objects[0])) > 4


def test_no_anchor_that_counts_is_mmdets_error():
    fast, stock, _ = pair(train_cfg={"allowed_border": 0})
    objects, metas = images_of((3, 2))
    metas[1]["img_shape"] = (1, 2)
    for head in (fast, stock):
        with pytest.raises(ValueError, match="no valid anchor"):
            step(head, objects, metas)


class OwnTargets(ATSSHead):
    def centerness_target(self, *args):
        return super().centerness_target(*args)


def test_other_heads_are_left():
    by_overlap = head_of()
    by_overlap.assigner = MaxIoUAssigner(0.5, 0.4)
    centers, predicts = {"type": "SmoothL1Loss"}, head_of()
    predicts.train_cfg = None
    del predicts.assigner, predicts.sampler
    heads = {
        "centerness_target of its own": head_of(kind=OwnTargets),
        "losses are of coded boxes": head_of(reg_decoded_bbox=False),
        "loss_centerness is SmoothL1Loss": head_of(loss_centerness=centers),
        "loss_bbox is L1Loss": head_of(loss_bbox={"type": "L1Loss"}),
        "assigned by MaxIoUAssigner": by_overlap,
        "no train_cfg": predicts,
    }
    for words, head in heads.items():
        left = swin_backbone.accelerate(head).left
        assert words in next(row.reason for row in left if row.rewrite == "anchor_losses")


def test_other_assigners():
    """With costs of classes, which mmdet's DDOD has, and another measure of overlaps."""
    fast, stock, _ = pair(train_cfg={"assigner": {"type": "ATSSAssigner", "topk": 9, "alpha": 0.8}})
    levels = stock.prior_generator.grid_priors(SIZES, device="cpu")
    anchors = torch.cat(levels)
    predicted = InstanceData(
        priors=anchors, scores=torch.randn(len(anchors), CLASSES), bboxes=anchors + 1
    )
    objects, counts = objects_of(5), list(map(len, levels))
    assert_same(*(head.assigner.assign(predicted, counts, objects) for head in (fast, stock)))
    assert isinstance(fast.assigner, ATSSAssigner)
