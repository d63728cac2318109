"""Anchors that are laid out once, against mmdet's own generators."""

import copy

import pytest
import torch
from helpers.threads import errors_of_threads

import swin_backbone  # lets mmcv.ops import

pytest.importorskip("mmdet")

from mmdet.models.task_modules import AnchorGenerator, YOLOAnchorGenerator

SIZES = [(6, 9), (3, 5)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def head_of(generator):
    head = torch.nn.Module()
    head.prior_generator = generator
    return head


def pair():
    """A generator whose anchors are kept, and the same without."""
    stock = AnchorGenerator([4, 8], ratios=[0.5, 1.0, 2.0], scales=[8])
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(head_of(fast))
    assert [row.rewrite for row in report.replaced] == ["anchors"]
    return fast, stock


def equal(some, others):
    return all(
        one.dtype == other.dtype and torch.equal(one, other)
        for one, other in zip(some, others, strict=True)
    )


def one_dtype(generator):
    return {"dtype": torch.float64}


def one_size(generator):
    return {"featmap_sizes": [(2, 2), torch.Size((1, 1))]}


def written(generator):
    generator.grid_priors(SIZES, device="cpu")[0].add_(1)


def base_written(generator):
    generator.base_anchors[0] += 3


def base_replaced(generator):
    generator.base_anchors = [2 * one for one in generator.base_anchors]


def strides(generator):
    generator.strides[0] = (3, 5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "change", [one_dtype, one_size, written, base_written, base_replaced, strides]
)
def test_anchors_are_made_once_and_anew_where_anything_has_changed(change, device):
    generators = fast, stock = pair()
    options = {"featmap_sizes": SIZES, "device": device}
    for _ in range(2):
        first, again = (fast.grid_priors(**options) for _ in range(2))
        assert first is not again
        assert all(one is other for one, other in zip(first, again, strict=True))
        assert equal(first, stock.grid_priors(**options))
        assert {one.device.type for one in first} == {device}
        asked, _ = (change(generator) for generator in generators)
        options |= asked or {}


def test_anchors_of_inference_are_not_kept_for_training():
    fast, _ = pair()
    with torch.inference_mode():
        assert fast.grid_priors(SIZES, device="cpu")[0].is_inference()
    scale = torch.ones(1, requires_grad=True)
    (scale * fast.grid_priors(SIZES, device="cpu")[0]).sum().backward()
    assert scale.grad is not None


def test_the_last_sizes_are_kept():
    fast, _ = pair()
    sizes = [[(n, n), (1, 1)] for n in range(2, 30)]
    before = [fast.grid_priors(one, device="cpu")[0] for one in sizes]
    after = [fast.grid_priors(one, device="cpu")[0] for one in reversed(sizes)][::-1]
    assert equal(before, after)
    assert not any(one is other for one, other in zip(before[:8], after[:8], strict=True))
    assert before[-1] is after[-1]


def test_threads_may_ask_for_sizes_in_any_order():
    fast, stock = pair()

    def ask(start):
        for number in range(300):
            sizes = [(1 + (start + number) % 13, 2), (1, 1)]
            found = fast.grid_priors(sizes, device="cpu")
            assert equal(found, stock.grid_priors(sizes, device="cpu"))

    assert not errors_of_threads(ask)


class OwnGenerator(AnchorGenerator):
    def grid_priors(self, *args, **kwargs):
        return [one + 1 for one in super().grid_priors(*args, **kwargs)]


def test_other_generators():
    """One with a layout of its own is left alone; one that sets its sizes up otherwise is not."""
    own = OwnGenerator([4], ratios=[1.0], scales=[8])
    report = swin_backbone.accelerate(head_of(own))
    assert "OwnGenerator has a grid_priors of its own" in report.left[0].reason
    base = [[(10, 13), (16, 30)], [(30, 61), (62, 45)]]
    fast = YOLOAnchorGenerator([8, 16], base)
    report = swin_backbone.accelerate(head_of(fast))
    stock = YOLOAnchorGenerator([8, 16], base)
    for _ in range(2):
        assert equal(*(g.grid_priors(SIZES, device="cpu") for g in (fast, stock)))
    report.revert()
    assert "grid_priors" not in vars(fast)
