"""What is told of torch.export, by every torch: it has plain operators, torch.compile has not."""

import pytest
import torch
from packaging.version import Version
from torch import nn

from swin_backbone.ops.torch_internals.exporting import is_exporting

VERSION = Version(torch.__version__).release[:2]


class Asks(nn.Module):
    def forward(self, x):
        return x + 1 if is_exporting() else x - 1


def test_eager_use_is_none():
    assert not is_exporting()


@pytest.mark.skipif(VERSION < (2, 8), reason="torch does not tell torch.compile from an export")
def test_a_compiled_model_is_not_exported():
    x = torch.zeros(2)
    assert torch.equal(torch.compile(Asks(), backend="eager", fullgraph=True)(x), x - 1)


@pytest.mark.skipif(VERSION < (2, 7), reason="torch does not tell of an export")
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_model_is(strict):
    x = torch.zeros(2)
    assert torch.equal(torch.export.export(Asks(), (x,), strict=strict).module()(x), x + 1)
    assert not is_exporting()
