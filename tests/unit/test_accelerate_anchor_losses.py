"""Losses of RetinaNet's anchors, those with an object picked out, against mmdet's head."""

import copy

import pytest
import torch
from helpers.waits import places_of_waits

import swin_backbone

pytest.importorskip("mmdet")

from mmdet.models.dense_heads import RetinaHead
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

CLASSES, ANCHORS = 3, 9
#: Of maps of images of 64x96.
SIZES = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ASSIGNER = {
    "type": "MaxIoUAssigner",
    "pos_iou_thr": 0.5,
    "neg_iou_thr": 0.4,
    "min_pos_iou": 0,
    "ignore_iof_thr": -1,
}


def head_of(train_cfg=(), kind=RetinaHead, **options):
    settings = {"num_classes": CLASSES, "in_channels": 4, "stacked_convs": 1, "feat_channels": 4}
    loss = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25}
    anchors = {
        "type": "AnchorGenerator",
        "octave_base_scale": 4,
        "scales_per_octave": 3,
        "ratios": [0.5, 1.0, 2.0],
        "strides": [8, 16, 32, 64, 128],
    }
    train = {"assigner": ASSIGNER, "allowed_border": -1, "pos_weight": -1, **dict(train_cfg)}
    train.setdefault("sampler", {"type": "PseudoSampler"})
    settings |= {"loss_cls": loss, "loss_bbox": {"type": "L1Loss", "loss_weight": 2.0}}
    with DefaultScope.overwrite_default_scope("mmdet"):
        return kind(
            **{**settings, "anchor_generator": anchors, **options}, train_cfg=ConfigDict(train)
        )


def objects_of(count, device="cpu"):
    corner = torch.rand(count, 2) * 50
    boxes = torch.cat([corner, corner + 8 + torch.rand(count, 2) * 40], 1)
    return InstanceData(bboxes=boxes.to(device), labels=torch.randint(CLASSES, (count,)).to(device))


def images_of(counts, device="cpu"):
    metas = [{"img_shape": (64, 96), "pad_shape": (64, 96)} for _ in counts]
    return [objects_of(count, device) for count in counts], metas


def step(head, objects, metas, dtype=torch.float64, ignored=None, device="cpu"):
    """Losses of classes level by level, the sum of those of boxes, and gradients of maps."""
    torch.manual_seed(1)
    number, boxes = len(metas), head.num_base_priors * 4
    scores, moves = (
        [
            torch.randn(number, channels, *size, dtype=dtype).to(device).requires_grad_()
            for size in SIZES
        ]
        for channels in (head.num_base_priors * CLASSES, boxes)
    )
    losses = head.loss_by_feat(scores, moves, objects, metas, ignored)
    values = [*losses["loss_cls"], sum(losses["loss_bbox"])]
    grads = torch.autograd.grad(sum(values), [*scores, *moves], materialize_grads=True)
    return [value.detach() for value in values], grads


def pair(**options):
    stock = head_of(**options)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert "anchor_losses" in {row.rewrite for row in report.replaced}
    return fast, stock, report


OPTIONS = {
    "usual": {},
    "smooth": {"loss_bbox": {"type": "SmoothL1Loss", "beta": 0.11}},
    "decoded": {"reg_decoded_bbox": True, "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0}},
    "weight of objects": {"train_cfg": {"pos_weight": 3.0}},
    "border": {"train_cfg": {"allowed_border": 0}},
    "wide border": {"train_cfg": {"allowed_border": 20}},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (0, 0), (2,)], ids=str)
def test_the_same_losses(counts, options, padding, device):
    """Maps are float64, so that only the order of the boxes' sums differs. Weights are float32."""
    fast, stock, report = pair(**options)
    fast, stock = fast.to(device), stock.to(device)
    objects, metas = images_of(counts, device)
    if padding:
        metas[-1] = {"img_shape": (50, 60), "pad_shape": (56, 64)}
    found, expected = (step(head, objects, metas, device=device) for head in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    report.revert()
    assert "loss_by_feat" not in vars(fast)


def test_ignored_objects():
    fast, stock, _ = pair(train_cfg={"assigner": {**ASSIGNER, "ignore_iof_thr": 0.5}})
    objects, metas = images_of((3, 2))
    ignored = [objects_of(2), objects_of(0)]
    found, expected = (step(head, objects, metas, ignored=ignored) for head in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", [{}, OPTIONS["decoded"]], ids=["coded", "decoded"])
@pytest.mark.parametrize("counts", [(3, 5), (0, 0)], ids=str)
def test_maps_in_16_bits(counts, options):
    """As autocast leaves them: in the stock head's dtypes. Sums of gradients are in bfloat16."""
    fast, stock, _ = pair(**options)
    objects, metas = images_of(counts)
    found, expected = (step(head, objects, metas, torch.bfloat16) for head in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("number", [1, 4])
def test_one_wait_for_all_images(number):
    """But those of the focal loss on a CPU, which makes labels one-hot."""
    fast, stock, _ = pair()
    objects, metas = images_of((3,) * number)

    def waits(head):
        places = places_of_waits(lambda: step(head, objects, metas, torch.float32))
        return sum(many for place, many in places.items() if "focal_loss.py" not in place)

    waits(fast)
    assert waits(fast) == 1
    assert waits(stock) > 10 * number


def test_what_mmdet_computes():
    """Boxes of a type, and no anchor that counts, which is its error."""
    fast, stock, _ = pair(train_cfg={"allowed_border": 0})
    objects, metas = images_of((3, 2))
    metas[1]["img_shape"] = (1, 2)
    for head in (fast, stock):
        with pytest.raises(ValueError, match="no valid anchor"):
            step(head, objects, metas)
    fast, stock, _ = pair()
    objects, metas = images_of((3, 2))
    for one in objects:
        one.bboxes = HorizontalBoxes(one.bboxes)
    found, expected = (step(head, objects, metas) for head in (fast, stock))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class OwnTargets(RetinaHead):
    def get_targets(self, *args, **kwargs):
        return super().get_targets(*args, **kwargs)


def test_other_heads_are_left():
    random = {"type": "RandomSampler", "num": 9, "pos_fraction": 0.5}
    heads = {
        "get_targets of its own": head_of(kind=OwnTargets),
        "no FocalLoss": head_of(loss_cls={"type": "CrossEntropyLoss", "use_sigmoid": True}),
        "BoundedIoULoss": head_of(loss_bbox={"type": "BoundedIoULoss"}),
        "no mean": head_of(loss_bbox={"type": "L1Loss", "reduction": "sum"}),
        "drawn by RandomSampler": head_of(),
        "no train_cfg": head_of(),
    }
    heads["no train_cfg"].train_cfg = None
    del heads["no train_cfg"].assigner, heads["no train_cfg"].sampler
    with DefaultScope.overwrite_default_scope("mmdet"):
        from mmdet.registry import TASK_UTILS

        heads["drawn by RandomSampler"].sampler = TASK_UTILS.build(random)
    for words, head in heads.items():
        left = swin_backbone.accelerate(head).left
        assert words in next(row.reason for row in left if row.rewrite == "anchor_losses")
