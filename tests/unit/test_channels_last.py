"""Weights in channels-last memory, whose gradients another layout would give."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swin_backbone.acceleration import REWRITES

(CHANNELS_LAST,) = [rewrite for rewrite in REWRITES if rewrite.name == "channels_last"]


@pytest.fixture
def one_process(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def rewrite(model):
    """As on a GPU, where alone :func:`swin_backbone.accelerate` does so."""
    modules = {name: m for name, m in model.named_modules() if CHANNELS_LAST.finds(m)}
    undos = [CHANNELS_LAST.apply(module) for module in modules.values()]
    return undos + CHANNELS_LAST.join(modules)


@pytest.mark.filterwarnings("ignore:.*layout contract:UserWarning")
@pytest.mark.parametrize("wraps_first", [True, False])
@pytest.mark.parametrize("unused", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
def test_gradients_lie_as_weights_do_at_each_step(one_process, wraps_first, unused, keeps):
    """Of models that were wrapped before, too; values are those of one that nobody rewrote."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 4, 3)).double()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 4, 3)).double()
    model.load_state_dict(plain.state_dict())
    options = {"gradient_as_bucket_view": True, "find_unused_parameters": unused}
    undos = [] if wraps_first else rewrite(model)
    wrapped = DistributedDataParallel(model, **options)
    undos += rewrite(model) if wraps_first else []
    seen = []

    class Spy(torch.optim.AdamW):
        """Looks at what its kernels would get."""

        def step(self):
            for weight in (model[0].weight, model[2].weight):
                seen.append((weight.grad.stride(), weight.stride()))
                assert weight.is_contiguous(memory_format=torch.channels_last)
            return super().step()

    optimizers = Spy(model.parameters(), 0.1), torch.optim.AdamW(plain.parameters(), 0.1)
    for _ in range(4):
        x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
        for module, optimizer in zip((wrapped, plain), optimizers, strict=True):
            module(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=not keeps)
    assert len(seen) == 8
    assert all(grad == weight for grad, weight in seen)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    for undo in reversed(undos):
        undo()
    assert model[0].weight.is_contiguous()
