"""Blocks whose parameters fully_shard hands over in bfloat16, by the kernels, on one GPU."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from swin_backbone import SwinBackbone, graph_backbone
from swin_backbone.model.sharding import shard, whole

pytestmark = pytest.mark.gpu
SETTINGS = {"embed_dims": 96, "depths": (2, 2), "num_heads": (3, 6), "strides": (4, 2)}
SETTINGS |= {"out_indices": (0, 1), "drop_path_rate": 0.2}


class Means(nn.Module):
    """A backbone and a mean over its maps that no norm makes trivial."""

    def __init__(self, backbone, weights):
        super().__init__()
        self.backbone, self.weights = backbone, weights

    def forward(self, images):
        maps = self.backbone(images)
        return sum((x.double() * w).mean() for x, w in zip(maps, self.weights, strict=True))


@pytest.fixture
def joined(tmp_path):
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def gradients(model, images, low):
    torch.manual_seed(1)
    with torch.autocast("cuda", torch.bfloat16, enabled=low):
        loss = model(images)
    loss.backward()
    return [whole(p.grad).double() for p in model.parameters()]


def joined_up(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_gradients_are_those_of_autocast(joined, version, with_cp, low):
    """In float32 the same. In bfloat16 all gradients together are as near to float32's as those of
    autocast, within twice that and 1 %, as norms and tables are rounded, too."""
    torch.manual_seed(0)
    backbone = SwinBackbone(**SETTINGS, version=version, with_cp=with_cp).cuda()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.1)
    images = torch.randn(2, 3, 90, 120, device="cuda")
    shapes = [(96, 23, 30), (192, 12, 15)]
    model = Means(backbone, [torch.randn(s, device="cuda", dtype=torch.float64) for s in shapes])
    other = copy.deepcopy(model)
    exact = gradients(copy.deepcopy(model), images, low=False)
    expected = gradients(other, images, low)
    shard(model, param_dtype=torch.bfloat16 if low else None, reduce_dtype=torch.float32)
    found = gradients(model, images, low)
    if low:
        found, expected, exact = map(joined_up, (found, expected, exact))
        limit = 2 * (expected - exact).norm() + 0.01 * exact.norm()
        assert (found - exact).norm() <= limit
        return
    for value, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(value, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_graphs_of_a_backbone_that_is_gathered_as_one(joined, version):
    """Losses and weights of four steps in mixed precision, and predictions, as without graphs.
    Gradients pass through bfloat16 in another order, and AdamW makes steps of the same size of
    small and large ones: weights differ by a hundredth of what they moved by."""
    backbone = SwinBackbone(**{**SETTINGS, "drop_path_rate": 0.0}, version=version).cuda()
    shapes = [(96, 32, 24), (192, 16, 12)]
    weights = [torch.randn(s, device="cuda", dtype=torch.float64) for s in shapes]
    models = [Means(copy.deepcopy(backbone), weights) for _ in range(2)]
    for model in models:
        shard(model, "cuda", None, torch.bfloat16, torch.float32)
    graphs = graph_backbone(models[1].backbone)
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-3) for model in models]
    for _ in range(4):
        images, found = torch.randn(2, 3, 128, 96, device="cuda"), []
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(images)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                found.append(torch.stack([loss.detach(), model(images)]))
        torch.testing.assert_close(*found, rtol=1e-3, atol=2e-4)
    assert graphs.reason is None
    assert graphs.shapes == 2, "training and predictions"
    one, other = (joined_up([whole(p).detach() for p in m.parameters()]) for m in models)
    moved = joined_up([p.detach() for p in backbone.parameters()]) - one
    assert (one - other).norm() <= 0.03 * moved.norm()
