"""Boxes that a stage gives to the next, of all images at once, against mmdet's cascade."""

import copy

import pytest
import torch
from helpers.detector_steps import build
from helpers.waits import waits

import swin_backbone

pytest.importorskip("mmdet")

from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.task_modules import AssignResult
from mmdet.models.task_modules.samplers import SamplingResult
from mmengine.registry import DefaultScope

CLASSES = 3
SHAPES = ((60, 80), (50, 64), (60, 80))


def cascade_of(**options):
    """Two stages, of which the first refines."""
    settings = {"in_channels": 4, "roi_feat_size": 3, "fc_out_channels": 8, "num_classes": CLASSES}
    with DefaultScope.overwrite_default_scope("mmdet"):
        head = build("cascade").roi_head
        head.bbox_head[0] = Shared2FCBBoxHead(**{**settings, **options})
    return head


def drawn(positive, objects, negative):
    """What a sampler gives of an image: of the boxes with an object some are objects."""
    count = positive + negative
    corner = torch.rand(count, 2) * 50
    boxes = torch.cat([corner, corner + 1 + torch.rand(count, 2) * 20], 1)
    flags = torch.zeros(count, dtype=torch.uint8)
    flags[torch.randperm(positive)[:objects]] = 1
    numbers = torch.cat([torch.ones(positive), torch.zeros(negative)]).long()
    result = AssignResult(1, numbers, torch.rand(count), torch.randint(CLASSES, (count,)))
    places = torch.randperm(positive), positive + torch.randperm(negative)
    return SamplingResult(*places, boxes, torch.rand(1, 4), result, flags)


def stage_of(head, images, background=1):
    """What a stage's head is given and has found."""
    results = [drawn(*image) for image in images]
    count = sum(len(one.priors) for one in results)
    numbers = torch.cat([torch.full((len(x.priors), 1), i) for i, x in enumerate(results)])
    labels = torch.cat(
        [torch.cat([x.pos_gt_labels, torch.full((len(x.neg_priors),), CLASSES)]) for x in results]
    )
    boxes = 1 if head.reg_class_agnostic else CLASSES
    found = {
        "rois": torch.cat([numbers, torch.cat([x.priors for x in results])], 1),
        "cls_score": torch.randn(count, CLASSES + background),
        "bbox_pred": torch.randn(count, 4 * boxes),
        "bbox_targets": (labels, None, None, None),
    }
    return results, found, [{"img_shape": shape} for shape in SHAPES[: len(images)]]


def refined(cascade, stage, monkeypatch):
    """By a stage's head, as the cascade asks it."""
    found = []

    def loss(head, *args):
        found.extend(head.bbox_head[0].refine_bboxes(*args) or ["nothing"])
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(CascadeRoIHead, "loss", loss)
        cascade.loss(*stage)
    return found


IMAGES = {
    "three": [(6, 2, 9), (4, 4, 3), (5, 0, 0)],
    "one": [(6, 1, 9)],
    "no objects": [(0, 0, 5), (0, 0, 1)],
    "no boxes of one": [(0, 0, 0), (3, 1, 2)],
    "objects alone": [(2, 2, 0), (3, 3, 0)],
}


@pytest.mark.parametrize("background", [0, 1])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
def test_the_same_boxes(images, alike, background, monkeypatch):
    """To the bit, in their order."""
    stock = cascade_of(reg_class_agnostic=alike)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert "refined_boxes" in {row.rewrite for row in report.replaced}
    stage = stage_of(stock.bbox_head[0], images, background)
    found, expected = (refined(one, stage, monkeypatch) for one in (fast, stock))
    assert len(found) == len(expected) == len(images)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert torch.equal(one.bboxes, other.bboxes)
    report.revert()
    assert "loss" not in vars(fast)
    assert "refine_bboxes" not in vars(fast.bbox_head[0])


def test_no_boxes_at_all(monkeypatch):
    """mmdet ends the cascade then."""
    stock = cascade_of()
    fast = copy.deepcopy(stock)
    swin_backbone.accelerate(fast)
    stage = stage_of(stock.bbox_head[0], [(0, 0, 0)])
    assert [refined(one, stage, monkeypatch) for one in (fast, stock)] == [["nothing"]] * 2


def test_boxes_in_another_order():
    """Elsewhere than in a cascade boxes need not lie image by image: mmdet looks for them."""
    stock = cascade_of()
    fast = copy.deepcopy(stock)
    swin_backbone.accelerate(fast)
    results, found, metas = stage_of(stock.bbox_head[0], IMAGES["three"])
    order = torch.randperm(len(found["rois"]))
    labels, *rest = found["bbox_targets"]
    found = {name: found[name][order] for name in ("rois", "cls_score", "bbox_pred")}
    found["bbox_targets"] = (labels[order], *rest)
    one, other = (head.bbox_head[0].refine_bboxes(results, found, metas) for head in (fast, stock))
    for some, those in zip(one, other, strict=True):
        assert torch.equal(some.bboxes, those.bboxes)


@pytest.mark.parametrize("number", [1, 3])
def test_one_wait_for_all_images(number, monkeypatch):
    stock = cascade_of()
    fast = copy.deepcopy(stock)
    swin_backbone.accelerate(fast)
    stage = stage_of(stock.bbox_head[0], IMAGES["three"][:number])
    refined(fast, stage, monkeypatch)  # numbers are rounded once
    assert waits(lambda: refined(fast, stage, monkeypatch)) == 1
    assert waits(lambda: refined(stock, stage, monkeypatch)) > 3 * number


class OwnBoxes(Shared2FCBBoxHead):
    def regress_by_class(self, *args):
        return super().regress_by_class(*args)


def test_other_heads_are_left():
    own, activated, bare = cascade_of(), cascade_of(), cascade_of()
    own.bbox_head[0].__class__ = OwnBoxes
    activated.bbox_head[0].loss_cls.custom_activation = True
    bare.bbox_head = None
    told = {
        "OwnBoxes has a regress_by_class of its own": own,
        "an activation of their own": activated,
        "no heads of boxes": bare,
    }
    for words, head in told.items():
        left = swin_backbone.accelerate(head).left
        assert words in next(row.reason for row in left if row.rewrite == "refined_boxes")
