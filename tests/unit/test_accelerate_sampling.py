"""Boxes drawn for losses with one wait, against mmdet's sampler."""

import copy

import pytest
import torch
from helpers.waits import waits

import swin_backbone  # lets mmcv.ops import

pytest.importorskip("mmdet")

from mmdet.models.task_modules import (
    AssignResult,
    InstanceBalancedPosSampler,
    RandomSampler,
)
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from swin_backbone.acceleration.mmdet_sampling import sample_all

FIELDS = (
    "pos_inds", "neg_inds", "pos_priors", "neg_priors", "pos_is_gt", "pos_assigned_gt_inds",
    "pos_gt_labels", "pos_gt_bboxes",
)  # fmt: skip
NUMBERS = ("num_pos", "num_neg", "num_gts", "avg_factor")


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def pair(sampler, device="cpu"):
    """An accelerated sampler, and the same as it was. On a GPU ``samplers`` would draw there, by
    other numbers than mmdet, which draws on the host."""
    head = torch.nn.Module()
    head.bbox_sampler = sampler
    stock = copy.deepcopy(sampler)
    on_host = device == "cpu"
    report = swin_backbone.accelerate(head, samplers=on_host)
    rewrites = {"samplers", "sampling"} if on_host else {"sampling"}
    assert {row.rewrite for row in report.replaced} == rewrites
    return sampler, stock


def draw(positive, negative, left, objects=3, device="cpu"):
    """Candidates in any order, some of objects, some of none and some that do not count."""
    numbers = torch.cat(
        [
            torch.randint(1, max(2, objects + 1), (positive,)),
            torch.zeros(negative),
            -torch.ones(left),
        ]
    )
    numbers = numbers[torch.randperm(len(numbers))].long()
    labels = torch.where(numbers > 0, numbers + 10, -1)
    count = len(numbers)
    tensors = (numbers, torch.rand(count), labels, torch.rand(objects, 4), torch.arange(objects))
    *assigned, boxes, classes = (one.to(device) for one in tensors)
    priors = InstanceData(priors=torch.rand(count, 4).to(device))
    truth = InstanceData(bboxes=boxes, labels=classes)
    return AssignResult(objects, *assigned), priors, truth


def sampled(sampler, images, seed=0):
    torch.manual_seed(seed)
    found = [sampler.sample(*copy.deepcopy(image)) for image in images]
    return found, torch.rand(3)


def assert_same(some, others):
    for found, expected in zip(some, others, strict=True):
        for name in FIELDS:
            one, other = getattr(found, name), getattr(expected, name)
            assert one.dtype == other.dtype, name
            assert torch.equal(one, other), name
        assert [getattr(found, n) for n in NUMBERS] == [getattr(expected, n) for n in NUMBERS]


CANDIDATES = {
    "many": (60, 300, 40),
    "few": (3, 5, 9),
    "as many as asked for": (16, 48, 2),
    "none of objects": (0, 100, 5),
    "objects alone": (70, 0, 0),
    "none that count": (0, 0, 7),
    "none": (0, 0, 0),
}
OPTIONS = {
    "of RPN": {"num": 64, "pos_fraction": 0.25, "add_gt_as_proposals": False},
    "of regions": {"num": 64, "pos_fraction": 0.25},
    "half": {"num": 32, "pos_fraction": 0.5},
    "few of none": {"num": 64, "pos_fraction": 0.25, "neg_pos_ub": 2, "add_gt_as_proposals": False},
    "no fraction": {"num": 8, "pos_fraction": 0.0, "neg_pos_ub": 0},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("candidates", CANDIDATES.values(), ids=CANDIDATES)
def test_the_same_boxes_by_the_same_numbers(candidates, options, device):
    fast, stock = pair(RandomSampler(**options), device)
    images = [draw(*candidates, device=device) for _ in range(2)]
    (found, after), (expected, right) = (sampled(one, images) for one in (fast, stock))
    assert_same(found, expected)
    assert torch.equal(after, right)
    torch.manual_seed(0)
    assert_same(sample_all(fast, *zip(*copy.deepcopy(images), strict=True)), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("objects", [0, 5])
def test_images_of_different_sizes_and_without_objects(objects, device):
    fast, stock = pair(RandomSampler(16, 0.5), device)
    sizes = (0, 30, 3, 0), (9 if objects else 0, 200, 1, objects), (20, 4, 0)
    images = [draw(*size, device=device) for size in sizes]
    expected, _ = sampled(stock, images)
    torch.manual_seed(0)
    assert_same(sample_all(fast, *zip(*copy.deepcopy(images), strict=True)), expected)


@pytest.mark.parametrize("number", [1, 5])
def test_the_host_waits_once(number):
    fast, stock = pair(RandomSampler(64, 0.25))
    images = [draw(60, 300, 40) for _ in range(number)]
    arguments = [list(one) for one in zip(*copy.deepcopy(images), strict=True)]
    assert waits(lambda: sample_all(fast, *arguments)) == 1
    assert waits(lambda: sampled(stock, images)) >= 4 * number


def test_other_samplers_and_boxes_are_left_alone():
    other = InstanceBalancedPosSampler(16, 0.5)
    head = torch.nn.Module()
    head.bbox_sampler = other
    report = swin_backbone.accelerate(head)
    (reason,) = [row.reason for row in report.left if row.rewrite == "sampling"]
    assert "InstanceBalancedPosSampler has a _sample_pos of its own" in reason
    images = [draw(10, 60, 3)]
    expected, _ = sampled(other, images)
    torch.manual_seed(0)
    assert_same(sample_all(other, *zip(*copy.deepcopy(images), strict=True)), expected)

    fast, stock = pair(RandomSampler(16, 0.5))
    result, priors, truth = draw(10, 60, 3)
    typed = InstanceData(priors=HorizontalBoxes(priors.priors))
    boxes = InstanceData(bboxes=HorizontalBoxes(truth.bboxes), labels=truth.labels)
    found, expected = (sampled(one, [(result, typed, boxes)])[0][0] for one in (fast, stock))
    assert type(found.pos_priors) is type(expected.pos_priors) is HorizontalBoxes
    assert torch.equal(found.pos_inds, expected.pos_inds)


def test_the_way_back():
    fast, _ = pair(RandomSampler(16, 0.5))
    head = torch.nn.Module()
    head.bbox_sampler = copy.deepcopy(fast)
    images = [draw(10, 60, 3)]
    assert_same(sampled(head.bbox_sampler, images)[0], sampled(fast, images)[0])
    new = RandomSampler(16, 0.5)
    head.bbox_sampler = new
    swin_backbone.accelerate(head).revert()
    assert not {"sample", "random_choice"} & vars(new).keys()
