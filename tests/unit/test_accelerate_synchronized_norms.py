"""``SyncBatchNorm`` in an accelerated model: what is replaced, and what its class does.

That several processes norm as one: tests/integration/test_synchronized_norms.py.
"""

import copy
import pickle

import pytest
import torch
from torch import nn

import swin_backbone

pytest.importorskip("mmcv")

from mmcv.cnn import ConvModule
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm


def conv_module(activation="ReLU", **options):
    """3 to 8 channels."""
    norm = {"type": "SyncBN", "requires_grad": True, **options}
    return ConvModule(3, 8, 3, padding=1, norm_cfg=norm, act_cfg={"type": activation})


def rows(model):
    """Of the report: rewrite, and why not, or ``None``, by module's name."""
    report = swin_backbone.accelerate(model)
    return {(name, row.rewrite): row.reason or None for row in report.rows for name in row.modules}


class OwnNorm(nn.SyncBatchNorm):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize("kind", [nn.SyncBatchNorm, SyncBatchNorm])
def test_norms_are_replaced(kind):
    assert rows(nn.Sequential(kind(8)))["0", "synchronized_norms"] is None


@pytest.mark.parametrize(
    "norm",
    [
        nn.SyncBatchNorm(8, affine=False),
        nn.SyncBatchNorm(8, track_running_stats=False),
        nn.SyncBatchNorm(8, momentum=None),  # the average of all, for which the class waits
        OwnNorm(8),
    ],
    ids=["no weight", "no running statistics", "no momentum", "own forward"],
)
def test_norms_that_are_left(norm):
    reason = rows(nn.Sequential(norm))["0", "synchronized_norms"]
    assert reason


def test_it_is_part_of_a_step_with_its_convolution():
    """Whether it is rewritten itself, or not: processes are asked for at each call."""
    for switches in ({}, {"synchronized_norms": False}):
        report = swin_backbone.accelerate(conv_module(), **switches)
        assert "batch_norms" in {row.rewrite for row in report.replaced}
    found = rows(conv_module("SiLU"))
    assert "activation" in found["", "batch_norms"]
    assert found["bn", "synchronized_norms"] is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["ReLU", "SiLU"])
def test_one_process_computes_what_the_class_does(activation, training):
    model = conv_module(activation).train(training)
    stock = copy.deepcopy(model)
    swin_backbone.accelerate(model)
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(model(x), stock(x))
    for one, other in zip(model.buffers(), stock.buffers(), strict=True):
        assert torch.equal(one, other)


def test_it_stays_what_it_is():
    model = conv_module()
    names, keys = [name for name, _ in model.named_modules()], list(model.state_dict())
    report = swin_backbone.accelerate(model)
    again = pickle.loads(pickle.dumps(model))
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(again(x), copy.deepcopy(model)(x))
    report.revert()
    assert "forward" not in vars(model.bn)
    assert [name for name, _ in model.named_modules()] == names
    assert list(model.state_dict()) == keys
