"""Other libraries' Swin Transformers, accelerated on a GPU: as near to float64 as they were."""

import copy

import pytest
import torch
from helpers.errors import relative_error
from helpers.peers import PAIRS, PEERS, make_theirs

import swin_backbone
from swin_backbone.ops import dispatch

SIZES = {"embed_dims": 32, "depths": (2, 2), "num_heads": (1, 2), "window_size": 7}


def differentiate(run, model, images, autocast):
    images = images.clone().requires_grad_()
    model.zero_grad()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
        maps = run(model, images)
    generator = torch.Generator().manual_seed(1)
    sum((m * torch.randn(m.shape, generator=generator).to(m)).sum() for m in maps).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    flat = [torch.cat([m.flatten() for m in maps]), torch.cat(gradients), images.grad]
    return [tensor.detach().double().cpu() for tensor in flat]


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_maps_and_gradients(name, version, autocast):
    """float32: 1e-4, as torch's own matrix products may round; bfloat16: within 1.5 times the
    untouched model's own error, which is of the size of its rounding."""
    torch.manual_seed(0)
    size = (112, 112)  # whole windows: older timm's V2 is made for no others
    model = make_theirs(name, version, image_size=size, **SIZES)
    images, run = torch.randn(2, 3, *size), PEERS[name].maps
    exact = differentiate(run, copy.deepcopy(model).double(), images.double(), False)
    model, images = model.cuda(), images.cuda()
    untouched = differentiate(run, model, images, autocast)
    report = swin_backbone.accelerate(model, pools=False, channels_last=False)
    assert not report.left
    decisions = []
    with dispatch.listening(decisions.append):
        fast = differentiate(run, model, images, autocast)
    ways = {(d.operation, d.way) for d in decisions if d.operation == "attention" or autocast}
    assert {way for operation, way in ways if operation == "attention"} <= {"triton"}
    if version == "v1" and autocast:
        assert ("MLP branch", "triton") in ways
    for ours, theirs, right in zip(fast, untouched, exact, strict=True):
        error = relative_error(ours, right)
        assert error <= (1.5 * relative_error(theirs, right) + 1e-4 if autocast else 1e-4)
